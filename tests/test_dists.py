"""DISTS: closed forms, properties, torchmetrics with the same filled VGG16, a value of the authors' own package."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from pipeline import weights
from pipeline.errors import RetakeError
from pipeline.metrics import dists
from tests import verified


@pytest.fixture(scope="module")
def trunk() -> dict[str, torch.Tensor]:
    return verified.filled_vgg16()


@pytest.fixture(scope="module")
def published() -> Path:
    """The file of workflow/weights.csv, as torchmetrics brings it."""
    return verified.dists_weights()


@pytest.fixture
def metric(trunk: Any, published: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    states = {"vgg16": trunk, "dists": weights.load_file(published)}
    monkeypatch.setattr(weights, "load", lambda name: states[name])
    return dists.build(dists.Params(kind="dists"), "cpu")


def test_the_named_file_is_the_one_that_packages_bring(published: Path) -> None:
    import hashlib

    row = weights.source_of("dists")
    assert published.stat().st_size == row.bytes
    assert hashlib.sha256(published.read_bytes()).hexdigest() == row.sha256
    assert dists.needs_weights(dists.Params(kind="dists")) == ["vgg16", "dists"]


def test_it_is_the_authors_value(metric: Any) -> None:
    assert metric(*verified.dists_pair())[0] == pytest.approx(verified.DISTS, rel=1e-5)


def test_it_is_torchmetrics_value(metric: Any, trunk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchmetrics.functional.image.dists as package

    layers = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
    layers.load_state_dict({name.removeprefix("features."): value for name, value in trunk.items()})
    monkeypatch.setattr(package, "vgg16", lambda weights: types.SimpleNamespace(features=layers))
    network = package.DISTSNetwork().double()
    x, y = verified.dists_pair()
    images = [torch.from_numpy(np.concatenate(a)).double().permute(0, 3, 1, 2) for a in ((x, y), (y, 1 - x))]
    assert metric(np.concatenate([x, y]), np.concatenate([y, 1 - x])) == pytest.approx(
        network(*images).detach().numpy(), rel=1e-5
    )


def test_equal_images_are_0_and_the_order_does_not_matter(metric: Any) -> None:
    x, y = verified.dists_pair()
    assert metric(x, x).tolist() == [0]
    assert metric(x, y)[0] == pytest.approx(metric(y, x)[0], rel=1e-12) and metric(x, y)[0] > 0
    mild = metric(x, (0.9 * x + 0.1 * y).astype(np.float32))[0]
    assert 0 < mild < metric(x, y)[0]


def test_every_size_has_a_value(metric: Any) -> None:
    """Down to a pixel; the published weights, none negative, hold it below 1 and what textures that are opposite add."""
    alpha, beta = dists._shares(weights.load("dists"))
    assert min(alpha.min(), beta.min()) >= 0 and alpha.sum() + beta.sum() == pytest.approx(1)
    rng = np.random.default_rng(1)
    for height, width in [(1, 1), (2, 3), (17, 33)]:
        x = rng.random((1, height, width, 3), np.float32)
        assert 0 < metric(x, 1 - x)[0] <= 1 + float(beta.sum())


def test_closed_forms() -> None:
    """Of one layer with two channels: flat ones differ by structure alone, opposite ones of one mean by texture alone."""
    half = torch.full((2,), 0.25, dtype=torch.float64)
    wave = torch.tensor([1.0, -1.0, 1.0, -1.0]).view(1, 2, 2).expand(2, 2, 2)
    flat = torch.stack([torch.full((2, 2, 2), 3.0), torch.full((2, 2, 2), 1.0)])
    assert float(dists._distance([flat], half, half)) == pytest.approx(0.5 * 4 / 10, rel=1e-6)
    opposite = torch.stack([2 + wave, 2 - wave])
    assert float(dists._distance([opposite], half, half)) == pytest.approx(0.5 * 4 / 2, rel=1e-6)


def test_weights_of_something_else_are_refused(trunk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "load", lambda name: trunk)
    with pytest.raises(RetakeError, match="not those of DISTS: alpha and beta of 1475 values"):
        dists.build(dists.Params(kind="dists"), "cpu")
