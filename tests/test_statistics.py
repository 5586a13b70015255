"""Statistics that stand for true frames: the same distances, and every reason to refuse a file."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from test_metrics_sets import counting, natural

from pipeline import evaluate as stage
from pipeline import statistics
from pipeline.errors import RetakeError
from pipeline.metrics import cache, frechet, sets
from pipeline.sources import limits
from pipeline.store import moments


@pytest.fixture
def passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    monkeypatch.setattr(cache, "ROOT", tmp_path / "features")
    return counting(monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Predictions and truth of 4 clips of 5 frames, as arrays."""
    for name, seed in (("truth", 0), ("ours", 1)):
        np.save(tmp_path / f"{name}.npy", natural(4, 5, seed))
    return tmp_path


@pytest.fixture
def file(folder: Path, passes: list[int]) -> Path:
    return statistics.write(folder / "truth.npy", ["fid", "cinn.fid"], "clean", folder / "truth.moments")


@pytest.mark.parametrize("route", ["auto", "svd", "eigen", "tensorflow"])
@pytest.mark.parametrize(("ours", "theirs"), [(40, 40), (5, 40), (40, 5), (6, 6), (2, 2), (5000, 4500)])
def test_the_distance_is_that_of_the_features(route: Any, ours: int, theirs: int) -> None:
    """Of more and of fewer samples than features (10), over several chunks."""
    rng = np.random.default_rng(ours + theirs)
    mixed = rng.normal(size=(10, 10))
    a, b = rng.normal(size=(ours, 10)) @ mixed, rng.normal(size=(theirs, 10)) + 0.3
    expected = frechet.distance(a, b, route)
    # roots of singular covariances' zeros are rounding errors: see frechet.py, which takes `svd` there
    exact = route in ("auto", "svd") or min(ours, theirs) > 10
    assert frechet.distance_to(a, frechet.gaussian(b), route) == pytest.approx(expected, rel=1e-10 if exact else 1e-5)


def test_the_covariance_is_numpys() -> None:
    for samples in (4, 30):
        rows = np.random.default_rng(0).normal(size=(samples, 6))
        found = frechet.gaussian(rows)
        assert found.moments.mean == pytest.approx(rows.mean(axis=0), rel=1e-12)
        assert found.moments.covariance == pytest.approx(np.cov(rows, rowvar=False), abs=1e-12)
        assert len(found.root) == min(samples - 1 if samples <= 6 else samples, 6)


def test_predictions_have_the_same_distance_without_the_frames(folder: Path, file: Path, passes: list[int]) -> None:
    with_frames = stage.evaluate(folder / "ours.npy", folder / "truth.npy", ["fid"])
    assert sum(passes) == 40, "features are shared"
    (folder / "truth.npy").unlink()
    without = statistics.evaluate(folder / "ours.npy", file, ["fid"])
    assert without.splitlines()[:6] == with_frames.splitlines()[:6]
    assert "no interval" in without and f"of truth.npy, data {moments.read(file)[0].data[:16]}" in without
    both = statistics.evaluate(folder / "ours.npy", file, [])
    assert both.split("\n")[0].split() == ["clip", "fid", "cinn.fid"], "all that the file has"
    assert sum(passes) == 40


def test_clips_too(folder: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def network(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, 2).mean(0).reshape(1, -1)

    monkeypatch.setattr(sets, "i3d_textures", lambda length, device: (network, {"network": "cheap"}))
    made = statistics.write(folder / "truth.npy", ["dtfvd_16"], "clean", folder / "dt.moments")
    assert moments.read(made)[0].metrics["dtfvd_16"].samples == 4
    last = [
        text.splitlines()[5]
        for text in (
            stage.evaluate(folder / "ours.npy", folder / "truth.npy", ["dtfvd_16"]),
            statistics.evaluate(folder / "ours.npy", made, []),
        )
    ]
    assert last[0] == last[1] and last[0].split()[:2] == ["all", "4"]


def test_the_file_is_small_and_holds_no_frame(folder: Path, file: Path) -> None:
    assert file.stat().st_size < 8000 < (folder / "truth.npy").stat().st_size
    about, arrays = moments.read(file)
    assert [clip.name for clip in about.clips] == ["000000", "000001", "000002", "000003"]
    assert {clip.frames for clip in about.clips} == {5}
    assert arrays["fid"][0].shape == (12,) and arrays["fid"][1].shape == (12, 12)


def test_other_settings_are_refused_with_both_named(folder: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RetakeError, match=r"holds statistics for fid, cinn\.fid, not for fvd"):
        statistics.evaluate(folder / "ours.npy", file, ["fvd"])
    with pytest.raises(
        RetakeError, match=r"fid: .*mixed\.moments has other settings, .*whole batches of 50.* than are asked for, "
    ):
        about, arrays = moments.read(file)
        about.metrics["fid"] = about.metrics["cinn.fid"]
        moments.write(folder / "mixed.moments", about, arrays)
        statistics.evaluate(folder / "ours.npy", folder / "mixed.moments", ["fid"])
    with pytest.raises(RetakeError, match=r"psnr: compared frame by frame with the truth"):
        statistics.write(folder / "truth.npy", ["psnr"], "clean", folder / "psnr.moments")
    from pipeline import weights

    monkeypatch.setattr(weights, "load", lambda name, **_: {"w": torch.ones(1)})
    with pytest.raises(
        RetakeError, match=r"fid: .*truth\.moments has other features, .*'weights'.* than are asked for, .*'weights'"
    ):
        statistics.evaluate(folder / "ours.npy", file, ["fid"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a[:3], r"3 clips, there 4 clips"),
        (lambda a: a[:, :4], r"000000: 4 frames of 32x32, there 000000: 5 frames of 32x32"),
        (lambda a: a[:, :, :24], r"000000: 5 frames of 32x24, there 000000: 5 frames of 32x32"),
    ],
)
def test_other_data_are_refused_with_both_named(folder: Path, file: Path, change: Any, words: str) -> None:
    np.save(folder / "other.npy", change(natural(4, 5, 1)))
    with pytest.raises(
        RetakeError, match=rf"other\.npy has other clips than .*truth\.moments, which is of truth\.npy .*{words}"
    ):
        statistics.evaluate(folder / "other.npy", file, ["fid"])


