"""The rendered demo of super-resolution: its bytes and splits, its recipe, and the whole chain in both engines."""

from __future__ import annotations

import csv
import hashlib
import math
import zipfile
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import params
from pipeline.datasets import demo_vsr
from pipeline.drawing.rendering import LANDSCAPES
from pipeline.models.tecogan import build
from pipeline.store.frames import Store, Writer
from pipeline.tasks.super_resolution import train
from tests.engines import Project

PINNED = "6ce8a6d71355a589fdaa2c29579fcbf9d444424b72235175283b3da01aedafa0"


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


def test_the_camera_rises_by_a_quarter_of_a_low_resolution_pixel() -> None:
    """Most of a frame is the one before, moved down by 1 of the 4 pixels; tram and balloons are not."""
    for place in range(4):
        frames = np.stack(demo_vsr.render("test", place, 64, 96))
        same = [(frames[1:, n:] == frames[:-1, : 64 - n]).all(-1).mean() for n in range(5)]
        assert int(np.argmax(same)) == 1
        assert 0.5 < same[1] < 0.95


def test_a_few_steps_of_the_recipe_lower_the_loss(tmp_path: Path) -> None:
    with Writer(tmp_path / "train.arrow", codec="raw", meta={}) as out:
        for place in range(2):
            for i, image in enumerate(demo_vsr.render("train", place, 96, 96)):
                out.add(str(place), i, image)
    model = params.load().models["frvsr_demo"]
    recipe = model.train
    torch.manual_seed(recipe.seed)
    network = build(model)
    clips = train.TrainingClips(Store(tmp_path / "train.arrow"), recipe, network.augment)

    batch = torch.stack([clips[item] for item in clips.indices(0, 0, 1)[:1]]).float() / 255
    state = SimpleNamespace(
        fabric=SimpleNamespace(world_size=1, autocast=nullcontext),
        optimisers=network.configure(),
        step=0,
        steps=recipe.max_steps,
    )
    losses = []
    for state.step in range(50):
        losses.append(network.training_step(batch, state)["l2_content_loss"])
    gain = 10 * math.log10(losses[0] / losses[-1])
    assert gain > 0.3, f"{gain:.2f} dB above bicubic"


# The chain

TABLE = "results/demo_vsr_metrics.csv"
TINY: dict[str, Any] = {
    "reproduce": ["demo_vsr"],
    "datasets.demo_vsr.height": 64,
    "datasets.demo_vsr.width": 96,
    "models.frvsr_demo.network.blocks": 1,
    "models.frvsr_demo.train.max_steps": 4,
    "models.frvsr_demo.train.batch": 2,
    "models.frvsr_demo.train.crop": 40,
    "models.frvsr_demo.train.validate_every": 4,
    "models.frvsr_demo.train.validate_windows": 1,
    "compute.threads": 1,
    "compute.workers": 0,
    "tracking.mlflow": False,
}


def rows(project: Project) -> dict[str, dict[str, str]]:
    with (project.folder / TABLE).open(newline="") as file:
        return {row["model"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("vsr") / "snakemake", TINY)
    done = project.snakemake(TABLE)
    assert done.returncode == 0, done.stdout + done.stderr
    return project


def test_the_chain_from_nothing_to_a_table(chain: Project) -> None:
    assert list(rows(chain)) == ["Nearest", "Bicubic", "FRVSR"]


@pytest.mark.slow
def test_same_bytes_from_dvc(chain: Project, tmp_path: Path) -> None:
    other = Project(tmp_path / "dvc", TINY)
    done = other.dvc("repro")
    assert done.returncode == 0, done.stdout + done.stderr
    for name in (TABLE, "results/demo_vsr_steps.csv", "results/demo_vsr.png"):
        assert (chain.folder / name).read_bytes() == (other.folder / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_recipe_beats_bicubic_on_scenes_it_has_not_seen(tmp_path: Path) -> None:
    project = Project(tmp_path / "p", {"tracking.mlflow": False})
    done = project.snakemake(TABLE, timeout=3500)
    assert done.returncode == 0, done.stdout + done.stderr
    table = rows(project)
    gain = float(table["FRVSR"]["psnr_y"]) - float(table["Bicubic"]["psnr_y"])
    assert gain > 0.5, f"{gain:.2f} dB above bicubic"
    assert float(table["FRVSR"]["tof"]) < float(table["Bicubic"]["tof"])
