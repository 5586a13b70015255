"""BAIR's archive of robot pushing: a tar of TensorFlow's records, an episode each, with 30 frames of 64x64.

softmotion30_44k/{train,test}/traj_<a>_to_<b>.tfrecords
<i>/image_aux1/encoded: a raw RGB image, <i>/endeffector_pos: where the gripper is, three floats; i from 0 to 29
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from pipeline.errors import RetakeError
from pipeline.sources import tars, tfrecord
from pipeline.sources.archives import Member, Stream
from pipeline.sources.tars import Span

FRAMES, SIDE = 30, 64
FILE = re.compile(r"(?:.*/)?(train|test)/(traj_([0-9]+)_to_([0-9]+))\.tfrecords", re.ASCII)


def episodes(archives: list[Path], split: str) -> list[Stream]:
    """Return the episodes "traj_0_to_255/1", counted from 1 in each file as published, frames from 0.

    `split`: test is the folder of that name, val the file traj_256_to_511 of train, train the rest. Raises RetakeError for an archive that is damaged or of another layout; a record's own checksum is compared when it
    is read.
    """
    streams = []
    episode = functools.lru_cache(maxsize=2)(_episode)  # its frames and positions are asked for one after the other
    for archive in archives:
        files = [(m, span) for name, span in tars.members(archive).items() if (m := FILE.fullmatch(name))]
        if not files:
            raise RetakeError(
                f"{archive}: no softmotion30_44k/test/traj_0_to_255.tfrecords or any other such file: it is another "
                "archive; move it away to have the publisher's downloaded"
            )
        for match, span in sorted(files, key=lambda file: (file[0][1], int(file[0][3]))):
            if _split(match) == split:
                source = Member(archive, match[0])
                for number, record in enumerate(tfrecord.records(span), 1):
                    name = f"{match[2]}/{number}"
                    read = functools.partial(episode, record, f"{archive}: {match[0]}, episode {number}")
                    streams.append(
                        Stream(name, source, functools.partial(_frames, read), functools.partial(_positions, read))
                    )
    return streams


def _split(match: re.Match[str]) -> str:
    if match[1] == "test":
        return "test"
    return "val" if match[2] == "traj_256_to_511" else "train"


Episode = Callable[[], dict[str, list[bytes] | np.ndarray]]


def _frames(read: Episode) -> Iterator[tuple[int, Callable[[], np.ndarray]]]:
    """Yield the frames of an episode."""
    features = read()
    for i in range(FRAMES):
        raw = features[f"{i}/image_aux1/encoded"][0]
        yield i, functools.partial(np.frombuffer(raw, np.uint8).reshape, SIDE, SIDE, 3)


def _positions(read: Episode) -> np.ndarray:
    """Return where the gripper is at each frame, (30, 3) float32."""
    features = read()
    return np.stack([np.asarray(features[f"{i}/endeffector_pos"], np.float32) for i in range(FRAMES)])


def _episode(record: Span, where: str) -> dict[str, list[bytes] | np.ndarray]:
    """Return the features of one episode, all of them there. Raises RetakeError that names it."""
    try:
        features = tfrecord.example(tfrecord.payload(record))
    except (RetakeError, ValueError) as error:
        raise RetakeError(f"{where}: {error}") from None
    for i in range(FRAMES):
        image, position = features.get(f"{i}/image_aux1/encoded"), features.get(f"{i}/endeffector_pos")
        if not isinstance(image, list) or len(image) != 1 or len(image[0]) != SIDE * SIDE * 3:
            raise RetakeError(f"{where}: no raw {SIDE}x{SIDE} image {i}/image_aux1/encoded: it is no record of BAIR's")
        if not isinstance(position, np.ndarray) or position.shape != (3,) or position.dtype != np.float32:
            raise RetakeError(f"{where}: no three numbers {i}/endeffector_pos: it is no record of BAIR's")
    return features
