"""FVD (Unterthiner et al. 2018): Fréchet distance of I3D's 400 class scores of clips; four variants that do not compare.

`tfhub` is what papers print: the TF-hub module, TF1's bilinear resize (source = target x scale), tensorflow-gan's distance.
`kinetics` is i2v-cINN's training log: the PyTorch port model_rgb.pth, corner-aligned resize, and [0,1] where the network
expects [-1,1]. `styleganv` and `videogpt` resize at half-pixel centres, not antialiased, without cropping; the first
takes the tensors of i3d_torchscript.pt into our own graph and never runs that file, the second has tensorflow-gan's distance.
One value a set; a clip is the predicted frames of a window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field

from pipeline import params
from pipeline.metrics import frechet, sets

LABEL = "FVD"
BETTER = "lower"
SCALE = 1.0
NEEDS = "features"
SHORTEST = 9  # frames: of fewer nothing is left for the average pool
# Row of workflow/weights.csv, network and resize as the table prints them, range, the distance's route
VARIANTS: dict[str, tuple[str, str, str, list[int], frechet.Route]] = {
    "tfhub": ("i3d_tf", "TF-hub I3D kinetics-400", "224, TF1 bilinear", [-1, 1], "tensorflow"),
    "kinetics": ("i3d_rgb", "PyTorch I3D model_rgb.pth", "224, bilinear, corner-aligned", [0, 1], "auto"),
    "styleganv": ("i3d_torchscript", "i3d_torchscript.pt", "224, bilinear, half-pixel", [-1, 1], "auto"),
    "videogpt": ("i3d_videogpt", "i3d_pretrained_400.pt", "224, bilinear, half-pixel", [-1, 1], "tensorflow"),
}


class Params(params.Metric):
    """FVD of predicted clips against true ones."""

    variant: Literal["tfhub", "kinetics", "styleganv", "videogpt"] = Field(
        description="tfhub: as papers print it; kinetics: i2v-cINN's training log; styleganv, videogpt: those projects' PyTorch ports"
    )
    drop: int | None = Field(
        ge=2,
        description="clips that do not fill a batch of so many are left out (i2v-cINN: 16, its log 20); null: none",
    )


def label(p: Params) -> str:
    """Return the column's name for people."""
    return f"FVD ({p.variant})"


def settings(p: Params) -> dict[str, Any]:
    """Return what a reader must know to compare values."""
    _, network, resize, values, route = VARIANTS[p.variant]
    distance = "tensorflow-gan" if route == "tensorflow" else "exact"
    return sets.settings(
        label(p),
        drop=p.drop,
        network=f"{network}, 400 scores",
        resize=resize,
        range=values,
        distance=distance,
        unit="clips",
    )


def needs_weights(p: Params) -> list[str]:
    """Return the rows of workflow/weights.csv that `build` loads."""
    return [VARIANTS[p.variant][0]]


def build(p: Params, device: str) -> sets.Distance:
    """Return the distance; raises weights.Missing when the weights cannot be had."""
    from pipeline.metrics.networks import videos

    row, _, resize, _, route = VARIANTS[p.variant]
    network = NETWORKS[p.variant](row).to(device)
    prepare = {"tfhub": videos.tensorflow_input, "kinetics": videos.pytorch_input}.get(
        p.variant, videos.half_pixel_input
    )

    def features(frames: Any) -> Any:
        return network.scores(prepare(2 * frames[None] - 1))

    identity = sets.identity(network.state_dict(), f"i3d {p.variant}", resize)
    # i2v-cINN's TensorFlow script drops a lone short batch too, its PyTorch one keeps it
    short = p.variant != "tfhub"
    return sets.Distance(features, identity, device, "clips", route, p.drop, short, SHORTEST)


def _tfhub(row: str) -> Any:
    from pipeline import weights
    from pipeline.metrics.networks import i3d
    from pipeline.store import tensorflow

    return i3d.tensorflow().load(i3d.from_tensorflow(tensorflow.read(weights.path(row))), row)


def _kinetics(row: str) -> Any:
    from pipeline import weights
    from pipeline.metrics.networks import i3d

    return i3d.kinetics().load(weights.load(row), row)


def _styleganv(row: str) -> Any:
    from pipeline import weights
    from pipeline.metrics.networks import i3d

    return i3d.scripted(weights.load_script(weights.path(row)), row)


def _videogpt(row: str) -> Any:
    from pipeline import weights
    from pipeline.metrics.networks import i3d

    return i3d.videogpt().load(weights.load(row), row)


NETWORKS: dict[str, Callable[[str], Any]] = {
    "tfhub": _tfhub, "kinetics": _kinetics, "styleganv": _styleganv, "videogpt": _videogpt,
}  # fmt: skip
