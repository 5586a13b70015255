"""What the Snakemake and DVC graphs share: every stage's instances, inputs, params keys, code and pretrained files.

`python -m pipeline.plan` writes for DVC:

* `workflow/plan.json`, in git: the instances behind what `reproduce` names, the data of dvc.yaml's `foreach` (DVC's templates
  cannot pair experiments with models). Snakemake makes anything by its target. It is JSON, which DVC reads a hundred times as
  fast as YAML.
* `workflow/resolved/<stage>/<instance>.json`, not in git: the resolved values of the params that one instance uses, and the digest
  of its code. It is an input of that instance alone: what a default, a paper's file or a changed line does to a stage is seen
  there. A file whose content stays is not written again, so DVC, which goes by times and inodes, need not read it.

DVC runs that command too, as its stage `plan`, always. When it changes plan.json, the run stops and asks for a second `dvc
repro`, because DVC read the old one.
"""

from __future__ import annotations

import argparse
import csv
import functools
import hashlib
import json
import os
import shutil
import string
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline import cite, identity, params, recipes, tasks
from pipeline.atomic import write_text
from pipeline.errors import RetakeError, log, near, readable
from pipeline.params import Params
from pipeline.registry import registry
from pipeline.shards import Shard
from pipeline.sources import archives, limits, verified
from pipeline.store import sealed
from pipeline.tables import papers

FILE = Path("workflow/plan.json")
RESOLVED = Path("workflow/resolved")
READ = RESOLVED / "read.json"  # the digest of the params that the files in this folder were made of
RESTRICTED = "restricted"  # DVC's remote for what a licence does not let people pass on
WEIGHTS = Path("workflow/weights.csv")
PUBLISHED = Path("results/published")
NOTE = "Generated from params.yaml and workflow/papers by `python -m pipeline.plan`; do not edit."

# The files of each stage; the first is the one that others depend on.
OUTPUTS: dict[str, list[str]] = {
    "download": ["data/raw/{dataset}/{split}.json"],
    "pretrained": ["data/weights/{weights}.json"],
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
        "results/records/{experiment}.json",
        "results/{experiment}_means.json",
    ],
    "paper": ["results/paper/{paper}.csv", "results/paper/{paper}.md", "results/paper/{paper}.tex"],
    "results": ["results/results.json", "results/paper/macros.tex"],
    "report": ["results/report.html"],
}

# The parts of a stage that is split (`compute.shards`); the stage itself then joins them. Each is named by its stage and `_shard`.
PART_FOLDER = "data/shards"
PARTS: dict[str, list[str]] = {
    "frames_shard": ["data/shards/frames/{dataset}/{split}/{shards}/{shard}.arrow"],
    "flow_shard": ["data/shards/flow/{estimator}/{dataset}/{split}/{shards}/{shard}.arrow"],
    "predict_shard": [
        "data/shards/predictions/{experiment}/{model}/{shards}/{shard}.arrow",
        "data/shards/predictions/{experiment}/{model}/{shards}/{shard}.speed.json",
    ],
    "score_shard": ["data/shards/scores/{experiment}/{model}/{shards}/{shard}.parquet"],
}
FILES_OF = OUTPUTS | PARTS

