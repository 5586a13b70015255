"""Train one model on one dataset, or import its published weights: frames in, one checkpoint out.

    python -m pipeline.train --model dmvfn --dataset kitti

With `compute.devices` above 1 this starts as many processes (DDP, by torchrun; under SLURM by srun on `compute.nodes` machines).

The checkpoint (`data/checkpoints/<model>/<dataset>.pt`, loads with weights_only) holds `weights` (last), `best` (by
validation as the task defines it: PSNR at t+1, endpoint error), the params that made them and the data's identity.
Beside it: `<dataset>.metrics.jsonl`, one line a step, for some tasks what validation looks like
(`<dataset>.validation.png`, `.mp4`, made anew each time), and, until the end, `<dataset>.resume/<key>.pt`, from which a killed
training goes on to the same weights. The key is a hash of params and data, so a changed training never goes on with the old
state. When code changed since the state was saved, this says which files: `--resume` goes on all the same, and the checkpoint
keeps that; `--restart` begins anew. Under an engine a training begins anew. The old state is kept aside until it has ended.
SIGTERM saves after the step that runs and exits with code 75, which schedulers requeue; Ctrl-C saves too (130), a second one does not wait.
`--measure STORE` trains nothing: it prints how long a step takes here on that store's frames (`pipeline.status --measure` asks for it).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import compute, identity, params, plan, processes, tasks, tracking
from pipeline.atomic import claim, keep_claim, write_text
from pipeline.errors import Interrupted, RetakeError, log, progress, run
from pipeline.params import Params
from pipeline.sources import tensorflow
from pipeline.store.frames import Store


@dataclass
class State:
    """What a model's `training_step` may use: `step` batches are done of `steps`."""

    fabric: Any
    module: Any
    optimisers: dict[str, Any]
    step: int
    steps: int


