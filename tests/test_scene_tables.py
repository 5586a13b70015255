"""TecoGAN's tables from archive to CSV in both engines: the real calendar clip and small scenes in the official layouts.

Trained for two steps on a video of our own: FRVSR, and TecoGAN from its checkpoint.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.datasets import vid4
from pipeline.drawing.images import write_image
from pipeline.sources.images import read_image
from pipeline.store.frames import Store
from pipeline.tasks.super_resolution import grid
from tests.engines import Project
from tests.layouts import encoded, make_zip
from tests.layouts_zips import write_video

pytestmark = pytest.mark.slow  # two tables by two engines, with two trainings

TABLES = ["results/vid4_metrics.csv", "results/tos_metrics.csv"]
BASELINES = {"nearest": "Nearest", "bicubic": "Bicubic"}
CALENDAR = 7  # frames of the real clip
TINY: dict[str, Any] = {
    "network.blocks": 1, "train.batch": 1, "train.max_steps": 2, "train.window": 3, "train.crop": 40,
    "train.validation": None, "train.vgg": 0, "train.vgg_weights": None,
}  # fmt: skip
SMALL: dict[str, Any] = {
    "reproduce": ["vid4", "tos"],
    "datasets.vid4.archives": "present",
    "datasets.tos.archives": "present",
    "datasets.tecogan_train.videos": "own",
    "experiments.vid4.models": {**BASELINES, "frvsr": "FRVSR", "tecogan": "TecoGAN"},
    "experiments.vid4.predictions": {"mine": "results_of_mine"},
    "experiments.tos.models": BASELINES,
    "experiments.vid4.missing_weights": "skip",
    "experiments.tos.missing_weights": "skip",
    "compute.device": "cpu",
    "compute.threads": 1,
    "compute.workers": 0,
    "tracking.mlflow": False,
} | {f"models.{m}.{k}": v for m in ("frvsr", "tecogan") for k, v in TINY.items()}


def texture(seed: int, number: int, height: int, width: int) -> np.ndarray:
    """Return a frame of a texture that pans by 3 px a frame, uint8."""
    noise = np.random.default_rng(seed).normal(size=(height, width + 400, 3)).astype(np.float32)
    image = cv2.GaussianBlur(noise, (0, 0), 2)[:, 3 * number :][:, :width]
    return np.clip(128 + image / image.std() * 45, 0, 255).astype(np.uint8)


def scenes(sizes: dict[str, tuple[int, int, int]], seed: int) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return the PNGs of high and low resolution; `sizes`: scene -> (frames, height, width) of the high one."""
    high, low = {}, {}
    for i, (scene, (count, height, width)) in enumerate(sizes.items()):
        for n in range(count):
            image = texture(seed + i, n, height, width)
            name = f"{scene}/{n + 1:04d}.png"
            high[name] = encoded(image)
            low[name] = encoded(np.rint(255 * grid.degrade_frame(image)).astype(np.uint8))
    return high, low


