"""Both engines describe the same work: outputs, inputs, commands, params keys; and what they say of code is true."""

from __future__ import annotations

import ast
import difflib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import params, plan
from tests.engines import ROOT, Project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project as delivered, with every experiment reproduced, and flow made ahead: trained, and published weights."""
    project = Project(tmp_path_factory.mktemp("graphs"))
    every = list(yaml.safe_load((ROOT / "params.yaml").read_text())["experiments"])
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
from dvc.dependency.param import ParamsDependency
out = {}
for stage in Repo(".").index.stages:
    deps = [d for d in stage.deps if not isinstance(d, ParamsDependency)]
    keys = [k for d in stage.deps if isinstance(d, ParamsDependency) for k in d.params]
    out[stage.name] = {"command": stage.cmd, "inputs": [d.def_path for d in deps], "outputs": [o.def_path for o in stage.outs], "keys": keys}
print("\n" + json.dumps(out))
"""
    import sys

    project.dvc("status", "-q")
    done = project.run(sys.executable, "-c", script)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def expand(paths: list[str], folder: Path, outputs: list[str]) -> list[str]:
    """Expand folders in DVC's deps as Snakemake lists them: code files, or the outputs below them."""
    files: set[str] = set()
    for path in paths:
        below = [o for o in outputs if o.startswith(path + "/")]
        if below:
            files.update(below)
        elif (folder / path).is_dir():
            found = [f for s in ("*.py", "*.csv", "*.txt") for f in (folder / path).rglob(s)]
            files.update(str(f.relative_to(folder)) for f in found)
        else:
            files.add(path)
    return sorted(files)


def test_both_engines_describe_the_same_stages(project: Project) -> None:
    snakemake, dvc = describe_snakemake(project), describe_dvc(project)
    dvc.pop("plan")
    outputs = [o for stage in dvc.values() for o in stage["outputs"]]
    theirs = {
        stage["outputs"][0]: {
            "command": stage["command"],
            "inputs": [i for i in expand(stage["inputs"], project.folder, outputs) if not is_code(i)],
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


def is_code(path: str) -> bool:
    return path.startswith(("pipeline/", "results/published/"))


def test_dvc_lists_the_code_that_the_plan_says(project: Project) -> None:
    """Snakemake has the digest of the same files among its params."""
    p = params.load(yaml.safe_load((project.folder / "params.yaml").read_text()))
    instances = plan.plan(p, p.reproduce)
    for name, stage in describe_dvc(project).items():
        if name == "plan":
            continue
        kind, _, instance = name.partition("@")
        listed = [i for i in expand(stage["inputs"], project.folder, []) if is_code(i)]
        assert listed == sorted(plan.code(kind, instances[kind][instance])), name


def test_dvc_lists_the_params_keys_that_the_plan_says(project: Project) -> None:
    p = params.load(yaml.safe_load((project.folder / "params.yaml").read_text()))
    instances = plan.plan(p, p.reproduce)
    for name, stage in describe_dvc(project).items():
        if name == "plan":
            continue
        kind, _, instance = name.partition("@")
        fields = instances[kind][instance]
        assert sorted(stage["keys"]) == sorted(plan.uses(p, kind, fields)), name


def test_rules_use_the_keys_and_code_of_their_own_name() -> None:
    for file in (ROOT / "workflow/rules").glob("*.smk"):
        for rule, body in re.findall(r"^rule (\w+):\n((?:    .*\n|\n)+)", file.read_text(), re.M):
            assert f'uses=uses("{rule}")' in body, f"{file.name}: {rule}"
            assert f'code=code("{rule}")' in body, f"{file.name}: {rule}"
            assert f"logs/{rule}-" in body and f"logs/benchmarks/{rule}-" in body, f"{file.name}: {rule}"


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


def test_every_import_of_a_stage_stands_in_its_code() -> None:
    p = params.load(yaml.safe_load((ROOT / "params.yaml").read_text()))
    for stage, instances in plan.plan(p, list(p.experiments)).items():
        for name, fields in instances.items():
            code = plan.code(stage, fields)
            seen, queue = set(code), [f for f in code if f.endswith(".py")]
            while queue:
                for file in imports(ROOT / queue.pop()):
                    if file not in seen and file not in plan.SCAFFOLD and (ROOT / file).name != "__init__.py":
                        seen.add(file)
                        queue.append(file)
            outside = seen - set(code)
            assert not outside, (
                f"{stage} {name} imports {sorted(outside)}: add them to CODE in pipeline/plan.py and to dvc.yaml"
            )


def test_stages_never_import_each_other() -> None:
    for stage in plan.OUTPUTS:
        others = {f"pipeline/{s}.py" for s in plan.OUTPUTS if s != stage}
        assert not imports(ROOT / f"pipeline/{stage}.py") & others, stage


BUILT_OF = {"cinn": {"cinn_stage1", "cinn_ae"}}  # a system whose checkpoint holds the networks of two others


def test_entries_of_a_registry_never_import_stages_or_each_other() -> None:
    stages = {f"pipeline/{s}.py" for s in plan.OUTPUTS}
    for package in ("datasets", "models", "metrics"):
        root = ROOT / "pipeline" / package
        for file in root.rglob("*.py"):
            top = file.relative_to(root).parts[0]
            for found in imports(file):
                assert found not in stages, f"{file} imports the stage {found}"
                parts = Path(found).parts
                if (
                    parts[1] == package
                    and parts[2] != "__init__.py"
                    and (ROOT / found).read_text().count("class Params(")
                ):
                    assert parts[2] in {top, *BUILT_OF.get(top, ())}, f"{file} imports the entry {found}"


def test_plan_file_is_up_to_date() -> None:
    p = params.load(yaml.safe_load((ROOT / "params.yaml").read_text()))
    assert (ROOT / plan.FILE).read_text() == plan.dump(p), "run: python -m pipeline.plan"


def test_schema_is_up_to_date() -> None:
    assert (ROOT / params.SCHEMA).read_text() == params.schema(), "run: python -m pipeline.params"


def test_params_are_complete_and_the_same_in_both_dialects() -> None:
    """Snakemake reads YAML 1.1, DVC 1.2; and what params.yaml leaves out, DVC cannot see."""
    from dvc.utils.serialize import load_yaml

    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert load_yaml(str(ROOT / "params.yaml")) == tree
    read = json.loads(params.load(tree).model_dump_json())
    for experiment in tree["experiments"].values():
        if isinstance(experiment["metrics"], str):  # a profile's name
            experiment["metrics"] = tree["profiles"][experiment["metrics"]]
    assert read == tree


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

    for stage in [*plan.OUTPUTS, "upscale", "view", "handover", "plan"]:
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
