"""Both engines describe the same work: outputs, inputs, commands, params keys; and what they say of code is true."""

from __future__ import annotations

import ast
import contextlib
import difflib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import params, plan, recipes
from pipeline.errors import RetakeError
from pipeline.store import sealed
from tests.engines import ROOT, SMALL_DEMO, Project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project as delivered, with every experiment reproduced, and flow made ahead: trained, and published weights."""
    project = Project(tmp_path_factory.mktemp("graphs"))
    every = list(recipes.read().values["experiments"])
    every += ["data/flow/arflow_sky/sky_timelapse_arflow/train.arrow", "data/flow/arflow_sky_published/demo/test.arrow"]
    project.edit({"reproduce": every})
    return project


def describe_snakemake(project: Project) -> dict[str, Any]:
    jobs = [job for job in project.jobs("--forceall") if job["rule_name"] != "all"]
    return {
        job["output"][0]: {
            "command": job["shellcmd"],
            "inputs": sorted(set(job["input"])),
            "outputs": sorted(job["output"]),
        }
        for job in jobs
    }


def describe_dvc(project: Project) -> dict[str, Any]:
    """Expand dvc.yaml in a process of its own: DVC reads the working directory."""
    script = r"""
import json
from dvc.repo import Repo
out = {}
for stage in Repo(".").index.stages:
    deps = [d.def_path for d in stage.deps]
    out[stage.name] = {"command": stage.cmd, "inputs": deps, "outputs": [o.def_path for o in stage.outs]}
print("\n" + json.dumps(out))
"""
    import sys

    project.dvc("status", "-q")
    done = project.run(sys.executable, "-c", script)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def expand(paths: list[str], outputs: list[str]) -> list[str]:
    """Return DVC's deps as Snakemake lists its inputs: the outputs below a folder, none twice, no params, no files of the project."""
    files: set[str] = set()
    for path in (path for path in paths if not path.startswith(f"{plan.RESOLVED}/")):
        files.update([o for o in outputs if o.startswith(path + "/")] or [path])
    return sorted(files - {file for each in plan.FILES.values() for file in each})


def test_both_engines_describe_the_same_stages(project: Project) -> None:
    snakemake, dvc = describe_snakemake(project), describe_dvc(project)
    dvc.pop("plan")
    outputs = [o for stage in dvc.values() for o in stage["outputs"]]
    theirs = {
        stage["outputs"][0]: {
            "command": stage["command"],
            "inputs": expand(stage["inputs"], outputs),
            "outputs": sorted(stage["outputs"]),
        }
        for stage in dvc.values()
    }

    def plain(graph: dict[str, Any]) -> list[str]:
        return json.dumps(graph, indent=1, sort_keys=True).splitlines()

    # a table's outputs are listed in another order by the two engines
    ours = {min(job["outputs"]): job for job in snakemake.values()}
    theirs = {min(job["outputs"]): job for job in theirs.values()}
    difference = "\n".join(difflib.unified_diff(plain(theirs), plain(ours), "dvc.yaml", "Snakefile", lineterm=""))
    assert not difference, f"{difference}\nmend dvc.yaml or workflow/rules; instances: python -m pipeline.plan"


def test_both_engines_describe_the_same_parts(tmp_path: Path) -> None:
    project = Project(tmp_path / "parts", {"compute.shards": {"demo": 2}, "reproduce": ["demo"]})
    test_both_engines_describe_the_same_stages(project)
    test_dvc_tracks_the_params_code_and_weights_that_the_plan_says(project)
    made = describe_dvc(project)
    joined = made["predict@demo-copy_last"]
    assert "data/shards/predictions/demo/copy_last/2" in joined["inputs"]
    assert made["score_shard@demo-copy_last-2-1"]["command"].endswith("--model copy_last --shard 1/2")


def load(project: Project) -> params.Params:
    """Return the params of the project in the folder."""
    with contextlib.chdir(project.folder):
        return params.load()


def test_dvc_tracks_the_params_code_and_weights_that_the_plan_says(project: Project) -> None:
    p = load(project)
    instances = plan.reproduced(p)
    for name, stage in describe_dvc(project).items():
        if name == "plan":
            continue
        kind, _, instance = name.partition("@")
        fields = instances[kind][instance]
        (file,) = (path for path in stage["inputs"] if path.startswith(f"{plan.RESOLVED}/"))
        assert file == f"workflow/resolved/{kind}/{instance}.json"
        told = sealed.read(project.folder / file)
        assert told.pop("token", "") == ""
        with contextlib.chdir(project.folder):
            assert told == plan.made_of(p, kind, fields), name


