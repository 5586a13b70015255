"""Warping error: still, moving and flickering clips of known value, what is hidden, any estimator, and its code as part of a score's."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from pipeline import params, plan
from pipeline.metrics import Undefined, warping_error
from tests.conftest import resolved

WHOLE = (slice(None), slice(None))
SHIFT = (3, 1)  # px to the right and down


def built(**estimator: Any) -> Any:
    return warping_error.build(warping_error.Params(kind="warping_error", estimator=estimator), "cpu")


def textured(height: int = 64, width: int = 80, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(height, width, 3)).astype(np.float32)
    image = cv2.GaussianBlur(noise, (0, 0), 2)
    return np.clip(0.5 + 0.15 * image / image.std(), 0, 1)


def moving(size: int = 64) -> np.ndarray:
    """Two views of one texture, (2, size, size, 3): what is at x in the first is at x + SHIFT in the second."""
    scene = textured(size + 8, size + 8)
    return np.stack([scene[8:, 8:], scene[8 - SHIFT[1] : -SHIFT[1], 8 - SHIFT[0] : -SHIFT[0]]])


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The metric with an estimator that knows the shift."""

    class Known:
        context, count = 2, 0

        def estimate(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
            self.count += 1
            return np.full((*first.shape[:2], 2), SHIFT if self.count % 2 else np.negative(SHIFT), np.float32)

    from pipeline import weights

    known = Known()
    monkeypatch.setattr(weights, "load_model", lambda model, file, device: (known, ""))
    metric = built(kind="zero")
    metric.known = known
    return metric


def test_still_is_0_and_a_flicker_is_its_square() -> None:
    still = np.stack([textured()] * 2) * np.float32(0.8)
    for estimator, error in (
        ("zero", 0),
        ("dis", 0),
        ("farneback", 1e-6),
    ):  # of equal frames, Farneback's flow is not quite 0
        metric = built(kind=estimator)
        assert metric(still, still, WHOLE) == pytest.approx(0, abs=error), estimator
        flicker = still + np.array([0, 0.1]).reshape(2, 1, 1, 1)
        assert metric(flicker, still, WHOLE) == pytest.approx(0.01, abs=error + 1e-8), estimator
    red = still + np.array([0, 0.1]).reshape(2, 1, 1, 1) * np.array([1, 0, 0])
    assert built(kind="zero")(red, still, WHOLE) == pytest.approx(0.01 / 3, rel=1e-6)


def test_a_translation_with_exact_flow_is_0(exact: Any) -> None:
    clip = moving()
    assert exact(clip, clip, WHOLE) == pytest.approx(0, abs=1e-12)
    assert np.mean((clip[1] - clip[0]) ** 2) > 0.01
    frozen = np.stack([clip[0]] * 2)
    assert exact(frozen, clip, WHOLE) > 0.01, "a prediction that stands still where the truth moves"


def test_true_flow_is_estimated_once_for_all_samples(exact: Any) -> None:
    clip = moving()
    for sample in range(3):
        exact(clip + np.float32(0.01 * sample), clip, WHOLE)
    assert exact.known.count == 2
    for seed in range(warping_error.KEPT + 1):
        exact(clip, np.stack([textured(64, 64, seed)] * 2), WHOLE)
    exact(clip, clip, WHOLE)
    assert exact.known.count == 2 * (warping_error.KEPT + 3)


def test_estimated_motion_explains_nearly_all() -> None:
    clip = moving(96)
    inner = (slice(16, -16), slice(16, -16))
    assert built(kind="dis")(clip, clip, inner) < 0.02 * built(kind="zero")(clip, clip, inner)


def test_what_is_hidden_by_definition() -> None:
    forward, backward = np.zeros((6, 8, 2)), np.zeros((6, 8, 2))
    assert warping_error.visible(forward, backward).all()
    backward[2, 3] = (0.7, 0)  # 0.49 < 0.5 + 0.01 * 0.49
    assert warping_error.visible(forward, backward).all()
    backward[2, 3] = (0.72, 0)  # 0.5184 > 0.5 + 0.01 * 0.5184
    assert np.argwhere(~warping_error.visible(forward, backward)).tolist() == [[2, 3]]
    forward[:, 5:] = (0.05, 0)  # a step of 0.0025 > 0.002: the column before it
    assert np.argwhere(~warping_error.visible(forward, 0 * backward)).tolist() == [
        [row, column] for row in range(6) for column in (4, 7)
    ], "and the last one leaves the image"


def test_no_shared_pixel_has_no_value(exact: Any) -> None:
    clip = moving()
    corner = (slice(-1, None), slice(-2, None))
    assert np.isnan(exact(clip, clip, corner))


def test_other_estimators_are_other_metrics() -> None:
    told = [
        warping_error.settings(warping_error.Params(kind="warping_error", estimator={"kind": k}))
        for k in ("dis", "zero")
    ]
    assert told[0] != told[1] and told[0]["settings"]["predict"]["preset"] == "medium"
    network = {"kind": "arflow", "checkpoint": "arflow_sintel_ar"}
    assert warping_error.needs_weights(warping_error.Params(kind="warping_error", estimator=network)) == [
        "arflow_sintel_ar"
    ]
    for given, words in (
        ({"kind": "truth"}, "estimates no flow"),
        ({"kind": "dmvfn"}, "estimates no flow"),
        ({"kind": "arflow"}, "has weights: name its checkpoint"),
        ({"kind": "dis", "predict": {"preset": "best"}}, "preset"),
    ):
        with pytest.raises(ValidationError, match=words):
            warping_error.Params(kind="warping_error", estimator=given)


def test_frames_that_an_estimator_does_not_take_have_no_value() -> None:
    tiny = np.zeros((2, 12, 12, 3), np.float32)
    with pytest.raises(Undefined, match="DIS medium needs sides of at least 16 px, not 12x12"):
        built(kind="dis")(tiny, tiny, WHOLE)


def test_the_estimator_s_code_is_part_of_the_score_s() -> None:
    values = resolved()
    values["experiments"]["kitti"]["metrics"] = {
        "warping_error": {"kind": "warping_error", "estimator": {"kind": "farneback"}}
    }
    p = params.validate(values)
    fields = plan.plan(p, ["kitti"])["score"]["kitti-copy_last"]
    assert "pipeline.models.farneback" in plan.roots(p, "score", fields)
    assert params.subtree(p, "experiments.kitti.metrics")["warping_error"]["estimator"]["predict"]["winsize"] == 15
