"""Losses that more than one model trains with."""
