"""Metrics of sets: the networks' weights, FID's features against pytorch-fid, the whole path with random weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from pipeline import weights
from pipeline.errors import RetakeError
from pipeline.evaluate import evaluate
from pipeline.metrics import sets
from pipeline.metrics.networks import i3d, inception, videos


@pytest.fixture(scope="module")
def random_inception() -> dict[str, torch.Tensor]:
    """The state of pytorch-fid's graph with random weights (its blocks have torchvision's shapes)."""
    torch.manual_seed(0)
    return torchvision.models.inception_v3(
        num_classes=1008, aux_logits=False, weights=None, init_weights=False
    ).state_dict()


def natural(clips: int, frames: int, seed: int) -> np.ndarray:
    small = np.random.default_rng(seed).random((clips * frames, 3, 6, 6), np.float32)
    big = torch.nn.functional.interpolate(torch.from_numpy(small), size=(32, 32), mode="bicubic").clamp(0, 1)
    return (255 * big.permute(0, 2, 3, 1).numpy()).astype(np.uint8).reshape(clips, frames, 32, 32, 3)


def test_fid_is_pytorch_fids(random_inception: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The package's own features and distance; the distance on four of the features, its square root takes minutes."""
    from PIL import Image
    from pytorch_fid.fid_score import calculate_frechet_distance, get_activations

    monkeypatch.setattr(weights, "load", lambda name: random_inception)
    built = sets.build("fid", "cpu")
    ours, theirs = [], []
    for seed in (0, 1):
        clip = natural(1, 7, seed)[0]
        files = [tmp_path / f"{seed}_{i}.png" for i in range(len(clip))]
        for file, image in zip(files, clip, strict=True):
            Image.fromarray(image).save(file)
        theirs.append(get_activations(files, inception.build(random_inception), 7, 2048, "cpu", num_workers=0))
        ours.append(built.features(clip.astype(np.float32) / 255))
        np.testing.assert_allclose(ours[-1], theirs[-1], atol=1e-5)
    few = [rows[:, ::512].astype(np.float64) for rows in theirs]
    moments = [(f.mean(0), np.cov(f, rowvar=False)) for f in few]
    expected = calculate_frechet_distance(*moments[0], *moments[1])
    found, note = built.distance(ours[0][:, ::512], ours[1][:, ::512])
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-9)
    assert '"samples": 7' in note


