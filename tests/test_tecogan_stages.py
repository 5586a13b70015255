"""TecoGAN through the stages: published TensorFlow checkpoints imported, trainings killed and resumed."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import tf_writer
import torch
from parity_tecogan import params, recipe
from test_tecogan import published, texture

from pipeline import params as project_params
from pipeline import train, weights
from pipeline.errors import RetakeError
from pipeline.models.tecogan import build
from pipeline.models.tecogan.training import TecoGAN
from pipeline.sources import tensorflow
from pipeline.sources.images import read_frame
from pipeline.store.frames import Writer
from tests.conftest import furnish, handed_over, resolved
from tests.engines import Project

IMPORT = (sys.executable, "-m", "pipeline.train", "--model", "tecogan_published", "--dataset", "vid4")


def trained(blocks: int = 2) -> TecoGAN:
    torch.manual_seed(3)
    return build(params(blocks, recipe(adversarial=0, layers=0, vgg=0, vgg_weights=None)))


@pytest.fixture(scope="module")
def variables() -> dict[str, np.ndarray]:
    """What a small TecoGAN's training checkpoint holds."""
    state = published(trained())
    slots = {f"{name}/Adam": np.zeros_like(value) for name, value in state.items() if name.endswith("biases")}
    return {**state, **slots, "global_step": np.array(5)}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, variables: dict[str, np.ndarray]) -> Path:
    """The prefix of a V2 bundle, with the files that TensorFlow writes beside it."""
    folder = tmp_path_factory.mktemp("bundle")
    tf_writer.write_v2(folder / "TecoGAN", variables)
    (folder / "TecoGAN.meta").write_bytes(b"graph")
    (folder / "checkpoint").write_text('model_checkpoint_path: "TecoGAN"\n')
    return folder / "TecoGAN"


