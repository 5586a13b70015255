"""Metrics of sets, of neighbouring frames and of samples inside an experiment: scores, what is kept, and the table."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from test_score import FRAMES, SIZE, copy, pan, read, toy, write_frames, write_predictions

from pipeline import score, table, weights
from pipeline.errors import RetakeError
from pipeline.losses import vgg16
from pipeline.metrics import cache, frechet, sets, temporal
from pipeline.metrics.networks import inception
from pipeline.params import Params
from pipeline.store import scores
from pipeline.store.frames import Store, Writer
from pipeline.tasks.prediction import clips as prediction
from tests.conftest import furnish

METRICS: dict[str, Any] = {
    "fid": {"kind": "fid", "drop": None},
    "fid_published": {"kind": "fid", "drop": 5},
    "fvd": {"kind": "fvd", "variant": "kinetics", "drop": None},
    "psnr": {"kind": "psnr"},
    "psnr_of_mean": {"kind": "psnr_of_mean"},
    "tof": {"kind": "tof"},
    "flow_mse": {"kind": "flow_mse"},
    "diversity": {"kind": "diversity", "network": "vgg", "drop": 3},
}


def means(x: torch.Tensor) -> torch.Tensor:
    """Four features of a frame."""
    return torch.nn.functional.adaptive_avg_pool2d(x.mean(1, keepdim=True), 2).flatten(1)


def cheap_networks(patch: pytest.MonkeyPatch, passes: list[int]) -> None:
    class Cheap(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            passes.append(len(x))
            return [means(x)[..., None, None]]

    patch.setattr(weights, "here", lambda name: True)
    patch.setattr(weights, "path", lambda name, **_: Path(name))
    patch.setattr(weights, "load", lambda name, **_: {"w": torch.zeros(1)})
    patch.setattr(inception, "build", lambda state: Cheap())
    patch.setattr(sets, "i3d_scores", lambda variant, device: (means_of_clips, {"network": variant}))
    patch.setattr(vgg16, "features", lambda state, images: [images])


def means_of_clips(x: torch.Tensor) -> torch.Tensor:
    """Four features of a clip (T, 3, H, W)."""
    return means(x).mean(0, keepdim=True)


@pytest.fixture(scope="module")
def passes() -> list[int]:
    """Frames that went through FID's network, pass by pass."""
    return []


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, passes: list[int]) -> Path:
    """A folder with two models' scores; their networks are cheap ones."""

    folder = tmp_path_factory.mktemp("sets")
    with pytest.MonkeyPatch.context() as patch:
        furnish(folder)
        patch.chdir(folder)
        cheap_networks(patch, passes)
        p = toy(experiments__toy__metrics=METRICS, experiments__toy__predictions={})
        write_frames()
        write_predictions(p, "copy_last", copy)
        write_predictions(p, "flow_warp", pan, samples=1)
        for name in ("copy_last", "flow_warp"):
            score.score(p, "toy", name)
        shutil.copytree(ROOT / "results/published", "results/published")
    return folder