def main() -> None:
    """Parse the command line and make the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="entry of `models` in params.yaml")
    parser.add_argument("--dataset", required=True, help="entry of `datasets`")
    changed = parser.add_mutually_exclusive_group()
    changed.add_argument("--resume", action="store_true", help="go on from the saved state although code has changed")
    changed.add_argument("--restart", action="store_true", help="begin anew when code has changed")
    changed.add_argument(
        "--measure", metavar="STORE", help="print the seconds of a step on these frames; train nothing"
    )
    args = parser.parse_args()
    p = params.load()
    fields = plan.fields_of(p, "train", model=args.model, dataset=args.dataset)
    engine = params.VARIABLE in os.environ or "DVC_STAGE" in os.environ
    if p.models[args.model].checkpoint is not None:
        import_published(p, fields)
    elif p.compute.devices > 1 and "RANK" not in os.environ:
        processes.start(p, "pipeline.train", sys.argv[1:])
    else:
        processes.check(p)
        if args.measure:
            measure(p, fields | {"frames": args.measure})
            return
        train(p, fields, resume=args.resume, restart=args.restart or engine)


def import_published(p: Params, fields: plan.Fields) -> None:
    """Write the checkpoint of a model whose published weights are named in params.yaml."""
    from pipeline import weights

    model = p.models[fields["model"]]
    network = params.registry("models")[model.kind].build(model)
    claim(plan.path("train", **fields))
    if isinstance(model.checkpoint, dict):
        files = {part: name if Path(name).exists() else weights.path(name) for part, name in model.checkpoint.items()}
        weights.fill(
            network,
            {part: weights.load_saved(file) for part, file in files.items()},
            ", ".join(map(str, files.values())),
        )
    else:
        assert model.checkpoint is not None
        own = Path(model.checkpoint).exists() or tensorflow.is_checkpoint(model.checkpoint)
        file = Path(model.checkpoint) if own else weights.path(model.checkpoint)
        weights.fill(network, weights.read(file, kind=model.kind, check=True), file)
    save(plan.path("train", **fields), p, fields, network.state_dict(), None, "", 0, [])
    log.info("imported %s", ", ".join(model.pretrained))


def save(
    path: Path,
    p: Params,
    fields: plan.Fields,
    last: dict[str, Any],
    best: dict[str, Any] | None,
    data: str,
    step: int,
    changes: list[str],
) -> None:
    """Write a checkpoint: weights, best weights, the params that made them, the data's identity, changes of code on the way,
    and the commit and the machine that made it.
    """
    from pipeline import weights

    uses = json.dumps(plan.uses(p, "train", fields), sort_keys=True)
    weights.save(
        path,
        {
            "kind": p.models[fields["model"]].kind,
            "weights": {k: v.detach().cpu() for k, v in last.items()},
            "best": best,
            "params": uses,
            "data": data,
            "step": step,
            "code_changes": changes,
            "commit": tracking.commit(),
            "machine": compute.machine(p),
        },
    )


def make_fabric(p: Params) -> Any:
    """Return the launched Fabric: one process, or one of those that torchrun started.

    Raises RetakeError when `compute.device: cuda` finds no GPU.
    """
    import lightning_fabric as lightning
    import torch

    warnings.filterwarnings("ignore", "The `srun` command is available")  # processes.py starts them
    accelerator = compute.device(p)
    world, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    torch.set_num_threads(max(p.compute.threads // local, 1))
    fabric = lightning.Fabric(
        accelerator=accelerator,
        devices=local,
        num_nodes=world // local,
        strategy="ddp" if world > 1 else "auto",
        precision=p.compute.precision,
    )
    fabric.launch()
    return fabric


def train(p: Params, fields: plan.Fields, *, resume: bool = False, restart: bool = False) -> None:
    """Train as params.yaml says and write the checkpoint; goes on from a saved state of the same training.

    `resume`, `restart`: what to do when code has changed since that was saved. Raises RetakeError when neither is given.
    """
    name = str(fields["model"])
    recipe = p.models[name].train
    assert recipe is not None
    network, clips, state = _begun(p, fields)
    fabric = state.fabric
    output = plan.path("train", **fields)
    if fabric.global_rank == 0:
        claim(output)
    saved = Saved(p, fields, output, network, state)
    saved.restore(resume, restart)
    store = Store(str(fields["frames"]))
    validation = tasks.part(p.models[name].task, "train").validation(
        fields, recipe, network, compute.batch(p, fabric.device.type, store)
    )
    mirror = tracking.run(
        p.tracking.mlflow and fabric.global_rank == 0,
        experiment=f"train-{fields['dataset']}",
        name=f"{name} on {fields['dataset']}, seed {recipe.seed}",
        params=plan.uses(p, "train", fields),
        tags={"stage": "train", "model": name, "dataset": str(fields["dataset"]), "data": store.identity[:12]},
        kept=saved.path.with_suffix(".mlflow"),
        goes_on=state.step > 0,
    )
    started = time.monotonic()
    with mirror as mlflow, _Stop() as stop:
        mlflow.dataset(str(fields["dataset"]), str(fields["frames"]), store.identity, "training")
        with _deaths_named(saved):
            _loop(network, clips, validation, saved, recipe, p.compute.workers, mlflow, stop)
        if fabric.global_rank == 0:
            save(output, p, fields, network.state_dict(), saved.best, store.identity, state.step, saved.changes)
            mlflow.training(output.with_suffix(".metrics.jsonl"), f"{name} on {fields['dataset']}")
            shutil.rmtree(saved.path.parent, ignore_errors=True)
            log.info("trained %s: %d steps, %.0f s in this run", name, state.steps, time.monotonic() - started)
    fabric.barrier()


def _begun(p: Params, fields: plan.Fields) -> tuple[Any, Any, State]:
    """Return the network, its training clips, and the state before the first step."""
    import torch

    name = str(fields["model"])
    model = p.models[name]
    recipe = model.train
    assert recipe is not None
    fabric = make_fabric(p)
    if recipe.batch % fabric.world_size:
        raise RetakeError(f"models.{name}.train.batch {recipe.batch} cannot be shared by {fabric.world_size} processes")
    torch.manual_seed(recipe.seed)
    network = params.registry("models")[model.kind].build(model)
    compute.lay_out(p, network)
    named = network.configure()
    module, *optimisers = fabric.setup(network, *named.values())
    clips = tasks.part(model.task, "train").training_clips(fields, recipe, network)
    steps = recipe.max_steps or recipe.epochs * clips.steps_per_epoch(fabric.world_size)
    return network, clips, State(fabric, module, dict(zip(named, optimisers, strict=True)), 0, steps)


MEASURED_STEPS, MEASURED_SECONDS = 20, 10.0  # whichever is over first, after one step that is not counted


def measure(p: Params, fields: plan.Fields) -> None:
    """Print the seconds of one step of a training, as JSON. Raises RetakeError for a training of a single step."""
    network, clips, state = _begun(p, fields)
    for batch in _batches(clips, state, state.fabric, p.compute.workers):
        network.training_step(batch, state)
        state.step += 1
        if state.step == 1:
            started = time.monotonic()
            continue
        spent = _mean({"seconds": time.monotonic() - started}, state.fabric)["seconds"]  # all processes stop at once
        if spent > MEASURED_SECONDS or state.step > MEASURED_STEPS:
            break
    if state.step < 2:
        raise RetakeError("a training of one step has none that could be measured")
    if state.fabric.global_rank == 0:
        print(json.dumps({"seconds_per_step": spent / (state.step - 1), "machine": compute.machine(p)}))


def _loop(
    network: Any,
    clips: Any,
    validation: Any,
    saved: Saved,
    recipe: params.Train,
    workers: int,
    mlflow: tracking.Run,
    stop: _Stop,
) -> None:
    """Take the steps that are left, with validation, saved states and the record of every step."""
    import torch

    state, fabric = saved.state, saved.state.fabric
    lines = Lines(saved.output.with_suffix(".metrics.jsonl"), state.step) if fabric.global_rank == 0 else None
    bar = progress(
        total=state.steps, initial=state.step, unit="step", desc=f"train {saved.fields['model']}", disable=lines is None
    )
    for batch in _batches(clips, state, fabric, workers):
        torch.manual_seed(_seed(recipe.seed, state.step, fabric.global_rank))
        losses = _step(network, batch, state, saved.path)
        state.step += 1
        values = _mean(losses, fabric)
        due = state.step % recipe.validate_every == 0 or state.step == state.steps
        if validation is not None and due:
            if fabric.global_rank == 0:
                values |= _validate(validation, saved, mlflow)
            fabric.barrier()
        if lines is not None:
            keep_claim()  # a later run of this training ends this one at its next step
            lines.add(state.step, values)
            mlflow.metrics(state.step, values)
        bar.update()
        bar.set_postfix({k: f"{v:.4g}" for k, v in values.items()}, refresh=False)
        stopped = stop.agreed(fabric)
        if state.step % recipe.checkpoint_every == 0 or stopped:
            if fabric.global_rank == 0:
                saved.keep()
            fabric.barrier()
            if stopped:
                raise Interrupted(
                    f"state saved at step {state.step} of {state.steps}; the same command goes on from there", stopped
                )
    bar.close()


def _validate(validation: Any, saved: Saved, mlflow: tracking.Run) -> dict[str, float]:
    """Return the named value of a validation; keep the weights when it is the best so far, and show what it looks like."""
    name, value = validation.score(saved.state.fabric.device)
    for file in validation.show(saved.state.fabric.device, saved.output.with_suffix("")):
        mlflow.artifact(file)
    saved.compare(value if validation.BETTER == "higher" else -value)
    return {name: value}


def _step(network: Any, batch: Any, state: State, resume: Path) -> dict[str, float]:
    """Take one step; a loss that is not finite stops the training and names the step."""
    try:
        losses = network.training_step(batch, state)
        bad = [name for name, value in losses.items() if not math.isfinite(float(value))]
        if bad:
            raise FloatingPointError(", ".join(bad))
    except FloatingPointError as error:
        kept = f"the last good state is kept in {resume}" if resume.exists() else "no state had been saved yet"
        raise RetakeError(
            f"training stopped at step {state.step + 1}: not finite: {error}; {kept}. Lower the learning rate, or look at the data"
        ) from None
    return losses


def _mean(losses: dict[str, Any], fabric: Any) -> dict[str, float]:
    """Return the losses, of several processes their mean: each has seen its share of the batch."""
    import torch

    values = {name: float(value) for name, value in losses.items()}
    if fabric.world_size == 1:
        return values
    own = torch.tensor(list(values.values()), dtype=torch.float64, device=fabric.device)
    return dict(zip(values, fabric.all_reduce(own, reduce_op="mean").tolist(), strict=True))


def _batches(clips: Any, state: State, fabric: Any, workers: int) -> Iterator[Any]:
    """Yield this process's share of every batch from `state.step` on: clips (b, n, 3, h, w) float32 in [0,1] on its device.

    A task whose clips come with more gives a mapping of such tensors by name.
    """
    from torch.utils.data import DataLoader

    order = [clips.indices(step, fabric.global_rank, fabric.world_size) for step in range(state.step, state.steps)]
    loader: Any = DataLoader(
        clips,
        batch_sampler=order,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context="fork" if workers else None,
        pin_memory=fabric.device.type == "cuda",
    )
    with _held():
        batches = iter(loader)
    for batch in batches:
        yield _on(fabric.device, batch)


@contextlib.contextmanager
def _held() -> Iterator[None]:
    """Hold back what asks a process to end; processes that are started inside hold it back for good.

    A terminal, `timeout` and schedulers send it to the loader's processes too, which this process still needs for the step
    that it finishes. They end when it has ended.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _deaths_named(saved: Saved) -> Iterator[None]:
    """Raise RetakeError when a process of the loader is killed; torch says it in the midst of whatever runs then."""
    try:
        yield
    except RuntimeError as error:
        if not re.search(r"DataLoader worker .*(killed|exited unexpectedly)", str(error)):
            raise
        kept = f"the same command goes on from {saved.path}" if saved.path.exists() else "no state had been saved yet"
        raise RetakeError(
            f"a process that loads training data was killed at step {saved.state.step + 1}, mostly for memory: {kept}. Lower "
            "compute.workers if it happens again"
        ) from None


