"""The mirror to MLflow; the only module that imports mlflow.

The files in data/ and results/ are the truth: a server that is away never stops a stage, and is said once. Metrics go in
batches. A lock makes parallel jobs safe on a fresh sqlite database, whose migrations race otherwise. Default store:
`mlflow.db` in the project's folder (DVC's queued experiments work in a copy that is thrown away, and log into the project's too);
any other by MLflow's own variable MLFLOW_TRACKING_URI.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import sqlite3
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.atomic import write_text
from pipeline.errors import Interrupted, RetakeError, log

LOCK = Path("data/.mlflow.lock")
DATABASE = Path("mlflow.db")
ARTEFACTS = Path("mlruns")
BATCH = 500
VIEW, COLUMNS = (
    "mlflow.sharedViewState.metrics",
    24,
)  # the tag that holds a view of an experiment's list, and how many columns it takes
TOLD = (
    "experiment",
    "model",
    "dataset",
    "checkpoint",
    "data",
    "params",
    "git_commit",
    "dvc_experiment",
)  # tags that say what a run rests on


class Run:
    """One MLflow run, or nothing when mirroring is off or has failed."""

    def __init__(self, active: bool) -> None:
        self.active = active
        self._pending: list[Any] = []

    def _try(self, action: Callable[[], None]) -> None:
        if not self.active:
            return
        try:
            action()
        except Exception as error:
            self.active = False
            log.warning(
                "MLflow is not reached, going on without it: %s", str(error).splitlines()[0] if str(error) else error
            )

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Add values of one step; they are sent when a batch is full and at the end."""
        import time

        now = int(time.time() * 1000)
        self._pending += [(name, float(value), now, step) for name, value in values.items()]
        if len(self._pending) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Send what is pending."""

        def send() -> None:
            import mlflow
            from mlflow.entities import Metric

            run = mlflow.active_run()
            assert run is not None
            client = mlflow.MlflowClient()
            rows = [Metric(*row) for row in self._pending]
            for i in range(0, len(rows), BATCH):
                client.log_batch(run.info.run_id, metrics=rows[i : i + BATCH])

        if self._pending:
            self._try(send)
        self._pending = []

    def artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Add one file, into a folder of the run's files."""

        def send() -> None:
            import mlflow

            mlflow.log_artifact(str(path), folder)

        self._try(send)

    def columns(self, names: Iterable[str]) -> None:
        """Give the experiment's list of runs a view named `metrics` whose columns are these, after those that it has.

        MLflow opens its own list without metrics, and a shared view by its name: `?viewStateShareKey=metrics` at the end of the address.
        """

        def send() -> None:
            import mlflow

            run = mlflow.active_run()
            assert run is not None
            before = mlflow.get_experiment(run.info.experiment_id).tags.get(VIEW)
            shown = json.loads(before)["selectedColumns"] if before else ["attributes.`Dataset`"]
            shown = list(dict.fromkeys([*shown, *(f"metrics.`{name}`" for name in names)]))[:COLUMNS]
            mlflow.MlflowClient().set_experiment_tag(
                run.info.experiment_id, VIEW, json.dumps({"selectedColumns": shown})
            )

        self._try(send)

    def training(self, lines: Path, title: str) -> None:
        """Add a training's record, one JSON object a step, and pictures of its loss and validations."""

        def send() -> None:
            import mlflow

            from pipeline.drawing import charts

            mlflow.log_artifact(str(lines))
            drawn = charts.training(lines)
            self.columns(reversed(drawn))  # validation first
            for key, curve in drawn.items():
                told = charts.curves([curve], "training step", key, f"{title}: {key}", log=not key.startswith("val_"))
                mlflow.log_text(told, f"{key}.svg")

        self._try(send)

    def dataset(self, name: str, store: str | Path, digest: str, use: str) -> None:
        """Say which frames the run has read: MLflow's list of runs has a column for them. `use`: "training", "test"."""

        def send() -> None:
            import mlflow
            from mlflow.data import meta_dataset, sources

            described: Any = meta_dataset.MetaDataset
            known: Any = sources  # made when MLflow is imported
            source = known.LocalArtifactDatasetSource(str(store))
            mlflow.log_input(described(source, name=name, digest=digest[:12]), use)

        self._try(send)


@contextlib.contextmanager
def run(
    enabled: bool,
    *,
    experiment: str,
    name: str,
    params: dict[str, Any],
    tags: dict[str, str],
    nested: bool = False,
    replaces: tuple[str, ...] = (),
    kept: Path | None = None,
    goes_on: bool = False,
) -> Iterator[Run]:
    """Open a run `name` in the MLflow experiment, with flat params and tags (the git commit and DVC's experiment are added).

    Keys `models.<name>.…` become `model.…`, so that two models' settings stand in one line of MLflow's comparison. `nested`: below
    the run that is open. `replaces`: runs of the same DVC experiment with the same values of these tags are deleted first, so that nothing is there twice.
    `kept`: a file that names the run while it lasts. A run that a killed process has left there is gone on with when work `goes_on` where
    that stopped, else it is marked as killed. What signals end is marked so too. A DVC experiment's name is added to the run's.
    """
    mirror = Run(enabled)
    told = {**tags, "dvc_experiment": os.environ.get("DVC_EXP_NAME", "none")}
    if "DVC_EXP_NAME" in os.environ:
        name += f", {os.environ['DVC_EXP_NAME']}"
    _quiet()

    def start() -> None:
        import mlflow

        with _locked():
            chosen = _experiment(experiment)
            if replaces:
                same = " and ".join(f"tags.`{key}` = '{told[key]}'" for key in (*replaces, "dvc_experiment"))
                for old in mlflow.MlflowClient().search_runs([chosen], same):
                    mlflow.delete_run(old.info.run_id)
            former = _left(kept, chosen)
            if former is not None and not goes_on:
                mlflow.MlflowClient().set_terminated(former, "KILLED")
                former = None
            mlflow.start_run(former, run_name=name, tags={**told, "git_commit": commit()}, nested=nested)
        flat = {re.sub(r"^models\.[^.]+", "model", key): value for key, value in flatten(params).items()}
        client = mlflow.MlflowClient()
        active = mlflow.active_run()
        assert active is not None
        if kept is not None:
            write_text(kept, active.info.run_id)
        from mlflow.entities import Param

        client.log_batch(active.info.run_id, params=[Param(k, str(v)[:6000]) for k, v in flat.items()])

    mirror._try(start)
    status = "FAILED"
    try:
        yield mirror
        status = "FINISHED"
    except (Interrupted, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        mirror.flush()

        def end() -> None:
            import mlflow

            mlflow.end_run(status)

        mirror._try(end)


@dataclass
class Logged:
    """A run as MLflow has it: last values of its metrics, and the files of its scores, fetched; none where it is no row of a table."""

    name: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]
    scores: list[Path]


