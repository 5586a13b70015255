"""Fréchet distance of two sets of features, as FID, FVD and DTFVD use it; no registry entry of its own.

    |m1 - m2|^2 + tr C1 + tr C2 - 2 tr (C1 C2)^(1/2),   C with divisor N - 1, everything in float64

in: (N, D) features, one row a sample. Three routes to the last term:

* `svd`: with centred features X and Y, C1 = X'X and C2 = Y'Y; the term is the sum of the singular values of X Y', a
  matrix of the samples' numbers. Taken where a set has no more samples than features: there is no covariance to root,
  and none of its zero eigenvalues, whose rounding errors a square root makes large (about 1e-4 of the distance).
* `eigen`: the roots of the eigenvalues of C1^(1/2) C2 C1^(1/2). Taken otherwise.
* `tensorflow`: the formula of tensorflow-gan, in which i2v-cINN's FVD was computed.

Features may be memory-mapped: they are read `CHUNK` rows at a time, so memory depends on their width, not on their number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline.errors import RetakeError, log, progress
from pipeline.metrics import cache

if TYPE_CHECKING:
    from torch import Tensor

Route = Literal["auto", "svd", "eigen", "tensorflow"]
TINY = 1e-10  # singular values below it are not rooted by tensorflow-gan
CHUNK = 4096  # rows
MOST = 1e14  # operations of `without_each`: about an hour of one core


@dataclass
class Moments:
    """Mean (D,) and covariance (D, D) of a set, float64: all that the routes `eigen` and `tensorflow` read."""

    mean: np.ndarray
    covariance: np.ndarray


def moments(features: np.ndarray) -> Moments:
    """Return the moments of (N, D) features; divisor N - 1."""
    total, dims = features.shape
    mean, squares = np.zeros(dims), np.zeros((dims, dims))
    for rows in _chunks(features):
        mean += rows.sum(axis=0) / total
    for rows in _chunks(features):
        rows -= mean
        squares += rows.T @ rows
    return Moments(mean, squares / (total - 1))


def _chunks(features: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows in float64."""
    for start in range(0, len(features), CHUNK):
        yield features[start : start + CHUNK].astype(np.float64)


def distance(a: np.ndarray, b: np.ndarray, route: Route = "auto") -> float:
    """Return the Fréchet distance of two sets of features, (N, D) and (M, D); N and M at least 2.

    Raises RetakeError for a single sample, another number of features, NaN and infinity. It warns where a set has no
    more samples than features: its covariance is then singular and the distance too large.
    """
    check(a, b)
    _warn_of_few(len(a), len(b), a.shape[1])
    return _distance(a, b, route)


def _warn_of_few(one: int, other: int, dims: int) -> None:
    if min(one, other) <= dims:
        log.warning(
            "Fréchet distance of %d and %d samples with %d features: with so few the distance is too large, compare it "
            "only with distances of as many samples",
            one, other, dims,
        )  # fmt: skip


def check(a: np.ndarray, b: np.ndarray) -> None:
    """Raise RetakeError unless two sets of features have a Fréchet distance."""
    _check_rows("first", a)
    _check_rows("second", b)
    _check_widths(a.shape[1], b.shape[1])


def _check_rows(which: str, rows: np.ndarray) -> None:
    if rows.ndim != 2 or len(rows) < 2:
        raise RetakeError(
            f"Fréchet distance: the {which} set has {len(rows)} sample(s) in an array of shape {rows.shape}; at "
            "least 2 rows of features are needed: give more frames or clips"
        )
    for start in range(0, len(rows), CHUNK):
        wrong = ~np.isfinite(rows[start : start + CHUNK]).all(axis=1)
        if wrong.any():
            bad = start + int(np.flatnonzero(wrong)[0])
            raise RetakeError(f"Fréchet distance: NaN or infinity in sample {bad} of the {which} set")


def _check_widths(one: int, other: int) -> None:
    if one != other:
        raise RetakeError(
            f"Fréchet distance: {one} features in the first set, {other} in the second: they are of different networks"
        )


def _distance(a: np.ndarray, b: np.ndarray, route: Route) -> float:
    if route == "auto":
        route = "svd" if min(len(a), len(b)) <= a.shape[1] else "eigen"
    return _of_roots(gaussian(a), gaussian(b)) if route == "svd" else of_moments(moments(a), moments(b), route)


@dataclass
class Gaussian:
    """All that any route reads of a set: its mean (D,), `root` (r, D) with covariance = root' root, its samples; float64.

    r is at most the samples and at most D.
    """

    mean: np.ndarray
    root: np.ndarray
    samples: int

    @property
    def moments(self) -> Moments:
        """Mean and covariance."""
        return Moments(self.mean, self.root.T @ self.root)


