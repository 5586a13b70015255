"""From archive to tables and flow stores in both engines: real frames of KITTI, Sintel and Sky, in the official layouts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from pipeline.models.arflow.network import PWCLite
from pipeline.sources.images import read_image
from pipeline.store.flow import from_kitti, read_flo
from pipeline.store.frames import Store
from tests.engines import Project
from tests.layouts import encoded, make_zip
from tests.layouts_zips import flo

pytestmark = pytest.mark.slow  # two tables and two flow stores by two engines, with two trainings

TABLES = ["results/kitti_flow_metrics.csv", "results/sintel_metrics.csv"]
TINY: dict[str, Any] = {
    "train.batch": 1, "train.max_steps": 2, "train.height": 64, "train.width": 128, "train.validate_every": 1,
    "train.validate_windows": 1, "train.checkpoint_every": 1, "predict.height": 64, "predict.width": 192,
}  # fmt: skip
OFF = np.array([0.75, -1.0], np.float32)  # px: 1.25 long, and whole steps of the stores' 1/64
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


def dis_flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return what the row DIS must find; OpenCV's PNG reader makes other greys than its colour conversion."""
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (first, second)]
    return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*grey, None)  # type: ignore[call-overload]


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
    images = [read_image(path) for path in sorted((shared / "data/sintel_sample/frames").glob("*.png"))[:3]]
    members = {}
    for n in range(3):
        members[f"training/clean/cave_2/frame_{n + 1:04d}.png"] = frames[n]
        members[f"training/final/cave_2/frame_{n + 1:04d}.png"] = encoded(cv2.GaussianBlur(images[n], (0, 0), 2))
    for n in range(2):  # the sample has no ground truth: DIS's own estimate stands for it, moved by a known vector
        members[f"training/flow/cave_2/frame_{n + 1:04d}.flo"] = flo(dis_flow(images[n], images[n + 1]) + OFF)
    make_zip(raw / "sintel/MPI-Sintel-complete.zip", members)
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Project:
    made = project(tmp_path_factory.mktemp("flow"), shared)
    done = made.snakemake(*TABLES, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    return made


def test_kitti_cells_are_the_errors_of_the_pair(made: Project, shared: Path) -> None:
    found = made.rows(TABLES[0])
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
    found = made.rows(TABLES[1])
    assert found["DIS", True]["n"] == "4"
    assert float(found["DIS", True]["epe_clean"]) == pytest.approx(1.25, abs=1e-4)
    assert float(found["DIS", True]["epe_final"]) > 1.255  # of blurred frames it estimates something else
    assert found["Zero flow", True]["epe_clean"] == found["Zero flow", True]["epe_final"] != "0"
    paper = [row for (_, measured), row in found.items() if not measured]
    assert ("2.73", "3.69") in [(row["epe_clean"], row["epe_final"]) for row in paper]


def test_same_bytes_with_dvc(made: Project, tmp_path: Path, shared: Path) -> None:
    other = project(tmp_path / "dvc", shared)
    done = other.dvc("repro", timeout=1800)
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


# DTVNet's flow: Sky Time-lapse, by published weights and by DIS.

SKY = [f"data/flow/{estimator}/sky_timelapse_arflow/test.arrow" for estimator in ("arflow_sky_published", "dis_sky")]


def sky_project(folder: Path, shared: Path) -> Project:
    """Return a project with the real clips in the official archive's layout, and a file in that of the weights."""
    made = Project(
        folder,
        {
            "reproduce": SKY,
            "datasets.sky_timelapse_arflow.archives": "present",
            "models.arflow_sky_published.predict.height": 128,
            "models.arflow_sky_published.predict.width": 192,
            "compute.threads": 1,
        },
    )
    members = {}
    for clip in sorted((shared / "data/sky_timelapse_sample/sky_test").glob("*/*")):
        frames = sorted(clip.glob("*.jpg"), key=lambda path: int(path.stem.removeprefix("frame")))[:5]
        place = f"sky_timelapse/sky_test/{clip.parent.name}/{clip.name}/{clip.parent.name}_frames_"
        members |= {f"{place}{n:08d}.jpg": path.read_bytes() for n, path in enumerate(frames, 1)}
    make_zip(made.folder / "data/raw/sky_timelapse/sky_timelapse.zip", members)
    torch.manual_seed(0)
    network = PWCLite(2)
    network.start_kaiming()
    (made.folder / "data/weights").mkdir(parents=True)
    tree = {"epoch": 9, "state_dict": network.state_dict()}
    torch.save(tree, made.folder / "data/weights/sky_ckpt.pth.tar")
    return made


def test_sky_export_from_archive_and_published_file_with_both_engines(tmp_path: Path, shared: Path) -> None:
    ours, theirs = (sky_project(tmp_path / engine, shared) for engine in ("snakemake", "dvc"))
    for done in (ours.snakemake(timeout=1800), theirs.dvc("repro", timeout=1800)):
        assert done.returncode == 0, done.stdout + done.stderr
    for path in SKY:
        assert (ours.folder / path).read_bytes() == (theirs.folder / path).read_bytes()
        store = Store(ours.folder / path)
        assert {clip: store.frame[rows.start : rows.stop].tolist() for clip, rows in store.clips.items()} == {
            f"sample{n}/sample{n}_1": [0, 1, 2, 3] for n in (6, 8)
        }
        assert {tuple(size) for size in store.size.tolist()} == {(128, 128)}
        assert store.meta["partial"] == "1 of 1 archives, 2 of 225 clips"
    still, moving = (np.abs(Store(ours.folder / SKY[1]).image(row)).mean() for row in (0, 1))
    assert still < 0.05 < moving
    assert not (ours.folder / "data/frames/sky_timelapse_arflow/train.arrow").exists()
    view = [sys.executable, "-m", "pipeline.view", SKY[0], "--format", "npy", "--output", "flow/sky_test"]
    done = ours.run(*view)
    assert done.returncode == 0, done.stderr
    files = sorted(str(path.relative_to(ours.folder)) for path in (ours.folder / "flow").rglob("*.npy"))
    assert len(files) == 8
    assert files[0] == "flow/sky_test/sample6/sample6_1/sample6_frames_00000001.npy"
