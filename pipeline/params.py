"""The keys of params.yaml and the papers' files as typed objects, with their defaults and explanations.

Datasets, models, metrics and tasks bring their own typed keys: each module of those packages has a class `Params`
(`Protocol` for a task) derived from `Dataset`, `Model`, `Metric` or `Task` below. Those modules import nothing heavy at the top.

    python -m pipeline.params models.dmvfn_demo    # an entry as resolved, each value with where it comes from
    python -m pipeline.params --schema             # writes workflow/schemas/params.schema.json, which editors use

A test holds the committed schema against the classes.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import operator
import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError

from pipeline import recipes
from pipeline.errors import RetakeError, near
from pipeline.registry import registry
from pipeline.sources import limits

SCHEMA = Path("workflow/schemas/params.schema.json")
FLOW = re.compile(r"data/flow/(?P<estimator>[^/]+)/(?P<dataset>[^/]+)/(?P<split>[^/]+)\.arrow")
CHECKPOINT = re.compile(r"data/checkpoints/(?P<model>[^/]+)/(?P<dataset>[^/]+)\.pt")
VARIABLE = (
    "RETAKE_PARAMS"  # the file in which the Snakefile hands the values to the stages, --config and --configfile in them
)

ROWS = ("models", "metrics", "predictions")  # of an experiment: null takes one away
OF_ROWS = {"seeds": "models", "labels": "predictions"}  # what an experiment says of such a row goes with it

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=100)]
Side = Annotated[int, Field(ge=16, le=limits.PIXELS // 16)]
Count = Annotated[int, Field(ge=1)]
Few = Annotated[int, Field(ge=1, le=4096)]  # jobs, processes, machines
Frames = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # what torch and NumPy both take


def _label(text: str) -> str:
    if not text.isprintable() or text != text.strip() or not text:
        raise ValueError(
            f"{text!r} is no label: one line of visible characters, without space at its ends (no line breaks, no marks that turn "
            "the direction of reading)"
        )
    return text


Label = Annotated[str, AfterValidator(_label)]  # of a row


def _place(text: str) -> str:
    if (
        not text
        or any(unicodedata.category(c) == "Cc" for c in text)
        or max(len(p.encode()) for p in text.split("/")) > 255
    ):
        raise ValueError(
            f"{text[:99]!r} is no path: names of 1 to 255 bytes are, without line breaks and other control characters"
        )
    return text


Place = Annotated[str, AfterValidator(_place)]  # of a user's file or folder


class Strict(BaseModel):
    """Keys that no class declares are refused."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _numbers(cls, given: Any) -> Any:
        """Refuse true and false where numbers stand, which pydantic would take for 1 and 0, and numbers that nothing can hold."""
        for key, value in given.items() if isinstance(given, dict) else ():
            kind = str(cls.model_fields[key].annotation) if key in cls.model_fields else "Any"
            inside = value.values() if isinstance(value, dict) and "dict[" in kind else value
            for one in inside if isinstance(inside, list | type({}.values())) else [value]:
                wrong = ""
                if isinstance(one, bool) and not re.search(r"\b(bool|Any|Literal)\b", kind):
                    wrong = f"Input should be something else than {str(one).lower()}"
                elif isinstance(one, int) and abs(one) >= 2**63:
                    wrong = "Input should be below 2^63"
                if wrong:
                    raise PydanticCustomError("number", "{wrong}", {"wrong": wrong, "key": key})
        return given

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Give a key that a class declares anew, with another default or type, the explanation of the one it replaces."""
        bare = {key: field for key, field in cls.model_fields.items() if field.description is None}
        for key, field in bare.items():
            above = (getattr(c, "model_fields", {}).get(key) for c in cls.__mro__[1:])
            field.description = next((f.description for f in above if f is not None), None)
        if any(field.description is not None for field in bare.values()):
            cls.model_rebuild(force=True)


class Tracking(Strict):
    """Where runs are mirrored; the files in data/ and results/ stay the truth."""

    mlflow: bool = Field(
        True, description="mirror params, metrics, tables and pictures to MLflow (sqlite, or MLFLOW_TRACKING_URI)"
    )


class Compute(Strict):
    """The machine; published numbers are made with precision 32-true and channels_last off.

    The default of `batch` goes by device: 4, but 1 on a CPU whose cores one frame of more than 256x256 pixels fills (DMVFN at
    832x256 takes longer a frame in batches; i2v-cINN's small clips take a quarter of the time). A number given here holds
    on both. Convolutions may round the last bit another way in a batch.
    """

    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto takes a GPU where there is one; cuda insists on it"
    )
    devices: Few = Field(
        1,
        description="processes, each on a GPU of its own (without GPUs: on CPUs), that train one model together",
    )
    nodes: Few = Field(1, description="machines that those processes are spread over, under SLURM")
    precision: Literal["32-true", "bf16-mixed"] = Field("32-true", description="arithmetic of training and prediction")
    channels_last: bool = Field(False, description="memory layout of convolutions; a little faster, other rounding")
    threads: Few = Field(2, description="CPU threads of one job; another number may change the last digits")
    batch: Count | None = Field(
        None,
        description="windows predicted, or pairs of frames estimated, together; null: 4, or 1 on a CPU for frames above 256x256; may change the last digits",
    )
    predictions: Literal["keep", "drop"] = Field(
        "keep",
        description="drop: Snakemake removes prediction stores when they are scored and in the table's picture; DVC keeps them",
    )
    shards: Few | dict[Name, Few] = Field(
        1,
        description="jobs that frames, flow, prediction and scores of one instance are each split in, for more machines; 1: none; or a "
        "mapping from datasets (frames, flow) and experiments (predictions, scores) to such a number, the others are not split",
    )
    workers: int = Field(
        2, ge=0, le=4096, description="processes that load training data; 0 loads in the training process"
    )

    @model_validator(mode="after")
    def _even(self) -> Compute:
        if self.devices % self.nodes:
            raise ValueError(
                f"compute.devices: {self.devices} cannot be spread evenly over compute.nodes: {self.nodes}"
            )
        return self


class Dataset(Strict):
    """One dataset, prepared one way. Two preparations of one dataset are two entries."""

    kind: str = Field(description="module of pipeline/datasets that knows this dataset's archives and splits")
    height: Side | None = Field(
        None, description="height of the stored frames, pixels; null: as the width makes it, or the sources' own"
    )
    width: Side | None = Field(
        None,
        description="width of the stored frames, pixels; null: as the height makes it (even), or the sources' own",
    )
    codec: Literal["raw", "zstd", "png", "jpeg"] = Field(
        "zstd",
        description="how frames are stored: raw reads fastest; zstd is lossless, mostly smaller than png and faster; jpeg keeps JPEG sources untouched",
    )
    archives: Literal["all", "present"] = Field(
        "all",
        description="all: download what is missing; present: download nothing, go on with what lies in data/raw (the table says partial)",
    )

    @property
    def own(self) -> list[str]:
        """The user's own files and folders that are read in place: what uses them is made again when they change."""
        return []


class Train(Strict):
    """How a model is trained; one entry of params.yaml is one training per dataset."""

    batch: Count = Field(4, description="clips in a batch, over all processes")
    epochs: Count = Field(
        100, description="passes over the training windows; the schedule's length unless max_steps cuts it"
    )
    max_steps: Count | None = Field(
        None, description="stop (and end the schedule) after so many batches; null: epochs decide"
    )
    seed: Seed = Field(0, description="of weights, sampling and augmentation")
    window: Frames = Field(2, description="frames of a training clip")
    windows: Literal["all", "random"] = Field(
        "all",
        description="all: every start of every clip is a training window; random: one window a clip, start and stride drawn anew each time",
    )
    repeats: Count = Field(1, description="windows random: windows that are drawn of each clip in an epoch")
    max_stride: int = Field(
        1, ge=1, description="windows random: the largest step between the frames of a training clip"
    )
    crop: Side | None = Field(None, description="side of the random square crop, pixels; null: whole frames")
    validation: str | None = Field(None, description="split that is scored during training; null: none")
    validate_every: Count = Field(1000, description="steps between validations")
    validate_windows: Count = Field(64, description="evenly spaced windows of the validation split that are scored")
    checkpoint_every: Count = Field(
        1000, description="steps between saved states; a killed training goes on from the last"
    )


class Estimation(Strict):
    """Settings that every flow estimator has."""

    export: Literal["pairs", "sky"] = Field(
        "pairs",
        description="what the flow stage writes. pairs: each frame to the next, at the frames' size; sky: as published for "
        "DTVNet, a clip's first frame to itself, then frame i - 1 to i, the last left out, brought to 128x128",
    )


class Model(Strict):
    """One system with its settings; a table has a row for each of its experiment's models."""

    task: ClassVar[str]  # a module of pipeline/tasks; says what the model is given and gives
    EXPORTS: ClassVar[tuple[str, ...]] = ("pairs",)  # of the flow that it may read, see `Estimation`
    kind: str = Field(description="module of pipeline/models")
    network: Any = Field(None, description="what the weights depend on")
    train: Train | None = Field(None, description="null: nothing is trained (a baseline, or imported weights)")
    checkpoint: Place | dict[str, Place] | None = Field(
        None,
        description="published weights to import: a file, or a name in workflow/weights.csv, or a mapping from the model's parts "
        "to such where they are several files; null: none",
    )
    predict: Any = Field(None, description="settings of prediction alone; changing them never retrains")

    def check(self, height: int, width: int) -> None:
        """Raise ValueError when the model cannot work on frames of this size."""

    @property
    def flow(self) -> str | None:
        """The flow estimator (an entry of models) whose precomputed flow this model reads; None for most."""
        return getattr(self.predict, "flow", None)

    @property
    def flow_of(self) -> str | None:
        """The dataset whose flow is read in place of that of the frames themselves; None for most."""
        return getattr(self.predict, "flow_of", None)

    @property
    def export(self) -> str:
        """Which flow the flow stage writes, see `Estimation`."""
        return getattr(self.predict, "export", "pairs")

    @property
    def starts(self) -> dict[str, tuple[str, str]]:
        """The (model, dataset) whose checkpoints training starts from, by the key of `train` that names each."""
        named = {key: CHECKPOINT.fullmatch(value) for key, value in (self.train or {}) if isinstance(value, str)}
        return {key: (match["model"], match["dataset"]) for key, match in named.items() if match}

    @property
    def pretrained(self) -> list[str]:
        """The published files that training or importing reads: names in workflow/weights.csv, or the user's own paths."""
        if isinstance(self.checkpoint, dict):
            return list(self.checkpoint.values())
        return [self.checkpoint] if self.checkpoint is not None else []

    @property
    def has_weights(self) -> bool:
        """Whether a train job makes (or imports) a checkpoint of this model."""
        return self.train is not None or self.checkpoint is not None

    @model_validator(mode="after")
    def _one_source(self) -> Model:
        if self.train is not None and self.checkpoint is not None:
            raise ValueError("either train or checkpoint must be null: weights are trained or imported")
        return self


class Task(Strict):
    """How a clip becomes inputs and targets: one class `Protocol` a task, with what its experiments may ask for."""

    NEEDS: ClassVar[tuple[str, ...]]  # what its metrics compare (a metric's NEEDS)
    BRINGS: ClassVar[bool]  # whether predictions made elsewhere can be scored
    HOOKS: ClassVar[tuple[str, ...]]  # what a model of this task must define, beside `build`
    TRAINING_HOOKS: ClassVar[tuple[str, ...]] = ("configure", "training_step")  # and one that is trained
    CURVE: ClassVar[tuple[str, str]] = ("step", "mean")  # columns of <experiment>_steps.csv: where, and what

    task: str = Field(description="how a clip becomes inputs and targets: a folder of pipeline/tasks")

    @property
    def steps(self) -> int:
        """Predicted steps, which `report` names; 0: the task has none."""
        return 0


class Metric(Strict):
    """One column group of a table."""

    kind: str = Field(description="module of pipeline/metrics")


class Experiment(Strict):
    """One table: a dataset, a protocol, models and metrics."""

    dataset: Name = Field(description="tested dataset (its split `test`)")
    trained_on: Name = Field(
        description="dataset that the models are trained on (its split `train`); left out: `dataset`"
    )
    protocol: Name = Field(description="entry of protocols")
    models: dict[Name, Label] = Field(
        min_length=1, description="rows, in this order: entry of models -> the label that tables print"
    )
    seeds: dict[Name, Few] = Field(
        default_factory=dict,
        description="entry of models -> how often it is trained, with its recipe's seed and those that follow; its cells are means "
        "over these trainings, with an interval over them. 1 where it is not named",
    )
    metrics: dict[Name, Metric] = Field(
        min_length=1,
        description="column groups, the key names the columns; or a profile's name, for all of its metrics",
    )
    report: list[int] = Field(
        default_factory=list,
        description="steps k of the table's t+k columns, each the mean over the first k steps as published; [] for other tasks",
    )
    predictions: dict[Name, Place] = Field(
        default_factory=dict,
        description="label -> folder of predicted PNGs in the published layout, scored as a further row",
    )
    labels: dict[Name, Label] = Field(
        default_factory=dict,
        description="brought predictions -> the label that tables print; their name where it is left out",
    )
    missing_weights: Literal["error", "skip"] = Field(
        "error",
        description="error: stop when a metric's weights cannot be had; skip: leave its cells empty and say why",
    )
    published: str | dict[Name, str] | None = Field(
        None,
        description="dataset name in results/published/*.csv whose rows stand beside ours, or a name for each metric; null: none",
    )

    def trainings(self, model: str) -> list[str]:
        """Return the entries of `models` that are trainings of one, itself first: those that `seeds` adds differ in their seed."""
        return [model, *(f"{model}_seed{k}" for k in range(2, self.seeds.get(model, 1) + 1))]

    @property
    def rows(self) -> list[str]:
        """The models and brought predictions that the table has a row for."""
        again = {name for model in self.seeds for name in self.trainings(model)[1:]}
        return [name for name in (*self.models, *self.predictions) if name not in again]


class Params(Strict):
    """The whole of params.yaml and the papers' files."""

    reproduce: list[str] = Field(
        default_factory=list,
        description="experiments that `snakemake` and `dvc repro` make when no target is given, and flow stores to make "
        "ahead of any experiment, data/flow/<estimator>/<dataset>/<split>.arrow",
    )
    tracking: Tracking = Field(default_factory=Tracking, description="where runs are mirrored")
    compute: Compute = Field(default_factory=Compute, description="the machine")
    datasets: dict[Name, Dataset] = Field(description="datasets, each prepared one way")
    models: dict[Name, Model] = Field(description="systems and baselines with their settings")
    protocols: dict[Name, Task] = Field(description="which frames are given and which are predicted")
    profiles: dict[Name, dict[Name, Metric]] = Field(
        description="groups of metrics as a paper computed them: what `python -m pipeline.evaluate` knows by name, and what an "
        "experiment takes whole by a profile's name (`metrics: dmvfn`)"
    )
    experiments: dict[Name, Experiment] = Field(description="one table each")

    @functools.cached_property
    def tree(self) -> dict[str, Any]:
        """The plain values, as params.yaml writes them."""
        return self.model_dump(mode="json")

    @model_validator(mode="after")
    def _references(self) -> Params:
        for name in self.reproduce:
            self._made(f"reproduce {name}", name)
        for name in self.compute.shards if isinstance(self.compute.shards, dict) else ():
            _known("compute.shards", name, {**self.datasets, **self.experiments}, "dataset or experiment")
        for name, experiment in self.experiments.items():
            where = f"experiments.{name}"
            _known(f"{where}.dataset", experiment.dataset, self.datasets, "dataset")
            _known(f"{where}.trained_on", experiment.trained_on, self.datasets, "dataset")
            _known(f"{where}.protocol", experiment.protocol, self.protocols, "protocol")
            self._has_split(where, experiment.dataset, "test")
            self._fits(where, experiment)
            for model in experiment.models:
                self._enters(where, experiment, model)
            self._told_apart(where, experiment)
            clash = set(experiment.predictions) & set(self.models)
            if clash:
                raise ValueError(f"{where}.predictions: {sorted(clash)} are names of models too")
            for name in experiment.labels:
                _known(f"{where}.labels", name, experiment.predictions, "name of predictions")
        for name, entry in self.models.items():
            for key, (model, dataset) in entry.starts.items():
                _known(f"models.{name}.train.{key}", model, self.models, "model")
                _known(f"models.{name}.train.{key}", dataset, self.datasets, "dataset")
            if entry.flow is not None:
                where = f"models.{name}: flow"
                _known(where, entry.flow, self.models, "flow estimator")
                if self.models[entry.flow].task != "flow":
                    raise ValueError(f"{where}: {entry.flow} does not estimate flow")
                if self.models[entry.flow].export not in entry.EXPORTS:
                    raise ValueError(
                        f"{where}: {entry.flow} exports flow for DTVNet alone; name one whose predict.export is pairs"
                    )
                if entry.flow_of is not None:
                    _known(f"models.{name}: flow_of", entry.flow_of, self.datasets, "dataset")
        return self

    def _told_apart(self, where: str, experiment: Experiment) -> None:
        """Raise ValueError for two rows of one label, as people read it."""
        rows: dict[str, str] = {}
        for name, label in (
            experiment.models | {name: experiment.labels.get(name, name) for name in experiment.predictions}
        ).items():
            read = unicodedata.normalize("NFKC", label)
            if read in rows and name not in experiment.models:
                raise ValueError(f"{where}.predictions.{name}: the row {rows[read]} has this label: rename one of them")
            if read in rows:
                raise ValueError(f"{where}.models.{name}: the row {rows[read]} has the label {label!r} too: rename one")
            rows[read] = name

    def _made(self, where: str, name: str) -> None:
        """Raise ValueError unless `name` is an experiment, or a flow store or checkpoint that can be made."""
        if store := FLOW.fullmatch(name):
            estimators = {key: model for key, model in self.models.items() if model.task == "flow"}
            _known(where, store["estimator"], estimators, "flow estimator")
            _known(where, store["dataset"], self.datasets, "dataset")
            self._has_split(where, store["dataset"], store["split"])
        elif trained := CHECKPOINT.fullmatch(name):
            _known(where, trained["model"], self.models, "model")
            _known(where, trained["dataset"], self.datasets, "dataset")
            self._trains(where, trained["model"], trained["dataset"])
        else:
            _known("reproduce", name, self.experiments, "experiment")

    def _has_split(self, where: str, dataset: str, split: str) -> None:
        splits = registry("datasets")[self.datasets[dataset].kind].SPLITS
        if split not in splits:
            raise ValueError(f"{where}: dataset {dataset} has no split {split!r}{near(split, splits)}")

    def _trains(self, where: str, model: str, dataset: str) -> None:
        """Raise ValueError unless the dataset has the splits that training the model on it reads."""
        train = self.models[model].train
        if train is not None:
            self._has_split(f"{where}: model {model} trains on", dataset, "train")
            if train.validation is not None:
                self._has_split(f"{where}: models.{model}.train.validation", dataset, train.validation)

    def _enters(self, where: str, experiment: Experiment, model: str) -> None:
        """Raise ValueError unless the model can be a row of the experiment."""
        _known(f"{where}.models", model, self.models, "model")
        task = self.protocols[experiment.protocol].task
        if self.models[model].task != task:
            raise ValueError(
                f"{where}.models: {model} is a {self.models[model].task} model, the protocol's task is {task}"
            )
        self._trains(where, model, experiment.trained_on)
        data = self.datasets[experiment.dataset]
        if data.height is None or data.width is None:  # the stage that runs the model sees the sizes
            return
        try:
            self.models[model].check(data.height, data.width)
        except ValueError as error:
            raise ValueError(f"{where}: model {model} on dataset {experiment.dataset}: {error}") from None

    def _fits(self, where: str, experiment: Experiment) -> None:
        """Raise ValueError for steps, metrics or predictions that the experiment's task does not have."""
        protocol = self.protocols[experiment.protocol]
        if protocol.steps:
            if not experiment.report or not all(1 <= k <= protocol.steps for k in experiment.report):
                raise ValueError(
                    f"{where}.report {experiment.report} must name steps from 1 to horizon {protocol.steps}"
                )
        elif experiment.report:
            raise ValueError(f"{where}.report must be []: the task {protocol.task} has no steps")
        if experiment.predictions and not protocol.BRINGS:
            raise ValueError(f"{where}.predictions must be {{}}: only frames that were predicted can be brought")
        modules = registry("metrics")
        for key, metric in experiment.metrics.items():
            if modules[metric.kind].NEEDS not in protocol.NEEDS:
                raise ValueError(f"{where}.metrics.{key}: {metric.kind} is no metric of the task {protocol.task}")
        if isinstance(experiment.published, dict):
            for key in experiment.published:
                _known(f"{where}.published", key, experiment.metrics, "metric")


def _known(where: str, name: str, names: dict[str, Any], what: str) -> None:
    if name not in names:
        raise ValueError(f"{where}: unknown {what} {name!r}{near(name, names)}")


def _or_name(schema: dict[str, Any]) -> None:
    """Let a JSON schema allow a name too."""
    told = {key: schema.pop(key) for key in list(schema) if key not in ("description", "title")}
    schema["anyOf"] = [told, {"type": "string"}]


@functools.cache
def params_class() -> type[Params]:
    """Return `Params` with the union of all registered datasets, models and metrics as its types."""

    @functools.cache
    def union(package: str) -> Any:
        """Return the type of an entry: the classes of all modules, told apart by `kind` (by `task` for protocols)."""
        tag, suffix = ("task", "") if package == "tasks" else ("kind", package.removesuffix("s").title())
        kinds: list[Any] = []
        for name, entry in registry(package).items():
            base = entry.Protocol if package == "tasks" else entry.Params
            title = suffix + "".join(part.title() for part in name.split("_"))
            field: Any = (Literal[name], Field(description=base.model_fields[tag].description))
            kinds.append(create_model(title, __base__=base, __doc__=base.__doc__, **{tag: field}))
        return Annotated[functools.reduce(operator.or_, kinds), Field(discriminator=tag)] if kinds[1:] else kinds[0]

    def section(base: type[BaseModel], key: str, package: str) -> Any:
        entries: Any = dict.__class_getitem__((Name, union(package)))
        named: Any = {"json_schema_extra": _or_name} if base is Experiment else {}
        return (entries, Field(description=base.model_fields[key].description, min_length=1, **named))

    experiment: Any = create_model("Experiment", __base__=Experiment, metrics=section(Experiment, "metrics", "metrics"))
    profiles: Any = dict.__class_getitem__((Name, dict.__class_getitem__((Name, union("metrics")))))
    return create_model(
        "Params",
        __base__=Params,
        datasets=section(Params, "datasets", "datasets"),
        models=section(Params, "models", "models"),
        protocols=section(Params, "protocols", "tasks"),
        profiles=(profiles, Field(description=Params.model_fields["profiles"].description)),
        experiments=(dict[Name, experiment], Field(description=Params.model_fields["experiments"].description)),
    )


def load(overrides: dict[str, Any] | None = None) -> Params:
    """Return the validated parameters: of params.yaml and the papers' files, or in a stage what the Snakefile handed over.

    Raises RetakeError with one line for each key that is wrong: the file, the nearest right name.
    """
    handed = os.environ.get(VARIABLE)
    if handed and overrides is None:
        return validate(_handed(Path(handed)), lambda keys: handed)
    read = recipes.read(overrides)
    return validate(read.values, read.source)


def validate(values: dict[str, Any], source: Callable[[recipes.Keys], str] = lambda keys: "") -> Params:
    """Return plain values as typed objects; `source` gives the file that a key stands in, for messages. Raises as `load`."""
    try:
        p = params_class().model_validate(_expanded(values))
        return params_class().model_validate(_seeded(p)) if any(e.seeds for e in p.experiments.values()) else p
    except ValidationError as error:
        raise RetakeError("params are not valid:\n" + "\n".join(_explain(e, source) for e in error.errors())) from None


def hand_over(p: Params) -> Path:
    """Write the values for the stages that a Snakefile starts and return the file: an environment variable is too small.

    The file's name is a digest of its content: another run's values do not replace them.
    """
    from pipeline.atomic import write_text

    text = p.model_dump_json()
    path = Path(".snakemake/params") / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    if not path.exists():
        write_text(path, text)
    return path


def _handed(path: Path) -> dict[str, Any]:
    try:
        text = limits.text(path)
        values: dict[str, Any] = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise RetakeError(f"the params that Snakemake handed over in {path} cannot be read: {error}") from None
    if hashlib.sha256(text.encode()).hexdigest()[:16] != path.stem:
        raise RetakeError(f"the params that Snakemake handed over in {path} were changed: run Snakemake again")
    return values


def _expanded(raw: Any) -> Any:
    """Return the tree with the metrics of a profile where an experiment names one, and `dataset` where `trained_on` is left out.

    A row or metric that is null is left out: so params.yaml takes one away that a paper's file has. What is not of the right
    type is left for the validation to name.
    """
    if not isinstance(raw, dict) or not isinstance(raw.get("experiments"), dict):
        return raw
    profiles = raw.get("profiles") or {}
    experiments = {}
    for name, given in raw["experiments"].items():
        experiment = given
        if isinstance(given, dict):
            experiment = {"trained_on": given.get("dataset"), **given} if "dataset" in given else given
            profile = given.get("metrics")
            if isinstance(profile, str) and isinstance(profiles, dict):
                if profile not in profiles:
                    raise RetakeError(f"experiments.{name}.metrics: no profile {profile!r}{near(profile, profiles)}")
                experiment = experiment | {"metrics": profiles[profile]}
            for key, rows in OF_ROWS.items():
                if isinstance(experiment.get(key), dict) and isinstance(experiment.get(rows), dict):
                    kept = {k: v for k, v in experiment[key].items() if experiment[rows].get(k, k) is not None}
                    experiment = experiment | {key: kept}
            experiment = {k: _without_nulls(v) if k in ROWS else v for k, v in experiment.items()}
        experiments[name] = experiment
    return raw | {"experiments": experiments}


def _seeded(p: Params) -> dict[str, Any]:
    """Return the tree with an entry for each further training that `seeds` of an experiment asks for."""
    tree = p.model_dump(mode="json")
    for where, e in p.experiments.items():
        for model in e.seeds:
            if model not in e.models:
                raise RetakeError(f"experiments.{where}.seeds: {model} is no model of it{near(model, e.models)}")
            recipe = p.models[model].train
            if recipe is None:
                raise RetakeError(
                    f"experiments.{where}.seeds: {model} is not trained, so it has no seeds: leave it out"
                )
            for offset, name in enumerate(e.trainings(model)[1:], start=1):
                entry = tree["models"][model] | {
                    "train": tree["models"][model]["train"] | {"seed": recipe.seed + offset}
                }
                if tree["models"].setdefault(name, entry) != entry:
                    raise RetakeError(f"experiments.{where}.seeds: another model is called {name}: rename it")
                tree["experiments"][where]["models"][name] = f"{e.models[model]} (seed {recipe.seed + offset})"
    return tree


def _without_nulls(value: Any) -> Any:
    return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value


def _explain(error: Any, source: Callable[[recipes.Keys], str]) -> str:
    """Return one line for a pydantic error: the file, the dotted key, what is wrong, the nearest right name."""
    keys: list[str] = []
    kind: Any = params_class()
    for part in error["loc"]:
        options = _members(kind)
        if len(options) > 1:  # the member of a union: not a key of the file
            kind = next((option for option in options if _is_meant(option, str(part))), None)
            continue
        keys.append(str(part))
        kind = options[0] if options else None
        if error["type"] == "extra_forbidden" and part == error["loc"][-1]:
            break
        kind = _child(kind, str(part))
    keys += [error["ctx"]["key"]] if error["type"] == "number" else []
    file = source(tuple(keys))
    where = (f"{file}: " if file else "") + (".".join(keys) or "params")
    if error["type"] == "extra_forbidden" and isinstance(kind, type) and issubclass(kind, BaseModel):
        return f"  {where}: unknown key{near(keys[-1], kind.model_fields)}"
    if error["type"] == "union_tag_invalid":
        known = error["ctx"]["expected_tags"].replace("'", "").split(", ")
        key = error["ctx"]["discriminator"].strip("'")
        return f"  {where}.{key}: unknown {error['ctx']['tag']!r}{near(error['ctx']['tag'], known)}"
    message = error["msg"].removeprefix("Value error, ")
    return f"  {message}" if error["type"] == "value_error" and not keys else f"  {where}: {message}"


def _is_meant(option: Any, name: str) -> bool:
    """Whether pydantic calls the member of a union so: by the value of its tag, or as a mapping."""
    if get_origin(option) is dict:
        return name.startswith("dict[")
    fields = getattr(option, "model_fields", {})
    return any(fields[tag].annotation == Literal[name] for tag in ("kind", "task") if tag in fields)


def _members(kind: Any) -> list[Any]:
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, UnionType):
        return [k for k in get_args(kind) if k is not type(None)]
    return [] if kind is None else [kind]


