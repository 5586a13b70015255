"""BAIR robot pushing (Ebert et al., CoRL 2017): 43,520 episodes of 30 frames, 64x64, in TensorFlow's records.

Split as cINN does: `test/traj_0_to_255` is the test, `train/traj_256_to_511` the validation, the rest of `train` the
training. Frames are those of the camera `aux1`; where the gripper is at each frame is stored with it (`Store.values`).
"""

from __future__ import annotations

from pathlib import Path

from pipeline import params
from pipeline.sources import pushing
from pipeline.sources.archives import Stream

SPLITS = ("train", "val", "test")
LICENCE = "BAIR robot pushing, no licence stated (Ebert et al., CoRL 2017)"
VALUES = "endeffector_pos: x, y, z of the gripper"

EXPECTED = {"train": 43008, "val": 256, "test": 256}


class Params(params.Dataset):
    """BAIR; published: 64x64."""


def archives(p: Params, split: str) -> list[str]:
    """Return the one tar, read in place."""
    return ["bair_robot_pushing_dataset_v0.tar"]


def expected(p: Params, split: str) -> dict[str, int]:
    """Return what the whole split has."""
    return {"clips": EXPECTED[split], "frames": EXPECTED[split] * pushing.FRAMES}


def clips(p: Params, split: str, archives: list[Path]) -> list[Stream]:
    """Return the episodes "traj_0_to_255/1", counted from 1 in each file as published, frames from 0."""
    return pushing.episodes(archives, split)