# The params keys that a stage uses, and only those: changing a metric never retrains.
USES: dict[str, list[str]] = {
    "download": ["datasets.{dataset}"],
    "pretrained": [],
    "frames": ["datasets.{dataset}"],
    "flow": ["models.{estimator}"],
    "train": [
        "models.{model}.kind",
        "models.{model}.network",
        "models.{model}.train",
        "models.{model}.checkpoint",
        "compute.devices",
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
    "paper": ["reproduce"],
    "results": ["reproduce"],
    "report": ["reproduce"],
}
# What stages read beside inputs that the plan pairs; dvc.yaml names the same.
FILES = {
    "table": [str(PUBLISHED)],
    "paper": [str(PUBLISHED), str(papers.FILE)],
    "results": [str(PUBLISHED), str(papers.FILE), str(cite.FILE)],
    "report": ["workflow/report/report.html.j2"],
}
NAMES = {
    "dataset",
    "split",
    "estimator",
    "model",
    "experiment",
    "protocol",
    "metrics",
    "weights",
    "paper",
    "shards",
    "shard",
}  # fields that are no input
PICTURES = ("download", "frames", "predict", "bring")  # stages whose files hold a data set's pictures, or lead to them
TRUTH = ("truth", "truth_noc")  # kinds of model whose flow is read from a dataset's archives

Fields = dict[str, Any]  # of an instance: its names, then its inputs by name, None where it has no such input
Inputs = dict[str, Any]
Plan = dict[str, dict[str, Fields]]


def path(stage: str, **fields: str | int | None) -> Path:
    """Return the first output of one instance: `path("frames", dataset="kitti", split="test")`."""
    return Path(FILES_OF[stage][0].format(**fields))


def output(stage: str, fields: Fields, shard: Shard) -> Path:
    """Return the first output of one instance, or of one part of it."""
    if shard.of == 1:
        return path(stage, **fields)
    return path(f"{stage}_shard", **fields, shards=shard.of, shard=shard.number)


def shards(p: Params, stage: str, fields: Fields) -> list[Shard]:
    """Return the parts that one instance is joined of; none where it is not split."""
    truth = stage == "flow" and p.models[str(fields["estimator"])].kind in TRUTH  # is read, not computed
    if f"{stage}_shard" not in PARTS or truth:
        return []
    split = p.compute.shards
    number = split if isinstance(split, int) else split.get(str(fields.get("experiment") or fields["dataset"]), 1)
    return [Shard(i, number) for i in range(1, number + 1)] if number > 1 else []


def parts(p: Params, stage: str, fields: Fields) -> list[Path]:
    """Return the first outputs of the parts that one instance is joined of; none where it is not split."""
    return [output(stage, fields, shard) for shard in shards(p, stage, fields)]


class Build:
    """Collects the instances behind what is asked for; each method adds one with all behind it and returns its file.

    Tasks call it to say which inputs their stages read.
    """

    def __init__(self, p: Params) -> None:
        self.p = p
        self.stages: Plan = {stage: {} for stage in FILES_OF}

    def add(self, stage: str, **fields: str | int | None) -> str:
        """Add one instance, with its parts where it is split."""
        for shard in shards(self.p, stage, fields):
            self.add(f"{stage}_shard", **fields, shards=shard.of, shard=shard.number)
        self.stages[stage][name_of(stage, fields)] = fields
        return str(path(stage, **fields))

    def frames(self, dataset: str, split: str) -> str:
        """Return the frames of a split."""
        raw = self.add("download", dataset=dataset, split=split)
        own = {f"own_{i}": path for i, path in enumerate(self.p.datasets[dataset].own)}
        return self.add("frames", dataset=dataset, split=split, raw=raw, **own)

    def pretrained(self, names: list[str]) -> Inputs:
        """Return the inputs that stand for pretrained files: manifests of rows of workflow/weights.csv, the user's own files."""
        inputs: Inputs = {}
        rows = _rows()
        for name in names:
            if name in rows:
                inputs[f"weights_{rows[name]}"] = self.add("pretrained", weights=rows[name])
            else:
                inputs |= {f"own_{i}": file for i, file in enumerate(_own(name), start=len(inputs))}
        return inputs

    def splits(self, model: params.Model, dataset: str) -> Inputs:
        """Return the frames that training a model on a dataset reads."""
        train = model.train
        assert train is not None
        validation = self.frames(dataset, train.validation) if train.validation is not None else None
        return {"frames": self.frames(dataset, "train"), "validation": validation}

    def checkpoint(self, name: str, dataset: str) -> str:
        """Return the checkpoint of a model: the one that is trained on the dataset, or imported."""
        model = self.p.models[name]
        inputs: Inputs = {}
        if model.train is not None:
            inputs |= registry("tasks")[model.task].training_inputs(self, model, dataset)
            inputs |= {key: self.checkpoint(*start) for key, start in model.starts.items()}
        return self.add("train", model=name, dataset=dataset, **inputs, **self.pretrained(model.pretrained))

    def flow(self, estimator: str, dataset: str, split: str, trained_on: str) -> str:
        """Return the flow of a split; an estimator with weights has those that are trained on `trained_on`."""
        model = self.p.models[estimator]
        raw = str(path("download", dataset=dataset, split=split)) if model.kind in TRUTH else None
        weights = self.checkpoint(estimator, trained_on) if model.has_weights else None
        fields: Fields = {"estimator": estimator, "dataset": dataset, "split": split}
        before = self.stages["flow"].get("-".join(map(str, fields.values())), {}).get("checkpoint", weights)
        if before != weights:
            raise RetakeError(
                f"the flow of {dataset} by {estimator} is asked for with {before} and with {weights}: make `trained_on` "
                "of those experiments the same, or give one of them an estimator entry of its own"
            )
        return self.add("flow", **fields, frames=self.frames(dataset, split), raw=raw, checkpoint=weights)

    def experiment(self, name: str) -> None:
        """Add the stages of an experiment's table."""
        p, e = self.p, self.p.experiments[name]
        task = registry("tasks")[p.protocols[e.protocol].task]
        # The params key of its metrics: a profile's where the experiment has just those
        metrics = next(
            (f"profiles.{k}" for k, v in p.profiles.items() if v == e.metrics), f"experiments.{name}.metrics"
        )
        files = [file for m in e.metrics.values() for file in registry("metrics")[m.kind].needs_weights(m)]
        weights = self.pretrained(files)
        for row in e.models:
            model = p.models[row]
            inputs = task.test_inputs(self, e, model)
            checkpoint = self.checkpoint(row, e.trained_on) if model.has_weights else None
            self.add(
                "predict", experiment=name, model=row, protocol=e.protocol, checkpoint=checkpoint, **inputs["predict"]
            )
            self.add("score", experiment=name, model=row, metrics=metrics, **inputs["score"], **weights)
        inputs = task.test_inputs(self, e, None)
        for row, folder in e.predictions.items():
            self.add("bring", experiment=name, model=row, protocol=e.protocol, source=folder, **inputs["bring"])
            self.add("score", experiment=name, model=row, metrics=metrics, **inputs["score"], **weights)
        self.add("table", experiment=name, protocol=e.protocol, **inputs["table"])

    def paper(self, name: str) -> None:
        """Add a paper's table, of which those experiments are measured that `reproduce` names."""
        measured = [e for e in papers.table(name).experiments if e in self.p.reproduce]
        self.add("paper", paper=name, **{f"record_{i}": str(record(e)) for i, e in enumerate(measured)})

    def publish(self) -> None:
        """Add what is made of all tables that `reproduce` names together."""
        tables = [name for name in self.p.reproduce if name in self.p.experiments]
        if not tables:
            return
        for name, table in papers.tables().items():
            if set(table.experiments) & set(tables):
                self.paper(name)
        records = {f"record_{i}": str(record(name)) for i, name in enumerate(tables)}
        self.add("results", **records)
        self.add("report", results=str(path("results")), **records)


def plan(p: Params, asked: list[str]) -> Plan:
    """Return stage -> instance name -> fields, for everything behind `asked`: experiments, flow stores and checkpoints by path.

    A flow store's estimator has the weights that are trained on the store's own dataset.
    """
    build = Build(p)
    for name in asked:
        if store := params.FLOW.fullmatch(name):
            build.flow(store["estimator"], store["dataset"], store["split"], store["dataset"])
        elif trained := params.CHECKPOINT.fullmatch(name):
            build.checkpoint(trained["model"], trained["dataset"])
        else:
            build.experiment(name)
    return build.stages


def reproduced(p: Params) -> Plan:
    """Return the plan of all that `reproduce` names, with what is made of its tables together."""
    build = Build(p)
    build.stages = plan(p, p.reproduce)
    build.publish()
    return build.stages


def record(experiment: str) -> Path:
    """Return the record of an experiment's table."""
    return Path(f"results/records/{experiment}.json")


def name_of(stage: str, fields: Fields) -> str:
    """Return the name of an instance; a stage with a single one has `all`."""
    return "-".join(str(fields[k]) for k in _keys(stage)) or "all"


def _keys(stage: str) -> list[str]:
    """Return the fields that name an instance: those in its first output, in order."""
    return [field for _, field, _, _ in string.Formatter().parse(FILES_OF[stage][0]) if field]


@functools.cache
def _rows() -> dict[str, str]:
    """Return the row of workflow/weights.csv by name and by file name."""
    with WEIGHTS.open(newline="", encoding="utf-8-sig") as file:
        return {key: row["name"] for row in csv.DictReader(file) for key in (row["name"], row["file"])}


def _own(name: str) -> list[str]:
    """Return the user's own files behind a path; a TensorFlow checkpoint's path is the beginning of several names."""
    if Path(name).exists():
        return [name]
    return sorted(map(str, Path(name).parent.glob(f"{Path(name).name}.*"))) or [name]


def inputs(p: Params, stage: str, fields: Fields) -> list[str]:
    """Return the files that one instance reads.

    Raises RetakeError when the code of its model lacks a part that the task calls: before anything runs.
    """
    made, stage = stage, stage.removesuffix("_shard")
    name = fields.get("model") or fields.get("estimator")
    if name in p.models and stage in ("train", "predict", "flow"):
        _whole(p, name)
    given = [value for key, value in fields.items() if key not in NAMES and value is not None]
    if stage == "score":
        given.insert(0, str(path("predict", **fields)))
    if made == stage:
        for shard in shards(p, stage, fields):
            names = fields | {"shards": shard.of, "shard": shard.number}
            given += [file.format(**names) for file in PARTS[f"{stage}_shard"]]
    if stage == "table":
        e = p.experiments[str(fields["experiment"])]
        rows = [(s, m) for m in e.models for s in ("score", "predict")]
        rows += [(s, m) for m in e.predictions for s in ("score", "bring")]
        given = [o.format(experiment=fields["experiment"], model=m) for s, m in rows for o in OUTPUTS[s]] + given
    return list(dict.fromkeys(given))


def code(p: Params, stage: str, fields: Fields) -> str:
    """Return the digest of the code that one instance's result depends on."""
    return identity.digest(roots(p, stage, fields))


def made_of(p: Params, stage: str, fields: Fields) -> dict[str, Any]:
    """Return what one instance's result depends on beside its inputs.

    The digest of its `code`, {key: value} of its `params`, and {path: digest} of its `own` files: Snakemake goes by times alone,
    DVC by size, time and inode, and into no linked folder.
    """
    return {"code": code(p, stage, fields), "params": uses(p, stage, fields), "own": own_files(stage, fields)}


def _whole(p: Params, name: str) -> None:
    """Raise RetakeError when the code of a model lacks a part that its task calls; nothing of it is imported."""
    model = p.models[name]
    protocol = registry("tasks")[model.task].Protocol
    needed = [*protocol.HOOKS, *(protocol.TRAINING_HOOKS if model.train is not None else ())]
    if model.kind in TRUTH:
        return
    defined = identity.defined(f"{identity.PACKAGE}.models.{model.kind}")
    missing = [hook for hook in needed if hook not in defined]
    if missing:
        raise RetakeError(
            f"models.{name}: {identity.module_file(f'pipeline.models.{model.kind}')} defines no {', '.join(missing)}: a model of "
            f"the task {model.task}{' that is trained' if model.train is not None else ''} has it (docs/adding.md)"
        )


def roots(p: Params, stage: str, fields: Fields) -> tuple[str, ...]:
    """Return the modules that one instance starts from: its stage, and what that loads by name."""
    stage = stage.removesuffix("_shard")
    loaded = [identity.PACKAGE + "." + stage]
    model = fields.get("model") or fields.get("estimator")
    task = None
    if fields.get("protocol") is not None:
        task = p.protocols[str(fields["protocol"])].task
    elif stage == "score":
        task = p.protocols[p.experiments[str(fields["experiment"])].protocol].task
    elif model in p.models:
        task = p.models[model].task
    if stage in ("flow", "train", "predict") and model is not None:
        loaded.append(f"{identity.PACKAGE}.models.{p.models[model].kind}")
    if stage in ("download", "frames") or (stage == "flow" and p.models[str(model)].kind in TRUTH):
        loaded.append(f"{identity.PACKAGE}.datasets.{p.datasets[str(fields['dataset'])].kind}")
    if stage == "score":
        metrics = p.experiments[str(fields["experiment"])].metrics.values()
        loaded += sorted({f"{identity.PACKAGE}.metrics.{m.kind}" for m in metrics})
        loaded += sorted({name for m in metrics for name in registry("metrics")[m.kind].loads(m)})
    if task is not None:
        loaded += tasks.modules(task, stage)
    if stage == "report":
        shown = {p.protocols[p.experiments[e].protocol].task for e in p.reproduce if e in p.experiments}
        loaded += [f"{identity.PACKAGE}.tasks.{name}.view" for name in sorted(shown)]
        loaded.append(f"{identity.PACKAGE}.models.dis")
    return tuple(loaded)


def own_files(stage: str, fields: Fields) -> dict[str, str]:
    """Return {path: digest} of the inputs that the user made, and of the project's own."""
    own = [v for k, v in fields.items() if v is not None and (k.startswith("own_") or k == "source")]
    own += FILES.get(stage, [])
    return {file: identity.content(Path(file)) for file in own}


def uses(p: Params, stage: str, fields: Fields) -> dict[str, Any]:
    """Return {params key: value} of one instance."""
    return {key: params.subtree(p, key) for key in (k.format(**fields) for k in USES[stage.removesuffix("_shard")])}


def gpus(p: Params, stage: str, fields: Fields) -> int:
    """Return how many GPUs one instance makes use of: models and metrics without weights, imports, and what joins parts, have none."""
    if p.compute.device == "cpu" or (stage != "score" and parts(p, stage, fields)):
        return 0
    if stage.startswith("score"):  # what joins its parts computes the metrics of whole sets
        metrics = p.experiments[str(fields["experiment"])].metrics.values()
        return int(any(registry("metrics")[m.kind].needs_weights(m) for m in metrics))
    model = p.models[str(fields.get("model") or fields["estimator"])]
    if stage == "train":
        return p.compute.devices if model.train is not None else 0
    return int(model.has_weights)


def spread(p: Params) -> dict[str, int | str]:
    """Return the resources of a training on several machines: SLURM's plugin then leaves srun to the stage."""
    nodes = p.compute.nodes
    return {"mpi": "srun", "nodes": nodes, "tasks": nodes, "tasks_per_gpu": 0} if nodes > 1 else {}


def files(p: Params, stages: Plan) -> Iterator[str]:
    """Yield every file that a plan's stages write, but for those that do not stay."""
    dropped = {OUTPUTS["predict"][0]} if p.compute.predictions == "drop" else set()
    for stage, instances in stages.items():
        for fields in instances.values() if stage in OUTPUTS else ():
            yield from (output.format(**fields) for output in OUTPUTS[stage] if output not in dropped)


def targets(p: Params) -> list[str]:
    """Return the files that are made when no target is given."""
    made = [str(path("table", experiment=name)) if name in p.experiments else name for name in p.reproduce]
    stages = reproduced(p)
    return made + [str(path(s, **fields)) for s in ("paper", "results", "report") for fields in stages[s].values()]


def stale(weights: str) -> bool:
    """Whether the manifest of a pretrained file tells of another file than lies there now.

    A manifest that is missing is not stale: its stage is due by that alone. Nor is one that was pulled into a clone, where the file has
    never been: who needs the file fetches it.
    """
    manifest_file = path("pretrained", weights=weights)
    if not manifest_file.exists():
        return False
    try:
        manifest = sealed.read(manifest_file)
    except (OSError, RetakeError):
        return True
    file = manifest_file.parent / str(manifest.get("file"))
    if not file.exists():
        return manifest.get("sha256") is not None and identity.seen(file)
    return identity.content(file) != manifest.get("sha256")


def outdated(p: Params, dataset: str, split: str) -> bool:
    """Whether the manifest of a split's archives tells of other archives than lie there now: changed ones, or some that were missing.

    Archives that have gone are no reason: a clone has never had them, and people remove what was read to have the disk back.
    """
    manifest_file = path("download", dataset=dataset, split=split)
    kind = p.datasets[dataset].kind
    if not manifest_file.exists() or registry("datasets")[kind].generate is not None:
        return False
    try:
        manifest = sealed.read(manifest_file)
    except (OSError, RetakeError):
        return True
    folder = verified.RAW / kind
    return any(archives.place(folder / file).exists() for file in manifest["missing"]) or any(
        verified.changed(folder / archive["file"], archive["bytes"], archive["sha256"])
        for archive in manifest["archives"]
    )


def dump(p: Params) -> str:
    """Return the text of workflow/plan.json.

    DVC's templates have no optional inputs and no lists of their own: the inputs of all instances of a stage are lists of one
    length, in which a shorter one repeats its first.
    """
    instances: dict[str, Any] = {"note": NOTE}
    for stage, entries in reproduced(p).items():
        read = {}
        for name, fields in entries.items():
            # A table reads every row's files: dvc.yaml names their folders.
            own = {k: v for k, v in fields.items() if k not in NAMES} if stage == "table" else None
            read[name] = [v for v in own.values() if v] if own is not None else inputs(p, stage, fields)
            if stage in ("results", "report"):
                read[name] = []  # of the records, too, the folder
            if joined := parts(p, stage, fields):  # of the parts, too
                folder = joined[0].parent
                read[name] = [file for file in read[name] if Path(file).parent != folder] + [str(folder)]
        longest, slots = max(map(len, read.values()), default=0), SLOTS[stage.removesuffix("_shard")]
        instances[stage] = {
            name: {k: v for k, v in fields.items() if k in NAMES}
            | (_curves(p, fields) if stage == "table" else {})
            | (
                {"remote": RESTRICTED if withheld(p, stage, fields) else None}
                if stage in (*PICTURES, "flow", "train")
                else {}
            )
            | ({"inputs": read[name] + read[name][:1] * (slots - len(read[name]))} if slots else {})
            for name, fields in entries.items()
        }
        if longest > slots:
            raise RetakeError(f"a stage {stage} reads {longest} files, dvc.yaml has room for {slots}: add a line there")
    return json.dumps(instances, indent=1) + "\n"


def withheld(p: Params, stage: str, fields: Fields) -> list[str]:
    """Return the data sets and weights that keep an instance's files from being pushed: their licence does not let people pass them on.

    Held back are a set's pictures and ground truth (frames, predictions of it, flow that is read from its archives, and the manifest of
    its archives, so that a clone asks for those), and checkpoints that are or start from such weights. What is estimated or measured is
    not. They go to DVC's remote `restricted` alone, which is the project's own cache until somebody names another place.
    """
    names: list[str] = []
    if stage in PICTURES or (stage == "flow" and p.models[str(fields["estimator"])].kind in TRUTH):
        dataset = fields.get("dataset") or p.experiments[str(fields["experiment"])].dataset
        names.append(p.datasets[dataset].kind)
    if stage == "train":
        names += _starting(p, str(fields["model"]))
    return [name for name in names if not _licences().get(name, True)]


def _starting(p: Params, model: str) -> list[str]:
    """Return the rows of workflow/weights.csv that a model's checkpoint is made of: imported, or where its training starts."""
    rows = _rows()
    names = [rows[name] for name in p.models[model].pretrained if name in rows]
    return names + [name for start, _ in p.models[model].starts.values() for name in _starting(p, start)]


@functools.cache
def _licences() -> dict[str, bool]:
    """Return whether people may pass on each data set of workflow/sources.csv (all its archives) and each row of workflow/weights.csv."""
    from pipeline import fetch

    told = {row.name: row.redistribute for row in fetch.sources(WEIGHTS, key="name", extra=("use",))}
    for row in fetch.sources(fetch.SOURCES):
        told[row.name] = told.get(row.name, True) and row.redistribute
    return told


def _curves(p: Params, fields: Fields) -> dict[str, str]:
    """Return the columns of <experiment>_steps.csv that DVC's plot of it has as x and y."""
    x, y = registry("tasks")[p.protocols[str(fields["protocol"])].task].Protocol.CURVE
    return {"x": x, "y": y}


SLOTS = {
    "download": 0,
    "pretrained": 0,
    "frames": 3,
    "flow": 4,
    "train": 8,
    "predict": 7,
    "bring": 4,
    "score": 11,
    "table": 4,
    "paper": 4,
    "results": 0,
    "report": 0,
}


def resolved(p: Params) -> dict[Path, dict[str, Any]]:
    """Return the content of each file in workflow/resolved."""
    trees: dict[Path, dict[str, Any]] = {READ: {"read": recipes.digest()}}
    for stage, entries in reproduced(p).items():
        for name, fields in entries.items():
            trees[RESOLVED / stage / f"{name}.json"] = made_of(p, stage, fields) | _renewed(p, stage, fields)
    return trees


def write(p: Params) -> None:
    """Make workflow/resolved tell what the plan's instances use now: files of others go, equal ones are left alone.

    Raises RetakeError when somebody else has changed a file there.
    """
    trees = resolved(p)
    for file in [f for f in RESOLVED.rglob("*.json") if not f.name.startswith(".")]:
        if trees.get(file) == _written(file):
            del trees[file]
        elif file not in trees:
            file.unlink(missing_ok=True)
    for file, tree in trees.items():
        sealed.write(file, tree)


def _renewed(p: Params, stage: str, fields: Fields) -> dict[str, str]:
    """Return a new `token` for archives or pretrained files that are no longer what their manifest tells: DVC then looks again.

    While they agree it is the token that the manifest was made under, which a clone pulls with it; {} for none.
    """
    if stage == "download":
        changed, folder = (
            outdated(p, fields["dataset"], fields["split"]),
            verified.RAW / p.datasets[fields["dataset"]].kind,
        )
    elif stage == "pretrained":
        changed, folder = stale(fields["weights"]), path(stage, **fields).parent
    else:
        return {}
    if changed:
        state = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in limits.unhidden(folder) if f.exists()]
        return {"token": hashlib.sha256(repr(state).encode()).hexdigest()[:16]}
    manifest_file = path(stage, **fields)
    return _token(sealed.read(manifest_file)) if manifest_file.exists() else {}


