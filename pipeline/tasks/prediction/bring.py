"""Windows predicted elsewhere, in the layout of the published test script.

One folder a test window, `000000`, `000001`, … in the order of the clips and of the starts in each, with `pred_1.png` to
`pred_<horizon>.png`, as DMVFN's test script saves them (truncated to 8 bits, which costs a little against scores of floats).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline import plan
from pipeline.store.frames import Store
from pipeline.tasks.common.bring import Expected, Exported, windows_expected, windows_exported
from pipeline.tasks.prediction import clips


def expected(fields: plan.Fields, protocol: Any, frames: Store, folder: Path) -> Expected:
    """Return what a folder of predicted windows must hold."""
    return windows_expected(frames, clips.tested(frames, protocol), clips.settings(protocol), folder)


def exported(fields: plan.Fields, protocol: Any, frames: Store) -> Iterator[Exported]:
    """Yield the context frames of every window, and the frames to predict."""
    given = (clips.inputs(frames, window, protocol) for window in clips.windows(frames, protocol))
    return windows_exported(frames, clips.tested(frames, protocol), given)
