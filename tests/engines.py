"""A copy of the project in a temporary folder, with small params, run by the real Snakemake and DVC."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from pipeline import recipes

ROOT = Path(__file__).resolve().parents[1]
PARTS = [
    "Snakefile",
    "dvc.yaml",
    "params.yaml",
    "workflow",
    "pipeline",
    "results/published",
    ".dvcignore",
    ".gitignore",
    ".dvc/config",
]

SMALL_DEMO: dict[str, Any] = {
    "models.dmvfn_demo.train.max_steps": 3,
    "models.dmvfn_demo.train.batch": 2,
    "models.dmvfn_demo.train.crop": 64,
    "models.dmvfn_demo.train.validate_every": 2,
    "models.dmvfn_demo.train.validate_windows": 1,
    "models.dmvfn_demo.train.checkpoint_every": 1,
    "datasets.demo.height": 96,
    "datasets.demo.width": 128,
    "protocols.next5.windows": "first",
    "compute.threads": 1,
    "compute.workers": 0,
    "tracking.mlflow": False,
}


# dmvfn_demo takes over another entry, as a user's variant does
LIKE_DEMO = SMALL_DEMO | {
    "models.dmvfn_base": {"kind": "dmvfn", "train": {"weight_decay": 2.0e-3}},
    "models.dmvfn_demo.like": "dmvfn_base",
}


class Project:
    """One copy; `run` gives the finished process, `snakemake` and `dvc` run the engines in it."""

    def __init__(self, folder: Path, edit: dict[str, Any] | None = None) -> None:
        self.folder = folder
        for part in PARTS:
            source, target = ROOT / part, folder / part
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        self.run("git", "init", "-q", ".")
        if edit:
            self.edit(edit)

    def copy(self, folder: Path) -> Project:
        """Return a copy, with the engines' records and what they made, that a test may spoil."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project.at(folder)

    @classmethod
    def at(cls, folder: Path) -> Project:
        """Return the project that lies in a folder."""
        project = cls.__new__(cls)
        project.folder = folder
        return project

    def rows(self, table: str) -> dict[tuple[str, bool], dict[str, str]]:
        """Return the rows of a table in `results/` by model and whether they are measured."""
        with (self.folder / table).open(newline="") as file:
            return {(row["model"], row["source"] == "measured"): row for row in csv.DictReader(file)}

    def edit(self, changes: dict[str, Any]) -> None:
        """Set dotted keys of params.yaml and renew workflow/plan.json.

        A mapping replaces what the papers' files have there: what it lacks is taken away.
        """
        path = self.folder / "params.yaml"
        tree = yaml.safe_load(path.read_text())
        with contextlib.chdir(self.folder):
            papers = recipes.read().values
        for key, value in changes.items():
            *parents, leaf = key.split(".")
            node, paper = tree, papers
            for part in parents:
                node = node.setdefault(part, {})
                paper = paper.get(part) or {}
            before = paper.get(leaf)
            taken = (
                {k: None for k in before if k not in value}
                if isinstance(value, dict) and isinstance(before, dict)
                else {}
            )
            node[leaf] = {**value, **taken} if taken else value
        path.write_text(yaml.safe_dump(tree, sort_keys=False))
        done = self.run(sys.executable, "-m", "pipeline.plan")
        assert done.returncode == 0, done.stderr

    def forget_lengths(self) -> None:
        """Empty `bytes` in sources.csv, as a user does whose archives hold fewer frames than the official ones."""
        path = self.folder / "workflow/sources.csv"
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows({**row, "bytes": ""} for row in rows)

    def run(
        self, *command: str, env: dict[str, str] | None = None, timeout: float = 600
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.folder, env=self.environment(env), capture_output=True, text=True, timeout=timeout
        )

    def environment(self, extra: dict[str, str] | None = None) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RETAKE_", "DVC_", "SNAKEMAKE"))}
        path = str(Path(sys.executable).parent) + os.pathsep + kept["PATH"]
        git = {f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        return {**kept, **git, "PATH": path, "PYTHONPATH": str(ROOT / "tests/plugins"), **(extra or {})}

    def snakemake(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.run("snakemake", "--cores", "2", *arguments, **options)

    def dvc(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        if not (self.folder / ".dvc/tmp").exists():
            assert self.run("dvc", "config", "--local", "core.no_scm", "false").returncode == 0
        return self.run("dvc", *arguments, **options)

    def jobs(self, *arguments: str) -> list[dict[str, Any]]:
        """Return the jobs of a dry run, as the logger plugin saw them."""
        done = self.run("snakemake", *arguments, "-n", "--logger", "jobs")
        assert done.returncode == 0, done.stdout + done.stderr
        lines = (self.folder / "jobs.jsonl").read_text().splitlines()
        (self.folder / "jobs.jsonl").unlink()
        return [json.loads(line) for line in lines]

    def rules(self, *arguments: str) -> list[str]:
        """Return the names of the rules that a run would execute, sorted."""
        return sorted(job["rule_name"] for job in self.jobs(*arguments) if job["rule_name"] != "all")
