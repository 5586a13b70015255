"""Did it reproduce? What the difference between a measured and a published value can mean, and what it cannot.

Both values rest on the same windows, so the interval over windows says nothing of their difference: it is about other material.
What could have made them differ decides what the difference means:

* Weights that the authors published, or a method without weights, on the whole test set: nothing but rounding, and the draws where routing or noise is
  sampled. The values agree to the published digits, or they differ by more than chance.
* Weights that were trained again: another training. Its spread is known only where there are several (`seeds`).
* A part of the test set: other material. Here the interval over windows answers.

Values of other metrics, averages, frame sizes or test sets are not compared: their difference would mean nothing.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from pipeline.tables import intervals

Kind = Literal[
    "agrees", "differs", "inside", "outside", "one training", "partial inside", "partial outside", "not comparable"
]

WORDS: dict[str, str] = {
    "agrees": "agree to the published digits",
    "differs": "differ, not by chance",
    "inside": "inside the interval over trainings",
    "outside": "outside the interval over trainings",
    "one training": "one training, spread unknown",
    "partial inside": "partial data, inside the interval over windows",
    "partial outside": "partial data, outside the interval over windows",
    "not comparable": "not comparable",
}
MARKS: dict[str, str] = {
    "agrees": "=",
    "differs": "≠",
    "inside": "≈",
    "outside": "≉",
    "one training": "1",
    "partial inside": "(≈)",
    "partial outside": "(≉)",
    "not comparable": "—",
}


@dataclass
class Published:
    """A published value as printed, in the table's scale, and what is known of how it was measured.

    `facts`: what the source says of the measurement, by name (`average`, `size`, `windows`, `settings`); what it does not say is
    left out, and then not compared.
    """

    text: str
    grade: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Measured:
    """A measured value and what its difference from a published one can come from.

    `spread`: standard deviation between draws (NaN where nothing is drawn), `draws`: how many; `trainings`: the values of
    single trainings; `imported`: whether the authors' weights made it, or none; `partial`: what part of the test set, "" for all.
    `facts`: as of `Published`.
    """

    mean: float
    low: float = math.nan
    high: float = math.nan
    spread: float = math.nan
    draws: int = 1
    trainings: list[float] = field(default_factory=list)
    imported: bool = False
    partial: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Verdict:
    """What was found: its kind, ours minus the paper's (NaN where they do not compare), and a sentence."""

    kind: Kind
    difference: float
    words: str

    @property
    def mark(self) -> str:
        """The sign that tables print."""
        return MARKS[self.kind]


def verdict(published: Published, measured: Measured, digits: int = 6) -> Verdict:
    """Return what the difference between the two values means; `digits`: decimals that the sentence prints."""
    other = not_comparable(published.facts, measured.facts)
    if other:
        return Verdict("not comparable", math.nan, f"not comparable: {other}")
    value = float(published.text)
    difference = measured.mean - value
    told = f"difference {difference:+.{digits}f}"
    if measured.partial:
        inside = measured.low <= value <= measured.high
        several = len(measured.trainings) > 1
        if several or math.isnan(measured.low):
            lacks = "whose interval is over trainings, not over windows" if several else "without an interval"
            return Verdict(
                "not comparable", math.nan, f"not comparable: part of the data ({measured.partial}), {lacks}"
            )
        where = "inside" if inside else "outside"
        return Verdict(
            "partial inside" if inside else "partial outside",
            difference,
            f"{told}; part of the data ({measured.partial}): the published value lies {where} the interval over windows",
        )
    if measured.imported:
        if abs(difference) <= tolerance(published.text, measured):
            rounded = abs(difference) <= tolerance(published.text, Measured(measured.mean))
            drawn = "" if rounded else ", counting the spread over draws"
            return Verdict("agrees", difference, f"agrees to the published digits{drawn}")
        return Verdict("differs", difference, f"differs by {difference:+.{digits}f}, not by chance")
    if len(measured.trainings) < 2:
        return Verdict("one training", difference, f"one training, {told}, spread unknown")
    interval = intervals.of_trainings(measured.trainings)
    half = half_unit(published.text)
    count = f"{len(measured.trainings)} trainings"
    if interval.low - half <= value <= interval.high + half:
        return Verdict("inside", difference, f"{told}; inside the 95 % interval over {count}")
    side = "above" if difference > 0 else "below"
    chance = "within" if abs(difference) - half <= reach_of_one(measured.trainings) else "beyond"
    return Verdict(
        "outside",
        difference,
        f"{told}; outside the 95 % interval over {count}: ours is {side}; {chance} the reach of one more training",
    )


def reach_of_one(trainings: list[float]) -> float:
    """Return how far one more training lies from the mean of `trainings` in 95 of 100 cases.

    That is the half-width of Student's prediction interval. A paper's number is one training, so it may lie outside the interval of
    a mean of many and still be one of them.
    """
    return _reach(statistics.stdev(trainings), len(trainings))


def _reach(spread: float, count: int) -> float:
    return intervals.quantile(count - 1) * spread * math.sqrt(1 + 1 / count)


def half_unit(text: str) -> float:
    """Return half a unit of the last digit of a number as printed: 0.005 of "88.16"."""
    exponent = Decimal(text).as_tuple().exponent
    assert isinstance(exponent, int)
    return float(Decimal(5).scaleb(exponent - 1))


def tolerance(text: str, measured: Measured) -> float:
    """Return how far the same weights may lie from a printed value: rounding, and what one draw differs from our mean of draws."""
    slack = half_unit(text) * (1 + 1e-9)  # the decimal's binary neighbour still rounds to it
    if measured.draws > 1 and measured.spread > 0:
        slack += _reach(measured.spread, measured.draws)
    return slack


def not_comparable(published: dict[str, Any], measured: dict[str, Any]) -> str:
    """Return in what the two were not measured alike, "" where nothing that both tell differs."""
    names = {
        "average": "another average",
        "settings": "another variant of the metric",
        "size": "another frame size",
        "windows": "another test split",
    }
    told = []
    for key, what in names.items():
        theirs, ours = published.get(key), measured.get(key)
        if isinstance(theirs, dict) and isinstance(ours, dict):  # settings: those that both tell
            differ = [k for k in theirs if k in ours and ours[k] != theirs[k]]
            theirs, ours = ({k: side[k] for k in differ} for side in (theirs, ours))
        if theirs is not None and ours is not None and theirs != ours:
            told.append(f"{what} ({_plain(theirs)} there, {_plain(ours)} here)")
    return "; ".join(told)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return str(value)


def count(verdicts: list[Verdict]) -> str:
    """Return one sentence that counts verdicts."""
    if not verdicts:
        return "No cell has both a published and a measured value."
    return f"Of {len(verdicts)} cells with a published and a measured value: {numbers(verdicts)}."


def numbers(verdicts: list[Verdict]) -> str:
    """Return how many verdicts there are of each kind, in words."""
    counts = {kind: sum(v.kind == kind for v in verdicts) for kind in WORDS}
    return ", ".join(f"{number} {WORDS[kind]}" for kind, number in counts.items() if number)
