"""The estimated flow of every pair of a test set that has ground truth."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.errors import RetakeError, log, progress
from pipeline.store.frames import Store
from pipeline.tasks.common.predict import Run
from pipeline.tasks.flow import clips


def predict(run: Run) -> tuple[int, int]:
    """Write the flow of every pair, one after the other: sizes may differ; return how many, and how many at a time.

    The store is a flow store: (clip, frame) -> flow to the next frame, off by at most 0.0111 px.
    """
    frames, truth = Store(run.fields["frames"]), Store(run.fields["truth"])
    every = clips.pairs(truth)
    pairs = [every[place] for place in run.shard.span(len(every))]
    network = run.load()
    cv2.setNumThreads(1)  # an estimator that splits an image by threads would give other flow on another machine
    meta = {"protocol": {"truth": truth.identity}, "gmacs": None, "unit": "px"}
    with run.writing(frames, meta, codec="flow64", dtype="float32", channels=2) as out:
        for clip, frame in progress(pairs, unit="pair", desc=f"predict {run.name}"):
            before, first, second = clips.images(frames, (clip, frame))
            with run.clock:
                field = network.estimate(first, second, *([before] if network.context == 3 else []))
            if not np.isfinite(field).all():
                raise RetakeError(f"{run.name} estimates NaN or infinity for {clip} frame {frame}")
            out.add(clip, frame, field)
    log.info("estimated the flow of %d pairs", len(pairs))
    return len(pairs), 1
