"""What a table is made of: rows, columns, cells, and what differs between the tables of tasks."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.metrics import mean
from pipeline.params import Experiment

PARTS = ("low", "high", "spread")  # of a cell, beside its mean


@dataclass
class Cell:
    """One mean and its interval; for published values only `text`, as printed.

    `unit`, `units`: what the interval's units are, and how many; `note`: what must be said of it, or why there is none.
    `trainings`: the means of the trainings that `mean` is the mean of, where there are several; `grade`, `where`: of a published
    value how it came to be known (docs/verdicts.md), and where it was read.
    """

    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    spread: float = math.nan
    text: str = ""
    unit: str = ""
    units: int = 0
    note: str = ""
    trainings: list[float] = field(default_factory=list)
    grade: str = ""
    where: str = ""


@dataclass
class Row:
    """One row of the table: cells by column name, facts as the CSV prints them."""

    name: str
    label: str
    source: str
    cells: dict[str, Cell] = field(default_factory=dict)
    steps: dict[tuple[str, int], Cell] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, tuple[np.ndarray, np.ndarray, list[str]]] = field(default_factory=dict, repr=False)

    def averaged(self, column: Column) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Return what a column averages of the row's values (`Column.averaged`), made once."""
        if column.name not in self.kept:
            metric = column.metric
            self.kept[column.name] = column.averaged(self.meta["values"][metric], self.meta["weights"][metric])
        return self.kept[column.name]

    @property
    def measured(self) -> bool:
        """Whether the row is ours."""
        return self.source == "measured"


class Windows(dict[str, np.ndarray]):
    """The values of one metric: window -> (samples, steps or frames) float64."""

    @functools.cached_property
    def stacked(self) -> np.ndarray | None:
        """All windows in one array, (windows, samples, steps); None where they have different shapes."""
        every = list(self.values())
        return np.stack(every) if len({v.shape for v in every}) == 1 else None

    @property
    def flat(self) -> np.ndarray:
        """All values, (n,)."""
        if self.stacked is not None:
            return self.stacked.ravel()
        return np.concatenate([np.empty(0), *(v.ravel() for v in self.values())])


@functools.lru_cache(maxsize=16)
def clips_of(windows: tuple[str, ...]) -> list[str]:
    """Return the clip of each window "<clip>:<start>"; the rows and columns of a table ask for the same ones."""
    return [window.rpartition(":")[0] for window in windows]


@dataclass
class Column:
    """One column of means: its name in the CSV, its metric's key and description, and what it is the mean of.

    `k`: the first k steps of all windows (0: all that a window has). `pooled`: windows count by their number of values.
    `window`: the values of this one window alone. `group`: heading of the table for people that it stands in; the first is "".
    `steps`: the values at each single step are wanted too, as they are where there is a k.
    """

    name: str
    metric: str
    about: dict[str, Any]
    k: int = 0
    pooled: bool = False
    window: str = ""
    group: str = ""
    steps: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The names that the column takes in the CSV: of its mean and of the other parts of its cells."""
        return (self.name, *(f"{self.name}_{part}" for part in PARTS))

    @property
    def title(self) -> str:
        """The column's name for people."""
        return f"{self.about['label']} t+{self.k}" if self.k else str(self.about["label"])

    def averaged(self, values: Windows, weights: dict[str, float]) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Return what is averaged, (n, samples), what each counts, (n,), and its window: windows, or the values of one."""
        if self.window:
            one = values[self.window].T
            return one, np.ones(len(one)), [self.window] * len(one)
        every = list(values.values())
        if values.stacked is not None:
            means = mean(values.stacked[:, :, : self.k or None])
        else:
            means = np.stack([mean(v[:, : self.k or None]) for v in every])
        counts = [np.isfinite(v).all(axis=0).sum() for v in every] if self.pooled else [weights[w] for w in values]
        return means, np.array(counts, np.float64), list(values)

    def short(self, value: float) -> str:
        """Return a value of the column for people."""
        return "" if math.isnan(value) else f"{value:.{self.about['digits']}f}"


@dataclass
class Layout:
    """What differs between the tables of tasks."""

    columns: Callable[[Experiment, dict[str, Any]], list[Column]]  # of the experiment and the metadata of its scores
    tested: Callable[[Experiment, dict[str, Any]], str]  # the sentence on the test set and what cells are
    single: Callable[[list[Row]], str]  # <experiment>_steps.csv
    over: str  # what windows are called
