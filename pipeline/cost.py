"""What is known of a job's cost before it runs: bytes to download, bytes of the store it writes, and seconds.

Bytes of stores are what the images take uncompressed, so a store of another codec than `raw` is smaller. Seconds are what
Snakemake measured when the same job last ran here (`logs/benchmarks`), for a training by step; or steps of it that were measured
(`measure`, `logs/measured`). What nothing says is None.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import atomic, fetch, params, plan, tasks, weights
from pipeline.errors import RetakeError
from pipeline.params import Params
from pipeline.sources import archives, verified
from pipeline.store import sealed
from pipeline.store.frames import Store, Writer


def absent(p: Params, stage: str, fields: plan.Fields) -> list[Any]:
    """Return the rows of workflow/sources.csv or weights.csv whose files one `download` or `pretrained` would have to fetch."""
    if stage == "pretrained":
        return [] if weights.here(fields["weights"]) else [weights.source_of(fields["weights"])]
    entry = p.datasets[fields["dataset"]]
    module = params.registry("datasets")[entry.kind]
    if module.generate is not None or entry.archives == "present":
        return []
    folder = verified.RAW / entry.kind
    rows = fetch.rows_of(entry.kind, module.archives(entry, fields["split"]), made=False)
    return [row for row in rows if not archives.place(folder / row.file).exists()]


def store(p: Params, stage: str, fields: plan.Fields) -> int | None:
    """Return the most bytes that the store of one instance may take; 0 for stages that write none. A part has its share."""
    if stage in plan.PARTS:
        whole = store(p, stage.removesuffix("_shard"), fields)
        return None if whole is None else whole // fields["shards"]
    if stage == "frames":
        return _product(_frames(p, fields["dataset"], fields["split"]), *size(p, fields["dataset"], fields["split"]), 3)
    if stage == "flow":
        dataset, split = fields["dataset"], fields["split"]
        return _product(_frames(p, dataset, split), *size(p, dataset, split), 4)
    if stage in ("predict", "bring"):
        return _predictions(p, fields)
    return 0


def _predictions(p: Params, fields: plan.Fields) -> int | None:
    e, protocol = p.experiments[fields["experiment"]], p.protocols[fields["protocol"]]
    name = Path(fields["frames"]).stem
    sides = size(p, e.dataset, name)
    if protocol.task == "flow":
        return _product(_frames(p, e.dataset, name), *sides, 4)
    if protocol.task == "super_resolution":
        return _product(_frames(p, e.dataset, name), *sides, 3)
    made: Any = protocol
    return _product(_windows(p, e.dataset, name, made), made.horizon, made.samples, *sides, 6)


def _windows(p: Params, dataset: str, split: str, protocol: Any) -> int | None:
    """Return how many windows a split has: as its store says, else as published, at most one a frame."""
    frames = plan.path("frames", dataset=dataset, split=split)
    if frames.exists():
        return len(tasks.part(protocol.task, "clips").windows(Store(frames), protocol))
    published = _published(p, dataset, split)
    return published.get("clips") if protocol.windows == "first" else published.get("frames")


def _frames(p: Params, dataset: str, split: str) -> int | None:
    """Return how many frames a split has: as its store says, else as published."""
    frames = plan.path("frames", dataset=dataset, split=split)
    return len(Store(frames)) if frames.exists() else _published(p, dataset, split).get("frames")


def _published(p: Params, dataset: str, split: str) -> dict[str, int]:
    entry = p.datasets[dataset]
    published: dict[str, int] = params.registry("datasets")[entry.kind].expected(entry, split)
    return published


def size(p: Params, dataset: str, split: str) -> tuple[int | None, int | None]:
    """Return the mean height and width of a split's frames."""
    frames = plan.path("frames", dataset=dataset, split=split)
    if frames.exists() and len(made := Store(frames)):
        height, width = made.size.mean(0)
        return int(height), int(width)
    return p.datasets[dataset].height, p.datasets[dataset].width


def _product(*numbers: int | None) -> int | None:
    total = 1
    for number in numbers:
        if number is None:
            return None
        total *= number
    return total


def seconds(p: Params, stage: str, fields: plan.Fields) -> float | None:
    """Return how long one instance took when it last ran on this machine, or what was measured of a training."""
    name = "-".join([stage, plan.name_of(stage, fields)])
    try:
        with Path(f"logs/benchmarks/{name}.tsv").open(newline="") as file:
            spent = float(next(csv.DictReader(file, delimiter="\t"))["s"])
    except (OSError, ValueError, KeyError, StopIteration, TypeError):
        return _measured(p, fields) if stage == "train" else None
    if stage != "train":
        return spent
    asked = getattr(p.models[fields["model"]].train, "max_steps", None)
    taken = _steps(plan.path("train", **fields).with_suffix(".metrics.jsonl"))
    return spent * asked / taken if asked and taken else spent


def measure(p: Params, fields: plan.Fields) -> None:
    """Take a few steps of a training, and keep in `logs/measured` how long one takes on this machine.

    Where its frames are not here yet, they are steps on noise of their size. Raises RetakeError where that size is not known, or
    for what the training itself lacks.
    """
    frames = Path(str(fields["frames"]))
    with tempfile.TemporaryDirectory() as folder:
        if not frames.exists():
            frames = _noise(p, fields, Path(folder) / frames.name)
        named = ["--model", str(fields["model"]), "--dataset", str(fields["dataset"]), "--measure", str(frames)]
        done = subprocess.run([sys.executable, "-m", "pipeline.train", *named], capture_output=True, text=True)
    if done.returncode:
        _, _, error = f"\n{done.stderr}".partition("\nerror: ")
        raise RetakeError(error.strip() or f"it ended with code {done.returncode}")
    told = json.loads(done.stdout.splitlines()[-1])
    atomic.write_text(_place(fields), json.dumps({"of": _kind(p, fields), **told}))


