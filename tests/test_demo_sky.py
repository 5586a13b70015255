"""The rendered demo of animation: its layout, motions and splits, its recipe, and the whole chain; real skies through the same chain."""

from __future__ import annotations

import csv
import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.datasets import demo_sky
from tests.engines import Project

PINNED = "4f3b2ba5df7ce445256a4d74647af674c8008f9df8f9ea800db1e1538d8b89c1"


def small() -> demo_sky.Params:
    return demo_sky.Params(kind="demo_sky", height=32, width=48)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo_sky")
    demo_sky.generate(small(), "test", folder)
    return folder / demo_sky.archives(small(), "test")[0]


def test_same_bytes_again_and_the_layout_of_sky_timelapse(made: Path, tmp_path: Path) -> None:
    demo_sky.generate(small(), "test", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [made.name]
    assert (tmp_path / made.name).read_bytes() == made.read_bytes()
    with zipfile.ZipFile(made) as archive:
        assert archive.namelist()[0] == "sky_test/sky_test_01/sky_test_01_1/sky_test_01_frames_00000001.jpg"
    clips = demo_sky.clips(small(), "test", [made])
    assert [clip.name for clip in clips][:3] == [
        "sky_test_01/sky_test_01_1",
        "sky_test_01/sky_test_01_2",
        "sky_test_02/sky_test_02_1",
    ]
    assert {n for clip in clips for n, _ in clip.frames} == set(range(48))
    counts = {"clips": len(clips), "frames": sum(len(clip.frames) for clip in clips)}
    assert counts == demo_sky.expected(small(), "test") == {"clips": 8, "frames": 384}


def test_frames_are_drawn_the_same_on_every_machine() -> None:
    frames = np.stack(demo_sky.render("train", 3, 1, 32, 48))
    assert hashlib.sha256(frames.tobytes()).hexdigest() == PINNED


def test_clouds_drift_to_both_sides_from_the_same_start() -> None:
    left, right = (np.stack(demo_sky.render("test", 1, k, 32, 48)) for k in (1, 2))
    assert (left[0] == right[0]).all()
    assert (left[1:, :, :-2] == left[:-1, :, 2:]).all()
    assert (right[1:, :, 2:] == right[:-1, :, :-2]).all()


def test_the_flow_takes_each_frame_to_the_next(made: Path) -> None:
    fields = list(demo_sky.truth(small(), "test", [made]))
    assert len(fields) == 8 * 47
    assert {tuple(flow[0, 0]) for _, _, flow, _ in fields} == {(-2, 0), (2, 0)}
    for clip, _, flow, valid in fields[:3]:
        assert (clip, valid.all(), flow.shape) == ("sky_test_01/sky_test_01_1", True, (32, 48, 2))
        assert (flow == (-2, 0)).all()
    assert [frame for _, frame, _, _ in fields[:47]] == list(range(47))


def test_no_sky_is_in_two_splits() -> None:
    first = {demo_sky.render(s, i, 1, 64, 64)[0].tobytes() for s in demo_sky.SPLITS for i in range(demo_sky.SKIES[s])}
    assert len(first) == sum(demo_sky.SKIES.values()) == 30


# The chain

TABLE, SWAPPED = "results/demo_sky_metrics.csv", "results/demo_sky_swapped_metrics.csv"
TINY: dict[str, Any] = {
    "reproduce": ["demo_sky"],
    "datasets.demo_sky.height": 32,
    "datasets.demo_sky.width": 32,
    "models.dtvnet_demo.network.size": 32,
    "models.dtvnet_demo.network.channels": 2,
    "models.dtvnet_demo.network.motion": 4,
    "models.dtvnet_demo.network.content_blocks": 1,
    "models.dtvnet_demo.network.motion_blocks": 1,
    "models.dtvnet_demo.train.max_steps": 2,
    "models.dtvnet_demo.train.batch": 2,
    "models.dtvnet_demo.train.validate_every": 2,
    "models.dtvnet_demo.train.validate_windows": 1,
    "compute.threads": 1,
    "compute.workers": 0,
    "tracking.mlflow": False,
}


def rows(project: Project, table: str) -> dict[str, dict[str, str]]:
    with (project.folder / table).open(newline="") as file:
        return {row["model"]: row for row in csv.DictReader(file)}


def test_the_chain_from_nothing_to_a_table(tmp_path: Path) -> None:
    project = Project(tmp_path / "p", TINY)
    done = project.snakemake(TABLE)
    assert done.returncode == 0, done.stdout + done.stderr
    table = rows(project, TABLE)
    assert list(table) == ["Start frame", "Start frame, warped", "DTVNet"]
    assert float(table["Start frame, warped"]["psnr"]) > float(table["Start frame"]["psnr"]) + 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_recipe_beats_the_start_on_skies_it_has_not_seen_by_their_own_motion(tmp_path: Path) -> None:
    project = Project(tmp_path / "p", {"tracking.mlflow": False})
    done = project.snakemake(TABLE, SWAPPED, timeout=3500)
    assert done.returncode == 0, done.stdout + done.stderr
    own, other = rows(project, TABLE), rows(project, SWAPPED)
    assert own["Start frame"]["psnr"] == other["Start frame"]["psnr"]
    gain = float(own["DTVNet"]["psnr"]) - float(own["Start frame"]["psnr"])
    assert gain > 0.5, f"{gain:.2f} dB above repeating the start"
    assert float(other["DTVNet"]["psnr"]) < float(own["DTVNet"]["psnr"]) - 0.5


# Real skies


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_real_skies_from_the_archive_to_the_table_with_flow_of_both_estimators(shared: Path, tmp_path: Path) -> None:
    """A zip in the official layout; ARFlow and DTVNet are trained for two steps, so only the warped start says how good flow is."""
    tiny = {"channels": 2, "motion": 4, "content_blocks": 1, "motion_blocks": 1}
    changes: dict[str, Any] = {
        "reproduce": ["sky"],
        **{f"models.dtvnet.network.{key}": value for key, value in tiny.items()},
        "models.dtvnet.train.batch": 2,
        "models.dtvnet.train.max_steps": 2,
        "models.arflow_sky.train.batch": 1,
        "models.arflow_sky.train.max_steps": 2,
        "models.arflow_sky.train.validation": None,
        "experiments.sky.metrics": {
            "psnr": {"kind": "ffmpeg", "measure": "psnr", "decimals": 2},
            "flow_mse": {"kind": "flow_mse"},
        },
        "datasets.sky_timelapse_dtvnet.archives": "present",
        "datasets.sky_timelapse_arflow.archives": "present",
        "compute.workers": 0,
        "tracking.mlflow": False,
    }
    project = Project(tmp_path / "p", changes)
    archive = project.folder / "data/raw/sky_timelapse/sky_timelapse.zip"
    archive.parent.mkdir(parents=True)
    clips = {
        "train": sorted((shared / "data/landscape_clips").glob("sample*")),
        "test": sorted((shared / "data/sky_timelapse_sample/sky_test").glob("*/*")),
    }
    with zipfile.ZipFile(archive, "w") as out:
        for split, folders in clips.items():
            for folder in folders:
                for file in folder.glob("*.jpg"):
                    name = f"{folder.name}_frames_{int(file.stem[5:]):08d}.jpg"
                    out.write(file, f"sky_{split}/{folder.name}/{folder.name}_1/{name}")

    table = "results/sky_metrics.csv"
    tables = {}
    for estimator in ("arflow_sky", "dis_sky"):
        project.edit({"models.dtvnet.network.flow": estimator, "models.warp_start.predict.flow": estimator})
        done = project.snakemake("--", table, timeout=3000)
        assert done.returncode == 0, done.stdout + done.stderr
        tables[estimator] = rows(project, table)
        assert list(tables[estimator])[:3] == ["Start frame", "Start frame, warped", "DTVNet"]
        text = (project.folder / "results/sky_metrics.md").read_text()
        assert "Partial data" in text and "2 of 225 short videos" in text
        assert f"flow: by `{estimator}`" in text
    untrained, dis = (tables[name]["Start frame, warped"]["psnr"] for name in tables)
    assert dis != untrained
    assert tables["arflow_sky"]["Start frame"] == tables["dis_sky"]["Start frame"]
