"""Convolutions by Winograd's algorithm: the same numbers, only where they pay, and never with gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from pipeline.models.arflow import convolution
from pipeline.models.arflow.convolution import Convolution
from pipeline.models.arflow.network import PWCLite, ReducedEstimator

LAST = torch.channels_last


def layer(inputs: int, outputs: int, dilation: int = 1) -> Convolution:
    torch.manual_seed(0)
    return Convolution(inputs, outputs, 3, padding=dilation, dilation=dilation).to(memory_format=LAST)


@pytest.mark.parametrize(
    ("inputs", "outputs", "height", "width", "dilation", "batch"),
    [(3, 2, 5, 9, 1, 2), (128, 112, 20, 33, 1, 1), (5, 4, 37, 11, 3, 2), (4, 4, 3, 2, 4, 1)],
)
def test_columns_give_what_the_definition_gives(
    inputs: int, outputs: int, height: int, width: int, dilation: int, batch: int
) -> None:
    made, x = layer(inputs, outputs, dilation), torch.rand(batch, inputs, height, width)
    expected = functional.conv2d(x.double(), made.weight.double(), made.bias.double(), 1, dilation, dilation)
    with torch.no_grad():
        found = made.by_columns(x.contiguous(memory_format=LAST))
    assert found.is_contiguous(memory_format=LAST)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "outputs", "dilation", "height", "width", "paid"),
    [
        (128, 128, 1, 40, 50, True),
        (224, 64, 4, 96, 208, True),
        (128, 96, 8, 48, 104, True),
        (128, 128, 1, 40, 49, False),  # too few pixels
        (128, 128, 4, 50, 50, False),  # three tiles of 24 rows
        (160, 32, 1, 96, 208, False),  # too few outputs
        (64, 64, 1, 96, 208, False),  # too few of both
    ],
)
def test_rule_of_shapes(inputs: int, outputs: int, dilation: int, height: int, width: int, paid: bool) -> None:
    assert convolution.pays(inputs, outputs, dilation, height, width) == paid


def test_taken_without_gradients_in_float32_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Convolution, "by_columns", lambda self, x: "by columns")
    monkeypatch.setattr(convolution, "pays", lambda *_: True)
    made, x = layer(4, 4), torch.rand(1, 4, 8, 8)
    assert made(x).shape == (1, 4, 8, 8), "a gradient may be asked for"
    with torch.no_grad():
        assert made(x) == "by columns"
        assert Convolution(4, 4, 3, stride=2, padding=1)(x).shape == (1, 4, 4, 4)
        assert Convolution(4, 4, 3)(x).shape == (1, 4, 6, 6)
        assert Convolution(4, 4, 1)(x).shape == (1, 4, 8, 8)
        assert made.double()(x.double()).dtype == torch.float64
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(4, 4)(x).dtype == torch.bfloat16


@torch.no_grad()
def test_changed_weights_are_seen() -> None:
    made, x = layer(4, 4), torch.rand(1, 4, 8, 8)
    before = made.by_columns(x)
    made.load_state_dict({name: 2 * value for name, value in made.state_dict().items()})
    torch.testing.assert_close(made.by_columns(x), 2 * before, rtol=0, atol=1e-6)
    made.bias += 1
    torch.testing.assert_close(made.by_columns(x), 2 * before + 1, rtol=0, atol=1e-6)


def test_an_estimator_that_joins_nothing_gives_the_same_and_sees_changed_weights() -> None:
    torch.manual_seed(0)
    estimator, x = ReducedEstimator(20), torch.rand(2, 20, 8, 12).contiguous(memory_format=LAST)
    for weight in estimator.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    for _ in range(2):
        joined = [each.detach() for each in estimator(x)]
        with torch.inference_mode():
            apart = estimator(x)
        with torch.no_grad():
            again = estimator(x)
        for one, two, three in zip(joined, apart, again, strict=True):
            torch.testing.assert_close(two, one, rtol=0, atol=1e-5 * float(one.abs().max()))
            assert torch.equal(two, three)
        estimator.load_state_dict({name: 1.5 * value for name, value in estimator.state_dict().items()})


def test_what_is_kept_of_weights_takes_no_random_numbers() -> None:
    estimator, x = ReducedEstimator(4), torch.rand(1, 4, 3, 2)
    state = torch.get_rng_state()
    with torch.no_grad():
        estimator(x)
    assert torch.equal(torch.get_rng_state(), state)


def test_flow_is_the_same_by_both(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = PWCLite(2)
    network.start_kaiming()
    frames = torch.rand(1, 2, 3, 64, 128)
    with torch.no_grad():
        torchs = network(frames)["flows_fw"][0]
        monkeypatch.setattr(convolution, "pays", lambda *_: True)
        columns = network(frames)["flows_fw"][0]
    assert torchs.abs().max() > 1, "px"
    assert not torch.equal(torchs, columns)
    torch.testing.assert_close(columns, torchs, rtol=0, atol=1e-4)