def _noise(p: Params, fields: plan.Fields, path: Path) -> Path:
    """Write a store of noise, of the size of a training's frames and with enough of them for one batch, and return its path."""
    recipe: Any = p.models[str(fields["model"])].train
    height, width = size(p, str(fields["dataset"]), path.stem)
    if height is None or width is None:
        raise RetakeError(f"frames of {fields['dataset']} have several sizes: make {fields['frames']} first")
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    random = recipe.windows == "random"  # a window of each clip, not one from each frame on
    with Writer(path, codec="raw", meta={}) as out:
        for clip in range(recipe.batch if random else 1):
            for frame in range(recipe.window + (0 if random else recipe.batch - 1)):
                out.add(str(clip), frame, image)
    return path


def _measured(p: Params, fields: plan.Fields) -> float | None:
    """Return the seconds of a training by what `measure` kept of it; None where nothing was, or of other settings."""
    total = steps(p, fields)
    try:
        kept = json.loads(_place(fields).read_text())
        return kept["seconds_per_step"] * total if total is not None and kept["of"] == _kind(p, fields) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _place(fields: plan.Fields) -> Path:
    return Path(f"logs/measured/{plan.name_of('train', fields)}.json")


def _kind(p: Params, fields: plan.Fields) -> str:
    """Return a digest of all that the time of one step depends on."""
    model = p.models[str(fields["model"])].model_dump(mode="json")
    lengths = ("epochs", "max_steps", "seed", "validate_every", "validate_windows", "checkpoint_every")
    recipe = {key: value for key, value in (model.pop("train") or {}).items() if key not in lengths}
    parts = [
        model,
        recipe,
        *size(p, str(fields["dataset"]), Path(str(fields["frames"])).stem),
        p.compute.model_dump(mode="json"),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def steps(p: Params, fields: plan.Fields) -> int | None:
    """Return how many steps a training takes: by its store, else at most as many as what was published of the split has."""
    recipe: params.Train | None = p.models[str(fields["model"])].train
    if recipe is None:
        return None
    if recipe.max_steps:
        return recipe.max_steps
    dataset, frames = str(fields["dataset"]), Path(str(fields["frames"]))
    if frames.exists():
        lengths = [len(rows) for rows in Store(frames).clips.values()]
        windows = len(lengths) if recipe.windows == "random" else sum(n - recipe.window + 1 for n in lengths)
    else:
        published = _published(p, dataset, frames.stem)
        told = published.get("clips") if recipe.windows == "random" else published.get("frames")
        if told is None:
            return None
        windows = told
    return recipe.epochs * max(windows * recipe.repeats // recipe.batch, 1)


def _steps(record: Path) -> int | None:
    """Return the last step of a training's record."""
    try:
        return int(json.loads(record.read_text().splitlines()[-1])["step"])
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None


def blocked(p: Params, stage: str, fields: plan.Fields) -> str | None:
    """Return why one instance cannot be made without the user's hands; None where nothing is in its way."""
    if stage in ("download", "pretrained"):
        return _gated(p, stage, fields)
    if gone := lacking(fields):
        return f"there is no {gone[0]}"
    needed = [Path(file).stem for key, file in fields.items() if key.startswith("weights_") and file is not None]
    if stage.startswith("score") and p.experiments[fields["experiment"]].missing_weights == "skip":
        needed = []
    return next((reason for name in needed if (reason := without(name))), None)


def lacking(fields: plan.Fields) -> list[str]:
    """Return the user's own files that one instance reads and that are not there."""
    own = [file for key, file in fields.items() if file is not None and (key.startswith("own_") or key == "source")]
    return [file for file in own if not Path(file).exists()]


def _gated(p: Params, stage: str, fields: plan.Fields) -> str | None:
    if stage == "pretrained":
        return None  # what needs the file says whether it can do without
    entry = p.datasets[fields["dataset"]]
    module = params.registry("datasets")[entry.kind]
    by_hand = [row for row in absent(p, stage, fields) if not row.urls]
    if by_hand:
        names = ", ".join(row.file for row in by_hand[:3]) + (", …" if len(by_hand) > 3 else "")
        return f"{len(by_hand)} archives need a login ({by_hand[0].login}): {names} into {verified.RAW / entry.kind}"
    if entry.archives == "present" and module.generate is None:
        folder = verified.RAW / entry.kind
        if not any(archives.place(folder / name).exists() for name in module.archives(entry, fields["split"])):
            return f"datasets.{fields['dataset']}.archives is present, and {folder} has none of this split"
    return None


def without(name: str) -> str | None:
    """Return why the file of a row of workflow/weights.csv cannot be had; None where it is here or may be fetched."""
    if weights.here(name):
        return None
    row = weights.source_of(name)
    if not row.urls:
        return f"weights {name} need a login ({row.login}): {row.file} into {weights.ROOT}"
    manifest = plan.path("pretrained", weights=name)
    with contextlib.suppress(RetakeError):  # none yet, or a damaged one: it will be fetched
        if sealed.read(manifest)["sha256"] is None:
            return f"weights {name} could not be fetched: put {row.file} into {weights.ROOT}"
    return None
