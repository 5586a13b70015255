"""Timing in pairs: a baseline and ours, interleaved in one process, as ratios."""

from __future__ import annotations

import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

LEFT_OUT = 77  # exit status of a benchmark that cannot run on this machine, as automake has it for tests


@dataclass
class Row:
    """One line of bench/results.md. `ratio` is what `goal` speaks of; `detail` says what was run."""

    name: str
    baseline: str
    ratio: float
    goal: float
    detail: str
    at_most: bool = False

    @property
    def reached(self) -> bool:
        return self.ratio <= self.goal if self.at_most else self.ratio >= self.goal


def leave_out(why: str) -> NoReturn:
    """End a benchmark that cannot run on this machine; its rows stay as they are."""
    print(why, file=sys.stderr)
    sys.exit(LEFT_OUT)


def interleave(rounds: int, *actions: Callable[[], Any]) -> list[float]:
    """Return each action's median wall seconds over `rounds`, run in turns after one warm-up each."""
    for action in actions:
        action()
    times: list[list[float]] = [[] for _ in actions]
    for _ in range(rounds):
        for action, spent in zip(actions, times, strict=True):
            start = time.perf_counter()
            action()
            spent.append(time.perf_counter() - start)
    return [statistics.median(t) for t in times]


def peak_mib() -> float:
    """Return this process's peak resident memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peak_of(action: Callable[[], Any]) -> float:
    """Return the peak resident memory, MiB, of a forked process that does `action` once."""
    read, write = os.pipe()
    if not os.fork():
        try:
            action()
        finally:
            os.write(write, f"{peak_mib():.0f}".encode())
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as end:
        text = end.read()
    os.wait()
    return float(text)
