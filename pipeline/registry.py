"""Datasets, models, metrics and tasks by name: every module of such a package that has the class its params are.

What an entry must have, and what it may leave out, stands here and is explained in docs/adding.md. A part that is missing is
named when params are loaded, before anything runs.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from types import ModuleType
from typing import Any

from pipeline.errors import RetakeError

CLASS = {"datasets": "Params", "models": "Params", "metrics": "Params", "tasks": "Protocol"}
REQUIRED = {
    "datasets": ("SPLITS", "clips"),
    "models": ("build",),
    "metrics": ("NEEDS", "BETTER", "settings", "build"),
    "tasks": ("test_inputs", "training_inputs"),
}
# What an entry may leave out, and what holds then.
OPTIONAL: dict[str, dict[str, Any]] = {
    "datasets": {
        "LICENCE": "not stated",
        "VALUES": None,  # what the numbers are that frames may carry
        "RESIZE": None,  # how the module itself resizes, where the frames stage does not
        "archives": lambda p, split: [],  # file names in workflow/sources.csv, or none: the clips come from elsewhere
        "expected": lambda p, split: {},  # what is published: clips, frames, and what `counts` counts
        "counts": lambda p, split, archives: {},  # what of the archives is counted beside clips and frames
        "generate": None,  # makes the archives, for rendered datasets
        "truth": None,  # exact flow
        "seen": None,  # where in a frame a measured point is
    },
    "models": {},
    "metrics": {
        "SCALE": 1.0,
        "DIGITS": 2,
        "MEAN": None,
        "NO_VALUE": None,  # why a frame may have no value: then the function gives NaN
        "needs_weights": lambda p: [],
        "loads": lambda p: [],  # modules that `build` loads by name, dotted: part of the code that a score depends on
        "label": None,
        "LABEL": None,
    },
    "tasks": {},
}


class Entry:
    """One entry: the module's own names, and the defaults of the optional ones that it leaves out."""

    def __init__(self, package: str, module: ModuleType) -> None:
        self.module, self._optional = module, OPTIONAL[package]

    def __getattr__(self, name: str) -> Any:
        own = vars(self.module).get(name)
        # `from pipeline.sources import archives` is an import, not the part of that name
        if name in self._optional and (name not in vars(self.module) or isinstance(own, ModuleType)):
            return self._optional[name]
        return getattr(self.module, name)


@functools.cache
def registry(package: str) -> dict[str, Entry]:
    """Return the entries of `pipeline/<package>` by name.

    Raises RetakeError for an entry that lacks what every entry of its package has.
    """
    root = importlib.import_module(f"pipeline.{package}")
    entries = {}
    for name in sorted(m.name for m in pkgutil.iter_modules(root.__path__)):
        try:
            module = importlib.import_module(f"{root.__name__}.{name}")
        except (SyntaxError, ImportError) as error:
            raise RetakeError(f"pipeline/{package}/{name} cannot be imported: {error}") from error
        if not hasattr(module, CLASS[package]):
            continue  # a helper of several entries
        missing = [part for part in REQUIRED[package] if not hasattr(module, part)]
        if missing:
            raise RetakeError(f"{module.__file__} lacks {', '.join(missing)}: docs/adding.md says what each entry has")
        entries[name] = Entry(package, module)
    return entries
