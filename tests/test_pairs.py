"""Paired differences: closed forms, Holm's correction, and size and power on simulated tables."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pipeline.errors import RetakeError
from pipeline.tables import measured, pairs
from pipeline.tables.cells import Column, Row

ABOUT = {
    "label": "Error", "identity": "1", "settings": {}, "better": "lower", "scale": 1.0, "digits": 2, "mean": "plain", "needs": "frames",
}  # fmt: skip
COLUMN = Column("error", "error", ABOUT)


def row(name: str, values: dict[str, list[list[float]]], **about: Any) -> Row:
    """Return a measured row: window -> (samples, steps)."""
    windows = {window: np.array(v, np.float64) for window, v in values.items()}
    meta = {
        "metrics": {"error": ABOUT | about}, "values": {"error": windows}, "weights": {"error": dict.fromkeys(windows, 1.0)},
        "predictions": {"protocol": {"window": 1}}, "sets": {},
    }  # fmt: skip
    made = Row(name, name, "measured", facts={"note": ""}, meta=meta)
    measured.fill(made, [COLUMN], "windows")
    return made


def clips(values: Any) -> dict[str, list[list[float]]]:
    return {f"c{i:03}:0": [[float(v)]] for i, v in enumerate(values)}


def test_the_difference_is_the_paired_t_test() -> None:
    a, b = [1.0, 3.0, 2.0, 5.0, 4.0], [0.5, 2.0, 2.5, 4.0, 3.0]
    made = pairs.difference(row("a", clips(a)), row("b", clips(b)), COLUMN, "windows")
    expected = stats.ttest_rel(a, b)
    low, high = expected.confidence_interval()
    assert made is not None
    assert made[3:7] == pytest.approx((0.6, low, high, expected.pvalue))
    assert (made.unit, made.units) == ("windows", 5)


def test_rows_without_the_same_values_differ_by_what_both_have() -> None:
    """The first row lacks its hardest window: its mean is the lower one, and where both have values it is the worse one."""
    a, b = [1.5, 2.6, 3.5, 4.4, 5.7, math.nan], [1.0, 2.0, 3.0, 4.0, 5.0, 90.0]
    made = pairs.difference(row("a", clips(a)), row("b", clips(b)), COLUMN, "windows")
    expected = stats.ttest_rel(a[:5], b[:5])
    assert made is not None
    assert made[3:7] == pytest.approx((0.54, *expected.confidence_interval(), expected.pvalue))
    assert made.note == "of the 5 of 6 windows that have values of both"
    decibel = [row(name, clips(values), mean="decibel") for name, values in (("a", a), ("b", b))]
    made = pairs.difference(decibel[0], decibel[1], COLUMN, "windows")
    assert made is not None
    assert made.mean == pytest.approx(-10 * math.log10(17.7 / 15))


def test_a_training_without_a_value_leaves_the_others() -> None:
    """Where the first has none, too, and what each one says of its own values."""
    rows = [row("m_1", clips([1.0, 2.0])), row("m_2", clips([3.0, 4.0])), row("m_3", clips([5.0, 6.0]))]
    for i, made in enumerate(rows):
        made.meta |= {"note": "" if i else "no values of error", "horizons": {}}
        made.facts |= {"checkpoint": f"c{i}", "params": f"p{i}"}
    rows[0].cells.clear()
    for key in ("values", "weights"):
        rows[0].meta[key] = {}
    whole = measured.together(rows)
    cell = whole.cells["error"]
    assert (cell.mean, cell.trainings, cell.units) == (4.5, [3.5, 5.5], 2)
    assert cell.note == "2 of 3 trainings have a value"
    assert whole.meta["values"]["error"]["c000:0"].tolist() == [[3.0], [5.0]]
    assert whole.meta["weights"]["error"] == {"c000:0": 1.0, "c001:0": 1.0}
    assert whole.facts["note"] == "mean of 3 trainings that differ in their seed; m_1: no values of error"


def test_thousands_of_clips_are_units_each() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 4000))
    made = pairs.difference(row("a", clips(a)), row("b", clips(b)), COLUMN, "windows")
    assert made is not None
    assert made[3:7] == pytest.approx(
        (np.mean(a - b), *stats.ttest_rel(a, b).confidence_interval(), stats.ttest_rel(a, b).pvalue)
    )
    assert made.units == 4000


def test_pairing_sees_what_separate_intervals_do_not() -> None:
    hard = np.array([30.0, 5, 45, 10, 0, 40, 20, 35, 15, 25])
    better, worse = row("a", clips(hard)), row("b", clips(hard + 0.1 + 0.01 * (np.arange(10) % 2)))
    assert better.cells["error"].high > worse.cells["error"].low
    made = pairs.difference(worse, better, COLUMN, "windows")
    assert made is not None
    assert made.p < 1e-6
    assert made.low < 0.105 < made.high


def test_equal_rows_do_not_differ() -> None:
    made = pairs.difference(row("a", clips([1, 2, 3, 4])), row("b", clips([1, 2, 3, 4])), COLUMN, "windows")
    assert made is not None
    assert (made.mean, made.p) == (0, 1)


def test_decibels_are_those_of_the_mean_errors() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0.01, 0.02, 40), rng.uniform(0.02, 0.04, 40)
    rows = [row(name, clips(v), mean="decibel", better="higher") for name, v in (("a", a), ("b", b))]
    made = pairs.difference(*rows, COLUMN, "windows")
    assert made is not None
    assert made.mean == pytest.approx(10 * np.log10(b.mean() / a.mean()))
    assert made.low < made.mean < made.high
    scaled = [row(name, clips(7 * v), mean="decibel", better="higher") for name, v in (("a", a), ("b", b))]
    again = pairs.difference(*scaled, COLUMN, "windows")
    assert again is not None
    assert again[3:7] == pytest.approx(made[3:7])


def test_windows_of_one_clip_are_one_unit() -> None:
    values = {
        f"{clip}:{start}": [[v + start / 10]]
        for clip, v in zip("abcde", (1, 2, 4, 3, 6), strict=True)
        for start in range(4)
    }
    made = pairs.difference(row("a", values), row("b", {window: [[0.0]] for window in values}), COLUMN, "windows")
    assert made is not None
    assert (made.unit, made.units) == ("clips", 5)


def test_too_few_units_have_no_test() -> None:
    made = pairs.difference(row("a", clips([1, 2])), row("b", clips([0, 0])), COLUMN, "windows")
    assert made is not None
    assert made.mean == 1.5
    assert math.isnan(made.p)
    assert "fewer than 4" in made.note


def test_rows_of_other_windows_or_metrics_are_refused() -> None:
    one = row("a", clips([1, 2, 3, 4]))
    with pytest.raises(RetakeError, match="not measured on the same windows: 2 of them differ"):
        pairs.difference(one, row("b", clips([1, 2, 3, 4, 5, 6])), COLUMN, "windows")
    with pytest.raises(RetakeError, match="they do not compare"):
        pairs.difference(one, row("b", clips([1, 2, 3, 4]), identity="2"), COLUMN, "windows")
    assert pairs.difference(one, row("b", clips([math.nan] * 4)), COLUMN, "windows") is None


def test_trainings_add_their_own_error() -> None:
    one, other = row("a", clips([3, 4, 5, 4])), row("b", clips([1, 1, 2, 2]))
    alone = pairs.difference(one, other, COLUMN, "windows")
    one.cells["error"].trainings = [3.5, 4.5, 4.0]
    both = pairs.difference(one, other, COLUMN, "windows")
    assert alone is not None and both is not None
    assert both.high - both.low > alone.high - alone.low
    errors = [np.std([2, 3, 3, 2], ddof=1) / 2, np.std([3.5, 4.5, 4.0], ddof=1) / math.sqrt(3)]
    freedom = (errors[0] ** 2 + errors[1] ** 2) ** 2 / (errors[0] ** 4 / 3 + errors[1] ** 4 / 2)  # Satterthwaite
    assert both.high - both.mean == pytest.approx(stats.t.ppf(0.975, freedom) * math.hypot(*errors))


def test_holm_by_hand() -> None:
    assert pairs.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert pairs.holm([0.6, 0.7]) == pytest.approx([1, 1])
    assert pairs.holm([]) == []
    nan = pairs.holm([math.nan, 0.02])
    assert math.isnan(nan[0]) and nan[1] == 0.02


def test_rows_are_held_against_the_best_of_each_column() -> None:
    rows = [row("a", clips([1, 2, 3, 4])), row("b", clips([1.1, 1.9, 3.1, 3.95])), row("c", clips([5, 6.1, 7, 8]))]
    made = {d.one: d for d in pairs.from_best(rows, [COLUMN], "windows")}
    assert set(made) == {"b", "c"}
    assert made["b"].other == made["c"].other == "a"
    assert made["b"].holm > 0.05 > made["c"].holm


def test_the_same_values_give_the_same_bytes() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=20), rng.normal(size=20)
    first, second = (pairs.difference(row("a", clips(a)), row("b", clips(b)), COLUMN, "windows") for _ in range(2))
    assert repr(first) == repr(second)


def rejected(rng: np.random.Generator, tables: int, units: int, shift: float, correlated: float) -> float:
    """Return the share of simulated tables whose two rows are said to differ; windows are as hard for both rows."""
    count = 0
    for _ in range(tables):
        hard = rng.normal(size=units) * 3
        noise = rng.normal(size=(2, units))
        a, b = hard + noise[0], hard + correlated * noise[0] + math.sqrt(1 - correlated**2) * noise[1] + shift
        made = pairs.difference(row("a", clips(a)), row("b", clips(b)), COLUMN, "windows")
        assert made is not None
        count += made.p < pairs.ALPHA
    return count / tables


@pytest.mark.parametrize("units", [4, 9])
def test_size_and_power(units: int) -> None:
    rng = np.random.default_rng(1)
    assert rejected(rng, 150, units, 0.0, 0.0) < 0.12
    assert rejected(rng, 60, units, 8.0, 0.0) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("units", [4, 9, 40])
@pytest.mark.parametrize("correlated", [0.0, 0.9])
def test_size_and_power_at_length(units: int, correlated: float) -> None:
    rng = np.random.default_rng(2)
    assert 0.03 < rejected(rng, 3000, units, 0.0, correlated) < 0.07
    assert rejected(rng, 300, units, 6.0, correlated) > 0.95