def _child(kind: Any, part: str) -> Any:
    if get_origin(kind) is dict:
        return get_args(kind)[1]
    if get_origin(kind) is list:
        return get_args(kind)[0]
    if isinstance(kind, type) and issubclass(kind, BaseModel) and part in kind.model_fields:
        field = kind.model_fields[part]
        return field.annotation
    return None


def subtree(params: Params, key: str) -> Any:
    """Return the plain value under a dotted key, as `params.yaml` writes it."""
    node: Any = params.tree
    for part in key.split("."):
        node = node[part]
    return node


def schema() -> str:
    """Return the JSON schema of params.yaml and the papers' files, as committed in workflow/schemas.

    An entry that names no `kind` (or `task`) overrides or is `like` another one: its keys are checked when params are loaded.
    """
    tree = TypeAdapter(params_class()).json_schema()
    tree.pop("required", None)
    partial = {"type": "object", "not": {"anyOf": [{"required": [tag]} for tag in ("kind", "task")]}}
    for section in recipes.SECTIONS:
        entries = tree["properties"][section]
        entries.pop("minProperties", None)
        entry = entries.get("additionalProperties")
        options = [entry] if entry else list(entries["patternProperties"].values())
        for option in options:
            told = dict(option)
            option.clear()
            option["anyOf"] = [told, partial]
    for definition in tree["$defs"].values():
        if definition.get("type") == "object":
            definition["properties"]["like"] = {
                "type": "string",
                "description": "another entry, whose values hold where this one gives none",
            }
    return json.dumps(tree, indent=2, sort_keys=True) + "\n"


