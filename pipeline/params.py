"""params.yaml as typed objects; the only reader of it.

Datasets, models and metrics bring their own typed keys: each module of those packages has a class `Params` derived from
`Dataset`, `Model` or `Metric` below, whose `kind` is the module's name. Those modules import nothing heavy at the top.

`python -m pipeline.params` writes `workflow/schemas/params.schema.json`, which editors use to complete and check
params.yaml; a test holds the committed file against it.
"""

from __future__ import annotations

import functools
import importlib
import json
import operator
import os
import pkgutil
import re
from pathlib import Path
from types import ModuleType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model, model_validator

from pipeline.errors import RetakeError, near

FILE = Path("params.yaml")
SCHEMA = Path("workflow/schemas/params.schema.json")
FLOW = re.compile(r"data/flow/(?P<estimator>[^/]+)/(?P<dataset>[^/]+)/(?P<split>[^/]+)\.arrow")
CHECKPOINT = re.compile(r"data/checkpoints/(?P<model>[^/]+)/(?P<dataset>[^/]+)\.pt")
VARIABLE = "RETAKE_PARAMS"  # the Snakefile hands --config and --configfile to the stages in it

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class Strict(BaseModel):
    """Keys that no class declares are refused."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Tracking(Strict):
    """Where runs are mirrored; the files in data/ and results/ stay the truth."""

    mlflow: bool = Field(
        description="mirror params, metrics, tables and pictures to MLflow (sqlite, or MLFLOW_TRACKING_URI)"
    )


class Compute(Strict):
    """The machine; published numbers are made with precision 32-true and channels_last off."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        description="auto takes a GPU where there is one; cuda insists on it"
    )
    precision: Literal["32-true", "bf16-mixed"] = Field(description="arithmetic of training and prediction")
    channels_last: bool = Field(description="memory layout of convolutions; a little faster, other rounding")
    threads: int = Field(ge=1, description="CPU threads of one job; another number may change the last digits")
    batch: int = Field(
        ge=1, description="windows predicted, or pairs of frames estimated, together; may change the last digits"
    )
    workers: int = Field(ge=0, description="processes that load training data; 0 loads in the training process")


class Dataset(Strict):
    """One dataset, prepared one way. Two preparations of one dataset are two entries."""

    kind: str = Field(description="module of pipeline/datasets that knows this dataset's archives and splits")
    height: int | None = Field(
        ge=16, description="height of the stored frames, pixels; null: as the width makes it, or the sources' own"
    )
    width: int | None = Field(
        ge=16,
        description="width of the stored frames, pixels; null: as the height makes it (even), or the sources' own",
    )
    codec: Literal["raw", "zstd", "png", "jpeg"] = Field(
        description="how frames are stored: raw reads fastest; zstd is lossless, mostly smaller than png and faster; jpeg keeps JPEG sources untouched"
    )
    archives: Literal["all", "present"] = Field(
        description="all: download what is missing; present: download nothing, go on with what lies in data/raw (the table says partial)"
    )


class Train(Strict):
    """How a model is trained; one entry of params.yaml is one training per dataset."""

    batch: int = Field(ge=1, description="clips in a batch, over all processes")
    epochs: int = Field(
        ge=1, description="passes over the training windows; the schedule's length unless max_steps cuts it"
    )
    max_steps: int | None = Field(
        ge=1, description="stop (and end the schedule) after so many batches; null: epochs decide"
    )
    seed: int = Field(description="of weights, sampling and augmentation")
    window: int = Field(ge=2, description="frames of a training clip")
    windows: Literal["all", "random"] = Field(
        description="all: every start of every clip is a training window; random: one window a clip, start and stride drawn anew each time"
    )
    max_stride: int = Field(ge=1, description="windows random: the largest step between the frames of a training clip")
    crop: int | None = Field(ge=16, description="side of the random square crop, pixels; null: whole frames")
    validation: str | None = Field(description="split that is scored during training; null: none")
    validate_every: int = Field(ge=1, description="steps between validations")
    validate_windows: int = Field(ge=1, description="evenly spaced windows of the validation split that are scored")
    checkpoint_every: int = Field(
        ge=1, description="steps between saved states; a killed training goes on from the last"
    )


class Estimation(Strict):
    """Settings that every flow estimator has."""

    export: Literal["pairs", "sky"] = Field(
        description="what the flow stage writes. pairs: each frame to the next, at the frames' size; sky: as published for "
        "DTVNet, a clip's first frame to itself, then frame i - 1 to i, the last left out, brought to 128x128"
    )