def test_fid_of_one_sample_is_refused(random_inception: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(weights, "load", lambda name: random_inception)
    np.save(tmp_path / "one.npy", natural(1, 1, 0)[0])
    with pytest.raises(RetakeError, match="at least 2 rows of features"):
        evaluate(tmp_path / "one.npy", tmp_path / "one.npy", ["fid"])


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(RetakeError, match="not pytorch-fid's Inception"):
        inception.build({"fc.weight": torch.zeros(3)})
    with pytest.raises(RetakeError, match=r"I3D_16 is not this I3D.*Conv3d_1a_7x7"):
        i3d.textures(16).load({}, "I3D_16")


def test_weight_files_that_are_cut_or_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    whole = tmp_path / "whole.pth"
    torch.save({"a": torch.zeros(1000)}, whole)
    cut = tmp_path / "cut.pth"
    cut.write_bytes(whole.read_bytes()[:1500])

    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return eval, ("1 + 1",)

    evil = tmp_path / "evil.pth"
    evil.write_bytes(pickle.dumps(Code(), protocol=2))
    for file, words in ((cut, "truncated|damaged"), (evil, "would run code")):
        monkeypatch.setattr(weights, "path", lambda name, file=file, **_: file)
        for name in ("fid", "fvd_pytorch", "dtfvd_16"):
            with pytest.raises(RetakeError, match=words):
                sets.build(name, "cpu")


def test_i3d_of_a_tensorflow_checkpoint() -> None:
    """The variables, under a scope, come to the places where the PyTorch names are; what is missing is listed."""
    torch.manual_seed(0)
    state = i3d.tensorflow().state_dict()
    variables: dict[str, np.ndarray] = {}
    for name, value in state.items():
        array = value.numpy()
        if "mixed" in name:
            unit = re.fullmatch(r"mixed_(..)\.branch_(\d)(?:\.(\d))?\.(.*)", name)
            assert unit
            letter = "b" if unit[3] == "1" else "a"
            kernel = {"a": "0a_1x1", "b": "0b_1x1" if unit[2] == "3" else "0b_3x3"}[letter]
            if unit[1] == "5b" and unit[2] == "2" and letter == "b":
                kernel = "0a_3x3"
            scope, leaf = f"Mixed_{unit[1]}/Branch_{unit[2]}/Conv3d_{kernel}", unit[4]
        elif "0c" in name:
            scope, leaf = "Logits/Conv3d_0c_1x1", name.partition(".")[2]
        else:
            unit_name, _, leaf = name.partition(".")
            scope = "C" + unit_name[1:]
        tail = {"conv3d.weight": "conv_3d/w", "conv3d.bias": "conv_3d/b", "batch3d.bias": "batch_norm/beta",
                "batch3d.running_mean": "batch_norm/moving_mean",
                "batch3d.running_var": "batch_norm/moving_variance"}.get(leaf)  # fmt: skip
        if tail:
            array = array.transpose(2, 3, 4, 1, 0) if array.ndim == 5 else array
            array = array.reshape(1, 1, 1, 1, -1) if "batch_norm" in tail else array
            variables[f"module/RGB/inception_i3d/{scope}/{tail}"] = array
    found = i3d.from_tensorflow(variables)
    net = i3d.tensorflow().load(found, "i3d")
    for name, value in net.state_dict().items():
        assert torch.equal(value, state[name]), name
    del variables["module/RGB/inception_i3d/Logits/Conv3d_0c_1x1/conv_3d/b"]
    with pytest.raises(RetakeError, match="Logits/Conv3d_0c_1x1/conv_3d/b of"):
        i3d.from_tensorflow(variables)


def test_tensorflow_resize_takes_pixels_from_the_corner() -> None:
    """Twice the size: every second pixel is one of the image, those between are means, the last row is repeated."""
    video = torch.rand(1, 2, 3, 112, 112) * 2 - 1
    x = videos.tensorflow_input(video).transpose(1, 2)
    torch.testing.assert_close(x[..., ::2, ::2], video, atol=1e-5, rtol=0)
    torch.testing.assert_close(x[..., 1:-1:2, ::2], (video[..., :-1, :] + video[..., 1:, :]) / 2, atol=1e-5, rtol=0)
    torch.testing.assert_close(x[..., -1, ::2], video[..., -1, :], atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fvd_pytorch", "dtfvd_16"])
def test_video_distances_end_to_end(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = i3d.kinetics() if name == "fvd_pytorch" else i3d.textures(16)
    monkeypatch.setattr(weights, "load", lambda _: net.state_dict())
    for which, seed in (("a", 0), ("b", 1)):
        np.save(tmp_path / f"{which}.npy", natural(2, 16, seed))
    table = evaluate(tmp_path / "a.npy", tmp_path / "b.npy", [name])
    assert float(re.split(r"\s{2,}", table.splitlines()[-3])[1]) >= 0
    table = evaluate(tmp_path / "a.npy", tmp_path / "a.npy", [name])
    assert float(re.split(r"\s{2,}", table.splitlines()[-3])[1]) == pytest.approx(0, abs=1e-4)


def test_every_set_metric_has_its_own_name_and_a_row_of_weights() -> None:
    rows = {row.name for row in weights.fetch.sources(weights.SOURCES, key="name", extra=("use",))}
    assert {kind.weights for kind in sets.SETS.values()} <= rows
    assert len({kind.settings["name"] for kind in sets.SETS.values()}) == len(sets.SETS)
