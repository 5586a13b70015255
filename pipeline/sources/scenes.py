"""Where a video changes from one shot to the next, and the scenes of equal length between such places.

    starts(*cuts(image() for _, image in video.frames(member)), length=120)

A cut is a difference between neighbouring frames that is large, and stands out from the differences around it: fast
motion is large for many frames in a row. Fades and dissolves are no cuts, they change too little from frame to frame.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import cv2
import numpy as np

SIZE = (48, 27)  # width, height at which frames are compared
LARGE = 10.0  # mean absolute difference of a cut, of 255
OUTSTANDING = (
    3.0  # how many times the median of the differences around it a cut's is: short shots have other cuts there
)
AROUND = 6  # frames before and after that it is held against


def cuts(images: Iterable[np.ndarray]) -> tuple[list[int], int]:
    """Return the positions of the frames that begin a new shot, and the number of frames.

    `images`: (height, width, 3) uint8, all of one size; one at a time is held.
    """
    before: np.ndarray | None = None
    differences = [0.0]
    for image in images:
        small = cv2.resize(image, SIZE, interpolation=cv2.INTER_AREA).astype(np.int16)
        if before is not None:
            differences.append(float(np.abs(small - before).mean()))
        before = small
    firsts = []
    for index, difference in enumerate(differences):
        around = differences[max(index - AROUND, 1) : index] + differences[index + 1 : index + 1 + AROUND]
        if difference >= LARGE and difference >= OUTSTANDING * float(np.median(around or [0.0])):
            firsts.append(index)
    return firsts, len(differences) if before is not None else 0


def starts(positions: list[int], total: int, length: int) -> list[int]:
    """Return where scenes of `length` frames begin: one behind the other in each shot; shorter rests are left out."""
    edges = [0, *positions, total]
    return [start for first, end in itertools.pairwise(edges) for start in range(first, end - length + 1, length)]
