"""Metrics of sets: the networks' weights, FID's features against pytorch-fid, the whole path with random weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torchvision

from pipeline import params, weights
from pipeline.errors import RetakeError
from pipeline.evaluate import evaluate
from pipeline.losses import vgg16
from pipeline.metrics import Undefined, cache, diversity, dtfvd, fid, fvd, sets
from pipeline.metrics.networks import i3d, inception, vgg, videos
from pipeline.sources import tensorflow


@pytest.fixture(scope="module")
def random_inception() -> dict[str, torch.Tensor]:
    """The state of pytorch-fid's graph with random weights (its blocks have torchvision's shapes)."""
    torch.manual_seed(0)
    return torchvision.models.inception_v3(
        num_classes=1008, aux_logits=False, weights=None, init_weights=False
    ).state_dict()


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where features are kept: a folder of the test."""
    monkeypatch.setattr(cache, "ROOT", tmp_path / "features")
    return tmp_path / "features"


def built(module: Any, **keys: Any) -> Any:
    return module.build(module.Params(kind=module.__name__.rpartition(".")[2], **keys), "cpu")


def natural(clips: int, frames: int, seed: int) -> np.ndarray:
    small = np.random.default_rng(seed).random((clips * frames, 3, 6, 6), np.float32)
    big = torch.nn.functional.interpolate(torch.from_numpy(small), size=(32, 32), mode="bicubic").clamp(0, 1)
    return (255 * big.permute(0, 2, 3, 1).numpy()).astype(np.uint8).reshape(clips, frames, 32, 32, 3)


def kitti(shared: Path, frames: int) -> np.ndarray:
    """KITTI's first frames at a quarter of their size, (frames, 94, 310, 3) uint8."""
    files = sorted((shared / "data" / "kitti_sample").rglob("*.png"))[:frames]
    return np.stack([cv2.resize(cv2.imread(str(f))[..., ::-1], (310, 94)) for f in files])


