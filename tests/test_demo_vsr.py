"""The rendered demo of super-resolution: its bytes and splits, and that its recipe learns."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets import demo_vsr
from pipeline.store.rendering import LANDSCAPES

PINNED = "576950c9dbcde286703ed79600a6ff396b4cde94e9d592de037f9edf369ea7fa"


def small(**changes: object) -> demo_vsr.Params:
    values = {"kind": "demo_vsr", "height": 64, "width": 96, "codec": "png", "archives": "all"}
    return demo_vsr.Params.model_validate({**values, **changes})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo_vsr")
    demo_vsr.generate(small(), "test", folder)
    return folder / demo_vsr.archives(small(), "test")[0]


def test_same_bytes_on_every_machine(made: Path, tmp_path: Path) -> None:
    demo_vsr.generate(small(), "test", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [made.name]
    assert (tmp_path / made.name).read_bytes() == made.read_bytes()
    assert hashlib.sha256(made.read_bytes()).hexdigest() == PINNED


def test_scene_folders_of_numbered_frames(made: Path) -> None:
    with zipfile.ZipFile(made) as archive:
        assert archive.namelist()[0] == "alpine/0001.png"
        assert {i.compress_type for i in archive.infolist()} == {zipfile.ZIP_STORED}
    clips = demo_vsr.clips(small(), "test", [made])
    assert [clip.name for clip in clips] == ["alpine", "comet", "foxglove", "mirabel"]
    assert {n for clip in clips for n, _ in clip.frames} == set(range(16))
    counts = {"clips": len(clips), "frames": sum(len(clip.frames) for clip in clips)}
    assert counts == demo_vsr.expected(small(), "test") == {"clips": 4, "frames": 64}


def test_no_scene_is_in_two_splits() -> None:
    names = [name for split in demo_vsr.SPLITS for name in demo_vsr.SCENES[split]]
    assert len(set(names)) == len(names) == 30
    looks = [look for split in demo_vsr.SPLITS for look in LANDSCAPES[split]]
    assert len(set(looks)) == len(looks)
    first = {demo_vsr.render(split, place, 64, 64)[0].tobytes() for split in demo_vsr.SPLITS for place in (0, 1)}
    assert len(first) == 6


def test_motions_are_fractions_of_a_low_resolution_pixel() -> None:
    """Most of a frame is the one before, moved by 1 to 3 of the 4 pixels; tram and balloons are not."""
    pans = set()
    for place in range(4):
        frames = np.stack(demo_vsr.render("test", place, 64, 96))
        same = [(frames[1:, :, : 96 - n] == frames[:-1, :, n:]).all(-1).mean() for n in range(5)]
        assert 0.5 < max(same) < 0.95
        pans.add(int(np.argmax(same)))
    assert pans <= {1, 2, 3}
    assert len(pans) > 1