def token(stage: str, fields: Fields) -> dict[str, str]:
    """Return the `token` that a manifest keeps, of the file in workflow/resolved that it is made under; {} for none."""
    return _token(_written(RESOLVED / stage / f"{name_of(stage, fields)}.json"))


def _token(tree: dict[str, Any]) -> dict[str, str]:
    return {"token": str(tree["token"])} if "token" in tree else {}


def _written(file: Path) -> dict[str, Any]:
    """Return what a file in workflow/resolved holds; {} where there is none. Raises RetakeError when somebody else has changed it."""
    if not file.exists():
        return {}
    try:
        return sealed.read(file)
    except RetakeError:
        raise RetakeError(
            f"{file} was changed by hand or by `dvc exp run -S {file}:…`: it is generated, and what is set there reaches "
            "no stage. Set keys of params.yaml (`-S models.x.train.lr=…`, for a key that only a paper's file has "
            f"`-S ++models.x.train.lr=…`); delete {file} and run again"
        ) from None


_WHOLE: dict[int, tuple[Params, Plan]] = {}


def whole(p: Params) -> Plan:
    """Return the plan of all experiments and of what `reproduce` names, made once for a Params: it is asked for every job."""
    if id(p) not in _WHOLE:
        _WHOLE[id(p)] = (p, plan(p, list(dict.fromkeys([*p.experiments, *p.reproduce]))))
    return _WHOLE[id(p)][1]