def _on(device: Any, batch: Any) -> Any:
    """Return tensors on the device; images, which loaders give as uint8, become float32 in [0,1] there."""
    import torch

    if isinstance(batch, dict):
        return {name: _on(device, value) for name, value in batch.items()}
    moved = batch.to(device, non_blocking=True)
    return moved.float() / 255 if moved.dtype == torch.uint8 else moved


class Lines:
    """`metrics.jsonl`: one JSON object a step; on a resumed run the lines after the saved state are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        kept = []
        if step and path.exists():
            kept = [line for line in path.read_text(errors="replace").splitlines() if 0 < _step_of(line) <= step]
        write_text(path, "".join(line + "\n" for line in kept))
        self._file = path.open("a", buffering=1)

    def add(self, step: int, values: dict[str, float]) -> None:
        """Append one line."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")


def _step_of(line: str) -> int:
    """Return the step that a line of the record is of; 0 for a line that a kill or a disk damaged."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return 0
    return step if isinstance(step, int) else 0


STOPPING = (signal.SIGTERM, signal.SIGINT)


class _Stop:
    """Which signal has asked this training to end, 0 while none has. A second Ctrl-C ends it at once."""

    def __init__(self) -> None:
        self.asked = 0

    def __enter__(self) -> _Stop:
        self._before = {number: signal.signal(number, self._ask) for number in STOPPING}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: Any) -> None:
        self.asked = number
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)

    def agreed(self, fabric: Any) -> int:
        """Return the signal that one of all processes has got, 0 where none has: they stop at the same step."""
        import torch

        if fabric.world_size == 1:
            return self.asked
        return int(fabric.all_gather(torch.tensor(self.asked, device=fabric.device)).max())


def _seed(seed: int, step: int, rank: int) -> int:
    """Return the seed of one step's draws: no generator's state need be saved."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{step}:{rank}".encode()).digest()[:8], "little") >> 1


