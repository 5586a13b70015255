"""A SLURM cluster of two nodes on this one machine, for the tests marked `slurm`: a controller, two slurmd, an own munge.

Everything lies in one temporary folder, listens on loopback and is ended by its process id. There is no accounting daemon
(slurmdbd), as on many small clusters. The GPUs are loop devices: jobs ask for them, nobody uses them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
NODES = ("n1", "n2")
CONF = """
ClusterName=retake
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
AccountingStorageType=accounting_storage/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
RequeueExit=75
KillWait=30
MinJobAge=3600
SlurmdTimeout=20
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={n1} CPUs=4 RealMemory=64000 Gres=gpu:2
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={n2} CPUs=4 RealMemory=64000 Gres=gpu:2
PartitionName=cpu Nodes=ALL Default=YES
PartitionName=gpu Nodes=ALL
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""
GRES = "NodeName=n1 Name=gpu File=/dev/loop[0-1]\nNodeName=n2 Name=gpu File=/dev/loop[2-3]\n"


def missing() -> str:
    """Return what stands in the way of a cluster here, and what to install; "" where nothing does."""
    if not all(map(program, PROGRAMS)):
        return "SLURM is not installed: apt-get install slurm-wlm munge"
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        return "Snakemake's plugin for SLURM is not installed: pip install '.[slurm]'"
    if os.getuid() != 0:
        return "a SLURM cluster in a folder needs root"
    return ""


def program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def until(met: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until `met()`; fail with `what` when it is not in time."""
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.2)


class Cluster:
    """The running cluster; `env` is what SLURM's commands need to find it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a socket's path is short
        conf = self.folder / "slurm.conf"
        # Snakemake's jobs take SLURM_CONF out of their environment: without a file in /etc they find the cluster through this.
        srun = self.folder / "bin/srun"
        srun.parent.mkdir()
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={conf} exec {program("srun")} "$@"\n')
        srun.chmod(0o755)
        path = os.pathsep.join([str(Path(sys.executable).parent), str(srun.parent), os.environ["PATH"]])
        self.env = {"SLURM_CONF": str(conf), "PATH": path}
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        for folder in ("state", *(f"spool-{node}" for node in NODES)):
            (self.folder / folder).mkdir()
        (self.folder / "munge.key").write_bytes(os.urandom(1024))
        (self.folder / "munge.key").chmod(0o400)
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
            ports = dict(zip(("controller", *NODES), (s.getsockname()[1] for s in sockets), strict=True))
        conf.write_text(CONF.format(folder=self.folder, user="root", **ports))
        (self.folder / "gres.conf").write_text(GRES)
        files = {"socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.log", "seed-file": "munge.seed"}
        self._start(
            "munged", "--foreground", "--force", f"--key-file={self.folder}/munge.key",
            *(f"--{name}={self.folder}/{file}" for name, file in files.items()),
        )  # fmt: skip
        until((self.folder / "munge.socket").exists, 60, "munged listens")
        self._start("slurmctld", "-D")
        for node in NODES:
            self.start_node(node)
        until(lambda: self.states() == {"idle"}, 120, f"both nodes are idle (logs in {self.folder})")

    def _start(self, name: str, *arguments: str, key: str = "") -> None:
        log = (self.folder / f"{key or name}.out").open("wb")
        self.daemons[key or name] = subprocess.Popen(
            [str(program(name)), *arguments], env={**os.environ, **self.env}, stdin=subprocess.DEVNULL,
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip

    def start_node(self, node: str) -> None:
        self._start("slurmd", "-D", "-N", node, key=node)

    def kill_node(self, node: str) -> None:
        """End a node as a power cut does: its slurmd and the jobs on it die at once, nobody is told."""
        for pid in [self.daemons[node].pid, *self.steps(node)]:
            for child in reversed([pid, *descendants(pid)]):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        self.daemons[node].wait()

    def steps(self, node: str) -> list[int]:
        """Return the processes that keep the jobs of a node (slurmstepd), which outlive its slurmd."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                environ = (process / "environ").read_bytes()
                if str(self.folder).encode() in environ and f"SLURMD_NODENAME={node}".encode() in environ:
                    found.append(int(process.name))
        return found

    def states(self) -> set[str]:
        done = self.run("sinfo", "-h", "-N", "-o", "%t")
        return set(done.stdout.split())

    def run(self, *command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, **self.env}
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout)

    def jobs(self) -> list[dict[str, str]]:
        """Return every job that the controller knows, with SLURM's own keys: JobId, JobState, Comment, MinMemoryNode, …"""
        text = self.run("scontrol", "-o", "show", "job").stdout
        return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in text.splitlines() if line.startswith("JobId=")]

    def job(self, rule: str, state: str = "") -> dict[str, str] | None:
        """Return the latest job of a rule, in a state where that is given; None where there is none."""
        ours = [
            j
            for j in self.jobs()
            if j.get("Comment", "").startswith(f"rule_{rule}") and j["JobState"].startswith(state)
        ]
        return max(ours, key=lambda j: int(j["JobId"]), default=None)

    def stop(self) -> None:
        """Cancel what runs and end the daemons."""
        self.run("scancel", "--user", "root", "--signal", "KILL", "--full")
        self.run("scancel", "--user", "root")
        for process in reversed(self.daemons.values()):
            process.terminate()
        for process in self.daemons.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def descendants(pid: int) -> list[int]:
    """Return the processes below one, children before theirs."""
    try:
        children = [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [d for child in children for d in (child, *descendants(child))]
