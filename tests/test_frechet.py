"""Fréchet distance: closed forms, its properties on every route, scipy's square root, few samples, the bootstrap."""

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
    assert peaks[1] - peaks[0] < 2 * 8 * 80_000 + 100_000  # the counts of rows alone


def test_counted_moments_are_those_of_repeated_rows() -> None:
    a = features(30, 5, 0)
    counts = np.random.default_rng(0).integers(0, 4, 30)
    counted, repeated = frechet.moments(a, counts), frechet.moments(np.repeat(a, counts, axis=0))
    np.testing.assert_allclose(counted.mean, repeated.mean, rtol=1e-12)
    np.testing.assert_allclose(counted.covariance, repeated.covariance, rtol=1e-10, atol=1e-12)


def test_interval_draws_whole_clips() -> None:
    """Frames of a clip that are all alike say no more than one of them: the interval is that of the clips."""
    a, b = features(60, 4, 0), features(60, 4, 1)
    alone = frechet.interval(a, b, draws=60)
    together = frechet.interval(np.repeat(a, 5, axis=0), np.repeat(b, 5, axis=0), each=(5, 5), draws=60)
    apart = frechet.interval(np.repeat(a, 5, axis=0), np.repeat(b, 5, axis=0), draws=60)
    assert alone is not None and together is not None and apart is not None
    assert together == pytest.approx(alone, rel=0.1)
    assert apart[1] - apart[0] < 0.7 * (together[1] - together[0])


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


def test_interval_holds_the_distance_of_many_samples() -> None:
    """Of 40 pairs of sets about 38 intervals hold the true distance; 30 leave room for a skewed estimator."""
    rng = np.random.default_rng(0)
    true, hits = 1.0, 0
    for seed in range(40):
        a, b = rng.normal(size=(150, 2)), rng.normal([1, 0], size=(150, 2))
        found = frechet.interval(a, b, draws=60, seed=seed)
        assert found is not None and found[0] <= found[1]
        hits += found[0] <= true <= found[1]
    assert hits >= 30


def test_interval_is_none_with_few_samples_and_repeats() -> None:
    a, b = features(20, 10, 0), features(50, 10, 1)
    assert frechet.interval(a, b) is None
    a = features(50, 10, 0)
    assert frechet.interval(a, b, draws=20) == frechet.interval(a, b, draws=20)


@pytest.mark.parametrize(
    ("rows", "batch", "short", "expected"),
    [(47, 20, True, 40), (13, 20, True, 13), (13, 20, False, 0), (32, 16, False, 32), (33, 16, False, 32)],
)
def test_rows_that_a_batched_score_sees(rows: int, batch: int, short: bool, expected: int) -> None:
    assert frechet.kept(rows, batch, short=short) == expected
