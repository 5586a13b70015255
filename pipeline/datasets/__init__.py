"""Datasets: one module each, found by name."""
