"""i2v-cINN's three trainings as stages: what each reads, what a change retrains, and the chain from nothing to tables."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

from pipeline import params, plan, recipes
from pipeline.sources import layout
from tests.engines import ROOT, Project

LISTS = "pipeline/datasets/sky_timelapse"

PUSH = {
    "stage1": "cinn_push_stage1-demo_push",
    "encoder": "cinn_push_encoder-demo_push",
    "flow": "cinn_push-demo_push",
    "controlled": "cinn_push_control-demo_push",
}
SMALL: dict[str, Any] = {
    **{f"models.{name}.train.max_steps": 2 for name in ("cinn_push_stage1", "cinn_push_encoder", "cinn_push")},
    **{f"models.{name}.train.batch": 2 for name in ("cinn_push_stage1", "cinn_push_encoder", "cinn_push")},
    **{f"models.{name}.train.validate_windows": 2 for name in ("cinn_push_stage1", "cinn_push_encoder", "cinn_push")},
    "models.cinn_push.train.batch": 8,  # ActNorm is set by a batch
    "protocols.demo_push.items": 2,
    "protocols.demo_push.samples": 2,
    "compute.threads": 1,
    "compute.workers": 0,
    "tracking.mlflow": False,
    "reproduce": ["demo_push", "demo_push_own"],
}


def trainings(changes: dict[str, Any]) -> dict[str, tuple[Any, list[str]]]:
    """Return what each training of the chain uses, and the files that it reads, after changes of params.yaml."""
    overrides: dict[str, Any] = {}
    for key, value in changes.items():
        node = overrides
        *parents, last = key.split(".")
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value
    read = recipes.read(overrides)
    p = params.validate(read.values, read.source)
    stages = plan.plan(p, ["demo_push"])["train"]
    return {
        name: (plan.uses(p, "train", stages[key]), plan.inputs(p, "train", stages[key])) for name, key in PUSH.items()
    }


@pytest.mark.parametrize(
    ("changes", "retrained"),
    [
        ({}, set()),
        ({"models.cinn_push.train.lr": 2e-3}, {"flow", "controlled"}),
        ({"models.cinn_push_control.train.lr": 2e-3}, {"controlled"}),
        ({"models.cinn_push_encoder.train.kl": 1e-3}, {"encoder", "flow", "controlled"}),
        ({"models.cinn_push_stage1.train.kl": 1e-3}, {"stage1", "flow", "controlled"}),
        ({"models.cinn_push.predict.weights": "last"}, set()),
        ({"experiments.demo_push.metrics.psnr": None}, set()),
        ({"protocols.demo_push.samples": 1}, set()),
    ],
)
def test_each_is_retrained_when_what_it_uses_changes(changes: dict[str, Any], retrained: set[str]) -> None:
    before, after = trainings({}), trainings(changes)
    direct = {name for name in PUSH if before[name] != after[name]}
    files = {
        str(plan.OUTPUTS["train"][0]).format(model=PUSH[name].rpartition("-")[0], dataset="demo_push"): name
        for name in PUSH
    }
    following = {name for name in PUSH if {files.get(file) for file in after[name][1]} & direct}
    assert direct | following == retrained


def test_the_flow_reads_the_checkpoints_of_both_others() -> None:
    read = {name: files for name, (_, files) in trainings({}).items()}
    made = [f"data/checkpoints/{name}/demo_push.pt" for name in ("cinn_push_stage1", "cinn_push_encoder")]
    assert [file for file in read["flow"] if "checkpoints" in file] == made
    assert not any("checkpoints" in file for name in ("stage1", "encoder") for file in read[name])


def test_published_weights_are_inputs_by_part() -> None:
    p = params.load()
    fields = plan.plan(p, ["data/checkpoints/cinn_published/bair.pt"])["train"]["cinn_published-bair"]
    assert len([file for key, file in fields.items() if key.startswith("own_")]) == 4


@pytest.mark.parametrize(
    ("experiment", "frames", "checkpoint", "like"),
    [
        ("landscape_dtvnet", "sky_timelapse_cinn_128", "dtvnet/sky_timelapse_dtvnet", "landscape"),
        ("sky_cinn", "sky_timelapse_dtvnet", "cinn_landscape/sky_timelapse_cinn", "sky"),
    ],
)
def test_each_paper_s_model_is_scored_by_the_other_s_protocol(
    experiment: str, frames: str, checkpoint: str, like: str
) -> None:
    """With the weights that its own paper's training gives."""
    p = params.load()
    predictions = plan.plan(p, [experiment])["predict"]
    fields = predictions[f"{experiment}-{checkpoint.split('/')[0]}"]
    assert fields["checkpoint"] == f"data/checkpoints/{checkpoint}.pt"
    assert {fields["frames"] for fields in predictions.values()} == {f"data/frames/{frames}/test.arrow"}
    assert {fields["protocol"] for fields in predictions.values()} == {p.experiments[like].protocol}


