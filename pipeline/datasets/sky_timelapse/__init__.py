"""Sky Time-lapse (Xiong et al., CVPR 2018): clouds in 640x360, as three papers take them.

The archive has long videos cut into short ones, 2,392 for training and 225 for testing. DTVNet takes the folders with at
least 33 frames (its flow has one frame less than the video) and of each the first 32 frames, resized as Pillow does.
cINN has lists; its validation list names 8 of the training folders' clips twice. ARFlow, which makes DTVNet's flow,
takes every frame of every folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from pipeline import params
from pipeline.errors import RetakeError, log
from pipeline.sources import layout, skies
from pipeline.sources.archives import Clip, Member

SPLITS = ("train", "val", "test")
LICENCE = "Sky Time-lapse, no licence stated; videos of their authors on YouTube (Xiong et al., CVPR 2018)"

SHORT_VIDEOS = {"train": 2392, "test": 225}
EXPECTED = {"train": 1074, "val": 112, "test": 153}  # cINN's clips; how many DTVNet's rule leaves is not published
LEAST, FIRST = 33, 32  # frames
NAMES = {"dtvnet": "DTVNet", "arflow": "ARFlow"}


class Params(params.Dataset):
    """Sky Time-lapse; published: 128x128."""

    paper: Literal["dtvnet", "cinn", "arflow"] = Field(
        description="whose splits. dtvnet: the first 32 frames of every folder with 33 or more, resized with "
        "antialiasing (no val); cinn: its lists, whole clips; arflow: every folder, whole clips (no val)"
    )

    whole: bool = Field(
        default=False,
        description="dtvnet: whole short videos without their last frame, which has no flow, not the first 32 frames",
    )

    @property
    def fit(self) -> str:
        """How the published code resizes."""
        return "antialiased" if self.paper == "dtvnet" else "resize"


def archives(p: Params, split: str) -> list[str]:
    """Return the one zip."""
    return ["sky_timelapse.zip"]


def expected(p: Params, split: str) -> dict[str, int]:
    """Return what the whole split has; how many clips DTVNet's rule leaves is not published."""
    if p.paper == "cinn":
        return {"clips": EXPECTED[split]}
    return {"clips" if p.paper == "arflow" else "short videos": SHORT_VIDEOS[_part(split)]}


def counts(p: Params, split: str, archives: list[Path]) -> dict[str, int]:
    """Return how many short videos there are, of any length."""
    return {"short videos": len(skies.short_videos(archives, _part(split)))}


def items(p: Params, split: str) -> list[str]:
    """Return the clips of cINN's list as its loader goes through them, with those that stand in it twice.

    The loader does so 10, 7 and 6 times an epoch (training, validation, testing of the first stage).
    """
    return layout.lines(Path(__file__).with_name(f"cinn_{split}.txt").read_text())


def clips(p: Params, split: str, archives: list[Path]) -> list[Clip]:
    """Return the clips "<video>/<short video>", their frames in the order of the files' numbers, numbered from 0.

    Numbers that are missing are said in the log: the data has such gaps, and all papers go over them.
    Raises RetakeError for a split that the paper does not have, and for more folders than were published.
    """
    if p.paper != "cinn" and split == "val":
        raise RetakeError(
            f"{NAMES[p.paper]} has no split val of Sky Time-lapse: validate on test, as published, or take cinn's"
        )
    part = _part(split)
    root, frames_by_clip = f"sky_{part}", skies.short_videos(archives, part)
    whole = SHORT_VIDEOS[part]
    if len(frames_by_clip) > whole:
        raise RetakeError(
            f"{archives[0]}: {len(frames_by_clip)} short videos in {root}, {whole} are published: it is another archive"
        )
    if p.paper == "cinn":
        chosen = layout.listed(frames_by_clip, items(p, split), f"cinn_{split}.txt")
    elif p.paper == "arflow":
        chosen = {clip: frames for clip, frames in frames_by_clip.items() if frames}
    else:
        kept = slice(-1) if p.whole else slice(FIRST)
        chosen = {clip: frames[kept] for clip, frames in frames_by_clip.items() if len(frames) >= LEAST}
        log.info(
            "%s: %d of %d short videos have %d frames or more (%d were published, counting all lengths)",
            root, len(chosen), len(frames_by_clip), LEAST, whole,
        )  # fmt: skip
    _report_gaps(chosen)
    return [Clip(name, [(i, member) for i, (_, member) in enumerate(frames)]) for name, frames in chosen.items()]


def _part(split: str) -> str:
    """Return the folder of the archive that a split is taken from."""
    return "test" if split == "test" else "train"


def _report_gaps(frames_by_clip: dict[str, list[tuple[int, Member]]]) -> None:
    gaps = {}
    for clip, frames in frames_by_clip.items():
        numbers = [number for number, _ in frames]
        missing = sorted(set(range(numbers[0], numbers[-1])) - set(numbers)) if numbers else []
        if missing:
            gaps[clip] = missing
    for clip, missing in gaps.items():
        log.info("%s: frames are missing, the next ones follow: %s", clip, layout.spans(missing))
    if gaps:
        log.warning(
            "%d of %d clips have gaps in their frames' numbers, which the papers go over",
            len(gaps),
            len(frames_by_clip),
        )