def test_fid_is_pytorch_fids(
    random_inception: Any, shared: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The package's own features and distance; the distance on four of the features, its square root takes minutes."""
    from PIL import Image
    from pytorch_fid.fid_score import calculate_frechet_distance, get_activations

    monkeypatch.setattr(weights, "load", lambda name: random_inception)
    ours_fid = built(fid, drop=None)
    ours, theirs = [], []
    for seed, clip in enumerate((kitti(shared, 10)[:5], kitti(shared, 10)[5:])):
        files = [tmp_path / f"{seed}_{i}.png" for i in range(len(clip))]
        for file, image in zip(files, clip, strict=True):
            Image.fromarray(image).save(file)
        theirs.append(get_activations(files, inception.build(random_inception), 5, 2048, "cpu", num_workers=0))
        ours.append(ours_fid.features(clip.astype(np.float32) / 255))
        np.testing.assert_allclose(ours[-1], theirs[-1], atol=1e-5)
    few = [rows[:, ::512].astype(np.float64) for rows in theirs]
    moments = [(f.mean(0), np.cov(f, rowvar=False)) for f in few]
    expected = calculate_frechet_distance(*moments[0], *moments[1])
    found = ours_fid.distance(ours[0][:, ::512], ours[1][:, ::512], np.zeros(5, int))
    assert found.value == pytest.approx(expected, rel=1e-3, abs=1e-9)
    assert (found.samples, found.features, found.note) == (5, 4, "5 samples")
    few = ours_fid.distance(ours[0][:3], ours[1][:3], np.zeros(3, int))
    assert few.note == "3 samples for 2048 features: too few, compare only with distances of as many"
    assert few.without == []  # one clip: nothing would be left


def test_fid_of_one_sample_has_no_value_and_costs_no_other(
    random_inception: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(weights, "load", lambda name: random_inception)
    np.save(tmp_path / "one.npy", natural(1, 1, 0)[0])
    table = evaluate(tmp_path / "one.npy", tmp_path / "one.npy", ["fid", "psnr"])
    assert "fid: no values: a distance of two sets needs 2 frames or more in each, there is 1" in table
    assert table.splitlines()[1].split() == ["all", "1", "inf"]


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
    for file, words in ((cut, "truncated|damaged"), (evil, "would run code|no TorchScript")):
        monkeypatch.setattr(weights, "path", lambda name, file=file, **_: file)
        for module, keys in [
            (fid, {}),
            (fvd, {"variant": "kinetics"}),
            (fvd, {"variant": "styleganv"}),
            (dtfvd, {"length": 16}),
        ]:
            with pytest.raises(RetakeError, match=words):
                built(module, drop=None, **keys)


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


@pytest.fixture(scope="module")
def random_i3d() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return i3d.kinetics().state_dict()


class Program(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def scripted(state: dict[str, torch.Tensor], file: Path) -> Path:
    """Write a program that holds these tensors in its module `model`, as StyleGAN-V's file is one."""
    program = Program()
    for name, value in state.items():
        *folders, leaf = f"model.{name}".split(".")
        at: torch.nn.Module = program
        for folder in folders:
            if not hasattr(at, folder):
                at.add_module(folder, Program())
            at = getattr(at, folder)
        at.register_buffer(leaf, value)
    torch.jit.script(program).save(str(file))
    return file


def test_a_torchscript_file_gives_tensors_and_runs_nothing(tmp_path: Path, random_i3d: Any) -> None:
    import pickle
    import zipfile

    file = scripted(random_i3d, tmp_path / "script.pt")
    found = weights.load_script(file)
    assert found.keys() == {f"model.{name}" for name in random_i3d}
    net = i3d.scripted(found, "script.pt")
    for name, value in net.state_dict().items():
        assert torch.equal(value, random_i3d[name]), name
    with pytest.raises(RetakeError, match=r"named as no known I3D: model\.x"):
        i3d.scripted({"model.x": torch.zeros(1)}, "script.pt")

    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return eval, ("open('owned', 'w')",)

    evil = tmp_path / "evil.pt"
    with zipfile.ZipFile(file) as good, zipfile.ZipFile(evil, "w") as bad:
        for name in good.namelist():
            data = good.read(name) if not name.endswith("/data.pkl") else pickle.dumps(Code())
            bad.writestr(name, data)
    with pytest.raises(RetakeError, match=r"evil\.pt is refused: it would run code, builtins\.eval"):
        weights.load_script(evil)
    cut = tmp_path / "cut.pt"
    cut.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(RetakeError, match=r"cut\.pt"):
        weights.load_script(cut)
    torch.save({"a": torch.zeros(3)}, tmp_path / "plain.pth")
    with pytest.raises(RetakeError, match="no TorchScript archive"):
        weights.load_script(tmp_path / "plain.pth")


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the list of what goes through FID's network, which becomes a cheap one: frames a pass."""
    passes: list[int] = []

    def build(state: Any) -> torch.nn.Module:
        class Cheap(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
                passes.append(len(x))
                return [torch.nn.functional.adaptive_avg_pool2d(x, 2).reshape(len(x), -1, 1, 1)]

        return Cheap()

    monkeypatch.setattr(weights, "load", lambda name, **_: {"w": torch.zeros(1)})
    monkeypatch.setattr(inception, "build", build)
    return passes


def test_a_second_model_costs_no_pass_over_the_truth(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = counting(monkeypatch)
    for name, seed in (("truth", 0), ("a", 1), ("b", 2)):
        np.save(tmp_path / f"{name}.npy", natural(4, 5, seed))
    first = evaluate(tmp_path / "a.npy", tmp_path / "truth.npy", ["fid"])
    assert sum(passes) == 2 * 20
    evaluate(tmp_path / "b.npy", tmp_path / "truth.npy", ["fid"])
    assert sum(passes) == 3 * 20
    assert evaluate(tmp_path / "a.npy", tmp_path / "truth.npy", ["fid"]) == first
    assert sum(passes) == 3 * 20
    assert len(list(kept.glob("*.npy"))) == len(list(kept.glob("*.json"))) == 3
    # other weights, another input or other code: other features
    monkeypatch.setattr(weights, "load", lambda name, **_: {"w": torch.ones(1)})
    evaluate(tmp_path / "a.npy", tmp_path / "truth.npy", ["fid"])
    assert sum(passes) == 5 * 20
    # a file that is not whole is made again
    for file in kept.glob("*.npy"):
        file.write_bytes(file.read_bytes()[:-1])
    assert evaluate(tmp_path / "a.npy", tmp_path / "truth.npy", ["fid"]) == first
    assert sum(passes) == 7 * 20


def test_frames_at_once_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor how the frames lie in clips: every frame is a sample."""
    found = []
    frames = natural(1, 24, 0)[0], natural(1, 24, 1)[0]
    for at_once, clips in ((16, 1), (5, 1), (1, 4)):
        counting(monkeypatch)
        monkeypatch.setattr(fid, "AT_ONCE", at_once)
        monkeypatch.setattr(cache, "ROOT", tmp_path / f"{at_once}")
        for name, images in zip("ab", frames, strict=True):
            np.save(tmp_path / f"{name}.npy", images.reshape(clips, -1, *images.shape[1:]))
        table = evaluate(tmp_path / "a.npy", tmp_path / "b.npy", ["fid"])
        found.append(re.split(r"\s{2,}", next(line for line in table.splitlines() if line.startswith("all")))[1])
    assert len(set(found)) == 1
    assert "unit frames" in table
    assert re.search(r"24 samples; 95 % interval [0-9.]+ to [0-9.]+ over 4 clips$", table)


def test_remainders_are_dropped_as_the_profile_says(monkeypatch: pytest.MonkeyPatch) -> None:
    counting(monkeypatch)
    a, b = (natural(1, 47, seed)[0].astype(np.float32) / 255 for seed in (0, 1))
    published, clean = (built(fid, drop=drop) for drop in (20, None))
    rows = [*(clean.features(x) for x in (a, b)), np.arange(47) // 8]
    assert published.distance(*rows).value == clean.distance(*(r[:40] for r in rows)).value
    assert published.distance(*rows).samples == 40
    assert clean.distance(*rows).samples == 47
    short = built(fid, drop=50)
    assert short.distance(*rows).samples == 47  # fewer than a batch are one batch


def test_clips_of_a_wrong_length_are_undefined(monkeypatch: pytest.MonkeyPatch, random_i3d: Any) -> None:
    monkeypatch.setattr(weights, "load", lambda name, **_: random_i3d)
    short = natural(1, 8, 0)[0].astype(np.float32) / 255
    with pytest.raises(Undefined, match="clips of at least 9 frames are needed, these have 8"):
        built(fvd, variant="kinetics", drop=None).features(short)
    textures = i3d.textures(32).state_dict()
    monkeypatch.setattr(weights, "load", lambda name, **_: textures)
    with pytest.raises(Undefined, match="clips of exactly 32 frames are needed, these have 8"):
        built(dtfvd, length=32, drop=None).features(short)


def test_shortest_clips_have_features(monkeypatch: pytest.MonkeyPatch, random_i3d: Any) -> None:
    monkeypatch.setattr(weights, "load", lambda name, **_: random_i3d)
    clip = natural(1, 9, 0)[0].astype(np.float32) / 255
    assert built(fvd, variant="kinetics", drop=None).features(clip).shape == (1, 400)
    textures = i3d.textures(16).state_dict()
    monkeypatch.setattr(weights, "load", lambda name, **_: textures)
    assert built(dtfvd, length=16, drop=None).features(clip[:3]).shape == (1, 1024)


def test_every_fvd_resizes_and_scales_in_its_own_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Four variants of the same weights: four numbers, and four names, settings and keys of kept features."""
    state = i3d.tensorflow().state_dict()
    script = scripted(state, tmp_path / "script.pt")
    monkeypatch.setattr(weights, "path", lambda name, **_: script)
    files = {"i3d_rgb": state, "i3d_videogpt": i3d.videogpt().state_dict()}
    monkeypatch.setattr(weights, "load", lambda name, **_: files[name])
    monkeypatch.setattr(tensorflow, "read", lambda path: {})
    monkeypatch.setattr(i3d, "from_tensorflow", lambda variables: state)
    clip = natural(1, 9, 0)[0].astype(np.float32) / 255
    metrics = {name: built(fvd, variant=name, drop=None) for name in sets.I3D}
    monkeypatch.setattr(i3d.I3D, "scores", lambda self, video: video.flatten(1))
    fed = {name: metric.features(clip) for name, metric in metrics.items()}
    assert {tuple(x.shape) for x in fed.values()} == {(1, 3 * 9 * 224 * 224)}
    assert (fed["styleganv"] == fed["videogpt"]).all()
    for a, b in (("tfhub", "kinetics"), ("tfhub", "styleganv"), ("kinetics", "styleganv")):
        assert np.abs(fed[a] - fed[b]).max() > 0.1, (a, b)
    for name, x in fed.items():
        assert (x.min() < -0.5) == (name != "kinetics")
    assert {m.route for m in metrics.values()} == {"auto", "tensorflow"}
    assert len({str(m.identity) for m in metrics.values()}) == 4


def test_diversity_of_the_samples_of_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "load", lambda name, **_: {})
    monkeypatch.setattr(
        vgg16, "features", lambda state, images: [images, 2 * images]
    )  # the taps; parity holds the real ones
    samples = natural(3, 2, 0).astype(np.float32) / 255
    metric = built(diversity, network="vgg", drop=None)
    fed = [vgg.diversity_input(torch.from_numpy(2 * s - 1).permute(0, 3, 1, 2)).double() for s in samples]
    apart = [float((fed[i] - fed[j]).square().mean()) for i in range(3) for j in range(3) if i != j]
    assert metric(samples) == pytest.approx((1 + 4) / 2 * np.mean(apart), rel=1e-5)
    with pytest.raises(Undefined, match="diversity needs two samples"):
        metric(samples[:1])
    textures = i3d.textures(16).state_dict()
    monkeypatch.setattr(weights, "load", lambda name, **_: textures)
    monkeypatch.setattr(i3d.I3D, "features", lambda self, video: video.flatten(1)[:, ::999])
    clips = natural(2, 20, 1).astype(np.float32) / 255
    metric = built(diversity, network="dti3d", drop=20)
    rows = [built(dtfvd, length=16, drop=None).features(clip[:16])[0].astype(np.float64) for clip in clips]
    assert metric(clips) == pytest.approx(1000 * ((rows[0] - rows[1]) ** 2).mean(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cinn.pfvd", "dtfvd_16"])
def test_video_distances_end_to_end(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = i3d.kinetics() if name == "cinn.pfvd" else i3d.textures(16)
    monkeypatch.setattr(weights, "load", lambda _: net.state_dict())
    for which, seed in (("a", 0), ("b", 1)):
        np.save(tmp_path / f"{which}.npy", natural(2, 16, seed))
    table = evaluate(tmp_path / "a.npy", tmp_path / "b.npy", [name])
    assert float(re.split(r"\s{2,}", table.splitlines()[-3])[1]) >= 0
    table = evaluate(tmp_path / "a.npy", tmp_path / "a.npy", [name])
    assert float(re.split(r"\s{2,}", table.splitlines()[-3])[1]) == pytest.approx(0, abs=1e-4)


def test_every_metric_of_a_profile_has_its_own_settings_and_rows_of_weights() -> None:
    """Two entries that are told alike are alike; different settings never share a description."""
    rows = {row.name for row in weights.fetch.sources(weights.SOURCES, key="name", extra=("use",))}
    modules = params.registry("metrics")
    told: dict[str, Any] = {}
    for entries in params.load().profiles.values():
        for metric in entries.values():
            module = modules[metric.kind]
            assert set(module.needs_weights(metric) if hasattr(module, "needs_weights") else []) <= rows
            description = str(module.settings(metric))
            assert told.setdefault(description, metric) == metric
    fvds = {key for key in told if "'FVD (" in key}
    assert len(fvds) == 5  # four variants, and one of them with dropped remainders