def fields_of(p: Params, stage: str, **wildcards: str | int) -> Fields:
    """Return the fields of the instance that `wildcards` name, in any experiment of params.yaml.

    Frames, flow and checkpoints are made of every dataset, needed by an experiment or not. Raises RetakeError when
    nothing in params.yaml leads there, or when DVC runs the stages of an older plan.
    """
    if (
        "DVC_STAGE" in os.environ
        and params.VARIABLE not in os.environ
        and _written(READ).get("read") != recipes.digest()
    ):
        raise RetakeError(
            f"{RESOLVED} is behind params.yaml: run `python -m pipeline.plan`, then the same command again"
        )
    everything = whole(p)[stage]
    name = name_of(stage, wildcards)
    if name not in everything:
        build, base = Build(p), stage.removesuffix("_shard")
        dataset, split = str(wildcards.get("dataset", "")), str(wildcards.get("split", ""))
        model = str(wildcards.get("estimator", wildcards.get("model", "")))
        if stage == "pretrained" and str(wildcards["weights"]) in _rows():
            build.pretrained([str(wildcards["weights"])])
        elif base in ("download", "frames") and dataset in p.datasets:
            build.frames(dataset, split)
        elif base == "flow" and dataset in p.datasets and model in p.models and p.models[model].task == "flow":
            build.flow(model, dataset, split, dataset)
        elif stage == "train" and dataset in p.datasets and model in p.models and p.models[model].has_weights:
            build.checkpoint(model, dataset)
        elif stage == "paper":
            build.paper(str(wildcards["paper"]))
        elif stage in ("results", "report"):
            build.publish()
        everything = everything | build.stages[stage]
    if name not in everything:
        raise RetakeError(f"no experiment in params.yaml needs {stage} of {name}{near(name, everything)}")
    return everything[name]


