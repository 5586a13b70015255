"""As `truth`, but only where the second frame shows the pixel too; for datasets that tell (KITTI's `flow_noc`)."""

from __future__ import annotations

from pipeline.models import truth
from pipeline.models.truth import build as build


class Params(truth.Params):
    """Ground truth of the pixels that are not occluded."""
