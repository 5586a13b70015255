"""params.yaml: what is wrong is said with its key and the nearest right name."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline import compute, params, plan, recipes
from pipeline.errors import RetakeError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def tree() -> dict[str, Any]:
    return copy.deepcopy(recipes.read().values)


def refused(tree: dict[str, Any]) -> str:
    with pytest.raises(RetakeError) as error:
        params.validate(tree)
    return str(error.value)


def test_misspelt_key_is_refused_with_the_nearest(tree: dict[str, Any]) -> None:
    tree["datasets"]["demo"]["heigth"] = 96
    text = refused(tree)
    assert "datasets.demo.heigth: unknown key (did you mean 'height'?)" in text


def test_misspelt_section(tree: dict[str, Any]) -> None:
    tree["experiment"] = tree.pop("experiments")
    assert "experiment: unknown key (did you mean 'experiments'?)" in refused(tree)


def test_misspelt_training_key(tree: dict[str, Any]) -> None:
    tree["models"]["dmvfn"]["train"]["max_step"] = 3
    assert "models.dmvfn.train.max_step: unknown key (did you mean 'max_steps'?)" in refused(tree)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("experiments.demo.dataset", "kity", "unknown dataset 'kity' (did you mean 'kitti'?)"),
        ("experiments.demo.protocol", "next6", "unknown protocol 'next6' (did you mean 'next5'?)"),
        ("experiments.demo.models", {"dmvfm": "x"}, "unknown model 'dmvfm' (did you mean 'dmvfn'?)"),
        ("experiments.demo.models", {"dis": "x"}, "dis is a flow model"),
        ("reproduce", ["kiti"], "unknown experiment 'kiti' (did you mean 'kitti'?)"),
        ("experiments.demo.metrics.psnr.kind", "pnsr", "unknown 'pnsr' (did you mean 'psnr'?)"),
        ("datasets.demo.height", 100, "multiples of 16"),
        ("protocols.next5.horizon", 9, "is more than window 9"),
        ("compute.threads", 0, "greater than or equal to 1"),
        ("compute.shards", "many", "compute.shards: Input should be a valid integer"),
        ("compute.shards", {"demo": 0}, "compute.shards.demo: Input should be greater than or equal to 1"),
        ("experiments.demo.published", 5, "experiments.demo.published: Input should be a valid string"),
    ],
)
def test_wrong_values_are_named(tree: dict[str, Any], key: str, value: Any, message: str) -> None:
    *parents, leaf = key.split(".")
    node = tree
    for part in parents:
        node = node[part]
    node[leaf] = value
    assert message in refused(tree)


def test_overrides_as_strings_are_understood(tree: dict[str, Any]) -> None:
    """`--config` delivers strings throughout."""
    tree["compute"] |= {"threads": "1", "shards": "3"}
    tree["tracking"]["mlflow"] = "no"
    loaded = params.validate(tree)
    assert loaded.compute.threads == 1
    assert loaded.compute.shards == 3
    assert loaded.tracking.mlflow is False


def test_values_of_a_large_sweep_reach_the_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux takes no environment variable of more than 128 KiB; the values of 240 experiments are longer."""
    p = params.load({"experiments": {f"sweep_{i}": {"like": "demo"} for i in range(240)}})
    monkeypatch.chdir(tmp_path)
    handed = params.hand_over(p)
    assert handed.stat().st_size > 128 * 1024
    code = "from pipeline import params; print(len(params.load().experiments))"
    env = {**os.environ, params.VARIABLE: str(handed), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout.split() == [str(len(p.experiments))], done.stderr


def test_not_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(params.VARIABLE, raising=False)
    with pytest.raises(RetakeError, match=r"no params.yaml in"):
        params.load()
    Path("params.yaml").write_text("a: [1\n")
    with pytest.raises(RetakeError, match="is not YAML"):
        params.load()
    Path("params.yaml").write_text("- 1\n")
    with pytest.raises(RetakeError, match="must be a mapping"):
        params.load()
    Path("params.yaml").write_text("!!python/object/apply:os.system ['touch owned']\n")
    with pytest.raises(RetakeError, match="is not YAML"):
        params.load()
    assert not Path("owned").exists()


def test_a_profile_s_name_stands_for_its_metrics() -> None:
    tree = copy.deepcopy(recipes.read().values)
    assert tree["experiments"]["kitti"]["metrics"] == "dmvfn"
    p = params.validate(tree)
    assert p.experiments["kitti"].metrics == p.profiles["dmvfn"]
    assert tree["experiments"]["kitti"]["metrics"] == "dmvfn"  # what was given is not changed
    fields = plan.plan(p, ["kitti", "demo"])["score"]
    assert fields["kitti-dmvfn"]["metrics"] == "profiles.dmvfn"
    assert fields["demo-copy_last"]["metrics"] == "experiments.demo.metrics"
    assert plan.uses(p, "score", fields["kitti-dmvfn"])["profiles.dmvfn"]["lpips"]["colour"] == "bgr"
    tree["experiments"]["kitti"]["metrics"] = "dmvnf"
    with pytest.raises(RetakeError, match=r"experiments.kitti.metrics: no profile 'dmvnf' \(did you mean 'dmvfn'\?\)"):
        params.validate(tree)
    tree["experiments"]["kitti"]["metrics"] = "arflow"
    with pytest.raises(RetakeError, match="flow_epe is no metric of the task prediction"):
        params.validate(tree)


def test_resolved_values_are_those_of_november_2026() -> None:
    """Frozen when the recipes became short. A change on purpose renews the digest, or deletes this test."""
    tree = params.load().tree
    papers = [
        yaml.safe_load((ROOT / f"workflow/papers/{name}.yaml").read_text()) for name in ("dmvfn", "arflow", "tecogan")
    ]
    demos = {
        "datasets": ["demo", "demo_vsr"],
        "models": ["dmvfn_demo", "frvsr_demo"],
        "experiments": ["demo", "demo_vsr"],
    }
    papers.append({section: dict.fromkeys(names) for section, names in demos.items()})
    for model in tree["models"].values():
        (model["train"] or {}).pop("repeats", None)  # a key that came later
    for experiment in tree["experiments"].values():
        experiment.pop("seeds")  # too
        experiment.pop("labels")
    for metric in ("dists", "warping_error"):  # too
        tree["profiles"]["clean"].pop(metric)
    frozen = {
        section: {name: tree[section][name] for paper in papers for name in paper.get(section, {})}
        for section in recipes.SECTIONS
    }
    digest = hashlib.sha256(json.dumps(frozen, sort_keys=True).encode()).hexdigest()
    assert digest == "1ce93fa94399a169f5b7db918680228d0871c7299f754da07e7717fbd4712b59"


def test_a_row_that_is_taken_away_takes_its_label_and_seeds_along() -> None:
    whole = {"like": "demo", "predictions": {"mine": "p"}, "labels": {"mine": "Mine"}, "seeds": {"dmvfn_demo": 3}}
    less = {"like": "whole", "predictions": {"mine": None}, "models": {"dmvfn_demo": None}}
    experiments = params.load({"experiments": {"whole": whole, "less": less}}).experiments
    assert experiments["whole"].labels == {"mine": "Mine"}
    assert experiments["less"].rows == ["copy_last", "flow_warp"]
    assert not experiments["less"].labels
    assert not experiments["less"].seeds


def test_default_batch_goes_by_device_and_size() -> None:
    stores = [SimpleNamespace(size=np.array([[64, 64], [height, 832]])) for height in (64, 256)]
    cases = [(device, store) for device in ("cpu", "cuda") for store in stores]
    assert [compute.batch(params.load(), *case) for case in cases] == [4, 1, 4, 4]
    given = params.load({"compute": {"batch": 3}})
    assert [compute.batch(given, *case) for case in cases] == [3, 3, 3, 3]