def test_files_of_instances_are_written_when_they_change_and_go_with_them(tmp_path: Path) -> None:
    project = Project(tmp_path / "files", {"reproduce": ["demo"]})
    with contextlib.chdir(project.folder):
        files = {file: file.stat().st_ino for file in plan.RESOLVED.rglob("*.json")}
        assert plan.RESOLVED / "predict/demo-copy_last.json" in files
        plan.write(load(project))
        assert files == {file: file.stat().st_ino for file in plan.RESOLVED.rglob("*.json")}, "nothing is written again"
        project.edit({"experiments.demo.models.flow_warp": None, "models.dmvfn_demo.train.lr": 0.5})
        after = {file: file.stat().st_ino for file in plan.RESOLVED.rglob("*.json")}
        gone = {str(file.relative_to(plan.RESOLVED)) for file in files.keys() - after.keys()}
        assert {"predict/demo-flow_warp.json", "score/demo-flow_warp.json"} <= gone
        changed = {str(file.relative_to(plan.RESOLVED)) for file in after if files.get(file) != after[file]}
        assert changed == {"train/dmvfn_demo-demo.json", "table/demo.json", "read.json"}
        path = plan.RESOLVED / "train/dmvfn_demo-demo.json"
        assert sealed.read(path)["params"]["models.dmvfn_demo.train"]["lr"] == 0.5
        path.write_text(path.read_text().replace("0.5", "0.6"))
        with pytest.raises(RetakeError, match=r"train/dmvfn_demo-demo.json was changed by hand .*reaches no stage"):
            plan.write(load(project))


def test_dvc_tells_which_values_are_others_than_in_the_last_commit(tmp_path: Path) -> None:
    project = Project(tmp_path / "diff", {"reproduce": ["demo"]})
    for command in (("git", "add", "-A"), ("git", "commit", "-q", "-m", "before")):
        assert project.run(*command).returncode == 0
    project.edit({"models.dmvfn_demo.train.max_steps": 7})
    done = project.dvc("params", "diff", "--json")
    assert done.returncode == 0, done.stderr
    steps = {"old": 300, "new": 7, "diff": -293}
    assert json.loads(done.stdout) == {"params.yaml": {"models.dmvfn_demo.train.max_steps": steps}}


def test_rules_use_the_keys_and_code_of_their_own_name() -> None:
    for file in (ROOT / "workflow/rules").glob("*.smk"):
        for rule, body in re.findall(r"^rule (\w+):\n((?:    .*\n|\n)+)", file.read_text(), re.M):
            assert f'made_of=made_of("{rule}")' in body, f"{file.name}: {rule}"
            assert f"logs/{rule.removesuffix('_shard')}-" in body and f"logs/benchmarks/{rule}-" in body, (
                f"{file.name}: {rule}"
            )


