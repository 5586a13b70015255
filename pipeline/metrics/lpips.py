"""LPIPS (Zhang et al. 2018), version 0.1, by the package `lpips`: distance of deep features, lower is closer.

DMVFN's published evaluation feeds BGR channels to a network that expects RGB: `colour: bgr` gives the paper's number,
rgb the metric as its authors meant it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from pydantic import Field

from pipeline import params
from pipeline.metrics.networks import perceptual
from pipeline.metrics.networks.perceptual import TRUNKS, VERSION

LABEL = "LPIPS"
BETTER = "lower"
SCALE = 100.0
NEEDS = "frames"


class Params(params.Metric):
    """Which LPIPS: values of different networks or channel orders do not compare."""

    net: Literal["alex", "vgg", "squeeze"] = Field("alex", description="feature network: DMVFN and TecoGAN print alex")
    colour: Literal["bgr", "rgb"] = Field(
        "rgb", description="channel order fed to the network: bgr as DMVFN published it, rgb as LPIPS is defined"
    )


def settings(p: Params) -> dict[str, Any]:
    """Return what a reader must know to compare values."""
    return {"name": "LPIPS", "net": p.net, "version": VERSION, "colour": p.colour, "range": [-1, 1]}


def needs_weights(p: Params) -> list[str]:
    """Return the rows of workflow/weights.csv that `build` loads."""
    return [TRUNKS[p.net]]


def build(p: Params, device: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the function (prediction, target), both (T, H, W, 3) float32 RGB in [0,1] -> (T,) float64.

    Raises as `perceptual.distance`.
    """
    return perceptual.distance(p.net, p.colour, device)