def gaussian(features: np.ndarray) -> Gaussian:
    """Return what a distance reads of (N, D) features; divisor N - 1."""
    import torch  # its linear algebra keeps to torch's number of threads

    n, dims = features.shape
    mean = np.sum([rows.sum(axis=0) for rows in _chunks(features)], axis=0) / n
    factor = torch.empty((0, dims), dtype=torch.float64)
    for start in range(0, n, CHUNK):
        rows = torch.from_numpy(features[start : start + CHUNK].astype(np.float64) - mean) / np.sqrt(n - 1)
        factor = torch.cat([factor, rows])
        if n > dims:  # a triangle has the same covariance
            factor = torch.linalg.qr(factor, mode="r").R
    if n <= dims:
        # A reflection that takes the mean, which is zero, to the first row: one zero singular value less
        factor = factor[1:] + factor[:1] / (np.sqrt(n) - 1)
    return Gaussian(mean, factor.numpy(), n)


def distance_to(a: np.ndarray, truth: Gaussian, route: Route = "auto") -> float:
    """Return `distance` of (N, D) features and a set of which only this is known: the same to rounding of float64."""
    _check_rows("first", a)
    _check_widths(a.shape[1], len(truth.mean))
    _warn_of_few(len(a), truth.samples, a.shape[1])
    if route == "auto":
        route = "svd" if min(len(a), truth.samples) <= a.shape[1] else "eigen"
    return _of_roots(gaussian(a), truth) if route == "svd" else of_moments(moments(a), truth.moments, route)


def _of_roots(a: Gaussian, b: Gaussian) -> float:
    import torch

    squares = float(np.square(a.root).sum() + np.square(b.root).sum())
    root = _sum_of_singular_values(torch.from_numpy(a.root) @ torch.from_numpy(b.root).T)
    return float(((a.mean - b.mean) ** 2).sum()) + squares - 2 * root


def _sum_of_singular_values(matrix: Tensor) -> float:
    """Return it within 1e-8: by the eigenvalues of the square, a third of the time, where none is too near zero."""
    import torch

    matrix = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    squares = torch.linalg.eigvalsh(matrix @ matrix.T)
    noise = 10 * torch.finfo(squares.dtype).eps * squares[-1]
    roots = squares.clamp(min=0).sqrt()
    error = torch.minimum(noise.sqrt(), noise / (2 * roots)).sum()
    return float(roots.sum() if error <= 1e-8 * roots.sum() else torch.linalg.svdvals(matrix).sum())


def of_moments(a: Moments, b: Moments, route: Literal["eigen", "tensorflow"] = "eigen") -> float:
    """Return the Fréchet distance of two Gaussians, (D,) and (D, D) each."""
    root = _eigen_root if route == "eigen" else _tensorflow_root
    difference = a.mean - b.mean
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    return float(difference @ difference + traces - 2 * root(a.covariance, b.covariance))


def _eigen_root(a: np.ndarray, b: np.ndarray) -> float:
    import torch

    values, vectors = torch.linalg.eigh(torch.from_numpy(a))
    half = vectors * values.clamp(min=0).sqrt()  # half half' = a
    return float(torch.linalg.eigvalsh(half.T @ torch.from_numpy(b) @ half).clamp(min=0).sqrt().sum())


def _tensorflow_root(a: np.ndarray, b: np.ndarray) -> float:
    """Return tr R(S b S) with S = R(a): R takes the roots of singular values, but of those below 1e-10."""
    import torch

    def root(matrix: Tensor) -> Tensor:
        left, values, right = torch.linalg.svd(matrix)
        return (left * torch.where(values < TINY, values, values.sqrt())) @ right

    half = root(torch.from_numpy(a))
    return float(root(half @ (torch.from_numpy(b) @ half)).trace())


def without_each(a: np.ndarray, b: np.ndarray, units: np.ndarray, route: Route = "auto") -> list[float]:
    """Return the distances of two sets, (N, D) both, without each unit in turn: what an interval is made of.

    `units`: the number of the unit that a row of either set belongs to, (N,) integers from 0. Units are independent of
    each other, as clips are and frames of a clip are not. Empty where fewer than two rows are left, or where it would take
    hours (`MOST`).
    """
    sizes, dims = np.bincount(units), a.shape[1]
    operations = len(sizes) * (4 * len(units) * dims**2 + 20 * dims**3)
    if len(units) - sizes.max() < 2 or operations > MOST:
        return []
    distances = []
    for unit in progress(range(len(sizes)), unit="distance", desc="interval"):
        rest: list[Any] = [cache.Taken(rows, np.flatnonzero(units != unit)) for rows in (a, b)]
        distances.append(_distance(rest[0], rest[1], route))
    return distances


def kept(rows: int, batch: int, *, short: bool = True) -> int:
    """Return how many of `rows` samples a score sees that drops what does not fill a batch.

    `short`: fewer than a batch are one batch of all (i2v-cINN's FID, PFVD and DTFVD, pytorch-fid of old); False: they
    are dropped too (its TensorFlow FVD).
    """
    return rows if short and rows < batch else rows // batch * batch
