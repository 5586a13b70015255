"""The dataset `folder`: one's own videos and images, split by folders, lists or shares; and a training on them from one entry."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.datasets import folder
from pipeline.drawing.encode import write_video
from pipeline.errors import RetakeError
from pipeline.sources.archives import Clip, Stream
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
