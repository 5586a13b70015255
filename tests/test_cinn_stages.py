"""i2v-cINN where the stages use it: published files imported, clips animated by motion and end point, the best weights chosen."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import animate, compute, params, train, weights
from pipeline.datasets import demo_push
from pipeline.drawing.images import write_image
from pipeline.errors import RetakeError
from pipeline.metrics import sets
from pipeline.models import cinn
from pipeline.sources.images import read_any
from pipeline.tasks.animation import Train
from pipeline.tasks.animation.train import Validation


def published(folder: Path) -> dict[str, str]:
    """Write the four files of a small model as its authors name them; return them by part."""
    torch.manual_seed(0)
    model = cinn.build(entry("cinn_push")).eval()
    model.flow(torch.randn(64, 64), torch.randn(64, model.flow.condition))
    parts = {
        "cINN": model.flow,
        "GEN": model.stage1.decoder,
        "ENC": model.stage1.encoder,
        "encoder_stage2": model.encoder,
    }
    for name, part in parts.items():
        torch.save({"state_dict": part.state_dict(), "epoch": 7}, folder / f"{name}.pth")
    return {name: str(folder / f"{name}.pth") for name in parts}


def entry(name: str, **changes: Any) -> Any:
    return params.load().models[name].model_copy(update={"train": None, **changes})


def test_published_files_become_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = published(tmp_path)
    p = params.load()
    p.models["cinn_push"] = entry("cinn_push", checkpoint=files)
    output = tmp_path / "imported.pt"
    monkeypatch.setattr("pipeline.plan.path", lambda *_, **__: output)
    train.import_published(p, {"model": "cinn_push", "dataset": "demo_push"})
    network, _ = weights.load_model(p.models["cinn_push"], output, "cpu")
    assert network.predict(torch.rand(1, 1, 3, 32, 32), 3, seeds=[0]).shape == (1, 3, 3, 32, 32)
    torch.save({"state_dict": torch.load(files["GEN"])["state_dict"], "epoch": 8}, files["GEN"])
    with pytest.raises(RetakeError, match="not saved together: GEN after 8 epochs, ENC after 7"):
        train.import_published(p, {"model": "cinn_push", "dataset": "demo_push"})


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """New weights of the demo's two models, named like their dataset."""
    made = {}
    for name in ("cinn_push", "cinn_push_control"):
        torch.manual_seed(0)
        model = cinn.build(entry(name)).eval()
        model.flow(torch.randn(64, 64), torch.randn(64, model.flow.condition))
        made[name] = tmp_path_factory.mktemp(name) / "demo_push.pt"
        weights.save(made[name], {"kind": "cinn", "weights": model.state_dict(), "best": None})
    return made