def let_dvc_work() -> str:
    """Have DVC work without git where it cannot with it; return what was done in words, "" where nothing was.

    DVC asks for a repository around the project, and lets git ignore each output, which git refuses behind a link out of the
    repository, such as `data` on a larger disk. What `.dvc/config.local` says already stays.
    """
    folder, data = Path.cwd().resolve(), Path("data").resolve()
    roots = [parent for parent in (folder, *folder.parents) if (parent / ".git").exists()]
    if not roots:
        reason = f"{folder} is in no git repository"
    elif not data.is_relative_to(roots[0]):
        reason = f"data is a link to {data}, out of the git repository"
    else:
        return ""
    local = Path(".dvc/config.local")
    if not local.parent.is_dir() or (local.exists() and "no_scm" in local.read_text(errors="replace")):
        return ""
    dvc = shutil.which("dvc", path=str(Path(sys.executable).parent) + os.pathsep + os.environ.get("PATH", ""))
    if not dvc or subprocess.run([dvc, "config", "-q", "--local", "core.no_scm", "true"], check=False).returncode:
        return ""
    told = f"{reason}: DVC now works without git here (core.no_scm in {local}; `dvc exp` needs git)"
    log.info("%s", told)
    return told


def _check_names(p: Params) -> None:
    """Raise RetakeError for a user's folder with a name that DVC cannot track; DVC's own error would not say which."""
    stages = reproduced(p)
    given = [value for fields in stages["frames"].values() for key, value in fields.items() if key.startswith("own_")]
    for folder in map(Path, [*given, *(fields["source"] for fields in stages["bring"].values())]):
        for path in folder.rglob("*") if folder.is_dir() else ():
            if readable(str(path)) != str(path):
                raise RetakeError(
                    f"{readable(str(path))} is a name that is not UTF-8, which DVC cannot track: rename it, or use snakemake"
                )


def main() -> None:
    """Write plan.json and resolved; under DVC, stop the run when the first is another than DVC had read."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    p = params.load()
    write(p)
    told = let_dvc_work()
    if told and "DVC_STAGE" in os.environ:
        raise RetakeError(f"{told}: type the same command again")
    if "DVC_STAGE" in os.environ:
        _check_names(p)
    text = dump(p)
    if FILE.exists() and FILE.read_bytes() == text.encode():
        return
    write_text(FILE, text)
    if "DVC_STAGE" in os.environ:
        raise RetakeError(
            f"params.yaml asks for other stages than DVC had read; {FILE} is written anew: type the same command again"
        )
    log.info("wrote %s", FILE)


if __name__ == "__main__":
    from pipeline.errors import run

    run(main, "plan")