def test_damage_is_named(folder: Path, file: Path) -> None:
    whole, named = file.read_bytes(), []
    for place in range(0, len(whole), len(whole) // 23):
        changed = bytearray(whole)
        changed[place] ^= 1
        file.write_bytes(changed)
        try:
            about, _ = moments.read(file)
        except RetakeError as error:
            named.append("truth.moments" in str(error))
            continue
        assert about.truth == "truth.npy", "a bit of the zip's dates or the like"
    assert len(named) > 12 and all(named)
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(RetakeError, match=r"truth\.moments"):
            moments.read(file)


def packed(path: Path, **arrays: Any) -> Path:
    with path.open("wb") as out:
        np.savez(out, **arrays)
    return path


def test_hostile_files_are_refused(folder: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return eval, ("open('owned', 'w')",)

    for kept in (0, 300):  # bytes
        (folder / "cut.moments").write_bytes(file.read_bytes()[:kept])
        with pytest.raises(
            RetakeError, match=r"is not a whole zip archive: .*write it again \(python -m pipeline\.statistics"
        ):
            moments.read(folder / "cut.moments")
    with pytest.raises(RetakeError, match="it holds objects, not numbers"):
        moments.read(packed(folder / "code.moments", about=np.array([Code()], dtype=object)))
    with pytest.raises(RetakeError, match="holds no statistics"):
        moments.read(packed(folder / "deep.moments", about=np.frombuffer(b"[" * 100_000, np.uint8)))
    with pytest.raises(RetakeError, match="holds no statistics"):
        moments.read(packed(folder / "array.moments", frames=np.zeros(3)))
    about, arrays = moments.read(file)
    mean, root = arrays["fid"]
    for bad in (
        (mean[:5], root),
        (mean, np.full_like(root, np.nan)),
        (mean, np.tile(root, (3, 1))),
        (mean.astype(np.float32), root),
    ):
        moments.write(folder / "bad.moments", about, {**arrays, "fid": bad})
        with pytest.raises(RetakeError, match="holds no statistics"):
            moments.read(folder / "bad.moments")
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(20_000_000))
    with zipfile.ZipFile(folder / "bomb.moments", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("about.npy", buffer.getvalue())
    with pytest.raises(RetakeError, match=r"bomb\.moments"):
        moments.read(folder / "bomb.moments")
    monkeypatch.setattr(limits, "HELD", 100)
    with pytest.raises(RetakeError, match="up to 100 are held in memory"):
        moments.read(file)


def test_nothing_is_written_over(folder: Path, file: Path) -> None:
    with pytest.raises(RetakeError, match=r"truth\.moments exists: nothing is overwritten"):
        statistics.write(folder / "truth.npy", ["fid"], "clean", file)
    with pytest.raises(RetakeError, match=r"give a name that ends in \.moments"):
        statistics.write(folder / "truth.npy", ["fid"], "clean", folder / "truth.npz")


def test_the_commands(folder: Path, file: Path) -> None:
    """What people type: the weights are not here, which is said; a file that is none is named."""

    def run(*args: Any) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *map(str, args)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
        )  # fmt: skip
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        return done.stderr

    text = run("pipeline.evaluate", folder / "ours.npy", file, "--metrics", "psnr")
    assert "holds statistics for fid, cinn.fid, not for psnr" in text
    assert "no file" in run("pipeline.evaluate", folder / "ours.npy", folder / "none.moments")
    text = run("pipeline.statistics", folder / "truth.npy", "--metrics", "fidd", "--output", folder / "x.moments")
    assert "no metric 'fidd' in profile clean (did you mean 'fid'?)" in text