class Model(Strict):
    """One system with its settings; a table has a row for each of its experiment's models."""

    task: ClassVar[str]  # a module of pipeline/tasks; says what the model is given and gives
    kind: str = Field(description="module of pipeline/models")
    network: Any = Field(description="what the weights depend on")
    train: Train | None = Field(description="null: nothing is trained (a baseline, or imported weights)")
    checkpoint: str | None = Field(
        description="published weights to import: a file, or a name in workflow/weights.csv; null: none"
    )
    predict: Any = Field(description="settings of prediction alone; changing them never retrains")

    def check(self, height: int, width: int) -> None:
        """Raise ValueError when the model cannot work on frames of this size."""

    @property
    def flow(self) -> str | None:
        """The flow estimator (an entry of models) whose precomputed flow this model reads; None for most."""
        return getattr(self.predict, "flow", None)

    @property
    def export(self) -> str:
        """Which flow the flow stage writes, see `Estimation`."""
        return getattr(self.predict, "export", "pairs")

    @property
    def start(self) -> tuple[str, str] | None:
        """The (model, dataset) whose checkpoint training starts from; None for new weights and for published files."""
        named = CHECKPOINT.fullmatch(getattr(self.train, "start", None) or "")
        return (named["model"], named["dataset"]) if named else None

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
    """How a clip becomes inputs and targets: one class a task, with what its experiments may ask for."""

    NEEDS: ClassVar[tuple[str, ...]]  # what its metrics compare (a metric's NEEDS)
    BRINGS: ClassVar[bool]  # whether predictions made elsewhere can be scored

    @property
    def steps(self) -> int:
        """Predicted steps, which `report` names; 0: the task has none."""
        return 0


class Prediction(Task):
    """Video prediction: which frames are given, which are predicted, and how steps are averaged."""

    NEEDS = ("frames", "pairs", "flow", "features", "samples")
    BRINGS = True

    task: Literal["prediction"] = Field(description="how a clip becomes inputs and targets")
    window: int = Field(ge=2, description="consecutive frames of one test window")
    windows: Literal["all", "first"] = Field(description="all: every start in a clip; first: one window a clip")
    first: int = Field(ge=0, description="index of the first input frame in the window")
    context: int = Field(ge=1, description="input frames")
    horizon: int = Field(ge=1, description="predicted frames, recursively")
    samples: int = Field(
        ge=1, description="predictions of each window with other random draws (routing); the table prints their spread"
    )

    @property
    def steps(self) -> int:
        """The horizon."""
        return self.horizon

    @model_validator(mode="after")
    def _fits(self) -> Prediction:
        if self.first + self.context + self.horizon > self.window:
            raise ValueError(
                f"first {self.first} + context {self.context} + horizon {self.horizon} is more than window {self.window}"
            )
        return self


class Flow(Task):
    """Optical flow: every pair of the test split that has ground truth is estimated."""

    NEEDS = ("fields",)
    BRINGS = False

    task: Literal["flow"] = Field(description="how a clip becomes inputs and targets")


class SuperResolution(Task):
    """Video super-resolution by 4: every scene of the test split is upscaled whole.

    Low resolution is the dataset's own where it has a split `test_lr`; else the test split's, degraded.
    """

    NEEDS = ("frames", "pairs")
    BRINGS = True

    task: Literal["super_resolution"] = Field(description="how a clip becomes inputs and targets")
    saved: Literal["truncated", "rounded"] = Field(
        description="how outputs become the 8-bit images that are scored: truncated (published), or rounded"
    )
    trim: int = Field(ge=0, description="frames at both ends of a scene that are not scored (published: 2)")
    border: Literal["cropped", "kept"] = Field(
        description="cropped: only a centred part is scored, its sides multiples of 32 and at least 16 px shorter "
        "than the frame's (published); kept: whole frames"
    )


Protocol = Annotated[Prediction | Flow | SuperResolution, Field(discriminator="task")]


class Metric(Strict):
    """One column group of a table."""

    kind: str = Field(description="module of pipeline/metrics")


class Experiment(Strict):
    """One table: a dataset, a protocol, models and metrics."""

    dataset: Name = Field(description="tested dataset (its split `test`)")
    trained_on: Name = Field(description="dataset that the models are trained on (its split `train`)")
    protocol: Name = Field(description="entry of protocols")
    models: dict[Name, str] = Field(
        min_length=1, description="rows, in this order: entry of models -> the label that tables print"
    )
    metrics: dict[Name, Metric] = Field(
        min_length=1,
        description="column groups, the key names the columns; or a profile's name, for all of its metrics",
    )
    report: list[int] = Field(
        description="steps k of the table's t+k columns, each the mean over the first k steps as published; [] for other tasks"
    )
    predictions: dict[Name, str] = Field(
        description="label -> folder of predicted PNGs in the published layout, scored as a further row"
    )
    missing_weights: Literal["error", "skip"] = Field(
        description="error: stop when a metric's weights cannot be had; skip: leave its cells empty and say why"
    )
    published: str | dict[Name, str] | None = Field(
        description="dataset name in results/published/*.csv whose rows stand beside ours, or a name for each metric; null: none"
    )


