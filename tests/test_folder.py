"""The dataset `folder`: one's own videos and images, split by folders, lists or shares; and a training on them from one entry."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from pipeline import frames, plan
from pipeline.datasets import folder
from pipeline.drawing.encode import write_video
from pipeline.errors import RetakeError
from pipeline.params import load
from pipeline.sources.archives import Clip, Stream
from pipeline.store.frames import Store, Writer
from tests import layouts_zips
from tests.engines import Project


def params(root: Path, **keys: Any) -> folder.Params:
    return folder.Params.model_validate({"kind": "folder", "folder": str(root), "height": 48, "width": 64, **keys})


def images(path: Path, count: int = 12, suffix: str = ".png") -> None:
    path.mkdir(parents=True)
    for i in range(count):
        image = np.full((48, 64, 3), 40, np.uint8)
        image[10:30, 2 * i : 2 * i + 20] = 220
        cv2.imwrite(str(path / f"frame{i}{suffix}"), image)


def video(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, (np.full((48, 64, 3), 10 * i, np.uint8) for i in range(12)), 10)


def names(root: Path, split: str, **keys: Any) -> list[str]:
    return [clip.name for clip in folder.clips(params(root, **keys), split, [])]


def test_folders_are_splits(tmp_path: Path) -> None:
    images(tmp_path / "train/b")
    video(tmp_path / "train/a.mp4")
    images(tmp_path / "test/c", suffix=".jpg")
    (tmp_path / "train/notes.txt").write_text("x")
    (tmp_path / "train/.hidden.mp4").write_text("x")
    a, b = folder.clips(params(tmp_path), "train", [])
    assert (a.name, b.name) == ("a", "b")
    assert isinstance(a, Stream) and isinstance(b, Clip)
    assert [m.name for _, m in b.frames] == [f"frame{i}.png" for i in range(12)]  # 9 before 10
    assert [n for n, _ in b.frames] == list(range(12))
    assert names(tmp_path, "test") == ["c"]
    with pytest.raises(RetakeError, match=r"no folder .*/val \(folders there: test, train\)"):
        names(tmp_path, "val")


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    images(tmp_path / "test/a", count=1)
    latin = tmp_path / "test" / os.fsdecode(b"caf\xe9")
    (tmp_path / "test/a").rename(latin)
    (latin / "._frame0.png").write_bytes(b"what a Mac leaves")
    (clip,) = folder.clips(params(tmp_path), "test", [])
    assert clip.name == "caf\\xe9"
    with Writer(tmp_path / "x.arrow", codec="raw", meta={}) as out:
        out.add(clip.name, 0, np.zeros((16, 16, 3), np.uint8), source=str(latin))
    store = Store(tmp_path / "x.arrow")
    assert (list(store.clips), store.source(0)) == (["caf\\xe9"], str(tmp_path / "test/caf\\xe9"))
    mine = {"kind": "folder", "folder": str(tmp_path), "height": 48, "width": 64}
    tree = {"reproduce": ["my"], "datasets": {"mine": mine}, "experiments": {"my": {"like": "demo", "dataset": "mine"}}}
    with pytest.raises(
        RetakeError, match=r"test/caf\\xe9 is a name that is not UTF-8, which DVC cannot track: rename it"
    ):
        plan._check_names(load(tree))


def test_a_frame_that_is_missing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Windows over the gap would take its neighbours for neighbours; every fifth frame of a video is no gap."""
    images(tmp_path / "train/b")
    assert names(tmp_path, "train") == ["b"]
    for i in (1, 2, 3, 4, 6, 7, 8, 9):
        (tmp_path / f"train/b/frame{i}.png").unlink()
    (tmp_path / "train/b/frame11.png").rename(tmp_path / "train/b/frame15.png")
    assert names(tmp_path, "train") == ["b"]
    assert not caplog.records
    (tmp_path / "train/b/frame15.png").rename(tmp_path / "train/b/frame20.png")
    assert names(tmp_path, "train") == ["b"]
    assert (
        "train/b: frame20 comes after frame10: frames are numbered as if none was missing between them" in caplog.text
    )


def test_lists_name_the_clips(tmp_path: Path) -> None:
    for name in "abc":
        video(tmp_path / f"all/{name}.mp4")
    (tmp_path / "train.txt").write_text("\ufeffc\na\n", encoding="utf-8")
    lists = {"train": str(tmp_path / "train.txt")}
    assert names(tmp_path / "all", "train", lists=lists) == ["c", "a"]
    with pytest.raises(RetakeError, match="no list for the split test"):
        names(tmp_path / "all", "test", lists=lists)
    (tmp_path / "train.txt").write_text("a\nd\n")
    with pytest.raises(RetakeError, match="names d, which"):
        names(tmp_path / "all", "train", lists=lists)