class Saved:
    """The saved state of a training: where it lies, what it may be continued with, the best weights so far.

    A state belongs to params, data and the number of processes and threads, which its name is a hash of. It holds the digests
    of the code that made it.
    """

    def __init__(self, p: Params, fields: plan.Fields, output: Path, network: Any, state: State) -> None:
        self.fields, self.output, self.network, self.state = fields, output, network, state
        self.rank = -math.inf
        self.best: dict[str, Any] | None = None
        self.changes: list[str] = []  # of code, while this was trained
        self.code = identity.digests(plan.roots(p, "train", fields))
        parts = [plan.uses(p, "train", fields), _data(fields), state.fabric.world_size, p.compute.threads]
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
        self.path = output.with_suffix(".resume") / f"{key}.pt"

    def restore(self, resume: bool, restart: bool) -> None:
        """Go on from the saved state, where there is one.

        When code has changed since: go on with `resume`, put it aside with `restart`, else raise RetakeError.
        """
        if not self.path.exists():
            return
        from pipeline import weights

        def damaged(error: Exception) -> RetakeError:
            return RetakeError(
                f"the saved state of this training is damaged ({error}): delete {self.path}, and training begins anew"
            )

        try:
            tree: Any = weights.load_tree(self.path)
            _ = [tree[key] for key in ("code", "step", "network", "optimisers", "rank", "best", "changes")]
            changed = sorted(f for f in {*self.code, *tree["code"]} if self.code.get(f) != tree["code"].get(f))
        except (RetakeError, *weights.DAMAGE) as error:
            raise damaged(error) from None
        main = self.state.fabric.global_rank == 0
        if changed and not resume:
            about = f"code has changed since the state of step {tree['step']} was saved ({', '.join(changed)})"
            if not restart:
                raise RetakeError(
                    f"{about}: {self.path}. Go on from it with --resume (the checkpoint will say so), or begin anew with --restart"
                )
            aside = self.path.with_suffix(".aside.pt")
            if main:
                self.path.replace(aside)
                log.info("%s: training begins anew; until it has ended the old state is kept as %s", about, aside)
            return
        try:
            self.network.load_state_dict(tree["network"])
            for name, optimiser in self.state.optimisers.items():
                optimiser.load_state_dict(tree["optimisers"][name])
        except weights.DAMAGE as error:
            raise damaged(error) from None
        self.state.step, self.rank, self.best, self.changes = tree["step"], tree["rank"], tree["best"], tree["changes"]
        if changed:
            self.changes.append(f"code changed at step {self.state.step}: {', '.join(changed)}")
        if main:
            log.info("going on from step %d of %d", self.state.step, self.state.steps)

    def compare(self, rank: float) -> None:
        """Take today's weights for the best when `rank` is above that of those before."""
        if rank > self.rank:
            self.rank = rank
            self.best = {k: v.detach().cpu().clone() for k, v in self.network.state_dict().items()}

    def keep(self) -> None:
        """Save the state."""
        from pipeline import weights

        tree = {
            "step": self.state.step,
            "network": self.network.state_dict(),
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.state.optimisers.items()},
            "best": self.best,
            "rank": self.rank,
            "code": self.code,
            "changes": self.changes,
        }
        weights.save(self.path, tree)


def _data(fields: plan.Fields) -> list[str]:
    """Return the identities of all files that a training reads."""
    files = [file for name, file in sorted(fields.items()) if name not in plan.NAMES and file is not None]
    return [Store(file).identity if file.endswith(".arrow") else identity.content(Path(file)) for file in files]


if __name__ == "__main__":
    run(main, "train")