class Params(Strict):
    """The whole of params.yaml."""

    reproduce: list[str] = Field(
        description="experiments that `snakemake` and `dvc repro` make when no target is given, and flow stores to make "
        "ahead of any experiment, data/flow/<estimator>/<dataset>/<split>.arrow"
    )
    tracking: Tracking = Field(description="where runs are mirrored")
    compute: Compute = Field(description="the machine")
    datasets: dict[Name, Dataset] = Field(description="datasets, each prepared one way")
    models: dict[Name, Model] = Field(description="systems and baselines with their settings")
    protocols: dict[Name, Protocol] = Field(description="which frames are given and which are predicted")
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
            store = FLOW.fullmatch(name)
            if store is None:
                _known("reproduce", name, self.experiments, "experiment")
                continue
            estimators = {key: model for key, model in self.models.items() if model.task == "flow"}
            _known(f"reproduce {name}", store["estimator"], estimators, "flow estimator")
            _known(f"reproduce {name}", store["dataset"], self.datasets, "dataset")
            splits = registry("datasets")[self.datasets[store["dataset"]].kind].SPLITS
            _known(f"reproduce {name}", store["split"], dict.fromkeys(splits), "split")
        for name, experiment in self.experiments.items():
            where = f"experiments.{name}"
            _known(f"{where}.dataset", experiment.dataset, self.datasets, "dataset")
            _known(f"{where}.trained_on", experiment.trained_on, self.datasets, "dataset")
            _known(f"{where}.protocol", experiment.protocol, self.protocols, "protocol")
            self._fits(where, experiment)
            data = self.datasets[experiment.dataset]
            for model in experiment.models:
                _known(f"{where}.models", model, self.models, "model")
                task = self.protocols[experiment.protocol].task
                if self.models[model].task != task:
                    raise ValueError(
                        f"{where}.models: {model} is a {self.models[model].task} model, the protocol's task is {task}"
                    )
                if data.height is None or data.width is None:  # the stage that runs the model sees the sizes
                    continue
                try:
                    self.models[model].check(data.height, data.width)
                except ValueError as error:
                    raise ValueError(f"{where}: model {model} on dataset {experiment.dataset}: {error}") from None
            clash = set(experiment.predictions) & set(experiment.models)
            if clash:
                raise ValueError(f"{where}.predictions: {sorted(clash)} are names of models too")
        for name, entry in self.models.items():
            if entry.start is not None:
                model, dataset = entry.start
                _known(f"models.{name}.train.start", model, self.models, "model")
                _known(f"models.{name}.train.start", dataset, self.datasets, "dataset")
            if entry.flow is not None:
                _known(f"models.{name}.predict.flow", entry.flow, self.models, "flow estimator")
                if self.models[entry.flow].task != "flow":
                    raise ValueError(f"models.{name}.predict.flow: {entry.flow} does not estimate flow")
                if self.models[entry.flow].export != "pairs":
                    raise ValueError(
                        f"models.{name}.predict.flow: {entry.flow} exports flow for DTVNet alone; name one whose "
                        "predict.export is pairs"
                    )
        return self

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


def registry(package: str) -> dict[str, ModuleType]:
    """Return the entries of `pipeline/<package>` by name: every module there that has a class `Params`."""
    root = importlib.import_module(f"pipeline.{package}")
    modules = {
        m.name: importlib.import_module(f"{root.__name__}.{m.name}") for m in pkgutil.iter_modules(root.__path__)
    }
    return {name: module for name, module in sorted(modules.items()) if hasattr(module, "Params")}


def _or_name(schema: dict[str, Any]) -> None:
    """Let a JSON schema allow a name too."""
    told = {key: schema.pop(key) for key in list(schema) if key not in ("description", "title")}
    schema["anyOf"] = [told, {"type": "string"}]


