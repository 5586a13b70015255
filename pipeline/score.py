"""Score the predictions of one row of a table: a prediction store and the true frames in, one value a row out.

    python -m pipeline.score --experiment demo --model dmvfn_demo
    python -m pipeline.score --experiment demo --model dmvfn_demo --shard 2/7        # with compute.shards: 7

`data/scores/<experiment>/<model>.parquet` has the columns

    window   prediction, animation: "<clip>:<start>"; flow: "<clip>:<frame>"; super_resolution: the clip
             "" for a value of the whole set
    horizon  prediction, animation: step from 1; super_resolution: number of the frame; 0 for a value of the whole window or set
    sample, metric, value (float64)
    weight   what the window counts in the mean: 1, or for pooled metrics its number of pixels; 0: it is left out

Its schema's metadata, key `retake`, is JSON: each metric's label, direction, scale, digits and settings, what it `needs`,
its identity (a digest of kind and settings) and the number of its values; of metrics of sets the number of samples and the
values without each clip in turn, of which the table makes the interval; the metrics without values and why; why single values
are NaN (a frame that has none); the
prediction store's identity and metadata.
Averages are made in the table. Windows, and the frames of scenes, are read one by one, so memory stays flat.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import cv2

from pipeline import compute, params, plan, shards, tasks
from pipeline.atomic import claim
from pipeline.errors import RetakeError, log, run
from pipeline.params import Params
from pipeline.shards import NOTHING, WHOLE, Shard
from pipeline.store import scores
from pipeline.store.frames import Store
from pipeline.store.scores import Row
from pipeline.tasks.common.score import Job, Metrics, reads_flow


def main() -> None:
    """Parse the command line and score."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiment", required=True, help="entry of `experiments` in params.yaml")
    parser.add_argument("--model", required=True, help="entry of the experiment's `models` or `predictions`")
    shards.add_argument(parser)
    args = parser.parse_args()
    score(params.load(), args.experiment, args.model, args.shard)


def score(p: Params, experiment: str, name: str, shard: Shard | None = None) -> Path:
    """Write the scores of one row, or one part of them, and return their path.

    What joins parts scores none of their windows, but the metrics of whole sets, which no part can.
    """
    fields = plan.fields_of(p, "score", experiment=experiment, model=name)
    parts = plan.parts(p, "score", fields) if shard is None else []
    output = plan.output("score", fields, shard or WHOLE)
    claim(output)
    predicted = Store(plan.path("predict", **fields))
    cv2.setNumThreads(p.compute.threads)
    metrics = _build(p, experiment, name)
    if shard is not None:
        metrics.functions.pop("features", None)
    rows = _joined(parts, metrics, predicted.identity)
    job = Job(p, fields, Store(fields["frames"]), predicted, metrics, NOTHING if parts else shard or WHOLE)
    made, facts = tasks.part(job.protocol.task, "score").score(job)
    rows += made
    if shard is not None:
        lacking = {key: [[*place, n] for place, n in counts.items()] for key, counts in metrics.lacking.items()}
        meta = {"identity": predicted.identity, "skipped": metrics.skipped, "lacking": lacking}
    else:
        rows, meta = _told(p, experiment, name, rows, metrics)
        meta |= {"identity": predicted.identity, "predictions": predicted.meta, **facts}
    scores.write(output, rows, meta)
    log.info("scored %d windows x %d samples, %d values: %s", facts["windows"], facts["samples"], len(rows), output)
    return output


def _joined(parts: list[Path], metrics: Metrics, identity: str) -> list[Row]:
    """Return the values of all parts in order; `metrics` hears what they skipped and lack."""
    rows: list[Row] = []
    for part in parts:
        columns, meta = scores.read(part)
        if meta["identity"] != identity:
            raise RetakeError(f"{part} is of other predictions than today's: remove it and make it again")
        rows += zip(*(column.tolist() for column in columns.values()), strict=True)
        for key, reason in meta["skipped"].items():
            if key not in metrics.skipped:
                metrics.skip(key, reason)
        for key, counts in meta["lacking"].items():
            for where, reason, count in counts:
                metrics.lack(key, reason, count, where)
    return rows


def _told(p: Params, experiment: str, name: str, rows: list[Row], metrics: Metrics) -> tuple[list[Row], dict[str, Any]]:
    """Return the values of the metrics that have any, and what is said of each."""
    for key in {row[3] for row in rows} - {row[3] for row in rows if not math.isnan(row[4])}:
        metrics.skip(key, metrics.reasons(key))
    rows = [row for row in rows if row[3] not in metrics.skipped]
    counts = collections.Counter(row[3] for row in rows)
    return rows, {
        "experiment": experiment,
        "model": name,
        "metrics": {key: about | {"values": counts[key]} for key, about in _describe(p, experiment).items()},
        "skipped": metrics.skipped,
        "lacking": {key: metrics.reasons(key) for key in metrics.lacking if key not in metrics.skipped},
    }


def _build(p: Params, experiment: str, name: str) -> Metrics:
    """Return the functions of the experiment's metrics.

    Missing weights stop the experiment, or with `missing_weights: skip` the metric is left out.
    """
    from pipeline import weights

    e, registry = p.experiments[experiment], params.registry("metrics")
    metrics = Metrics()
    images = any(registry[m.kind].NEEDS not in ("flow", "fields") for m in e.metrics.values())
    device = compute.device(p) if images else "cpu"
    for key, metric in e.metrics.items():
        module = registry[metric.kind]
        if module.NEEDS == "flow" and not reads_flow(p, name):
            metrics.skip(key, "the row's model reads no precomputed flow")
            continue
        missing = [name for name in module.needs_weights(metric) if not weights.here(name)]
        if missing and e.missing_weights == "error":
            raise RetakeError(
                f"metric {key}: no weights {missing[0]}. `python -m pipeline.pretrained --weights {missing[0]}` fetches them, or "
                f"says why not; then run again. Or set experiments.{experiment}.missing_weights to skip: cells stay empty"
            )
        if missing:
            metrics.skip(key, f"no weights {missing[0]}")
            continue
        if module.NO_VALUE is not None:
            metrics.no_value[key] = module.NO_VALUE
        metrics.functions.setdefault(module.NEEDS, {})[key] = module.build(metric, device)
    return metrics


def _describe(p: Params, experiment: str) -> dict[str, Any]:
    """Return what the table must know of each metric, so that it needs no metric's code."""
    registry = params.registry("metrics")
    return {
        key: {
            "label": _label(registry[metric.kind], metric),
            "better": registry[metric.kind].BETTER,
            "scale": registry[metric.kind].SCALE,
            "digits": registry[metric.kind].DIGITS,
            "needs": registry[metric.kind].NEEDS,
            "mean": registry[metric.kind].MEAN,
            "settings": (told := registry[metric.kind].settings(metric)),
            "identity": hashlib.sha256(json.dumps([metric.kind, told], sort_keys=True).encode()).hexdigest()[:8],
        }
        for key, metric in p.experiments[experiment].metrics.items()
    }


def _label(module: Any, metric: Any) -> str:
    """Return the name of a metric's column: its own for these settings where it has one."""
    return str(module.label(metric) if module.label is not None else module.LABEL)


if __name__ == "__main__":
    run(main, "score")
