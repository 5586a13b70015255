"""A task of a SLURM array runs its own job, and is judged by that alone.

Snakemake's plugin (snakemake-executor-plugin-slurm 2.8) starts the first job's Snakemake in every task of an array, with the
commands of the other jobs in an option. That Snakemake runs the command of its task, but then waits for the output of the first
job. Where that does not come, after an error or because the first job takes longer, it calls the task failed, and what the task
has made is removed. So the command takes the place of that Snakemake.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import zlib

OPTION = "--slurm-jobstep-array-execs="


def run_own_job() -> None:
    """In a task of an array, become the task's own command; elsewhere do nothing."""
    command = own_command(sys.argv, os.environ.get("SLURM_ARRAY_TASK_ID"))
    if command is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv("/bin/sh", ["sh", "-c", command])


def own_command(arguments: list[str], task: str | None) -> str | None:
    """Return the shell command of a task, by the arguments of the first job's Snakemake.

    None outside arrays, for the first task, and where another version of the plugin packs commands otherwise.
    """
    packed = next((argument.removeprefix(OPTION) for argument in arguments if argument.startswith(OPTION)), None)
    if packed is None:
        return None
    try:
        commands = json.loads(base64.b64decode(packed))
        return zlib.decompress(bytes.fromhex(commands[task])).decode()
    except (ValueError, KeyError, TypeError, zlib.error):
        return None
