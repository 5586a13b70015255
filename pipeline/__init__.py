"""Retake: the stages, and what they are made of."""