def explain(key: str) -> str:
    """Return the values under a dotted key, one a line, each with where it comes from; raises RetakeError for an unknown key."""
    read = recipes.read()
    p = validate(read.values, read.source)
    tree: Any = p.tree
    for part in key.split("."):
        if not isinstance(tree, dict) or part not in tree:
            raise RetakeError(f"params have no {key}{near(part, tree) if isinstance(tree, dict) else ''}")
        tree = tree[part]
    lines = []
    for keys, value in _flat(tree, tuple(key.split("."))):
        name = ".".join(keys[len(key.split(".")) :]) or keys[-1]
        lines.append((f"{name}: {json.dumps(value)}", read.sources.get(keys) or _of_a_list(read, keys) or "default"))
    width = max(len(line) for line, _ in lines)
    return "\n".join(f"{line:<{width}}  # {source}" for line, source in lines)


def _of_a_list(read: recipes.Recipes, keys: recipes.Keys) -> str:
    """Return the source of a mapping that a single value stands for, as a profile's name does; "" where there is none."""
    return next((read.sources[keys[:n]] for n in range(len(keys) - 1, 1, -1) if read.sources.get(keys[:n])), "")


def _flat(tree: Any, keys: recipes.Keys) -> Iterator[tuple[recipes.Keys, Any]]:
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _flat(value, (*keys, key))
    else:
        yield keys, tree


def main() -> None:
    """Print an entry as resolved, or write the schema."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "key", nargs="?", help="dotted key, such as models.dmvfn_demo: print what it holds and where that comes from"
    )
    parser.add_argument("--schema", action="store_true", help=f"write {SCHEMA}")
    args = parser.parse_args()
    if args.schema:
        from pipeline.atomic import write_text

        write_text(SCHEMA, schema())
    elif args.key:
        print(explain(args.key))
    else:
        parser.error("give a key, or --schema")


if __name__ == "__main__":
    from pipeline import params  # not __main__: the registered classes derive from the imported module's
    from pipeline.errors import run

    run(params.main, "params")