@pytest.mark.slow
def test_the_chain_in_both_engines_gives_the_same_bytes(tmp_path: Path) -> None:
    projects = [Project(tmp_path / engine, SMALL) for engine in ("snakemake", "dvc")]
    for project, run in zip(projects, (projects[0].snakemake, lambda: projects[1].dvc("repro")), strict=True):
        done = run()
        assert done.returncode == 0, done.stdout + done.stderr
        assert project.rows("results/demo_push_metrics.csv").keys() == {
            (name, True) for name in ("Start frame", "cINN (w/o cINN)", "cINN", "cINN, end point given")
        }
    for file in (
        *(f"data/checkpoints/{name}/demo_push.pt" for name in ("cinn_push_stage1", "cinn_push_encoder", "cinn_push")),
        "results/demo_push_metrics.csv",
        "results/demo_push_own_metrics.csv",
    ):
        first, second = (project.folder / file for project in projects)
        assert first.read_bytes() == second.read_bytes(), file
    project = projects[0]
    assert "`demo_push` at 32x32" in (project.folder / "results/demo_push_metrics.md").read_text()
    project.edit({"models.cinn_push_encoder.train.kl": 1e-3})
    assert project.rules().count("train") == 3


# Real samples

TINY: dict[str, Any] = {"channel_factor": 8, "channels": [16] * 5}
CUT: dict[str, Any] = {"max_steps": 1, "batch": 2, "validation": None}


def flat(key: str, value: Any) -> dict[str, Any]:
    """Return the leaves of nested mappings by their dotted keys."""
    if not isinstance(value, dict):
        return {key: value}
    return {leaf: v for name, part in value.items() for leaf, v in flat(f"{key}.{name}", part).items()}


def cut(stage1: str, encoder: str, flow: str, size: int, norm: str) -> dict[str, Any]:
    """Return changes of params.yaml that make a recipe of the paper's end in one step of small networks."""
    first, second = {"size": size, **TINY}, {"size": size, "z_dim": size, "norm": norm, "width": 4}
    recipe = {**CUT, "perceptual": 0.0}
    return {
        **flat(f"models.{stage1}", {"network": first, "train": {**recipe, "best": "loss"}}),
        **flat(f"models.{encoder}", {"network": second, "train": recipe}),
        **flat(f"models.{flow}.network", {"blocks": 2, "width": 16, "stage1": first, "encoder": second}),
        **flat(f"models.{flow}.train", {**CUT, "best": "loss"}),
        "compute.threads": 1,
        "compute.workers": 0,
        "tracking.mlflow": False,
    }


@pytest.mark.slow
def test_real_records_from_the_archive_to_the_table(shared: Path, tmp_path: Path) -> None:
    project = Project(
        tmp_path / "p",
        cut("cinn_stage1", "cinn_ae", "cinn", 64, "in")
        | {"datasets.bair.archives": "present", "experiments.bair.metrics": {"psnr": {"kind": "psnr"}}},
    )
    data = (shared / "data/bair_tfrecord_sample/traj_0_to_1.tfrecords").read_bytes()
    for name in ("train/traj_512_to_767", "test/traj_0_to_255"):  # unpacked: the whole tar's checksum is known
        file = project.folder / f"data/raw/bair/bair_robot_pushing_dataset_v0/softmotion30_44k/{name}.tfrecords"
        file.parent.mkdir(parents=True)
        file.write_bytes(data)
    done = project.snakemake("--", "results/bair_metrics.csv")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = project.rows("results/bair_metrics.csv")
    assert {name for name, measured in rows if measured} == {"Start frame", "cINN (w/o cINN)", "cINN"}
    assert "Partial data" in (project.folder / "results/bair_metrics.md").read_text()


@pytest.mark.slow
def test_real_landscapes_from_the_archive_to_the_table(shared: Path, tmp_path: Path) -> None:
    """As in the archive, resized and cropped in training, at 128x128 in the test."""
    names = {split: layout.lines((ROOT / LISTS / f"cinn_{split}.txt").read_text())[:2] for split in ("train", "test")}
    project = Project(
        tmp_path / "p",
        cut("cinn_landscape_stage1", "cinn_landscape_ae", "cinn_landscape", 128, "bn")
        | {
            "datasets.sky_timelapse_cinn.archives": "present",
            "experiments.landscape.metrics": {"psnr": {"kind": "psnr"}, "lpips": {"kind": "lpips", "net": "vgg"}},
            "experiments.landscape_32.metrics": {"psnr": {"kind": "psnr"}, "lpips": {"kind": "lpips", "net": "vgg"}},
            "protocols.cinn_landscape.starts": 1,
            "protocols.cinn_landscape.samples": 1,
        },
    )
    archive = project.folder / "data/raw/sky_timelapse/sky_timelapse.zip"
    archive.parent.mkdir(parents=True)
    samples = sorted((shared / "data/landscape_clips").glob("sample*"))
    with zipfile.ZipFile(archive, "w") as out:
        for split, clips in names.items():
            for clip, sample in zip(clips, samples, strict=False):
                for file in sample.glob("*.jpg"):
                    out.write(file, f"sky_{split}/{clip}/{clip.split('/')[0]}_frames_{int(file.stem[5:]):08d}.jpg")
    project.forget_lengths()
    done = project.snakemake("--", "results/landscape_metrics.csv")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = project.rows("results/landscape_metrics.csv")
    assert {name for name, measured in rows if measured} == {"Start frame", "cINN"}
    assert ("DTVNet", False) in {(name.split(" ")[0], measured) for name, measured in rows}
    assert "compared with true frames 1 earlier" in (project.folder / "results/landscape_metrics.md").read_text()
