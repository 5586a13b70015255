"""Verdicts: a made-up case of each, and what stops two values from being compared."""

from __future__ import annotations

import math

import pytest

from pipeline.tables import verdicts
from pipeline.tables.verdicts import Measured, Published


def of(text: str, **measured: object) -> verdicts.Verdict:
    return verdicts.verdict(Published(text), Measured(**measured))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "mean", "kind"),
    [
        ("88.16", 88.1649, "agrees"),
        ("88.16", 88.155, "agrees"),  # rounds to it
        ("88.16", 88.1651, "differs"),
        ("88.2", 88.16, "agrees"),  # one digit fewer, ten times the room
        ("99", 99.4, "agrees"),
        ("99", 98.4, "differs"),
    ],
)
def test_published_weights_on_the_whole_set_agree_to_the_printed_digits(text: str, mean: float, kind: str) -> None:
    # however wide the interval over windows is: both values rest on the same windows
    made = of(text, mean=mean, low=mean - 9, high=mean + 9, imported=True)
    assert made.kind == kind
    assert made.difference == pytest.approx(mean - float(text))


def test_sampled_draws_widen_what_agrees() -> None:
    drawn = {"mean": 10.06, "imported": True, "draws": 3, "spread": 0.02}
    # 0.005 of rounding, and 4.303 * 0.02 * √(4/3) = 0.0994 of one draw
    assert of("10.00", **drawn).kind == "agrees"
    assert of("10.00", **drawn).words == "agrees to the published digits, counting the spread over draws"
    assert of("10.06", **drawn).words == "agrees to the published digits"  # as one draw would
    assert of("10.00", **drawn | {"mean": 10.11}).kind == "differs"
    assert of("10.00", **drawn | {"draws": 1, "spread": math.nan}).kind == "differs"


def test_one_training_never_reproduces() -> None:
    made = of("27.80", mean=27.80)
    assert made.kind == "one training"
    assert made.words == "one training, difference +0.000000, spread unknown"


@pytest.mark.parametrize(
    ("text", "kind", "side"),
    [
        ("3.0", "inside", "inside"),
        ("4.2", "inside", "inside"),
        ("5.0", "outside", "below"),
        ("0.5", "outside", "above"),
    ],
)
def test_several_trainings_are_judged_by_their_spread(text: str, kind: str, side: str) -> None:
    # 2, 3, 4: mean 3, error 1/√3, t 4.303: 0.516 to 5.484; of five such values 2.016 to 3.984
    made = of(text, mean=3.0, trainings=[2.0, 3.0, 4.0, 2.5, 3.5] if text in ("5.0", "0.5") else [2.0, 3.0, 4.0])
    assert made.kind == kind
    assert side in made.words


def test_one_more_training_reaches_further_than_the_mean_of_several() -> None:
    # 2, 3, 4, 2.5, 3.5: standard deviation √0.625, t of 4 degrees 2.776, of one more √(1 + 1/5): 2.404
    trainings = [2.0, 3.0, 4.0, 2.5, 3.5]
    assert verdicts.reach_of_one(trainings) == pytest.approx(2.4045, abs=1e-4)
    assert of("5.4", mean=3.0, trainings=trainings).words.endswith(
        "ours is below; within the reach of one more training"
    )
    assert of("5.5", mean=3.0, trainings=trainings).words.endswith(
        "ours is below; beyond the reach of one more training"
    )


def test_a_part_of_the_data_is_judged_by_the_interval_over_windows() -> None:
    part = {"mean": 20.0, "low": 18.0, "high": 22.0, "partial": "1 of 4 archives"}
    assert of("21.5", **part).kind == "partial inside"
    assert of("22.5", **part).kind == "partial outside"
    assert "1 of 4 archives" in of("22.5", **part).words
    assert of("22.5", **part | {"low": math.nan, "high": math.nan}).kind == "not comparable"
    several = of("21.5", **part, trainings=[19.0, 21.0])  # the cell's interval is over trainings then
    assert (several.kind, "over trainings" in several.words) == ("not comparable", True)


@pytest.mark.parametrize(
    ("theirs", "ours", "words"),
    [
        ({"average": "scenes"}, {"average": "frames"}, "another average (scenes there, frames here)"),
        ({"size": "832x256"}, {"size": "320x192"}, "another frame size (832x256 there, 320x192 here)"),
        ({"windows": 1337}, {"windows": 32}, "another test split (1337 there, 32 here)"),
        (
            {"settings": {"net": "alex", "version": "0.0"}},
            {"settings": {"net": "alex", "version": "0.1", "range": [-1, 1]}},
            "another variant of the metric (version 0.0 there, version 0.1 here)",
        ),
    ],
)
def test_what_was_not_measured_alike_is_not_compared(theirs: dict, ours: dict, words: str) -> None:
    made = verdicts.verdict(Published("1.0", facts=theirs), Measured(1.0, imported=True, facts=ours))
    assert (made.kind, made.words) == ("not comparable", f"not comparable: {words}")
    assert math.isnan(made.difference)
    # what one side does not tell is not held against it
    assert verdicts.verdict(Published("1.0"), Measured(1.0, imported=True, facts=ours)).kind == "agrees"
    assert verdicts.verdict(Published("1.0", facts=theirs), Measured(1.0, imported=True, facts=theirs)).kind == "agrees"


def test_the_count_names_every_verdict_once() -> None:
    made = [of("1.0", mean=1.0, imported=True), of("1.0", mean=2.0, imported=True), of("1.0", mean=1.0)]
    assert verdicts.count(made) == (
        "Of 3 cells with a published and a measured value: 1 agree to the published digits, 1 differ, not by chance, "
        "1 one training, spread unknown."
    )
    assert verdicts.count([]) == "No cell has both a published and a measured value."
    assert set(verdicts.WORDS) == set(verdicts.MARKS)


@pytest.mark.parametrize(("text", "half"), [("88.16", 0.005), ("99", 0.5), ("0.0010", 0.00005), ("1.2e2", 5.0)])
def test_half_a_unit_of_the_last_digit(text: str, half: float) -> None:
    assert verdicts.half_unit(text) == pytest.approx(half)
