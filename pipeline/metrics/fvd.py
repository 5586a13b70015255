"""FVD (Unterthiner et al. 2018): Fréchet distance of I3D's 400 class scores of clips; four variants that do not compare.

`tfhub` is what papers print: the TF-hub module, TF1's bilinear resize (source = target x scale), tensorflow-gan's distance.
`kinetics` is i2v-cINN's training log: the PyTorch port model_rgb.pth, corner-aligned resize, and [0,1] where the network
expects [-1,1]. `styleganv` and `videogpt` resize at half-pixel centres, not antialiased, without cropping; the first
takes the tensors of i3d_torchscript.pt into our own graph and never runs that file, the second has tensorflow-gan's distance.
One value a set; a clip is the predicted frames of a window.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pipeline import params
from pipeline.metrics import sets

LABEL = "FVD"
BETTER = "lower"
SCALE = 1.0
NEEDS = "features"


class Params(params.Metric):
    """FVD of predicted clips against true ones."""

    variant: Literal["tfhub", "kinetics", "styleganv", "videogpt"] = Field(
        "tfhub",
        description="tfhub: as papers print it; kinetics: i2v-cINN's training log; styleganv, videogpt: those projects' PyTorch ports",
    )
    drop: int | None = Field(
        None,
        ge=2,
        description="clips that do not fill a batch of so many are left out (i2v-cINN: 16, its log 20); null: none",
    )


def label(p: Params) -> str:
    """Return the column's name for people."""
    return sets.label(f"FVD ({p.variant})", p.drop)


def settings(p: Params) -> dict[str, Any]:
    """Return what a reader must know to compare values."""
    _, network, resize, values, route = sets.I3D[p.variant]
    distance = "tensorflow-gan" if route == "tensorflow" else "exact"
    return sets.settings(
        f"FVD ({p.variant})",
        drop=p.drop,
        network=f"{network}, 400 scores",
        resize=resize,
        range=values,
        distance=distance,
        unit="clips",
    )


def needs_weights(p: Params) -> list[str]:
    """Return the rows of workflow/weights.csv that `build` loads."""
    return [sets.I3D[p.variant][0]]


def build(p: Params, device: str) -> sets.Distance:
    """Return the distance; raises weights.Missing when the weights cannot be had."""
    network, identity = sets.i3d_scores(p.variant, device)
    route = sets.I3D[p.variant][4]
    # i2v-cINN's TensorFlow script drops a lone short batch too, its PyTorch one keeps it
    short = p.variant != "tfhub"
    return sets.Distance(network, identity, device, "clips", route, p.drop, short, sets.SHORTEST)