def animated(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", ["animate", *map(str, arguments)])
    animate.main()


def test_images_get_the_motion_of_a_clip(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, frame in enumerate(demo_push.render("push test 0")[0][:17]):
        write_image(tmp_path / f"clip/{number:02d}.png", frame)
        if number < 14:
            write_image(tmp_path / f"short/{number:02d}.png", frame)
    image = tmp_path / "clip/00.png"
    common = (
        image,
        "--model",
        "cinn_push",
        "--checkpoint",
        checkpoints["cinn_push"],
        "--size",
        "model",
        "--format",
        "png",
    )
    animated(monkeypatch, *common, "--frames", 4, "--motion-from", tmp_path / "clip", "--output", tmp_path / "moved")
    animated(monkeypatch, *common, "--frames", 4, "--samples", 1, "--output", tmp_path / "drawn")
    assert sorted(p.name for p in (tmp_path / "moved").iterdir()) == ["00_0", "00_sheet.png"]
    pair = [read_any(tmp_path / where / "00_0/0004.png") for where in ("moved", "drawn")]
    assert pair[0].shape == (32, 32, 3) and not np.array_equal(*pair)
    with pytest.raises(RetakeError, match="clips of 15 frames or more, 14 were given"):
        animated(monkeypatch, *common, "--motion-from", tmp_path / "short", "--output", tmp_path / "x")
    with pytest.raises(RetakeError, match="takes no motion from frames"):
        animated(
            monkeypatch, image, "--model", "cinn_push_control", "--checkpoint", checkpoints["cinn_push_control"],
            "--endpoint", 0.6, 0.0, 0.25, "--motion-from", tmp_path / "clip", "--output", tmp_path / "x",
        )  # fmt: skip


def test_the_demo_s_checkpoint_is_taken_without_being_named(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(animate, "CHECKPOINTS", tmp_path / "checkpoints")
    named = tmp_path / "checkpoints/cinn_push/demo_push.pt"
    named.parent.mkdir(parents=True)
    named.write_bytes(checkpoints["cinn_push"].read_bytes())
    image = tmp_path / "photo.png"
    write_image(image, demo_push.render("push test 0")[0][0][:40])
    for output in ("a.mp4", "b.gif", "c.png", "again.gif", "other.gif"):
        seed = 1 if output == "other.gif" else 0
        animated(monkeypatch, image, "--model", "cinn_push", "--samples", 2, "--frames", 20, "--seed", seed,
                 "--output", tmp_path / output)  # fmt: skip
    first, again, other = ((tmp_path / name).read_bytes() for name in ("b.gif", "again.gif", "other.gif"))
    assert first == again and first != other
    assert (tmp_path / "a.mp4").stat().st_size > 500
    assert read_any(tmp_path / "c.png").shape[0] > 2 * 40, "a row a sample"


def test_an_end_point_is_marked_where_it_is(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, sheet = tmp_path / "table.png", tmp_path / "sheet.png"
    write_image(image, np.full((32, 32, 3), 90, np.uint8))
    common = (image, "--model", "cinn_push_control", "--checkpoint", checkpoints["cinn_push_control"], "--frames", 3)
    point = demo_push.render("push test 0")[1][16].tolist()
    animated(monkeypatch, *common, "--endpoint", *point, "--samples", 4, "--output", sheet)
    cross = (read_any(sheet) == (255, 0, 255)).all(2)
    assert cross.sum() > 4 * 20
    x, y = demo_push.seen(point)
    marked = (animate.marked(np.zeros((32, 32, 3), np.uint8), (x, y)) == (255, 0, 255)).all(2)
    rows, columns = marked.nonzero()
    assert (columns.mean() / 159, rows.mean() / 159) == pytest.approx((x, y), abs=0.01)
    elsewhere = tmp_path / "bair.pt"  # BAIR's camera is not known
    elsewhere.write_bytes(checkpoints["cinn_push_control"].read_bytes())
    animated(monkeypatch, image, "--model", "cinn_push_control", "--checkpoint", elsewhere, "--frames", 3,
             "--endpoint", *point, "--samples", 4, "--output", tmp_path / "plain.png")  # fmt: skip
    plain = read_any(tmp_path / "plain.png")
    assert plain.shape == read_any(sheet).shape and not (plain == (255, 0, 255)).all(2).any()
    for given, words in [
        ((), "is told where motion shall end: give --endpoint"),
        (("--endpoint", 5.0, 0.0, 0.25), r"they must lie in \[0,1\] of it"),
    ]:
        with pytest.raises(RetakeError, match=words):
            animated(monkeypatch, *common, *given, "--output", tmp_path / "x.png")
    with pytest.raises(RetakeError, match="knows no end points: leave --endpoint out"):
        animated(
            monkeypatch, image, "--model", "cinn_push", "--checkpoint", checkpoints["cinn_push"],
            "--endpoint", *point, "--output", tmp_path / "x.png",
        )  # fmt: skip


# Validation


class Items:
    """Six clips of 17 grey frames, `shift` levels brighter each frame."""

    windows = range(6)

    def __init__(self, **recipe: Any) -> None:
        self.train = Train(validation="val", **recipe)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, torch.Tensor]:
        clip = torch.arange(17, dtype=torch.uint8)[:, None, None, None] + 10 * item[1]
        return {"clip": clip.expand(17, 3, 8, 8)}


class Net(torch.nn.Module):
    """Makes grey clips; its own loss is the mean of the clip."""

    motion = None
    draws_start = False
    validated_with = "drawn"

    def validate(self, batch: dict[str, torch.Tensor]) -> dict[str, float]:
        assert not self.training
        return {"val_mine": float(batch["clip"].mean()), "other": 0.0}

    def predict(self, start: torch.Tensor, horizon: int, *, seeds: list[int]) -> torch.Tensor:
        return start.expand(-1, horizon, -1, -1, -1)


def test_a_network_s_own_loss_chooses_the_best_weights() -> None:
    validation = Validation(Items(), Net(), 4, 3)  # type: ignore[arg-type]
    name, value = validation.score("cpu")
    assert (name, validation.BETTER) == ("val_mine", "lower")
    assert value == pytest.approx((8 + 10 * np.mean([0, 2, 3, 5])) / 255, rel=1e-3)


def test_a_distance_chooses_where_its_weights_are_here(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert Items(best="pfvd").train.pretrained == ["i3d_rgb"]
    assert Items(best="dtfvd").train.pretrained == ["dtfvd_16"]
    monkeypatch.setattr(weights, "here", lambda name: False)
    assert Validation(Items(best="pfvd"), Net(), 4, 3).score("cpu")[0] == "val_mine"  # type: ignore[arg-type]
    monkeypatch.setattr(weights, "here", lambda name: True)

    def features(images: torch.Tensor) -> torch.Tensor:
        assert images.shape == (16, 3, 8, 8), "frames after the start"
        return torch.stack([images.mean(), images[-1].mean()])[None]

    built = sets.Distance(features, {}, "cpu", "clips")
    monkeypatch.setattr("pipeline.metrics.fvd.build", lambda p, device: built)
    validation = Validation(Items(best="pfvd"), Net(), 4, 3)  # type: ignore[arg-type]
    name, value = validation.score("cpu")
    assert (name, validation.BETTER) == ("val_pfvd", "lower")
    # Start frames stand still: the mean is 8.5 levels too dark, the last frame 16, and the spread is right
    assert value == pytest.approx((8.5**2 + 16**2) / 255**2, rel=1e-3)


# The memory layout


def test_only_weights_of_convolutions_are_laid_out() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 3), torch.nn.Conv3d(2, 2, 3), torch.nn.Linear(2, 2))
    asked = SimpleNamespace(compute=SimpleNamespace(channels_last=True))
    compute.lay_out(asked, net)  # type: ignore[arg-type]
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert net[1].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert net[2].weight.is_contiguous()
