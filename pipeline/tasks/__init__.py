"""How a clip becomes inputs and targets: one folder a task, in it a module for each stage that differs between tasks."""

from __future__ import annotations

import importlib
from types import ModuleType

from pipeline.errors import RetakeError, near
from pipeline.params import Model, Params


def part(task: str, stage: str) -> ModuleType:
    """Return what a task has for a stage: the module `pipeline/tasks/<task>/<stage>.py`."""
    return importlib.import_module(f"pipeline.tasks.{task}.{stage}")


def modules(task: str, stage: str) -> list[str]:
    """Return the modules of a task's room that a stage loads by name (`part`), dotted: they belong to its code."""
    parts = {
        "train": ["train"],
        "predict": ["predict"],
        "bring": ["bring"],
        "score": ["score"],
        "table": ["table", "view"],
    }
    return [f"pipeline.tasks.{task}.{name}" for name in parts.get(stage, [])]


def model(p: Params, name: str, task: str) -> Model:
    """Return an entry of `models`; raises RetakeError where there is none of this name, or it is of another task."""
    fitting = {key: entry for key, entry in p.models.items() if entry.task == task}
    if name not in fitting:
        what = f"{name} is a {p.models[name].task} model" if name in p.models else f"unknown {task} model {name!r}"
        raise RetakeError(f"{what}: name one of the task {task}{near(name, fitting)}")
    return fitting[name]
