"""Exact flow in place of an estimate: the flow stage reads it through the dataset's module, where that has `truth`."""

from __future__ import annotations

from pipeline.models.exact import Exact
from pipeline.models.exact import build as build


class Params(Exact):
    """Ground truth."""
