"""95 % intervals of a table's means: how far would a mean move on other material of the same kind?

in: the values of windows (or pairs, or frames), what each counts, and the clip that each is of. out: an `Interval`.

Windows of one clip resemble each other: they overlap, and they show the same things. So the *clip* is the unit, and the
interval is Student's t over what each clip adds to the mean. Fewer than four clips say nothing of other clips. The units
are then *blocks* of windows, where the clips are long enough for that, and the interval is of other moments of the same
clips. `docs/metrics.md` has the reasons, and how often such intervals hold the true mean of simulated tables.

Nothing is drawn at random: the same values give the same interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

LEVEL = 0.95
LEAST = 4  # units, below which there is no interval
MANY = 10  # clips, from which it is tested whether clips that follow one another resemble each other
BLOCKS = 10  # at most: longer blocks are less correlated, and the degrees of freedom lost cost little
TIMES = 2  # correlation times that a block is at least long
SOKAL = 5  # correlations are summed up to so many correlation times


class Interval(NamedTuple):
    """An interval, NaN where there is none: its ends, what its units are, how many, and what must be said of it or why it is missing.

    `error`: the standard error behind it; `freedom`: the degrees of freedom of its Student's t.
    """

    low: float
    high: float
    unit: str
    units: int
    note: str = ""
    error: float = math.nan
    freedom: float = math.nan


def of_mean(
    values: np.ndarray, weights: np.ndarray, clips: Sequence[str], *, overlap: int, names: tuple[str, str]
) -> Interval:
    """Return the interval of the mean of values (n,), in order of time, with weights (n,); `clips`: the clip of each.

    `overlap`: windows from one to the next that shares no frame with it. `names`: what the values are of and what the
    clips are called, both in the plural. Values without weight are left out. There is no interval of infinite values.
    """
    counted = weights > 0
    values, weights = values[counted], weights[counted] / weights[counted].sum()
    numbers: dict[str, int] = {}
    of_clip = np.array(
        [numbers.setdefault(clip, len(numbers)) for clip, counts in zip(clips, counted, strict=True) if counts]
    )
    count, several = len(numbers), len(numbers) < len(values)
    unit, note, of_unit = names[several], "", of_clip

    def none(why: str) -> Interval:
        return Interval(math.nan, math.nan, names[several], count, why)

    if not np.isfinite(values).all():
        return none("a value is infinite")
    mean = float(values @ weights)
    shares = weights * (values - mean)
    if count < LEAST:
        of_block = blocks(shares, of_clip, overlap)
        if of_block is None:
            return none(f"fewer than {LEAST} {unit}" + (f", and too few independent {names[0]}" if several else ""))
        unit, note, of_unit = f"blocks of {names[0]}", f"of other moments of the same {unit}, not of others", of_block
    elif count >= MANY and resemble_the_next(np.bincount(of_clip, shares)):
        note = f"{unit} that follow one another resemble each other"
        of_block = blocks(np.bincount(of_clip, shares), np.zeros(count, int), 1)
        if of_block is None:
            return none(f"{note}, and too few are independent")
        unit, of_unit = f"blocks of {unit}", of_block[of_clip]
    error, freedom = standard_error(shares, weights, of_unit)
    if math.isnan(error):
        return none(f"one of the {unit} counts for most of the mean")
    half = quantile(freedom) * error
    return Interval(mean - half, mean + half, unit, int(of_unit.max()) + 1, note, error, freedom)


def of_set(value: float, without: Sequence[float], sizes: Sequence[int], name: str) -> Interval:
    """Return the interval of the value of a whole set, such as FID, from the values without each unit in turn, (units,).

    `sizes`: samples in each unit, (units,); `name`: what the units are. By the jackknife (Tukey 1958, Bias and confidence
    in not-quite large samples), for units of different sizes by Busing, Meijer and van der Leeden 1999 (Delete-m
    Jackknife for Unequal m): pseudo-values take the place of the values of a mean. The interval lies about the value
    itself, so it is that of sets of as many samples.
    """
    if len(sizes) < LEAST:
        return Interval(math.nan, math.nan, name, len(sizes), f"fewer than {LEAST} {name}")
    if not len(without):
        return Interval(math.nan, math.nan, name, len(sizes), "it would take hours")
    weights = np.array(sizes) / sum(sizes)
    pseudo = value + (1 - weights) / weights * (value - np.array(without))
    interval = of_mean(pseudo, weights, [str(number) for number in range(len(sizes))], overlap=1, names=(name, name))
    shift = value - float(pseudo @ weights)
    return interval._replace(low=interval.low + shift, high=interval.high + shift)


def of_trainings(values: Sequence[float]) -> Interval:
    """Return the interval of the mean of a table's cell over trainings that differ in their seed: Student's t.

    It answers another question than the other intervals: how far would the cell move with other seeds, on the same windows?
    """
    if len(values) < 2 or not np.isfinite(values).all():
        return Interval(math.nan, math.nan, "trainings", len(values), "fewer than 2 trainings")
    mean, freedom = float(np.mean(values)), len(values) - 1.0
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = quantile(freedom) * error
    return Interval(mean - half, mean + half, "trainings", len(values), "", error, freedom)


def quantile(freedom: float) -> float:
    """Return how many standard errors half an interval is long, with so many degrees of freedom."""
    from scipy.special import stdtrit  # a quarter of a second, which every stage's start would pay

    return float(stdtrit(freedom, (1 + LEVEL) / 2))


def standard_error(shares: np.ndarray, weights: np.ndarray, units: np.ndarray) -> tuple[float, float]:
    """Return the standard error of a weighted mean over units, and its degrees of freedom; NaN where one unit counts for most.

    `shares`: weight times deviation from the mean, (n,); `weights`: (n,), with the sum 1; `units`: the number of the unit
    that each is of, (n,).

    The variance is that of a ratio, of the units' sums of values to their sums of weights (Cochran 1977, Sampling
    Techniques, chapters 6 and 9A). Units of unequal weights are worth (sum of weights)² / (sum of squared weights) units
    of equal ones (Kish 1965, Survey Sampling); t has one degree of freedom less than that.
    """
    totals, sizes = np.bincount(units, shares), np.bincount(units, weights)
    worth = 1 / (sizes @ sizes)
    if worth < 2:
        return math.nan, math.nan
    return math.sqrt(totals @ totals * worth / (worth - 1)), float(worth - 1)


def blocks(shares: np.ndarray, clip: np.ndarray, overlap: int) -> np.ndarray | None:
    """Return the number of each value's block, (n,); None where blocks are fewer than four or too short.

    Batch means (Schmeiser 1982, Batch size effects in the analysis of simulation output): non-overlapping blocks of equal
    length, at most ten, none over two clips. They are at least as long as windows overlap and as two correlation
    times. Their length does not follow the measured correlation: then an interval would be too narrow wherever the
    correlation happens to be measured too low. What is left over at the end of a clip lengthens its blocks.
    """
    length = max(overlap, math.ceil(len(shares) / BLOCKS))
    sizes = np.bincount(clip)
    counts = np.maximum(sizes // length, 1)
    if counts.sum() < LEAST or length < TIMES * correlation_time(shares, clip):
        return None
    firsts = np.cumsum(counts) - counts
    return np.concatenate(
        [first + np.arange(size) * count // size for first, size, count in zip(firsts, sizes, counts, strict=True)]
    )


def correlation_time(shares: np.ndarray, clip: np.ndarray) -> float:
    """Return the integrated correlation time of deviations (n,) inside clips, in windows: 1 for independent ones, or more.

    It is 1 + 2 (sum of the correlations of values 1 to M apart), with the smallest M that is five times the result (Sokal
    1997, Monte Carlo Methods in Statistical Mechanics: Foundations and New Algorithms), enlarged for what a mean that
    is itself estimated takes away (Wolff 2004, Monte Carlo errors with less errors). Infinite where no M is so large.
    Deviations are those from the mean of all clips: what all values of a clip share is a correlation as long as the clip.
    """
    squares = shares @ shares / len(shares)
    if squares == 0:
        return 1.0
    time = 1.0
    for apart, product in enumerate(_products(shares, clip), start=1):
        time += 2 * product / squares
        if apart >= SOKAL * time:
            lost = (2 * apart + 1) / len(shares)
            return max(time, 1.0) / (1 - lost) if lost < 1 else math.inf
    return math.inf


def _products(shares: np.ndarray, clip: np.ndarray) -> Iterator[float]:
    """Yield the mean product of deviations 1, 2, 3 … apart in the same clip."""
    for apart in range(1, int(np.bincount(clip).max())):
        same = clip[apart:] == clip[:-apart]
        yield float((shares[apart:] * shares[:-apart])[same].mean())


def resemble_the_next(shares: np.ndarray) -> bool:
    """Return whether what clips add (n,) is correlated from one to the next by more than two standard errors, 2 / √n.

    So are clips that were cut from one recording.
    """
    squares = shares @ shares
    return bool(squares > 0 and shares[1:] @ shares[:-1] > 2 / math.sqrt(len(shares)) * squares)