@pytest.fixture
def project(scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    shutil.copytree(scored, tmp_path / "project")
    furnish(tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return toy(experiments__toy__metrics=METRICS, experiments__toy__predictions={})


def frames_of(p: Params, name: str, sample: int) -> tuple[np.ndarray, np.ndarray]:
    """Return predicted and true frames of all windows, (windows, steps, H, W, 3) float64 in [0,1]."""
    frames, store, protocol = Store(FRAMES), Store(f"data/predictions/toy/{name}.arrow"), p.protocols["next3"]
    windows = prediction.windows(frames, protocol)
    ours = [
        np.stack([store.image(r) for r in store.clips[prediction.key(w)] if store.sample[r] == sample]) / 65535
        for w in windows
    ]
    return np.stack(ours), np.stack([prediction.targets(frames, w, protocol) / 255 for w in windows])


def features(images: np.ndarray) -> np.ndarray:
    flat = torch.from_numpy(images.reshape(-1, *images.shape[2:]).astype(np.float32))
    return means(flat.permute(0, 3, 1, 2)).numpy()


def test_a_set_has_one_value_a_sample(project: Params) -> None:
    rows, meta = read(Path("data/scores/toy/copy_last.parquet"))
    without = []
    for sample in (0, 1):
        ours, true = (features(images) for images in frames_of(project, "copy_last", sample))
        assert len(ours) == 12  # a true frame counts as often as it is a target
        assert rows["", "fid", 0, sample] == pytest.approx(frechet.distance(ours, true), rel=1e-4, abs=1e-9)
        assert rows["", "fid_published", 0, sample] == pytest.approx(frechet.distance(ours[:10], true[:10]), rel=1e-4)
        without.append([frechet.distance(ours[rest], true[rest]) for rest in (slice(9, 12), slice(9))])
    assert sum(key[1] == "fid" for key in rows) == 2
    told = meta["sets"]["fid"]
    assert (told["note"], told["units"], told["sizes"]) == ("12 samples", "clips", [9, 3])  # three windows, and one
    assert told["without"] == pytest.approx(np.mean(without, axis=0), rel=1e-4)
    assert meta["metrics"]["fid"]["identity"] != meta["metrics"]["fid_published"]["identity"]
    assert meta["skipped"]["fvd"] == "clips of at least 9 frames are needed, these have 3"


def test_the_truth_goes_through_the_network_once(project: Params, passes: list[int]) -> None:
    """The targets of both models and of both metrics are the same 8 frames; predictions are 12 frames a sample."""
    targets = {int(r) for w in windows_of(project) for r in w}
    assert sum(passes) == len(targets) + 12 * 3
    kept = [json.loads(f.read_text()) for f in Path("data/features").glob("*.json")]
    assert sum("motion" in key for key in kept) == 2  # one a clip
    assert len(kept) == 2 + 1 + 3


def windows_of(p: Params) -> list[range]:
    frames, protocol = Store(FRAMES), p.protocols["next3"]
    return [prediction.target_rows(frames, w, protocol) for w in prediction.windows(frames, protocol)]


def test_padding_is_scored_by_no_metric(project: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames and predictions with more rows and columns, of anything, have the values of those without."""
    monkeypatch.setattr(sets, "SHORTEST", 3)  # so that clips have features too
    cheap_networks(monkeypatch, [])
    score.score(project, "toy", "copy_last")
    without, _ = read(Path("data/scores/toy/copy_last.parquet"))
    rng = np.random.default_rng(0)

    def larger(image: np.ndarray) -> np.ndarray:
        found = rng.integers(0, np.iinfo(image.dtype).max, (SIZE[0] + 16, SIZE[1] + 8, 3), image.dtype, endpoint=True)
        found[: SIZE[0], : SIZE[1]] = image
        return found

    before = Store(FRAMES)
    images = {(clip, row): before.image(row) for clip in before.clips for row in before.clips[clip]}
    numbers = before.frame.tolist()
    with Writer(FRAMES, codec="raw", meta=before.meta | {"fit": "pad", "values": "unpadded"}) as out:
        for (clip, row), image in images.items():
            out.add(clip, numbers[row], larger(image), values=np.array(SIZE, np.float32))
    write_predictions(project, "copy_last", lambda *given: larger(copy(*given)[: SIZE[0], : SIZE[1]]))
    score.score(project, "toy", "copy_last")
    with_padding, _ = read(Path("data/scores/toy/copy_last.parquet"))
    assert {key[1] for key in with_padding} == set(METRICS)
    assert with_padding == pytest.approx(without, rel=1e-6)


def test_motion_is_compared_between_neighbouring_predictions(project: Params) -> None:
    rows, _ = read(Path("data/scores/toy/copy_last.parquet"))
    ours, true = (np.rint(images[1] * 255).astype(np.uint8) for images in frames_of(project, "copy_last", 0))
    errors = [temporal.motion(*true[i : i + 2]) - temporal.motion(*ours[i : i + 2]) for i in (0, 1)]
    window = "drive_a/image_02:1"
    assert rows[window, "tof", 0, 0] == pytest.approx(np.mean([np.linalg.norm(e, axis=-1).mean() for e in errors]))
    assert rows[window, "flow_mse", 0, 0] == pytest.approx(np.mean([(e**2).mean() for e in errors]), rel=1e-5)


def test_diversity_is_of_the_samples_and_leaves_the_remainder_out(project: Params) -> None:
    path = Path("data/scores/toy/copy_last.parquet")
    rows, _ = read(path)
    found = {key[0]: value for key, value in rows.items() if key[1] == "diversity"}
    assert len(found) == 4 and min(found.values()) > 0
    _, meta = read(Path("data/scores/toy/flow_warp.parquet"))
    assert meta["skipped"]["diversity"].startswith("diversity needs two samples of a window")
    table.make(project, "toy")
    first = lines()[0]
    assert float(first["diversity"]) == pytest.approx(np.mean(list(found.values())[:3]), rel=1e-5)


def lines() -> list[dict[str, str]]:
    with Path("results/toy_metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_prints_them_beside_the_others(project: Params) -> None:
    table.make(project, "toy")
    copy_last, flow_warp = lines()
    rows, _ = read(Path("data/scores/toy/copy_last.parquet"))
    pair = [rows["", "fid", 0, sample] for sample in (0, 1)]
    assert copy_last["fid"] == f"{np.mean(pair):.6g}"
    assert copy_last["fid_spread"] == f"{np.std(pair, ddof=1):.6g}"
    assert (copy_last["fid_low"], copy_last["fid_high"]) == ("", "")
    assert "fid, fid_published: no interval: fewer than 4 clips; " in copy_last["note"]
    assert flow_warp["fid_spread"] == ""
    assert "fid: 12 samples" in copy_last["note"] and "fvd: clips of at least 9 frames" in copy_last["note"]
    assert copy_last["fvd"] == ""
    errors = [((a - b) ** 2).mean() for a, b in [frames_of(project, "copy_last", s) for s in (0, 1)]]
    assert float(copy_last["psnr_of_mean_t3"]) == pytest.approx(-10 * np.log10(np.mean(errors)), abs=1e-4)
    assert float(copy_last["psnr_of_mean_t3"]) <= float(copy_last["psnr_t3"])
    assert float(copy_last["tof"]) > float(flow_warp["tof"])
    told = dict(entry.split(":") for entry in copy_last["metrics"].split())
    assert told.keys() == METRICS.keys() and len(set(told.values())) == len(told)
    text = Path("results/toy_metrics.md").read_text()
    assert "| FID ↓ " in text and "| FID, whole batches of 5 ↓ " in text
    (line,) = (line for line in text.splitlines() if line.startswith("* FID (`fid`): lower is better"))
    assert "network Inception of pytorch-fid, pool3, 2048" in line and "version 1" in line


def test_sets_of_four_clips_have_an_interval_by_the_jackknife(project: Params) -> None:
    """0, .1, .2 and .3 more without each clip: pseudo-values with three times that deviation, 3 · .129099."""
    path = Path("data/scores/toy/copy_last.parquet")
    columns, meta = scores.read(path)
    rows, _ = read(path)
    value = np.mean([rows["", "fid", 0, sample] for sample in (0, 1)])
    meta["sets"]["fid"] |= {"sizes": [3, 3, 3, 3], "without": [value + x for x in (0, 0.1, 0.2, 0.3)]}
    scores.write(path, list(zip(*columns.values(), strict=True)), meta)
    table.make(project, "toy")
    half = 3.182446 * 3 * 0.129099 / 2
    copy_last = lines()[0]
    assert float(copy_last["fid_low"]) == pytest.approx(max(value - half, 0), rel=1e-4)
    assert float(copy_last["fid_high"]) == pytest.approx(value + half, rel=1e-4)


def test_rows_of_different_metrics_never_share_a_column(project: Params) -> None:
    path = Path("data/scores/toy/flow_warp.parquet")
    columns, meta = scores.read(path)
    meta["metrics"]["fid"] |= {"identity": "0" * 8, "settings": {"name": "another FID"}}
    scores.write(path, list(zip(*columns.values(), strict=True)), meta)
    with pytest.raises(RetakeError, match=r"fid of flow_warp is .*another FID.*that of copy_last.*do not compare"):
        table.make(project, "toy")


def test_too_few_samples_are_told_with_their_number() -> None:
    rows = np.random.default_rng(0).normal(size=(12, 20))
    distance = sets.Distance(lambda x: x, {}, "cpu", "frames")
    found = distance.distance(rows, rows + 1, np.arange(12) // 3)
    assert found.note.startswith("12 samples for 20 features: too few")


def test_of_many_clips_those_that_follow_one_another_are_one_unit() -> None:
    rows = np.random.default_rng(0).normal(size=(240, 2))
    distance = sets.Distance(lambda x: x, {}, "cpu", "frames", drop=100)
    found = distance.distance(rows, rows + 1, np.arange(240) // 2)  # 120 clips, of which 100 are whole batches
    assert (found.units, len(found.sizes), sum(found.sizes), found.samples) == ("blocks of clips", 50, 200, 200)
    assert set(found.sizes) == {4}
    assert found.without[0] == pytest.approx(frechet.distance(rows[4:200], rows[4:200] + 1))


def test_a_wrong_number_of_rows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "ROOT", tmp_path)
    with pytest.raises(RetakeError, match="2 rows of features were made of 3"):
        cache.rows({"a": 1}, 3, lambda: [np.zeros((2, 4))])
    assert not list(tmp_path.glob("*.npy"))
