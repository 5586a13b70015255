"""Tasks of a SLURM array: each runs its own command. With the real plugin: tests/test_slurm.py."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import zlib

import pytest

from pipeline.arrays import OPTION, own_command
from tests.engines import ROOT


def packed(commands: dict[str, str]) -> str:
    """Return commands by their tasks as the plugin packs them."""
    hexadecimal = {task: zlib.compress(command.encode(), 9).hex() for task, command in commands.items()}
    return OPTION + base64.b64encode(json.dumps(hexadecimal).encode()).decode()


@pytest.mark.parametrize(("task", "command"), [("2", "echo 'two'"), ("3", "echo three"), ("1", None), (None, None)])
def test_each_task_but_the_first_has_a_command_of_its_own(task: str | None, command: str | None) -> None:
    arguments = ["snakemake", "--jobs", "1", packed({"2": "echo 'two'", "3": "echo three"})]
    assert own_command(arguments, task) == command
    assert own_command(arguments[:-1], task) is None, "no array"


@pytest.mark.parametrize("payload", ["", "?", "e30=", "bnVsbA==", base64.b64encode(b'{"2": "00"}').decode()])
def test_what_another_plugin_packs_is_left_to_snakemake(payload: str) -> None:
    assert own_command([OPTION + payload], "2") is None


def test_the_command_takes_the_place_of_the_process() -> None:
    code = "from pipeline import arrays; arrays.run_own_job(); print('went on')"
    for task, said, status in (("2", "own", 7), ("1", "went on", 0)):
        done = subprocess.run(
            [sys.executable, "-c", code, packed({"2": "echo own; exit 7"})], cwd=ROOT, capture_output=True, text=True,
            env=os.environ | {"SLURM_ARRAY_TASK_ID": task},
        )  # fmt: skip
        assert (done.stdout.strip(), done.returncode) == (said, status), done.stderr
