"""Cityscapes' video snippets, leftImg8bit_sequence (Cordts et al., CVPR 2016): 2,975 clips to train, 500 to test on.

Testing takes the official val split, as DMVFN does. Files are named <city>_<sequence>_<running frame>: in most cities
a sequence is one snippet of 30 frames, numbered from 0; in some, Frankfurt among them, a sequence holds many snippets
and frames are counted through. So a snippet is 30 frames whose numbers follow one another, whatever the sequence and
the place in a folder. The frame with the annotations is a snippet's 20th.
"""

from __future__ import annotations

from pathlib import Path

from pipeline import params
from pipeline.errors import RetakeError
from pipeline.sources import layout
from pipeline.sources.archives import Clip, Member

SPLITS = ("train", "test")
LICENCE = "Cityscapes, non-commercial, no redistribution of frames (Cordts et al., CVPR 2016)"

FOLDERS = {"train": "train", "test": "val"}
EXPECTED = {"train": 2975, "test": 500}
LENGTH = 30  # frames of a snippet
ANNOTATED = 19  # index of the frame that the annotations belong to
SHOWN = 20  # faults that a message lists


class Params(params.Dataset):
    """Cityscapes; DMVFN's table has 1024x512."""


def archives(p: Params, split: str) -> list[str]:
    """Return the zip (324 GB) that holds all splits; only the members of one split are read."""
    return ["leftImg8bit_sequence_trainvaltest.zip"]


def expected(p: Params, split: str) -> dict[str, int]:
    """Return what the whole split has."""
    return {"clips": EXPECTED[split], "frames": EXPECTED[split] * LENGTH}


def clips(p: Params, split: str, archives: list[Path]) -> list[Clip]:
    """Return the snippets in the order of their names, "<city>_<sequence>_<number of the first frame>".

    Frames have the files' numbers. Raises RetakeError where frames of a snippet are missing.
    """
    folder = f"leftImg8bit_sequence/{FOLDERS[split]}"
    frames_by_clip = layout.frames(
        archives,
        f"{folder}/(?P<city>[^/]+)",
        f"(?P=city)_(?P<sequence>[0-9]{{6}})_(?P<frame>[0-9]{{6}})_leftImg8bit{layout.PNG}",
        f"{folder}/<city>/<city>_000000_000000_leftImg8bit.png",
        name=lambda match: f"{match['city']}_{match['sequence']}",
    )
    snippets, problems = [], []
    for sequence, frames in frames_by_clip.items():
        for run in _runs(frames):
            if len(run) % LENGTH:
                (first, member), last = run[0], run[-1][0]
                what = f"the {len(run)} frames from {first} to {last} are no snippets of {LENGTH}"
                problems.append(f"{member.archive}: {sequence}: {what}")
            for i in range(0, len(run), LENGTH):
                part = run[i : i + LENGTH]
                snippets.append(Clip(f"{sequence}_{part[0][0]:06d}", part))
    if problems:
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise RetakeError("\n".join(["frames are missing, get the archive again:", *problems[:SHOWN], *more]))
    return snippets


def annotated(clip: str) -> str:
    """Return what the names of a clip's annotations begin with: "<city>_<sequence>_<frame>"."""
    sequence, _, first = clip.rpartition("_")
    return f"{sequence}_{int(first) + ANNOTATED:06d}"


def _runs(frames: list[tuple[int, Member]]) -> list[list[tuple[int, Member]]]:
    """Return frames, sorted by number, cut where a number is left out."""
    runs: list[list[tuple[int, Member]]] = []
    for number, member in frames:
        if not runs or number != runs[-1][-1][0] + 1:
            runs.append([])
        runs[-1].append((number, member))
    return runs
