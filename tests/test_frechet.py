"""Fréchet distance: closed forms, its properties on every route, scipy's square root, few samples, without each unit."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import RetakeError
from pipeline.metrics import frechet
from pipeline.metrics.frechet import Moments, Route

ROUTES: tuple[Route, ...] = get_args(Route)


def features(rows: int, dims: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(dims, dims)) * np.geomspace(1, 0.05, dims)
    return rng.normal(size=(rows, dims)) @ mix + rng.normal(size=dims)


def with_moments(rows: int, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return rows whose sample moments are these, exactly."""
    white = np.random.default_rng(len(mean)).normal(size=(rows, len(mean)))
    white -= white.mean(axis=0)
    white = np.linalg.qr(white)[0] * np.sqrt(rows - 1)
    return mean + white @ np.linalg.cholesky(covariance).T


def scipys(a: np.ndarray, b: np.ndarray) -> float:
    from scipy import linalg

    c1, c2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    return float(
        ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * np.trace(linalg.sqrtm(c1 @ c2)).real
    )


@pytest.mark.parametrize("route", ROUTES)
def test_gaussians_with_known_moments(route: Route) -> None:
    """Covariances that commute: |m1 - m2|^2 + sum (s1 - s2)^2 of the standard deviations."""
    mean = np.array([1.0, 0, -2, 0.5]), np.array([0.0, 3, -2, 1])
    deviation = np.array([1.0, 2, 0.5, 3]), np.array([2.0, 2, 1.5, 0.1])
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    sets = [with_moments(50, m, turn @ np.diag(s**2) @ turn.T) for m, s in zip(mean, deviation, strict=True)]
    expected = ((mean[0] - mean[1]) ** 2).sum() + ((deviation[0] - deviation[1]) ** 2).sum()
    assert frechet.distance(*sets, route) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("route", ["eigen", "tensorflow"])
def test_of_moments(route: Route) -> None:
    a, b = Moments(np.zeros(3), np.diag([1.0, 4, 9])), Moments(np.ones(3), np.diag([4.0, 4, 1]))
    assert frechet.of_moments(a, b, route) == pytest.approx(3 + 1 + 0 + 4)  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(ROUTES), st.integers(2, 40), st.integers(2, 40), st.integers(1, 25), st.integers(0, 99)
)  # more and fewer samples than features, on either side
def test_zero_symmetric_and_blind_to_order(route: Route, n: int, m: int, dims: int, seed: int) -> None:
    a, b = features(n, dims, seed), features(m, dims, seed + 1)
    whole = frechet.distance(a, b, route)
    scale = np.trace(np.atleast_2d(np.cov(a, rowvar=False))) + np.trace(np.atleast_2d(np.cov(b, rowvar=False)))
    # Rounding errors of zero eigenvalues are rooted: 1e-16 gives 1e-8 a feature
    slack = 1e-7 * scale if route in ("svd", "auto") else 1e-6 * scale
    if route == "tensorflow":  # which does not root singular values of S b S below 1e-10, nor of a: up to 1e-5 each
        values = np.concatenate([np.linalg.eigvalsh(np.atleast_2d(np.cov(x, rowvar=False))) for x in (a, b)])
        slack += 2e-5 * ((values > 1e-14) & (values < 1e-5)).sum()
    assert whole >= -slack
    assert frechet.distance(a, a, route) == pytest.approx(0, abs=slack)
    assert frechet.distance(b, a, route) == pytest.approx(whole, abs=10 * slack, rel=1e-6)
    order = np.random.default_rng(seed)
    assert frechet.distance(order.permutation(a), order.permutation(b), route) == pytest.approx(
        whole, abs=10 * slack, rel=1e-6
    )


@pytest.mark.parametrize(("n", "m"), [(60, 70), (10, 12), (10, 70), (70, 10)])
def test_every_route_is_scipys(n: int, m: int) -> None:
    a, b = features(n, 24, 1), features(m, 24, 2)
    expected = scipys(a, b)
    for route in ROUTES:
        assert frechet.distance(a, b, route) == pytest.approx(expected, rel=1e-5), route
    # float32 features are summed in float64
    assert frechet.distance(a.astype(np.float32), b.astype(np.float32)) == pytest.approx(expected, rel=1e-5)


def test_few_samples_are_told_with_their_number(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "retake"):
        frechet.distance(features(40, 10, 0), features(40, 10, 1))
    assert not caplog.records
    with caplog.at_level(logging.WARNING, "retake"):
        frechet.distance(features(9, 10, 0), features(40, 10, 1))
    assert "of 9 and 40 samples with 10 features" in caplog.text


@pytest.mark.parametrize(("n", "m"), [(60, 70), (10, 12), (10, 70)])
def test_rows_read_at_once_do_not_matter(n: int, m: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nor that they are mapped from a file."""
    sets = []
    for name, rows in (("a", features(n, 24, 1)), ("b", features(m, 24, 2))):
        np.save(tmp_path / f"{name}.npy", rows)
        sets.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    for route in ROUTES:
        found = []
        for chunk in (4096, 30, 7, 1):
            monkeypatch.setattr(frechet, "CHUNK", chunk)
            found.append(frechet.distance(*sets, route))
        assert found == pytest.approx([found[0]] * 4, rel=1e-7), route


def test_memory_does_not_grow_with_the_samples(tmp_path: Path) -> None:
    import tracemalloc

    peaks = []
    for rows in (10_000, 80_000):
        np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(rows, 16)).astype(np.float32))
        mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
        tracemalloc.start()
        frechet.distance(mapped, mapped)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 100_000


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("dims", [3, 40])  # less and more than the 30 rows
def test_without_each_unit_is_the_distance_of_the_rest(route: Route, dims: int) -> None:
    a, b = features(30, dims, 0), features(30, dims, 1)
    units = np.repeat([0, 1, 2, 3], [4, 9, 7, 10])
    expected = [frechet.distance(a[units != u], b[units != u], route) for u in range(4)]
    assert frechet.without_each(a, b, units, route) == pytest.approx(expected, rel=1e-6)


def test_nothing_is_left_of_one_unit_nor_in_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    a = features(6, 3, 0)
    assert frechet.without_each(a, a + 1, np.zeros(6, int)) == []
    assert frechet.without_each(a, a + 1, np.array([0, 0, 0, 0, 0, 1])) == []
    assert len(frechet.without_each(a, a + 1, np.array([0, 0, 0, 1, 1, 1]))) == 2
    monkeypatch.setattr(frechet, "MOST", 100)
    assert frechet.without_each(a, a + 1, np.array([0, 0, 0, 1, 1, 1])) == []


def test_bad_features() -> None:
    good = features(8, 3, 0)
    with pytest.raises(RetakeError, match=r"the second set has 1 sample.*at least 2 rows"):
        frechet.distance(good, good[:1])
    with pytest.raises(RetakeError, match="3 features in the first set, 2 in the second"):
        frechet.distance(good, good[:, :2])
    bad = good.copy()
    bad[5, 1] = np.nan
    with pytest.raises(RetakeError, match="NaN or infinity in sample 5 of the first set"):
        frechet.distance(bad, good)


@pytest.mark.parametrize(
    ("rows", "batch", "short", "expected"),
    [(47, 20, True, 40), (13, 20, True, 13), (13, 20, False, 0), (32, 16, False, 32), (33, 16, False, 32)],
)
def test_rows_that_a_batched_score_sees(rows: int, batch: int, short: bool, expected: int) -> None:
    assert frechet.kept(rows, batch, short=short) == expected
