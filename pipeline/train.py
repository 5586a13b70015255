"""Train one model on one dataset, or import its published weights: frames in, one checkpoint out.

    python -m pipeline.train --model dmvfn --dataset kitti
    torchrun --nproc-per-node 4 -m pipeline.train --model dmvfn --dataset kitti      # DDP

The checkpoint (`data/checkpoints/<model>/<dataset>.pt`, loads with weights_only) holds `weights` (last), `best` (by
validation as the task defines it: PSNR at t+1, endpoint error), the params that made them and the data's identity.
Beside it: `<dataset>.metrics.jsonl`, one line a step, for some tasks what validation looks like
(`<dataset>.validation.png`, `.mp4`, made anew each time), and, until the end, `<dataset>.resume/<key>.pt`, from which a killed training goes on to the same weights. The key is a hash of
params, data and code, so a changed training never goes on with the old state. SIGTERM saves and exits with code 75, which
schedulers requeue.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import compute, params, plan, tasks, tracking
from pipeline.atomic import write_text
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
    args = parser.parse_args()
    p = params.load()
    fields = plan.fields_of(p, "train", model=args.model, dataset=args.dataset)
    if p.models[args.model].checkpoint is not None:
        import_published(p, fields)
    else:
        train(p, fields)


def import_published(p: Params, fields: plan.Fields) -> None:
    """Write the checkpoint of a model whose published weights are named in params.yaml."""
    from pipeline import weights

    model = p.models[fields["model"]]
    network = params.registry("models")[model.kind].build(model)
    assert model.checkpoint is not None
    own = Path(model.checkpoint).exists() or tensorflow.is_checkpoint(model.checkpoint)
    network.load_published((weights.load_file if own else weights.load)(model.checkpoint, check=True))
    save(plan.path("train", **fields), p, fields, network.state_dict(), None, "", 0)
    log.info("imported %s", model.checkpoint)


def save(
    path: Path, p: Params, fields: plan.Fields, last: dict[str, Any], best: dict[str, Any] | None, data: str, step: int
) -> None:
    """Write a checkpoint: weights, best weights, the params that made them, the data's identity."""
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
        },
    )


def make_fabric(p: Params) -> Any:
    """Return the launched Fabric: one process, or all that torchrun started.

    Raises RetakeError when `compute.device: cuda` finds no GPU.
    """
    import lightning_fabric as lightning
    import torch

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


def train(p: Params, fields: plan.Fields) -> None:
    """Train as params.yaml says and write the checkpoint; goes on from a saved state of the same training."""
    import torch

    model = p.models[fields["model"]]
    recipe = model.train
    assert recipe is not None
    fabric = make_fabric(p)
    if recipe.batch % fabric.world_size:
        raise RetakeError(
            f"models.{fields['model']}.train.batch {recipe.batch} cannot be shared by {fabric.world_size} processes"
        )
    store = Store(fields["frames"])
    torch.manual_seed(recipe.seed)
    network = params.registry("models")[model.kind].build(model)
    if p.compute.channels_last:
        network = network.to(memory_format=torch.channels_last)
    named = network.configure()
    module, *optimisers = fabric.setup(network, *named.values())
    task = tasks.part(model.task, "train")
    clips = task.TrainingClips(store, recipe, network.augment)
    per_epoch = clips.steps_per_epoch(fabric.world_size)
    steps = recipe.max_steps or recipe.epochs * per_epoch
    state = State(fabric, module, dict(zip(named, optimisers, strict=True)), 0, steps)

    output = plan.path("train", **fields)
    resume = output.with_suffix(".resume") / f"{_key(p, fields, _data(fields, store), fabric.world_size)}.pt"
    best: tuple[float, dict[str, Any] | None] = (-math.inf, None)
    if resume.exists():
        best = _restore(resume, network, state)
        if fabric.global_rank == 0:
            log.info("going on from step %d of %d", state.step, steps)
    validation = None
    if recipe.validation:
        truth = plan.optional(fields, "truth")
        stores = Store(fields["validation"]), Store(truth) if truth else None
        validation = task.Validation(*stores, network, recipe.validate_windows, p.compute.batch)
    lines = Lines(output.with_suffix(".metrics.jsonl"), state.step) if fabric.global_rank == 0 else None
    stop = _Stop()

    mirror = tracking.run(
        p.tracking.mlflow and fabric.global_rank == 0,
        experiment=f"train-{fields['dataset']}",
        name=fields["model"],
        params=plan.uses(p, "train", fields),
        tags={"stage": "train", "model": fields["model"], "dataset": fields["dataset"], "data": store.identity[:12]},
    )
    with mirror as mlflow:
        bar = progress(total=steps, initial=state.step, unit="step", desc=f"train {fields['model']}")
        started = time.monotonic()
        for batch in _batches(clips, state, fabric, p.compute.workers):
            torch.manual_seed(_seed(recipe.seed, state.step, fabric.global_rank))
            losses = _step(network, batch, state, resume)
            state.step += 1
            values = {k: float(v) for k, v in losses.items()}
            due = state.step % recipe.validate_every == 0 or state.step == steps
            if validation is not None and due:
                if fabric.global_rank == 0:
                    name, value = validation.score(fabric.device)
                    values[name] = value
                    for file in validation.show(fabric.device, output.with_suffix("")):
                        mlflow.artifact(file)
                    rank = value if validation.BETTER == "higher" else -value
                    if rank > best[0]:
                        best = (rank, {k: v.detach().cpu().clone() for k, v in network.state_dict().items()})
                fabric.barrier()
            if lines is not None:
                lines.add(state.step, values)
                mlflow.metrics(state.step, values)
            bar.update()
            bar.set_postfix({k: f"{v:.4g}" for k, v in values.items()}, refresh=False)
            if state.step % recipe.checkpoint_every == 0 or stop.asked:
                if fabric.global_rank == 0:
                    _save_state(resume, network, state, best)
                fabric.barrier()
                if stop.asked:
                    raise Interrupted(
                        f"state saved at step {state.step} of {steps}; the same command goes on from there"
                    )
        bar.close()
        if fabric.global_rank == 0:
            save(output, p, fields, network.state_dict(), best[1], store.identity, state.step)
            shutil.rmtree(resume.parent, ignore_errors=True)
            log.info("trained %s: %d steps, %.0f s in this run", fields["model"], steps, time.monotonic() - started)
    fabric.barrier()


