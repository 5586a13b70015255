"""DTFVD (i2v-cINN): Fréchet distance of 1024 features of an I3D trained on dynamic textures.

Corner-aligned resize to 224, [-1,1]. Of 16 frames: a clip is repeated three times and cut to 16; of 32: exactly 32 frames.
One value a set; a clip is the predicted frames of a window.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pipeline import params
from pipeline.metrics import sets

LABEL = "DTFVD"
BETTER = "lower"
SCALE = 1.0
NEEDS = "features"


class Params(params.Metric):
    """DTFVD of predicted clips against true ones."""

    length: Literal[16, 32] = Field(16, description="frames of the network's clips; the two are different networks")
    drop: int | None = Field(
        None, ge=2, description="clips that do not fill a batch of so many are left out (i2v-cINN: 40); null: none"
    )


def label(p: Params) -> str:
    """Return the column's name for people."""
    return sets.label(f"DTFVD {p.length}", p.drop)


def settings(p: Params) -> dict[str, Any]:
    """Return what a reader must know to compare values."""
    network = f"I3D_{p.length}, 1024 features"
    return sets.settings(
        f"DTFVD {p.length}", drop=p.drop, network=network, resize=sets.TEXTURES, range=[-1, 1], unit="clips"
    )


def needs_weights(p: Params) -> list[str]:
    """Return the rows of workflow/weights.csv that `build` loads."""
    return [f"dtfvd_{p.length}"]


def build(p: Params, device: str) -> sets.Distance:
    """Return the distance; raises weights.Missing when the weights cannot be had."""
    network, identity = sets.i3d_textures(p.length, device)
    # Three frames, three times, are the fewest that fill the average pool
    shortest, exactly = (32, True) if p.length == 32 else (3, False)
    return sets.Distance(network, identity, device, "clips", drop=p.drop, shortest=shortest, exactly=exactly)
