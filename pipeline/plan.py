"""What the Snakemake and DVC graphs share: every stage's instances, files, params keys and code.

`python -m pipeline.plan` writes `workflow/plan.yaml`, the data of dvc.yaml's `foreach` (DVC's templates cannot pair
experiments with models): the instances behind the experiments and flow stores that `reproduce` names. Snakemake makes
any experiment, frames or flow by its target. DVC runs that command too, as its stage `plan`: when it changes the file,
the run stops and asks for a second `dvc repro`, because DVC read the old plan.

An input that only some instances have (a baseline has no checkpoint) repeats another of their inputs in the others, since
DVC's templates have no optional dependencies.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import os
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pipeline import params
from pipeline.errors import RetakeError, log, near
from pipeline.params import Params

FILE = Path("workflow/plan.yaml")

# The files of each stage; the first is the one that others depend on.
OUTPUTS: dict[str, list[str]] = {
    "download": ["data/raw/{dataset}/{split}.json"],
    "frames": ["data/frames/{dataset}/{split}.arrow"],
    "flow": ["data/flow/{estimator}/{dataset}/{split}.arrow"],
    "train": ["data/checkpoints/{model}/{dataset}.pt"],
    "predict": ["data/predictions/{experiment}/{model}.arrow", "data/predictions/{experiment}/{model}.speed.json"],
    "bring": ["data/predictions/{experiment}/{model}.arrow"],
    "score": ["data/scores/{experiment}/{model}.parquet"],
    "table": [
        "results/{experiment}_metrics.csv",
        "results/{experiment}_metrics.md",
        "results/{experiment}_metrics.tex",
        "results/{experiment}_steps.csv",
        "results/{experiment}_speed.csv",
        "results/{experiment}.png",
    ],
}

# The params keys that a stage uses, and only those: changing a metric never retrains.
USES: dict[str, list[str]] = {
    "download": ["datasets.{dataset}"],
    "frames": ["datasets.{dataset}"],
    "flow": ["models.{estimator}"],
    "train": [
        "models.{model}.kind",
        "models.{model}.network",
        "models.{model}.train",
        "models.{model}.checkpoint",
        "compute.precision",
        "compute.channels_last",
    ],
    "predict": [
        "models.{model}.kind",
        "models.{model}.network",
        "models.{model}.predict",
        "protocols.{protocol}",
        "compute.precision",
        "compute.channels_last",
    ],
    "bring": ["protocols.{protocol}"],
    "score": ["{metrics}", "experiments.{experiment}.missing_weights"],
    "table": ["experiments.{experiment}"],
}

# The files and folders a stage is made of. A test holds every stage's imports against it.
CODE: dict[str, list[str]] = {
    "download": ["pipeline/download.py", "pipeline/fetch.py", "pipeline/store", "{code}"],
    "frames": ["pipeline/frames.py", "pipeline/store", "{code}"],
    "flow": [
        "pipeline/flow.py",
        "pipeline/weights.py",
        "pipeline/fetch.py",
        "pipeline/store",
        "pipeline/losses",
        "{code}",
        "{dataset_code}",
    ],
    "train": [
        "pipeline/train.py",
        "pipeline/weights.py",
        "pipeline/fetch.py",
        "pipeline/store",
        "pipeline/losses",
        "pipeline/tasks",
        "{code}",
    ],
    "predict": [
        "pipeline/predict.py",
        "pipeline/weights.py",
        "pipeline/fetch.py",
        "pipeline/store",
        "pipeline/losses",
        "pipeline/tasks",
        "{code}",
    ],
    "bring": ["pipeline/bring.py", "pipeline/store", "pipeline/tasks"],
    "score": [
        "pipeline/score.py",
        "pipeline/scores",
        "pipeline/losses/vgg16.py",
        "pipeline/weights.py",
        "pipeline/fetch.py",
        "pipeline/store",
        "pipeline/metrics",
        "pipeline/tasks",
    ],
    "table": [
        "pipeline/table.py",
        "pipeline/tables",
        "pipeline/view.py",
        "pipeline/store",
        "pipeline/tasks",
        "results/published",
    ],
}
# Not code of any stage: values arrive as params, and logging, planning and mirroring change no output.
SCAFFOLD = [
    "pipeline/__init__.py",
    "pipeline/compute.py",
    "pipeline/errors.py",
    "pipeline/params.py",
    "pipeline/plan.py",
    "pipeline/tracking.py",
]

TRUTH = ("truth", "truth_noc")  # kinds of model whose flow is read from a dataset's archives
PUBLISHED = "workflow/weights.csv"  # input of an import: published weights need no dataset

Fields = dict[str, str]
Plan = dict[str, dict[str, Fields]]

_WHOLE: dict[
    int, tuple[Params, Plan]
] = {}  # the plan of all experiments, made once for a Params; it is asked for every job


def path(stage: str, **fields: str) -> Path:
    """Return the first output of one instance: `path("frames", dataset="kitti", split="test")`."""
    return Path(OUTPUTS[stage][0].format(**fields))


def module(package: str, kind: str) -> str:
    """Return the file or folder that is the registry entry `kind` of `pipeline/<package>`."""
    folder = Path("pipeline") / package / kind
    return str(folder) if folder.is_dir() else f"{folder}.py"


def plan(p: Params, wanted: list[str]) -> Plan:
    """Return stage -> instance name -> fields, for everything behind `wanted`: experiments, flow stores and checkpoints by path.

    A flow store's estimator has the weights that are trained on the store's own dataset.
    """
    stages: Plan = {stage: {} for stage in OUTPUTS}

    def add(stage: str, **fields: str) -> Path:
        stages[stage]["-".join(fields[k] for k in _keys(stage))] = fields
        return path(stage, **fields)

    def frames(dataset: str, split: str) -> str:
        code = module("datasets", p.datasets[dataset].kind)
        add("download", dataset=dataset, split=split, code=code)
        return str(add("frames", dataset=dataset, split=split, code=code))

    def checkpoint(name: str, dataset: str) -> str:
        """Return the checkpoint of a model: the one that is trained on the dataset, or imported."""
        model = p.models[name]
        images = validation = truth = start = PUBLISHED if model.checkpoint else frames(dataset, "train")
        if model.train is not None and model.train.validation is not None:
            validation = frames(dataset, model.train.validation)
            if model.task == "flow" and hasattr(params.registry("datasets")[p.datasets[dataset].kind], "truth"):
                truth = flow("truth", dataset, model.train.validation, dataset)
        if model.start is not None:
            start = checkpoint(*model.start)
        return str(
            add(
                "train", model=name, dataset=dataset, frames=images, validation=validation, truth=truth, start=start,
                code=module("models", model.kind),
            )
        )  # fmt: skip

    def flow(estimator: str, dataset: str, split: str, trained_on: str) -> str:
        images = frames(dataset, split)
        kind = p.models[estimator].kind
        raw = str(path("download", dataset=dataset, split=split)) if kind in TRUTH else images
        weights = checkpoint(estimator, trained_on) if p.models[estimator].has_weights else images
        before = stages["flow"].get(f"{estimator}-{dataset}-{split}", {}).get("checkpoint", weights)
        if before != weights:
            raise RetakeError(
                f"the flow of {dataset} by {estimator} is asked for with {before} and with {weights}: make `trained_on` "
                "of those experiments the same, or give one of them an estimator entry of its own"
            )
        return str(
            add(
                "flow",
                estimator=estimator,
                dataset=dataset,
                split=split,
                frames=images,
                raw=raw,
                checkpoint=weights,
                code=module("models", kind),
                dataset_code=module("datasets", p.datasets[dataset].kind),
            )
        )

    for name in wanted:
        if store := params.FLOW.fullmatch(name):
            flow(store["estimator"], store["dataset"], store["split"], store["dataset"])
            continue
        if trained := params.CHECKPOINT.fullmatch(name):
            checkpoint(trained["model"], trained["dataset"])
            continue
        e = p.experiments[name]
        # The params key of its metrics: a profile's where the experiment has just those
        metrics = next(
            (f"profiles.{k}" for k, v in p.profiles.items() if v == e.metrics), f"experiments.{name}.metrics"
        )
        test = frames(e.dataset, "test")
        # Low resolution: the dataset's own, where it has some.
        kind = params.registry("datasets")[p.datasets[e.dataset].kind]
        task = p.protocols[e.protocol].task
        low = frames(e.dataset, "test_lr") if task == "super_resolution" and "test_lr" in kind.SPLITS else test
        # The exact flow: of all pixels, and of those that both frames show; what the models of task flow are scored by.
        exact = exact_noc = test
        if task == "flow":
            exact = flow("truth", e.dataset, "test", e.trained_on)
            if any(getattr(m, "pixels", "all") != "all" for m in e.metrics.values()):
                exact_noc = flow("truth_noc", e.dataset, "test", e.trained_on)
        for row in e.models:
            model = p.models[row]
            estimated, truth = exact_noc, exact
            weights = checkpoint(row, e.trained_on) if model.has_weights else test
            if model.flow is not None:
                estimated = flow(model.flow, e.dataset, "test", e.trained_on)
                if any(m.kind == "epe" for m in e.metrics.values()):
                    truth = flow("truth", e.dataset, "test", e.trained_on)
            add(
                "predict", experiment=name, model=row, protocol=e.protocol, frames=test, checkpoint=weights,
                flow=exact if model.task == "flow" else estimated, low=low, code=module("models", model.kind),
            )  # fmt: skip
            add("score", experiment=name, model=row, frames=test, flow=estimated, truth=truth, low=low, metrics=metrics)
        for row, folder in e.predictions.items():
            add("bring", experiment=name, model=row, protocol=e.protocol, frames=test, low=low, source=folder)
            add("score", experiment=name, model=row, frames=test, flow=test, truth=test, low=low, metrics=metrics)
        add("table", experiment=name, protocol=e.protocol, frames=test, truth=exact, low=low)
    return stages


def _keys(stage: str) -> list[str]:
    """Return the fields that name an instance: those in its first output, in order."""
    return [field for _, field, _, _ in string.Formatter().parse(OUTPUTS[stage][0]) if field]


def inputs(p: Params, stage: str, fields: Fields) -> list[str]:
    """Return the data files that one instance reads."""
    if stage == "download":
        return []
    if stage == "frames":
        return [str(path("download", **fields))]
    if stage == "table":
        e = p.experiments[fields["experiment"]]
        made = [(s, m) for m in e.models for s in ("score", "predict")] + [
            (s, m) for m in e.predictions for s in ("score", "bring")
        ]
        return [o.format(experiment=fields["experiment"], model=m) for s, m in made for o in OUTPUTS[s]] + [
            *dict.fromkeys([fields["frames"], fields["truth"], fields["low"]])
        ]
    keys = {
        "flow": ["frames", "raw", "checkpoint"],
        "train": ["frames", "validation", "truth", "start"],
        "predict": ["frames", "checkpoint", "flow", "low"],
        "bring": ["frames", "low", "source"],
        "score": ["frames", "flow", "truth", "low"],
    }[stage]
    first = [str(path("predict", **fields))] if stage == "score" else []
    return list(dict.fromkeys(first + [fields[k] for k in keys]))


def code(stage: str, fields: Fields) -> list[str]:
    """Return the source files of one instance, folders expanded to their `*.py`, `*.csv` and `*.txt`."""
    return _expand(tuple(entry.format(**fields) for entry in CODE[stage]))


@functools.cache
def _expand(entries: tuple[str, ...]) -> list[str]:
    files: list[str] = []
    for at in map(Path, entries):
        files += sorted(str(f) for s in ("*.py", "*.csv", "*.txt") for f in at.rglob(s)) if at.is_dir() else [str(at)]
    return list(dict.fromkeys(f for f in files if not f.endswith("__init__.py") or Path(f).stat().st_size))


@functools.cache
def _contents(file: str) -> bytes:
    return hashlib.sha256(Path(file).read_bytes()).digest()


def digest(stage: str, fields: Fields) -> str:
    """Return a hash of the source files of one instance, names and contents."""
    joined = hashlib.sha256()
    for file in code(stage, fields):
        joined.update(file.encode() + _contents(file))
    return joined.hexdigest()[:16]


def uses(p: Params, stage: str, fields: Fields) -> dict[str, Any]:
    """Return {params key: value} of one instance."""
    return {key: params.subtree(p, key) for key in (k.format(**fields) for k in USES[stage])}


def files(p: Params, wanted: list[str]) -> Iterator[str]:
    """Yield every file between raw data and what is `wanted` (as in `plan`), that included."""
    for stage, instances in plan(p, wanted).items():
        for fields in instances.values():
            yield from (output.format(**fields) for output in OUTPUTS[stage])


def targets(p: Params) -> list[str]:
    """Return the files that are made when no target is given."""
    return [name if params.FLOW.fullmatch(name) else str(path("table", experiment=name)) for name in p.reproduce]


def dump(p: Params) -> str:
    """Return the text of workflow/plan.yaml."""
    head = "# Generated from params.yaml by `python -m pipeline.plan`; do not edit.\n"
    return head + yaml.safe_dump(plan(p, p.reproduce), sort_keys=False, width=200)


def fields_of(p: Params, stage: str, **wildcards: str) -> Fields:
    """Return the fields of the instance that `wildcards` name, in any experiment of params.yaml.

    Frames, flow and checkpoints are made of every dataset, needed by an experiment or not. Raises RetakeError when
    nothing in params.yaml leads there, or when DVC runs the stages of an older plan.
    """
    if "DVC_STAGE" in os.environ and params.VARIABLE not in os.environ and FILE.read_text() != dump(p):
        raise RetakeError(f"{FILE} is behind params.yaml: run `python -m pipeline.plan`, then the same command again")
    if id(p) not in _WHOLE:
        _WHOLE[id(p)] = (p, plan(p, list(dict.fromkeys([*p.experiments, *p.reproduce]))))
    everything = _WHOLE[id(p)][1][stage]
    name = "-".join(wildcards[k] for k in _keys(stage))
    if name not in everything:
        dataset = p.datasets.get(wildcards.get("dataset", ""))
        model = p.models.get(wildcards.get("estimator", wildcards.get("model", "")))
        if dataset is not None and stage in ("download", "frames"):
            return {**wildcards, "code": module("datasets", dataset.kind)}
        if (
            dataset is not None
            and model is not None
            and ((stage == "flow" and model.task == "flow") or (stage == "train" and model.has_weights))
        ):
            return plan(p, [str(path(stage, **wildcards))])[stage][name]
        raise RetakeError(f"no experiment in params.yaml needs {stage} of {name}{near(name, everything)}")
    return everything[name]


def main() -> None:
    """Write workflow/plan.yaml; under DVC, stop the run when that changed what DVC had read."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    text = dump(params.load())
    if FILE.exists() and FILE.read_text() == text:
        return
    from pipeline.store.atomic import write_text

    write_text(FILE, text)
    if "DVC_STAGE" in os.environ:
        raise RetakeError(
            f"params.yaml asks for other stages than DVC had read; {FILE} is written anew: type the same command again"
        )
    log.info("wrote %s", FILE)


if __name__ == "__main__":
    from pipeline.errors import run

    run(main, "plan")
