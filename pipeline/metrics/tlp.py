"""tLP: how far the perceptual change from frame to frame is from the target's (TecoGAN's temporal metric).

100 times the difference of two LPIPS distances, each from the frame before: one of the outputs, one of the targets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from pydantic import Field

from pipeline import params
from pipeline.metrics import temporal
from pipeline.metrics.networks import perceptual

LABEL = "tLP"
BETTER = "lower"
SCALE = 1.0
DIGITS = 3
NEEDS = "pairs"


class Params(params.Metric):
    """Which LPIPS the distances are."""

    net: Literal["alex", "vgg", "squeeze"] = Field("alex", description="feature network of LPIPS (published: alex)")


def settings(p: Params) -> dict[str, Any]:
    """Return what a reader must know to compare values."""
    return {"name": "tLP", "unit": "100 LPIPS", "net": p.net, "version": perceptual.VERSION, "colour": "rgb"}


def needs_weights(p: Params) -> list[str]:
    """Return the rows of workflow/weights.csv that `build` loads."""
    return [perceptual.TRUNKS[p.net]]


def build(p: Params, device: str) -> Callable[..., float]:
    """Return the function (prediction, target, scored part, motion) -> tLP, of two neighbouring whole frames each.

    Frames are (2, H, W, 3) float32 RGB in [0,1].
    """
    distance = perceptual.distance(p.net, "rgb", device)

    def tlp(
        prediction: np.ndarray, target: np.ndarray, region: temporal.Region, _: temporal.Motion | None = None
    ) -> float:
        output, true = (float(distance(a[None], b[None])[0]) for a, b in (x[:, *region] for x in (prediction, target)))
        return temporal.t_lp(true, output)

    return tlp
