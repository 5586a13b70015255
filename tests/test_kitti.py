"""Real frames: twenty of KITTI's, in zips of official names and layout, from archive to table in both engines."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import pytest

from tests.engines import Project

TABLE = "results/kitti_metrics.csv"
SMALL = {
    "reproduce": ["kitti"],
    "datasets.kitti.archives": "present",
    "datasets.kitti.cameras": ["image_02"],
    "models.dmvfn.train.max_steps": 2,
    "models.dmvfn.train.batch": 1,
    "models.dmvfn.train.crop": 64,
    "models.dmvfn.train.window": 3,
    "models.dmvfn.train.vgg_weight": 0,
    "models.dmvfn.train.validate_windows": 1,
    "experiments.kitti.missing_weights": "skip",
    "protocols.next5.samples": 2,
    "compute.threads": 1,
    "compute.workers": 0,
    "tracking.mlflow": False,
}


def project(folder: Path, shared: Path) -> Project:
    made = Project(folder, SMALL)
    frames = sorted((shared / "data/kitti_sample/2011_09_26").rglob("image_02/data/*.png"))
    made.forget_lengths()
    raw = made.folder / "data/raw/kitti"
    raw.mkdir(parents=True)
    # 11 frames under the name of a training drive, 9 under a test drive's: no frame is in both
    for drive, some in (("2011_09_26_drive_0001", frames[:11]), ("2011_09_26_drive_0060", frames[11:])):
        with zipfile.ZipFile(raw / f"{drive}_sync.zip", "w") as archive:
            for i, path in enumerate(some):
                archive.write(path, f"2011_09_26/{drive}_sync/image_02/data/{i:010d}.png")
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Project:
    made = project(tmp_path_factory.mktemp("kitti"), shared)
    done = made.snakemake(TABLE)
    assert done.returncode == 0, done.stdout + done.stderr
    return made


def test_table_has_our_rows_and_the_papers(made: Project) -> None:
    rows = list(csv.DictReader((made.folder / TABLE).open()))
    ours = {r["model"]: r for r in rows if r["source"] == "measured"}
    assert list(ours) == ["Copy last frame", "DIS flow warp", "DMVFN"]
    assert {r["n"] for r in ours.values()} == {"1"}
    assert all(float(r["ms_ssim_t1"]) > 20 for r in ours.values())
    assert float(ours["DIS flow warp"]["psnr_t1"]) > float(ours["Copy last frame"]["psnr_t1"]) + 3
    assert ours["DMVFN"]["lpips_t1"] == ""
    assert ours["DMVFN"]["psnr_t1_spread"] != ""
    paper = next(r for r in rows if r["model"] == "DMVFN" and r["source"] != "measured")
    assert (paper["ms_ssim_t1"], paper["lpips_t5"]) == ("88.53", "26.05")


def test_table_says_that_it_is_partial(made: Project) -> None:
    text = (made.folder / "results/kitti_metrics.md").read_text()
    assert "partial" in text.lower()
    assert "1 of 4 archives, 9 of 1369 frames" in text
    assert (made.folder / "results/kitti.png").stat().st_size > 100_000


@pytest.mark.slow
def test_same_bytes_with_dvc(made: Project, tmp_path: Path, shared: Path) -> None:
    other = project(tmp_path / "dvc", shared)
    done = other.dvc("repro")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (other.folder / TABLE).read_bytes() == (made.folder / TABLE).read_bytes()


def test_archives_of_the_user_are_untouched(made: Project, tmp_path: Path, shared: Path) -> None:
    fresh = project(tmp_path / "fresh", shared)
    for zip_ in (fresh.folder / "data/raw/kitti").glob("*.zip"):
        assert zip_.stat().st_size == (made.folder / "data/raw/kitti" / zip_.name).stat().st_size
        with zipfile.ZipFile(zip_) as a, zipfile.ZipFile(made.folder / "data/raw/kitti" / zip_.name) as b:
            assert [(i.filename, i.CRC) for i in a.infolist()] == [(i.filename, i.CRC) for i in b.infolist()]


def test_missing_drives_are_named_when_all_are_wanted(tmp_path: Path, shared: Path) -> None:
    """Nothing can be downloaded here, or nothing may be: the message says which, and how to go on."""
    partial = project(tmp_path / "p", shared)
    sources = partial.folder / "workflow/sources.csv"
    sources.write_text(sources.read_text().replace("https://s3.eu-central-1.amazonaws.com", "http://127.0.0.1:9"))
    partial.edit({"datasets.kitti.archives": "all"})
    import sys

    done = partial.run(sys.executable, "-m", "pipeline.download", "--dataset", "kitti", "--split", "test")
    assert done.returncode == 1
    assert "2011_09_26_drive_0084_sync.zip" in done.stderr
    assert "archives" in done.stderr
    assert "present" in done.stderr