def fetched(identifier: str, folder: Path) -> Logged:
    """Return the run of an identifier, its scores fetched into a folder; raises RetakeError where there is none, or the server is away."""
    _quiet()
    import mlflow
    from mlflow.exceptions import MlflowException

    if "MLFLOW_TRACKING_URI" not in os.environ:
        if not (_home() / DATABASE).exists():
            raise RetakeError(
                f"no {DATABASE} here, and MLFLOW_TRACKING_URI names no server: there are no runs to compare"
            )
        mlflow.set_tracking_uri(f"sqlite:///{_home() / DATABASE}")
    client = mlflow.MlflowClient()
    try:
        run = client.get_run(identifier)
        files = [file.path for file in client.list_artifacts(identifier, "scores")]
        scores = [Path(client.download_artifacts(identifier, file, str(folder))) for file in files]
    except MlflowException as error:
        raise RetakeError(f"no run {identifier!r} in MLflow: {str(error).splitlines()[0]}") from None
    tags = {key: run.data.tags[key] for key in TOLD if key in run.data.tags}
    return Logged(str(run.info.run_name), dict(run.data.params), tags, dict(run.data.metrics), scores)


def _quiet() -> None:
    """Set what MLflow reads from the environment, unless the user has: no telemetry, no long waits for a server, no talk about git."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")


def _experiment(name: str) -> str:
    """Choose the MLflow experiment, which is made where there is none; return its identifier."""
    import mlflow

    if "MLFLOW_TRACKING_URI" not in os.environ:
        _own_database(_home() / DATABASE)
        mlflow.set_tracking_uri(f"sqlite:///{_home() / DATABASE}")
        if mlflow.get_experiment_by_name(name) is None:  # MLflow's own default is below the working folder
            mlflow.create_experiment(name, (_home() / ARTEFACTS / name).absolute().as_uri())
    return str(mlflow.set_experiment(name).experiment_id)


def _left(kept: Path | None, experiment: str) -> str | None:
    """Return the run that a file names, when this server has it in this experiment and nobody has deleted it."""
    import mlflow
    from mlflow.exceptions import MlflowException

    if kept is None or not kept.exists():
        return None
    try:
        info = mlflow.get_run(kept.read_text().strip()).info
    except MlflowException:  # another server's
        return None
    return str(info.run_id) if info.experiment_id == experiment and info.lifecycle_stage == "active" else None


def _home() -> Path:
    """Return the project's folder; DVC names it in a variable where a stage runs in a copy of the project."""
    return Path(os.environ.get("DVC_ROOT", "."))


def _own_database(file: Path) -> None:
    """Make the database in the project's folder usable: raise PermissionError for another user's, on which MLflow waits for minutes.

    MLflow keeps absolute paths of what it stores, so those of a project that was copied or moved lead to its old place: they are
    put right.
    """
    if not file.exists():
        return
    if not (os.access(file, os.W_OK) and os.access(file.absolute().parent, os.W_OK)):
        raise PermissionError(f"{file.absolute()} cannot be written by this user")
    folder = file.absolute().parent / ARTEFACTS
    with contextlib.closing(sqlite3.connect(file, timeout=10)) as database, database:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
                continue
            for (place,) in database.execute(f"SELECT DISTINCT {column} FROM {table}").fetchall():
                scheme, kept, rest = str(place).rpartition("/mlruns/")
                own = f"{'file://' if scheme.startswith('file:') else ''}{folder}/{rest}"
                if kept and place != own:
                    database.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (own, place))


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return {dotted key: leaf} of nested dicts; lists are leaves."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def commit() -> str:
    """Return the git commit of the project, with "+" when tracked files differ from it; "none" outside git.

    In a container the project mostly belongs to another user than the one who runs it: git is told that it may be read.
    """
    git = ["git", "-c", f"safe.directory={Path.cwd()}", "-c", "core.fsmonitor=false"]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "diff", "--quiet", "--no-ext-diff", "HEAD"], capture_output=True).returncode
    except OSError:
        log.warning("the git commit is not recorded: git is not installed")
        return "none"
    except subprocess.CalledProcessError as error:
        log.warning("the git commit is not recorded: %s", error.stderr.strip().partition("\n")[0])
        return "none"
    return head + ("+" if changed else "")


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    lock = _home() / LOCK
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