def _step(network: Any, batch: Any, state: State, resume: Path) -> dict[str, float]:
    """Take one step; a loss that is not finite stops the training and names the step."""
    try:
        losses = network.training_step(batch.float() / 255, state)
        bad = [name for name, value in losses.items() if not math.isfinite(float(value))]
        if bad:
            raise FloatingPointError(", ".join(bad))
    except FloatingPointError as error:
        kept = f"the last good state is kept in {resume}" if resume.exists() else "no state had been saved yet"
        raise RetakeError(
            f"training stopped at step {state.step + 1}: not finite: {error}; {kept}. Lower the learning rate, or look at the data"
        ) from None
    return losses


def _batches(clips: Any, state: State, fabric: Any, workers: int) -> Iterator[Any]:
    """Yield this process's share of every batch from `state.step` on, (b, n, 3, h, w) uint8 on its device."""
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
    for batch in loader:
        yield batch.to(fabric.device, non_blocking=True)


class Lines:
    """`metrics.jsonl`: one JSON object a step; on a resumed run the lines after the saved state are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        kept = []
        if step and path.exists():
            kept = [
                line
                for line in path.read_text().splitlines()
                if line.endswith("}") and json.loads(line)["step"] <= step
            ]
        write_text(path, "".join(line + "\n" for line in kept))
        self._file = path.open("a", buffering=1)

    def add(self, step: int, values: dict[str, float]) -> None:
        """Append one line."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")


class _Stop:
    """Whether SIGTERM has come."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_: Any) -> None:
        self.asked = True


def _seed(seed: int, step: int, rank: int) -> int:
    """Return the seed of one step's draws: no generator's state need be saved."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{step}:{rank}".encode()).digest()[:8], "little") >> 1


def _data(fields: plan.Fields, store: Store) -> str:
    """Return the identity of the frames and, where there is one, of the checkpoint that training starts from."""
    start = plan.optional(fields, "start")
    return f"{store.identity}:{hashlib.sha256(Path(start).read_bytes()).hexdigest()}" if start else store.identity


def _key(p: Params, fields: plan.Fields, data: str, processes: int) -> str:
    """Return the hash of all that a saved state may be continued with: params, data, code, processes."""
    digest = hashlib.sha256(
        json.dumps([plan.uses(p, "train", fields), data, processes, p.compute.threads], sort_keys=True).encode()
    )
    for file in plan.code("train", fields):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()[:16]


def _save_state(path: Path, network: Any, state: State, best: tuple[float, dict[str, Any] | None]) -> None:
    from pipeline import weights

    optimisers = {name: optimiser.state_dict() for name, optimiser in state.optimisers.items()}
    tree = {
        "step": state.step,
        "network": network.state_dict(),
        "optimisers": optimisers,
        "best": best[1],
        "rank": best[0],
    }
    weights.save(path, tree)


def _restore(path: Path, network: Any, state: State) -> tuple[float, dict[str, Any] | None]:
    from pipeline import weights

    tree: Any = weights.load_tree(path)
    network.load_state_dict(tree["network"])
    for name, optimiser in state.optimisers.items():
        optimiser.load_state_dict(tree["optimisers"][name])
    state.step = tree["step"]
    return tree["rank"], tree["best"]


if __name__ == "__main__":
    run(main, "train")
