"""Several processes that train one model together: started by torchrun, on several machines by SLURM's srun."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import Any

from pipeline.errors import REQUEUE, Interrupted, RetakeError, log
from pipeline.params import Params

MEETING = "RETAKE_MEETING"  # host:port where the machines of one training meet; set by the process that starts srun


def start(p: Params, module: str, arguments: list[str]) -> None:
    """Run `python -m module arguments` in `compute.devices` processes and wait for them.

    When one dies, torchrun ends the others. SIGTERM is passed on; all save at the same step. Raises Interrupted when they have, and
    RetakeError, which names the first process that failed; its own error stands above it.
    """
    check(p)
    if p.compute.nodes > 1 and MEETING not in os.environ:
        _on_nodes(p, [sys.executable, "-m", module, *arguments])
        return
    import psutil
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=p.compute.nodes,
        max_nodes=p.compute.nodes,
        nproc_per_node=p.compute.devices // p.compute.nodes,
        run_id=os.environ.get("SLURM_JOB_ID", str(os.getpid())),
        rdzv_backend="c10d",
        rdzv_endpoint=os.environ.get(MEETING, "localhost:0"),
        max_restarts=0,
        signals_to_handle="SIGQUIT",  # not SIGTERM: torchrun kills after 30 s, and a step may take longer
    )
    asked = 0

    def forward(number: int, _: Any) -> None:
        nonlocal asked
        asked = number
        for process in psutil.Process().children():
            process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        elastic_launch(config, sys.executable)("-m", module, *arguments)
    except ChildFailedError as error:
        rank, first = error.get_first_failure()
        code = first.exitcode
        if code in (REQUEUE, 128 + signal.SIGINT):
            raise Interrupted(
                "all processes have saved one state; the same command goes on from there", asked
            ) from None
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        raise RetakeError(
            f"process {rank} of {p.compute.devices} {how}, and the others were ended (its own error stands above); "
            "the same command goes on from the last saved state"
        ) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check(p: Params) -> None:
    """Raise RetakeError where others have started several processes and `compute.devices` does not say so."""
    started = int(os.environ.get("WORLD_SIZE", 1))
    if "RANK" in os.environ and started != p.compute.devices:
        raise RetakeError(
            f"torchrun has started {started} processes and compute.devices is {p.compute.devices}: set it to {started} (it is part of "
            "what a training is), and leave torchrun to `python -m pipeline.train`"
        )
    step = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    if step > 1 and "RANK" not in os.environ and MEETING not in os.environ:
        raise RetakeError(
            f"srun has started {step} trainings that would write one file: start one (srun -n1), and set compute.devices: {step}"
        )


def _on_nodes(p: Params, command: list[str]) -> None:
    """Run the command once on each machine of this SLURM job; there it starts its share of the processes."""
    if "SLURM_JOB_ID" not in os.environ:
        raise RetakeError(
            f"compute.nodes is {p.compute.nodes}, and this is no SLURM job: several machines are started by SLURM alone"
        )
    with socket.create_server(("", 0)) as free:
        meeting = f"{socket.gethostname()}:{free.getsockname()[1]}"
    nodes, threads = str(p.compute.nodes), str(p.compute.threads)
    srun = ["srun", "--nodes", nodes, "--ntasks", nodes, "--cpus-per-task", threads, "--kill-on-bad-exit=1"]
    process = subprocess.Popen([*srun, *command], env={**os.environ, MEETING: meeting})
    asked = []

    def forward(number: int, _: Any) -> None:
        asked.append(number)
        process.send_signal(number)

    signal.signal(signal.SIGTERM, forward)
    code = process.wait()
    if code == REQUEUE:
        raise Interrupted("all machines have ended with one saved state; the same command goes on from there")
    if code:
        log.error("srun ended with code %d: the error of the machine that failed stands above", code)
        sys.exit(1)