def zipped(bundle: Path, path: Path, root: str = "model/", **more: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(bundle.parent.iterdir()):
            archive.write(file, root + file.name)
        for name, data in more.items():
            archive.writestr(name, data)
    return path


def same(state: dict[str, torch.Tensor]) -> bool:
    own = trained().state_dict()
    return all(torch.equal(state[key], value) for key, value in own.items())


def test_published_archive_becomes_our_checkpoint(tmp_path: Path, bundle: Path) -> None:
    """As downloaded: data/weights/model.zip, whatever its folders are called."""
    project = Project(tmp_path / "p", {"models.tecogan_published.network.blocks": 2})
    zipped(bundle, project.folder / "data/weights/model.zip", **{"__MACOSX/model/._TecoGAN.index": b"Mac OS X"})
    done = project.run(*IMPORT)
    assert done.returncode == 0, done.stderr
    tree: Any = weights.load_tree(project.folder / "data/checkpoints/tecogan_published/vid4.pt")
    assert tree["kind"] == "tecogan"
    assert same(tree["weights"])
    assert "model.zip" in (project.folder / "data/weights/SHA256SUMS").read_text()


@pytest.fixture
def run_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, torch.Tensor]]:
    """A function that runs the import job in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    furnish(tmp_path)

    def run(checkpoint: Path, blocks: int = 2) -> dict[str, torch.Tensor]:
        tree = resolved()
        tree["models"]["tecogan_published"] |= {"checkpoint": str(checkpoint), "network": {"blocks": blocks}}
        monkeypatch.setenv(project_params.VARIABLE, handed_over(tree)[project_params.VARIABLE])
        monkeypatch.setattr(sys, "argv", list(IMPORT[2:]))
        train.main()
        return weights.load_tree("data/checkpoints/tecogan_published/vid4.pt")["weights"]

    return run


def test_unpacked_prefix_becomes_our_checkpoint(run_import: Any, bundle: Path) -> None:
    assert same(run_import(bundle))
    assert same(run_import(bundle.with_suffix(".index")))


def test_import_compares_checksums_and_says_what_does_not_fit(run_import: Any, bundle: Path, tmp_path: Path) -> None:
    for file in bundle.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    shard = tmp_path / "TecoGAN.data-00000-of-00001"
    data = bytearray(shard.read_bytes())
    data[1000] ^= 1
    shard.write_bytes(data)
    with pytest.raises(RetakeError, match=r"TecoGAN\.data-00000-of-00001: wrong CRC-32C of fnet/autoencode_unit/"):
        run_import(tmp_path / "TecoGAN")
    shard.unlink()
    with pytest.raises(RetakeError, match=r"needs TecoGAN\.data-00000-of-00001 beside it, which is missing"):
        run_import(tmp_path / "TecoGAN")
    with pytest.raises(RetakeError, match=r"has 2 residual blocks, network\.blocks is 16: set network\.blocks to 2"):
        run_import(bundle, 16)
    with pytest.raises(RetakeError, match=r"no weights '.*/TecoGAM' in"):
        run_import(tmp_path / "TecoGAM")


# Training

TRAIN = (sys.executable, "-m", "pipeline.train", "--dataset", "tecogan_train", "--model")
STEPS = 6
SMALL: dict[str, Any] = {"batch": 2, "window": 3, "crop": 40, "lr": 1.0e-3, "vgg": 0, "vgg_weights": None}
SMALL |= {"checkpoint_every": 1, "validate_every": 3, "validate_windows": 2}


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """FRVSR of one block, trained two steps, and TecoGAN of two blocks that starts from it, on tiny scenes."""
    recipes = {"frvsr": {**SMALL, "max_steps": 2}, "tecogan": {**SMALL, "max_steps": STEPS}}
    edits = {f"models.{name}.train.{key}": value for name, recipe in recipes.items() for key, value in recipe.items()}
    edits |= {"models.frvsr.network.blocks": 1, "models.tecogan.network.blocks": 2, "tracking.mlflow": False}
    project = Project(tmp_path_factory.mktemp("train") / "p", {**edits, "compute.threads": 1, "compute.workers": 0})
    for split, scenes in (("train", 3), ("val", 1)):
        path = project.folder / f"data/frames/tecogan_train/{split}.arrow"
        with Writer(path, codec="raw", meta={"dataset": "tecogan_train", "split": split}) as out:
            for scene in range(scenes):
                image = (255 * texture(60, 90, scene)).astype(np.uint8)
                for i in range(5):
                    out.add(f"v/{scene}", i, np.ascontiguousarray(image[i : i + 48, 2 * i : 2 * i + 64]))
    done = project.run(*TRAIN, "frvsr")
    assert done.returncode == 0, done.stderr
    return project


def test_killed_gan_training_goes_on_to_the_same_bytes(trainings: Project) -> None:
    """Generator, flow network, discriminator, three optimisers, balance: all of it comes back."""
    output = trainings.folder / "data/checkpoints/tecogan/tecogan_train.pt"
    lines = output.with_suffix(".metrics.jsonl")
    done = trainings.run(*TRAIN, "tecogan")
    assert done.returncode == 0, done.stderr
    whole, losses = output.read_bytes(), lines.read_text()
    values = [json.loads(line) for line in losses.splitlines()]
    assert [v["step"] for v in values] == list(range(1, STEPS + 1))
    assert {"PingPang", "t_balance", "D_layer_loss_sum", "t_discrim_loss"} <= values[0].keys()
    assert [v["step"] for v in values if "val_psnr" in v] == [3, 6]
    state = weights.load_tree(output)["weights"]
    first = weights.load_tree(trainings.folder / "data/checkpoints/frvsr/tecogan_train.pt")["weights"]
    assert any(key.startswith("discriminator.") for key in state)
    assert not any(key.startswith("discriminator.") for key in first)
    moved = (state["generator.resblock_1.conv_1.weight"] - first["generator.resblock_1.conv_1.weight"]).abs().max()
    assert 0 < moved < 2 * STEPS * SMALL["lr"]  # it started there: Adam moves a weight by about the rate a step

    picture = read_frame(output.with_name("tecogan_train.validation.png"))
    assert picture.shape == (48, 3 * 64, 3)
    with av.open(str(output.with_name("tecogan_train.validation.mp4"))) as film:
        assert [(f.height, f.width) for f in film.decode(video=0)] == [(48, 3 * 64)] * 5

    output.unlink()
    lines.unlink()
    process = subprocess.Popen(
        [*TRAIN, "tecogan"], cwd=trainings.folder, env=trainings.environment(), stderr=subprocess.DEVNULL
    )
    while process.poll() is None and (not lines.exists() or lines.read_text().count("\n") < 4):
        time.sleep(0.02)
    assert process.poll() is None, "it ended before it could be killed"
    process.kill()
    process.wait()
    done = trainings.run(*TRAIN, "tecogan")
    assert done.returncode == 0, done.stderr
    assert "going on from step" in done.stderr
    assert output.read_bytes() == whole
    assert lines.read_text() == losses


# Archives and checkpoints


@pytest.mark.parametrize(
    ("name", "reason"),
    [("../TecoGAN.index", "has a path that leaves its folder"), ("/etc/TecoGAN.index", "has an absolute path")],
)
def test_hostile_archives_are_refused(bundle: Path, tmp_path: Path, name: str, reason: str) -> None:
    archive = zipped(bundle, tmp_path / "model.zip", **{name: b"x"})
    with pytest.raises(RetakeError, match=rf"model\.zip: refused, its member '{name}' {reason}"):
        weights.load_file(archive)
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as tar:
        tar.add(bundle.parent, "model")
        info = tarfile.TarInfo(name)
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(RetakeError, match=rf"model\.tar\.gz: refused, its member '{name}' {reason}"):
        weights.load_file(tmp_path / "model.tar.gz")


def test_links_in_archives_are_refused(bundle: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as tar:
        tar.add(bundle.parent, "model")
        info = tarfile.TarInfo("model/other.index")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(RetakeError, match=r"its member 'model/other\.index' is a link"):
        weights.load_file(tmp_path / "model.tar.gz")
    data = (tmp_path / "model.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(RetakeError, match=r"cut\.tar\.gz"):
        weights.load_file(tmp_path / "cut.tar.gz")


def test_checkpoints_load_for_inference(tmp_path: Path, bundle: Path) -> None:
    """Ours and published ones, into an entry that is trained (with a discriminator) and one that is not."""
    weights.save(tmp_path / "ours.pt", {"kind": "tecogan", "weights": trained().state_dict(), "best": None})
    with_judge = build(params(2, recipe()))
    weights.save(tmp_path / "gan.pt", {"kind": "tecogan", "weights": with_judge.state_dict(), "best": None})
    for entry in (params(2), params(2, recipe())):
        for source in (tmp_path / "ours.pt", bundle):
            network, digest = weights.load_model(entry, source, "cpu")
            assert all(torch.equal(network.state_dict()[k], v) for k, v in trained().state_dict().items())
            assert len(digest) == 64
        network, _ = weights.load_model(entry, tmp_path / "gan.pt", "cpu")
        assert all(torch.equal(with_judge.state_dict()[k], v) for k, v in network.state_dict().items())
    with pytest.raises(RetakeError, match=r"generator has 2 residual blocks, network\.blocks is 3"):
        weights.load_model(params(3), tmp_path / "ours.pt", "cpu")
    cut = {k: v for k, v in trained().state_dict().items() if k != "fnet.encoder_1.conv_1.bias"}
    weights.save(tmp_path / "cut.pt", {"kind": "tecogan", "weights": cut, "best": None})
    with pytest.raises(RetakeError, match=r"missing fnet\.encoder_1\.conv_1\.bias"):
        weights.load_model(params(2), tmp_path / "cut.pt", "cpu")


def test_other_files_are_no_tensorflow_checkpoints(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "torch.pt")
    (tmp_path / "text").write_text("hello")
    assert not any(tensorflow.holds(tmp_path / name) for name in ("torch.pt", "text", "none"))
