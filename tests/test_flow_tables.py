"""Flow tables from archive to CSV in both engines: a real KITTI pair and real Sintel frames, in the official layouts."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.store.flow import from_kitti, read_flo
from tests.engines import Project
from tests.layouts import encoded, make_zip
from tests.layouts_zips import flo

pytestmark = pytest.mark.slow  # two tables by two engines, with two trainings

TABLES = ["results/kitti_flow_metrics.csv", "results/sintel_metrics.csv"]
TINY: dict[str, Any] = {
    "train.batch": 1, "train.max_steps": 2, "train.height": 64, "train.width": 128, "train.validate_every": 1,
    "train.validate_windows": 1, "train.checkpoint_every": 1, "predict.height": 64, "predict.width": 192,
}  # fmt: skip
BASELINES = {"zero": "Zero flow", "farneback": "Farneback", "dis": "DIS"}
SMALL: dict[str, Any] = {
    "reproduce": ["kitti_flow", "sintel"],
    "datasets.kitti2015.archives": "present",
    "datasets.sintel.archives": "present",
    "experiments.sintel.models": BASELINES,
    # the published recipe starts from another dataset's weights: here the second model starts from the first
    "models.arflow_kitti15_ft.train.start": None,
    "models.arflow_kitti15_ft_ar.train.start": "data/checkpoints/arflow_kitti15_ft/kitti2015.pt",
    "compute.threads": 1,
    "compute.workers": 0,
    "tracking.mlflow": False,
} | {f"models.{m}.{k}": v for m in ("arflow_kitti15_ft", "arflow_kitti15_ft_ar") for k, v in TINY.items()}


def noc(occ: bytes) -> bytes:
    """Return ground truth of KITTI without the pixels of the left quarter, which stand for the occluded ones."""
    image = cv2.imdecode(np.frombuffer(occ, np.uint8), cv2.IMREAD_UNCHANGED)
    image[:, : image.shape[1] // 4] = 0
    return encoded(image[..., ::-1])


def project(folder: Path, shared: Path) -> Project:
    made = Project(folder, SMALL)
    sample = shared / "data/kitti_flow_sample"
    pair = {str(path.relative_to(sample)): path.read_bytes() for path in sorted(sample.rglob("*.png"))}
    pair["training/flow_noc/000000_10.png"] = noc(pair["training/flow_occ/000000_10.png"])
    raw = made.folder / "data/raw"
    make_zip(raw / "kitti_flow/data_scene_flow.zip", pair)
    images = [
        encoded(cv2.resize(cv2.imdecode(np.frombuffer(pair[name], np.uint8), 1)[..., ::-1], (128, 64)))
        for name in ("training/image_2/000000_10.png", "training/image_2/000000_11.png")
    ]
    views = {
        f"training/{camera}/000000_{n:02d}.png": images[n % 2] for camera in ("image_2", "image_3") for n in range(21)
    }
    make_zip(raw / "kitti_flow/data_scene_flow_multiview.zip", views)
    frames = [path.read_bytes() for path in sorted((shared / "data/sintel_sample/frames").glob("*.png"))[:3]]
    grey = [cv2.imdecode(np.frombuffer(frame, np.uint8), 0) for frame in frames]
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    members = {}
    for n in range(3):
        members |= {f"training/{rendering}/cave_2/frame_{n + 1:04d}.png": frames[n] for rendering in ("clean", "final")}
    for n in range(2):  # the sample has no ground truth: an estimate stands for it
        members[f"training/flow/cave_2/frame_{n + 1:04d}.flo"] = flo(dis.calc(grey[n], grey[n + 1], None))  # type: ignore[call-overload]
    make_zip(raw / "sintel/MPI-Sintel-complete.zip", members)
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Project:
    made = project(tmp_path_factory.mktemp("flow"), shared)
    done = made.snakemake(*TABLES)
    assert done.returncode == 0, done.stdout + done.stderr
    return made


def rows(made: Project, table: str) -> dict[tuple[str, bool], dict[str, str]]:
    with (made.folder / table).open(newline="") as file:
        return {(r["model"], r["source"] == "measured"): r for r in csv.DictReader(file)}


def test_kitti_cells_are_the_errors_of_the_pair(made: Project, shared: Path) -> None:
    found = rows(made, TABLES[0])
    ours = {name: row for (name, measured), row in found.items() if measured}
    assert list(ours) == [*BASELINES.values(), "ARFlow (without AR)", "ARFlow"]
    truth = from_kitti((shared / "data/kitti_flow_sample/training/flow_occ/000000_10.png").read_bytes(), "the sample")
    length = np.hypot(truth[..., 0], truth[..., 1]).astype(np.float64)
    quarter = truth.shape[1] // 4
    zero = ours["Zero flow"]
    assert float(zero["epe"]) == pytest.approx(np.nanmean(length), rel=1e-5)
    assert float(zero["epe_noc"]) == pytest.approx(np.nanmean(length[:, quarter:]), rel=1e-5)
    assert float(zero["epe_occ"]) == pytest.approx(np.nanmean(length[:, :quarter]), rel=1e-5)
    bad = 100 * (length > 3).sum() / np.isfinite(length).sum()
    assert float(zero["f1_all"]) == float(zero["f1_pooled"]) == pytest.approx(bad, rel=1e-5)
    assert float(ours["DIS"]["epe"]) < 0.8 * float(zero["epe"])  # 50 px a frame
    assert ours["ARFlow"]["checkpoint"] not in ("", ours["ARFlow (without AR)"]["checkpoint"])
    assert int(ours["ARFlow"]["parameters"]) > 2_000_000
    paper = next(row for (_, measured), row in found.items() if not measured)
    assert (paper["epe"], paper["f1_all"]) == ("2.85", "")
    text = (made.folder / "results/kitti_flow_metrics.md").read_text()
    assert "1 pairs with ground truth" in text
    assert "Partial data" in text
    assert "t+" not in text
    assert (made.folder / "results/kitti_flow.png").stat().st_size > 50_000


def test_training_starts_from_the_named_checkpoint_and_validates_by_endpoint_error(made: Project) -> None:
    folder = made.folder / "data/checkpoints"
    for model in ("arflow_kitti15_ft", "arflow_kitti15_ft_ar"):
        assert '"val_epe"' in (folder / model / "kitti2015.metrics.jsonl").read_text()
    jobs = made.jobs("--forceall", *TABLES)
    starts = [job["input"] for job in jobs if job["output"][0].endswith("ft_ar/kitti2015.pt")]
    assert "data/checkpoints/arflow_kitti15_ft/kitti2015.pt" in starts[0]


def test_sintel_has_a_column_for_each_rendering(made: Project) -> None:
    found = rows(made, TABLES[1])
    assert found["DIS", True]["n"] == "4"
    assert float(found["DIS", True]["epe_clean"]) < 0.05  # its own estimate, of a grey a little different
    assert found["Zero flow", True]["epe_clean"] == found["Zero flow", True]["epe_final"] != "0"
    paper = [row for (_, measured), row in found.items() if not measured]
    assert ("2.73", "3.69") in [(row["epe_clean"], row["epe_final"]) for row in paper]


def test_same_bytes_with_dvc(made: Project, tmp_path: Path, shared: Path) -> None:
    other = project(tmp_path / "dvc", shared)
    done = other.dvc("repro")
    assert done.returncode == 0, done.stdout + done.stderr
    for table in TABLES:
        assert (other.folder / table).read_bytes() == (made.folder / table).read_bytes()


def test_two_images_with_a_checkpoint(made: Project, shared: Path) -> None:
    images = [str(p) for p in sorted((shared / "data/kitti_flow_sample/training/image_2").glob("*.png"))]
    command = [sys.executable, "-m", "pipeline.flow", *images, "--estimator", "arflow_kitti15_ft", "--output", "a.flo"]
    checkpoint = "data/checkpoints/arflow_kitti15_ft/kitti2015.pt"
    done = made.run(*command, "--checkpoint", checkpoint)
    assert done.returncode == 0, done.stderr
    assert read_flo(made.folder / "a.flo").shape == (375, 1242, 2)
    done = made.run(*command)
    assert "arflow needs --checkpoint: a file of data/checkpoints" in done.stderr
    done = made.run(*[w.replace("arflow_kitti15_ft", "dis") for w in command], "--checkpoint", checkpoint)
    assert "dis has no weights: leave --checkpoint out" in done.stderr