def test_shares_split_without_overlap_and_move_few(tmp_path: Path) -> None:
    for i in range(40):
        (tmp_path / f"all/clip{i}.mp4").parent.mkdir(exist_ok=True)
        (tmp_path / f"all/clip{i}.mp4").write_bytes(b"")
    shares = {"train": 0.7, "val": 0.1, "test": 0.2}
    parts = {split: set(names(tmp_path / "all", split, shares=shares)) for split in shares}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 40
    assert len(parts["train"]) > len(parts["test"]) > 0
    (tmp_path / "all/another.mp4").write_bytes(b"")
    for split, before in parts.items():
        assert before <= set(names(tmp_path / "all", split, shares=shares))


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(RetakeError, match="put videos, or folders of images, there"):
        names(tmp_path / "none", "train")
    (tmp_path / "empty/train").mkdir(parents=True)
    with pytest.raises(RetakeError, match="no clip is in the split train"):
        names(tmp_path / "empty", "train")
    images(tmp_path / "few/a")
    with pytest.raises(
        RetakeError, match="few clips may leave one empty: give test more, or name its clips in `lists`"
    ):
        names(tmp_path / "few", "test", shares={"train": 1.0})
    video(tmp_path / "twice/train/a.mp4")
    images(tmp_path / "twice/train/a")
    with pytest.raises(RetakeError, match="two clips are called a"):
        names(tmp_path / "twice", "train")
    for keys, message in (
        ({"lists": {"train": "x"}, "shares": {"train": 0.5}}, "not both"),
        ({"shares": {"dev": 0.5}}, "no split dev"),
        ({"shares": {"train": 0.8, "test": 0.4}}, "at most 1"),
    ):
        with pytest.raises(ValidationError, match=message):
            params(tmp_path, **keys)  # type: ignore[arg-type]


def test_a_video_that_is_damaged_in_the_middle_makes_no_store(tmp_path: Path) -> None:
    """The frames before the damage alone would be a shorter clip, without a word in any table."""
    path = layouts_zips.write_video(tmp_path / "train/a.mp4", map(layouts_zips.coded, range(40)), "libx264", bframes=0)
    with av.open(str(path)) as container:
        place, size = [(packet.pos, packet.size) for packet in container.demux(video=0)][20]
    data = path.read_bytes()
    path.write_bytes(data[:place] + bytes(size) + data[place + size :])
    d = params(tmp_path)
    problems: list[str] = []
    with Writer(tmp_path / "train.arrow", codec="raw", meta={}) as out:
        frames.write(out, folder.clips(d, "train", []), d, problems, lambda: None)
    (problem,) = problems
    assert "the 20 frames before that are good. Let FFmpeg conceal what is damaged first" in problem


def test_one_entry_trains_every_task_s_model(tmp_path: Path) -> None:
    """DMVFN, ARFlow and FRVSR, two steps each, on the same folder: one command."""
    project = Project(tmp_path / "p")
    for i in range(2):
        images(project.folder / f"videos/train/clip{i}", count=14)
    tiny = {"batch": 1, "max_steps": 2, "validation": None}
    models = {"dmvfn_demo": tiny | {"crop": 64}, "frvsr_demo": tiny, "arflow_sky": tiny | {"height": 64, "width": 64}}
    mine = {"kind": "folder", "folder": "videos", "height": 96, "width": 96}
    project.edit(
        {f"datasets.mine.{key}": value for key, value in mine.items()}
        | {f"models.{name}.train.{key}": value for name, keys in models.items() for key, value in keys.items()}
        | {"compute.threads": 1, "compute.workers": 0, "tracking.mlflow": False}
    )
    checkpoints = [f"data/checkpoints/{model}/mine.pt" for model in ("dmvfn_demo", "frvsr_demo", "arflow_sky")]
    done = project.snakemake(*checkpoints)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all((project.folder / path).exists() for path in checkpoints)


def test_names_are_one_however_they_are_spelt(tmp_path: Path) -> None:
    whole, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    images(tmp_path / "all" / apart)
    (tmp_path / "list.txt").write_text(whole)
    lists = {"train": str(tmp_path / "list.txt")}
    assert names(tmp_path / "all", "train", lists=lists) == [whole]
    images(tmp_path / "all" / whole)
    with pytest.raises(RetakeError, match="two clips are called café"):
        names(tmp_path / "all", "train", lists=lists)