@functools.cache
def params_class() -> type[Params]:
    """Return `Params` with the union of all registered datasets, models and metrics as its types."""

    @functools.cache
    def union(package: str) -> Any:
        """Return the type of an entry: the classes of all modules, told apart by `kind`."""
        kinds: list[Any] = []
        for name, module in registry(package).items():
            title = package.removesuffix("s").title() + "".join(part.title() for part in name.split("_"))
            for key, field in module.Params.model_fields.items():  # a narrower type keeps the general explanation
                if field.description is None:
                    field.description = next(
                        c.model_fields[key].description for c in module.Params.__mro__[1:] if key in c.model_fields
                    )
            kind: Any = (Literal[name], Field(description=module.Params.model_fields["kind"].description))
            kinds.append(create_model(title, __base__=module.Params, __doc__=module.Params.__doc__, kind=kind))
        return Annotated[functools.reduce(operator.or_, kinds), Field(discriminator="kind")]

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
        profiles=(profiles, Field(description=Params.model_fields["profiles"].description)),
        experiments=(dict[Name, experiment], Field(description=Params.model_fields["experiments"].description)),
    )


def load(raw: dict[str, Any] | None = None) -> Params:
    """Return the validated parameters: `raw`, or what the Snakefile handed over, or params.yaml.

    Raises RetakeError with one line for each key that is wrong, with the nearest right name.
    """
    source = FILE.name
    if raw is None:
        text = os.environ.get(VARIABLE)
        if text:
            raw, source = json.loads(text), f"the environment variable {VARIABLE}"
        else:
            raw = _read()
    try:
        return params_class().model_validate(_expanded(raw))
    except ValidationError as error:
        raise RetakeError(f"{source} is not valid:\n" + "\n".join(_explain(e) for e in error.errors())) from None


def _expanded(raw: Any) -> Any:
    """Return the tree with the metrics of a profile where an experiment names one; what else is wrong stays as it is."""
    profiles = raw.get("profiles") if isinstance(raw, dict) else None
    experiments = raw.get("experiments") if isinstance(raw, dict) else None
    if not isinstance(profiles, dict) or not isinstance(experiments, dict):
        return raw
    found = dict(experiments)
    for name, experiment in experiments.items():
        profile = experiment.get("metrics") if isinstance(experiment, dict) else None
        if isinstance(profile, str):
            if profile not in profiles:
                raise RetakeError(f"experiments.{name}.metrics: no profile {profile!r}{near(profile, profiles)}")
            found[name] = experiment | {"metrics": profiles[profile]}
    return raw | {"experiments": found}


def _read() -> dict[str, Any]:
    try:
        tree = yaml.safe_load(FILE.read_text())
    except FileNotFoundError:
        raise RetakeError(f"no {FILE} in {Path.cwd()}: run from the project's folder") from None
    except yaml.YAMLError as error:
        raise RetakeError(f"{FILE} is not YAML: {error}") from None
    if not isinstance(tree, dict):
        raise RetakeError(f"{FILE} must be a mapping of sections, not {type(tree).__name__}")
    return tree


def _explain(error: Any) -> str:
    """Return one line for a pydantic error: the dotted key, what is wrong, the nearest right name."""
    keys: list[str] = []
    kind: Any = params_class()
    for part in error["loc"]:
        options = _members(kind)
        if len(options) > 1:  # the tag of a discriminated union: not a key of the file
            tags = [
                o.model_fields[tag].annotation for o in options for tag in ("kind", "task") if tag in o.model_fields
            ]
            kind = next((o for o, tag in zip(options, tags, strict=True) if tag == Literal[part]), None)
            continue
        keys.append(str(part))
        kind = options[0] if options else None
        if error["type"] == "extra_forbidden" and part == error["loc"][-1]:
            break
        kind = _child(kind, str(part))
    where = ".".join(keys) or "params"
    if error["type"] == "extra_forbidden" and isinstance(kind, type) and issubclass(kind, BaseModel):
        return f"  {where}: unknown key{near(keys[-1], kind.model_fields)}"
    if error["type"] == "union_tag_invalid":
        known = error["ctx"]["expected_tags"].replace("'", "").split(", ")
        key = error["ctx"]["discriminator"].strip("'")
        return f"  {where}.{key}: unknown {error['ctx']['tag']!r}{near(error['ctx']['tag'], known)}"
    message = error["msg"].removeprefix("Value error, ")
    return f"  {message}" if error["type"] == "value_error" and where == "params" else f"  {where}: {message}"


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
    """Return the JSON schema of params.yaml as committed in workflow/schemas."""
    return json.dumps(TypeAdapter(params_class()).json_schema(), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    from pipeline import params  # not __main__: the registered classes derive from the imported module's
    from pipeline.atomic import write_text

    write_text(SCHEMA, params.schema())
