"""As `truth`, but only where the second frame shows the pixel too; for datasets that tell (KITTI's `flow_noc`)."""

from __future__ import annotations

from pipeline.models.exact import Exact
from pipeline.models.exact import build as build


class Params(Exact):
    """Ground truth of the pixels that are not occluded."""
