"""One instance of a stage in parts: `--shard 2/7` makes the second of seven, and the stage without it joins them.

`compute.shards` says how many, for all or for each dataset and experiment. A part is a file of its own below `data/shards`, made by a job that may run on any machine and may be
killed and repeated; it holds a run of the stage's windows, pairs, scenes or clips. The joined file is byte for byte the one that a
single job writes.
"""

from __future__ import annotations

import argparse
import re
from typing import NamedTuple


class Shard(NamedTuple):
    """The part `number`, from 1, of `of`."""

    number: int
    of: int

    def span(self, count: int, unit: int = 1) -> range:
        """Return which of `count` things this part does; it begins at a multiple of `unit`, and may be empty.

        `unit`: things that are computed together, so that every part computes them as a single job does.
        """
        units = -(-count // unit)
        first, behind = (units * max(n, 0) // self.of * unit for n in (self.number - 1, self.number))
        return range(first, min(behind, count))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


WHOLE = Shard(1, 1)
NOTHING = Shard(0, 1)  # what is left to a job that joins parts: it computes none of the things that are shared out


def add_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--shard` to a stage's command line."""
    parser.add_argument("--shard", type=_shard, metavar="I/N", help="make one of N parts; without it they are joined")


def _shard(text: str) -> Shard:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r}: give the part's number from 1 and how many there are, such as 2/7")
    return Shard(int(match[1]), int(match[2]))