def imports(file: Path) -> set[str]:
    """Return the project's files that `file` imports, at the top or inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
        for name in names:
            if name.split(".")[0] == "pipeline":
                base = ROOT / name.replace(".", "/")
                for path in (base.with_suffix(".py"), base / "__init__.py"):
                    if path.exists():
                        found.add(str(path.relative_to(ROOT)))
    return found


def test_nothing_imports_a_stage() -> None:
    """Neither another stage nor what lies below them, nor the commands beside them."""
    stages = {f"pipeline/{stage}.py" for stage in plan.OUTPUTS}
    files = sorted((ROOT / "pipeline").rglob("*.py"))
    assert stages <= {str(file.relative_to(ROOT)) for file in files}
    for file in files:
        assert not imports(file) & stages, file


BUILT_OF = {"cinn": {"cinn_stage1", "cinn_ae"}}  # a system whose checkpoint holds the networks of two others


def test_entries_of_a_registry_never_import_each_other() -> None:
    for package in ("datasets", "models", "metrics"):
        root = ROOT / "pipeline" / package
        for file in root.rglob("*.py"):
            top = file.relative_to(root).parts[0]
            for found in imports(file):
                parts = Path(found).parts
                if (
                    parts[1] == package
                    and parts[2] != "__init__.py"
                    and (ROOT / found).read_text().count("class Params(")
                ):
                    assert parts[2] in {top, *BUILT_OF.get(top, ())}, f"{file} imports the entry {found}"


def test_plan_file_is_up_to_date() -> None:
    assert (ROOT / plan.FILE).read_text() == plan.dump(params.load()), "run: python -m pipeline.plan"


def test_schema_is_up_to_date() -> None:
    assert (ROOT / params.SCHEMA).read_text() == params.schema(), "run: python -m pipeline.params --schema"


def test_params_are_the_same_in_both_dialects() -> None:
    """Our reader takes YAML 1.1, DVC 1.2."""
    from dvc.utils.serialize import load_yaml

    assert load_yaml(str(ROOT / "params.yaml")) == yaml.safe_load((ROOT / "params.yaml").read_text())


def test_params_are_short() -> None:
    papers = sorted((ROOT / "workflow/papers").glob("*.yaml"))
    assert len((ROOT / "params.yaml").read_text().splitlines()) <= 80
    assert sum(len(paper.read_text().splitlines()) for paper in papers) <= 700


def test_every_key_is_explained() -> None:
    definitions = json.loads(params.schema())["$defs"]
    for name, definition in definitions.items():
        for key, value in definition.get("properties", {}).items():
            nested = value.get("$ref", "").split("/")[-1]  # a group of keys: its class explains it
            explained = value.get("description") or definitions.get(nested, {}).get("description")
            assert explained, f"{name}.{key} has no description"


def test_snakemake_lint_finds_only_what_is_accepted(project: Project) -> None:
    """Accepted: no conda or container per rule (one locked environment), and logs that the stages write themselves."""
    done = project.run("snakemake", "--lint", "json")
    findings = json.loads(done.stdout) if done.stdout.strip() else {}
    accepted = {"Specify a conda environment or container for each rule."}
    titles = {
        lint["title"] for group in ("global", "rules") for entry in findings.get(group, []) for lint in entry["lints"]
    }
    assert titles <= accepted, titles - accepted


def test_help_answers_without_heavy_imports(project: Project) -> None:
    import sys

    for stage in [*plan.OUTPUTS, "upscale", "view", "handover", "status", "plan"]:
        done = project.run(sys.executable, "-X", "importtime", "-m", f"pipeline.{stage}", "--help")
        assert done.returncode == 0, done.stderr
        heavy = re.findall(r"\| (torch|mlflow|lpips|torchvision|pandas)$", done.stderr, re.M)
        assert not heavy, f"{stage} imports {heavy}"


def test_unknown_experiment_is_named(project: Project) -> None:
    done: subprocess.CompletedProcess[str] = project.snakemake("-n", "results/kity_metrics.csv")
    assert done.returncode != 0
    assert "kity" in done.stdout + done.stderr


def test_frames_flow_and_weights_that_no_experiment_needs(project: Project) -> None:
    assert project.rules("data/frames/bair/test.arrow", "--forceall") == ["download", "frames"]
    assert project.rules("data/flow/farneback/dtdb_fire/test.arrow", "--forceall") == ["download", "flow", "frames"]


@pytest.mark.parametrize("why", ["in no git repository", "data is a link to"])
def test_dvc_is_told_to_work_without_git_where_it_cannot_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    folder = tmp_path / "p"
    (folder / ".dvc").mkdir(parents=True)
    monkeypatch.chdir(folder)
    if "link" in why:
        (folder / ".git").mkdir()
        assert plan.let_dvc_work() == ""
        (folder / "data").symlink_to(tmp_path)
    assert why in plan.let_dvc_work()
    assert "no_scm = true" in (folder / ".dvc/config.local").read_text()
    assert plan.let_dvc_work() == ""  # what is said there stays, whoever said it


@pytest.mark.slow
@pytest.mark.parametrize("link", [True, False])
def test_dvc_repro_without_git_and_with_data_elsewhere(tmp_path: Path, link: bool) -> None:
    project = Project(tmp_path / "p", SMALL_DEMO)
    if link:
        (tmp_path / "large").mkdir()
        (project.folder / "data").symlink_to(tmp_path / "large")
    else:
        shutil.rmtree(project.folder / ".git")
    done = project.run(sys.executable, "-m", "pipeline.plan")
    assert "DVC now works without git here" in done.stderr
    for _ in range(2):
        done = project.run("dvc", "repro", "frames@demo-val")
        assert done.returncode == 0, done.stdout + done.stderr
    assert "Stage 'frames@demo-val' didn't change, skipping" in done.stdout
