"""What whole stages say when a checkpoint, the disk or a folder is not as it should be."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines import Project
from tests.test_train import RECIPE, checkpoint, write_frames

PREDICT = (sys.executable, "-m", "pipeline.predict", "--experiment", "demo", "--model", "dmvfn_demo")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("bad"), {**RECIPE, "models.dmvfn_demo.train.max_steps": 1})
    write_frames(project)
    done = project.run(sys.executable, "-m", "pipeline.train", "--model", "dmvfn_demo", "--dataset", "demo")
    assert done.returncode == 0, done.stderr
    return project


def tampered(project: Project, change: Any) -> str:
    """Return what predict says to a changed checkpoint, which is put back."""
    import io

    import torch

    path = checkpoint(project)
    whole = path.read_bytes()
    try:
        tree = torch.load(io.BytesIO(whole), weights_only=True)
        change(path, tree)
        done = project.run(*PREDICT)
    finally:
        path.write_bytes(whole)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not (project.folder / "data/predictions/demo/dmvfn_demo.arrow").exists()
    return done.stderr


def write(tree: Any, path: Path) -> None:
    import torch

    torch.save(tree, path)


def test_checkpoint_of_another_network(trained: Project) -> None:
    text = tampered(trained, lambda path, tree: write({**tree, "kind": "tecogan"}, path))
    assert "is a checkpoint of tecogan, not of dmvfn" in text


def test_checkpoint_with_missing_keys(trained: Project) -> None:
    def drop(path: Path, tree: Any) -> None:
        del tree["weights"]["block3.conv_sq.0.weight"]
        write(tree, path)

    assert "block3.conv_sq.0.weight" in tampered(trained, drop)


def test_checkpoint_that_would_run_code(trained: Project) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (trained.folder / "owned",))

    text = tampered(trained, lambda path, tree: path.write_bytes(pickle.dumps(Bomb())))
    assert "refused" in text
    assert not (trained.folder / "owned").exists()


def test_checkpoint_that_is_cut_off(trained: Project) -> None:
    text = tampered(trained, lambda path, tree: path.write_bytes(path.read_bytes()[:1000]))
    assert "demo.pt" in text


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_full_disk(trained: Project, small_disk: Path, tmp_path: Path) -> None:
    shutil.copytree(trained.folder, tmp_path / "copy", symlinks=True)
    project = Project.__new__(Project)
    project.folder = tmp_path / "copy"
    shutil.rmtree(project.folder / "data/raw", ignore_errors=True)
    (project.folder / "data/raw").symlink_to(small_disk)
    done = project.run(sys.executable, "-m", "pipeline.download", "--dataset", "demo", "--split", "train")
    assert done.returncode == 1
    assert "disk full" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (small_disk / "demo/train.json").exists()


def test_read_only_folder(trained: Project, small_disk: Path, tmp_path: Path) -> None:
    shutil.copytree(trained.folder, tmp_path / "copy", symlinks=True)
    project = Project.__new__(Project)
    project.folder = tmp_path / "copy"
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    (project.folder / "data/predictions").symlink_to(small_disk)
    done = project.run(*PREDICT)
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr


def test_two_images_of_different_size_or_too_few(trained: Project) -> None:
    import cv2
    import numpy as np

    for name, size in (("a", (64, 80)), ("b", (64, 96))):
        cv2.imwrite(str(trained.folder / f"{name}.png"), np.zeros((*size, 3), np.uint8))
    command = (
        sys.executable,
        "-m",
        "pipeline.predict",
        "--model",
        "dmvfn_demo",
        "--checkpoint",
        str(checkpoint(trained)),
    )
    done = trained.run(*command, "a.png", "b.png", "--output", "c.png")
    assert done.returncode == 1
    assert "images of different sizes: a.png 80x64, b.png 96x64" in done.stderr
    done = trained.run(*command, "a.png", "--output", "c.png")
    assert "predicts from 2 frames, 1 were given" in done.stderr
    done = trained.run(*command, "a.png", "none.png", "--output", "c.png")
    assert "no image none.png" in done.stderr


def test_next_frame_of_two_images_of_any_size(trained: Project) -> None:
    import cv2
    import numpy as np

    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        cv2.imwrite(str(trained.folder / f"{name}.png"), rng.integers(0, 256, (50, 70, 3), dtype=np.uint8))
    done = trained.run(
        *PREDICT[:3],
        "a.png",
        "b.png",
        "--model",
        "dmvfn_demo",
        "--checkpoint",
        str(checkpoint(trained)),
        "--output",
        "next.png",
    )
    assert done.returncode == 0, done.stderr
    assert cv2.imread(str(trained.folder / "next.png")).shape == (50, 70, 3)
