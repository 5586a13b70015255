"""Hand the made files from one engine to the other: `python -m pipeline.handover`.

After a Snakemake run DVC knows nothing of it (`dvc commit -f` tells it); after `dvc repro` or `dvc checkout` Snakemake's records are
old (`snakemake --touch` renews them). Both commands bless whatever lies there, so each is given only when the other engine,
without any override, holds every file for made by today's params, code and data; otherwise this refuses and says why.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
from pathlib import Path

from pipeline import params, plan
from pipeline.errors import RetakeError, log, run


def main() -> None:
    """Tell the engine that is behind; refuse when neither is right."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    os.environ.pop(params.VARIABLE, None)
    os.environ["PATH"] = str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]
    p = params.load()
    if not plan.FILE.exists() or plan.FILE.read_bytes() != plan.dump(p).encode():
        raise RetakeError(f"{plan.FILE} is behind params.yaml: run `python -m pipeline.plan` first")
    plan.write(p)
    whose = "DVC"
    if _dvc_reasons():
        reasons = _snakemake_reasons(p)
        if reasons:
            raise RetakeError(
                "in neither engine are all files up to date, nothing is handed over.\n"
                f"  snakemake: {reasons}\n  dvc: see `dvc status`\n"
                "Run `snakemake --cores all` or `dvc repro` (without overrides) to the end first"
            )
        whose = "Snakemake"
        _check(_run("dvc", "commit", "-f", "-q"))
    # Also after a commit: the files that DVC links into its cache look newer than what was made from them.
    _check(_run("snakemake", "--touch", "--cores", "1", "--quiet", "all"))
    log.info("%s held every file for up to date; now both engines do", whose)


def _dvc_reasons() -> list[str]:
    """Return the stages that DVC would run with `--allow-missing`; its stage `plan` always runs."""
    done = _run("dvc", "status", "--json")
    _check(done)
    changes = json.loads(done.stdout or "{}")
    return [stage for stage, reasons in changes.items() if stage != "plan" and not all(map(_part_is_gone, reasons))]


def _part_is_gone(reason: object) -> bool:
    """Return whether DVC only misses parts of an instance, which nobody passes on: what they were joined to is as it was."""
    if not isinstance(reason, dict):
        return False  # in words: that its command changed, for example
    states = {name: state for files in reason.values() for name, state in files.items()}
    return all(Path(name).is_relative_to(plan.PART_FOLDER) and state == "deleted" for name, state in states.items())


def _snakemake_reasons(p: params.Params) -> str:
    """Return why Snakemake, without overrides, would run something; "" when it would not.

    A file without Snakemake's own record counts: it cannot know the params that file was made with.
    """
    unknown = [f for f in plan.files(p, plan.reproduced(p)) if not Path(".snakemake/metadata", _record(f)).exists()]
    if unknown:
        return f"{len(unknown)} files that it did not make, such as {unknown[0]}"
    dry = _run("snakemake", "-n", "--quiet", "rules")
    if dry.returncode:
        return _last(dry)
    said = dry.stdout + dry.stderr
    return "" if "Nothing to be done" in said else "jobs are due (see `snakemake -n`)"


def _record(file: str) -> str:
    """Return the name under which Snakemake keeps what it knows of a file."""
    return base64.urlsafe_b64encode(file.encode()).decode()


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True)


def _check(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode:
        raise RetakeError(f"`{' '.join(done.args)}` failed: {_last(done)}")


def _last(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr or done.stdout).strip().splitlines()
    told = [line for line in lines if line.startswith("ERROR: ")] or lines  # DVC ends with where to ask for help
    return told[-1] if told else f"exit code {done.returncode}"


if __name__ == "__main__":
    run(main, "handover")