def project(folder: Path, shared: Path) -> Project:
    made = Project(folder, SMALL)
    raw = made.folder / "data/raw"
    # Of calendar, low resolution is real; no high resolution is at hand, so an enlargement stands for it.
    real = sorted((shared / "data/vid4_calendar_lr").glob("*.png"))[:CALENDAR]
    high, low = scenes({"city": (6, 64, 88), "foliage": (7, 60, 88)}, 0)
    for path in real:
        large = cv2.resize(read_image(path), (720, 576), interpolation=cv2.INTER_LANCZOS4)
        high[f"calendar/{path.name}"] = encoded(large)
    make_zip(raw / "vid4/vid4_HR.zip", high)
    make_zip(raw / "vid4/vid3_LR.zip", {f"LR/{name}": data for name, data in low.items()})
    commit = vid4.LOW[1].removesuffix(".zip")
    members = {f"{commit}/LR/calendar/{path.name}": path.read_bytes() for path in real}
    make_zip(raw / "vid4" / vid4.LOW[1], members | {f"{commit}/README.md": b"TecoGAN"})
    high, low = scenes({"bridge": (6, 64, 80), "face": (5, 56, 80), "room": (5, 56, 80)}, 9)
    make_zip(raw / "tos/tos_HR.zip", high)
    make_zip(raw / "tos/tos_LR.zip", low)
    write_video(made.folder / "own/train/mine.mp4", (texture(20, n, 400, 400) for n in range(120)))
    for scene, count in (("calendar", CALENDAR), ("city", 6), ("foliage", 7)):
        size = {"calendar": (576, 720), "city": (64, 88), "foliage": (60, 88)}[scene]
        for n in range(count):
            write_image(made.folder / f"results_of_mine/{scene}/output_{n + 1:04d}.png", texture(30, n, *size))
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Project:
    made = project(tmp_path_factory.mktemp("scenes"), shared)
    done = made.snakemake(*TABLES, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    return made


def test_vid4_has_our_rows_and_the_published_ones(made: Project) -> None:
    found = made.rows(TABLES[0])
    ours = {name: row for (name, measured), row in found.items() if measured}
    assert list(ours) == ["Nearest", "Bicubic", "FRVSR", "TecoGAN", "mine"]
    assert {row["n"] for row in ours.values()} == {"3"}
    assert {row["partial"] for row in ours.values()} == {"3 of 3 archives, 3 of 4 clips, 20 of 171 frames"}
    for scene in ("calendar", "city", "foliage"):
        psnr = {name: float(row[f"psnr_y_{scene}"]) for name, row in ours.items()}
        assert psnr["Bicubic"] > psnr["Nearest"] > psnr["mine"]
    assert float(ours["Bicubic"]["tof"]) < float(ours["Nearest"]["tof"])
    mean = np.mean([float(ours["FRVSR"][f"psnr_y_{scene}"]) for scene in ("calendar", "city", "foliage")])
    assert float(ours["FRVSR"]["psnr_y"]) == pytest.approx(mean, rel=1e-5)
    assert ours["FRVSR"]["checkpoint"] not in ("", ours["TecoGAN"]["checkpoint"])
    assert int(ours["FRVSR"]["parameters"]) == int(ours["TecoGAN"]["parameters"]) > 1_745_506  # without discriminator
    assert float(ours["FRVSR"]["gmacs"]) > 1
    assert ours["Bicubic"]["lpips"] == ours["Bicubic"]["tlp"] == ""
    assert "lpips: no weights alexnet" in ours["Bicubic"]["note"]
    teco = found["TecoGAN (16 blocks)", False]
    assert (teco["psnr_y"], teco["lpips"], teco["tof"], teco["tlp"]) == ("25.57", "16.200", "0.190", "0.668")
    text = (made.folder / "results/vid4_metrics.md").read_text()
    assert "3 scenes, upscaled by 4 from low resolution (the dataset's)" in text
    assert (made.folder / "results/vid4.png").stat().st_size > 50_000
    speed = (made.folder / "results/vid4_speed.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in speed] == ["model", "Nearest", "Bicubic", "FRVSR", "TecoGAN"]


def test_tos_has_its_own_published_rows(made: Project) -> None:
    found = made.rows(TABLES[1])
    assert found["FRVSR", False]["psnr_y"] == "34.01"
    assert found["Bicubic", True]["n"] == "3"
    assert found["Bicubic", True]["partial"] == ""  # all three scenes; how many frames they have is not published


def test_tecogan_starts_from_frvsr(made: Project) -> None:
    jobs = made.jobs("--forceall", *TABLES)
    starts = [job["input"] for job in jobs if job["output"][0] == "data/checkpoints/tecogan/tecogan_train.pt"]
    assert "data/checkpoints/frvsr/tecogan_train.pt" in starts[0]
    lines = (made.folder / "data/checkpoints/tecogan/tecogan_train.metrics.jsonl").read_text().splitlines()
    assert {"PingPang", "t_discrim_loss"} < set(json.loads(lines[0]))


def test_upscaled_frames_are_keyed_by_scene_and_frame(made: Project) -> None:
    store = Store(made.folder / "data/predictions/vid4/frvsr.arrow")
    assert {clip: len(rows) for clip, rows in store.clips.items()} == {"calendar": CALENDAR, "city": 6, "foliage": 7}
    assert store.frame[store.clips["calendar"]].tolist() == list(range(CALENDAR))
    done = made.run("python", "-m", "pipeline.view", "data/predictions/vid4/frvsr.arrow", "--clip", "calendar")
    assert done.returncode == 0, done.stderr
    assert (made.folder / "data/view/predictions/vid4/frvsr_sheets/calendar/clip.mp4").stat().st_size > 10_000


def test_another_metric_neither_trains_nor_predicts(made: Project) -> None:
    config = json.dumps({"vid4": {"metrics": {"psnr": {"kind": "psnr"}}, "published": None}})
    assert set(made.rules(TABLES[0], "--config", f"experiments={config}")) == {"score", "table"}


def test_same_bytes_with_dvc(made: Project, tmp_path: Path, shared: Path) -> None:
    other = project(tmp_path / "dvc", shared)
    done = other.dvc("repro", timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    for table in TABLES:
        for suffix in ("_metrics.csv", "_metrics.md", "_steps.csv", ".png"):
            name = table.replace("_metrics.csv", suffix)
            assert (other.folder / name).read_bytes() == (made.folder / name).read_bytes(), name
