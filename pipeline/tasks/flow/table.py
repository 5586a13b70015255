"""The table of estimated flow: one column a metric."""

from __future__ import annotations

from typing import Any

from pipeline.params import Experiment
from pipeline.tables.cells import Layout
from pipeline.tasks.common.table import means, steps_csv


def _about_pairs(e: Experiment, meta: dict[str, Any]) -> str:
    return f"{meta['windows']} pairs with ground truth"


LAYOUT = Layout(means, _about_pairs, steps_csv, "pairs")
