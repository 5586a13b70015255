"""Metrics: one module each, found by name."""


class Undefined(Exception):
    """The metric has no value for these frames (say, a side too short); its text is the reason the table prints."""
