"""The task flow: pairs, validation, metrics that pool, what the plan and params.yaml say of it, and wrong input."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline import params, plan, predict, score, table
from pipeline.errors import RetakeError
from pipeline.metrics import flow_epe, flow_f1
from pipeline.models.base import Network
from pipeline.store.frames import Store, Writer
from pipeline.tables import measured
from pipeline.tasks.flow import clips as flow
from pipeline.tasks.flow import table as flow_table
from pipeline.tasks.flow import train as flow_train
from tests.conftest import furnish, resolved

ROOT = Path(__file__).resolve().parents[1]
FRAMES, TRUTH, NOC = (Path(f"data/{p}/test.arrow") for p in ("frames/toy", "flow/truth/toy", "flow/truth_noc/toy"))
SIZES = {"clean/a": (40, 64), "final/b": (48, 56)}
NONE: dict[str, Any] = {"network": None, "train": None, "checkpoint": None, "predict": None}


def toy() -> params.Params:
    """Parameters of one flow experiment."""
    epe = {"kind": "flow_epe", "pixels": "all", "average": "image", "clips": ""}
    tree = resolved() | {"reproduce": []}
    tree["tracking"] = {"mlflow": False}
    tree["compute"] |= {"device": "cpu", "threads": 1, "workers": 0}
    tree["datasets"] |= {"toy": tree["datasets"]["sintel"]}
    tree["experiments"] = {
        "toy": {
            "dataset": "toy", "trained_on": "toy", "protocol": "pairs", "models": {"zero": "Zero", "dis": "DIS"},
            "metrics": {
                "epe": epe, "epe_noc": epe | {"pixels": "noc"}, "epe_occ": epe | {"pixels": "occ"},
                "epe_clean": epe | {"clips": "clean/"}, "f1_all": {"kind": "flow_f1", "average": "image", "clips": ""},
                "f1_pooled": {"kind": "flow_f1", "average": "pooled", "clips": ""},
            },
            "report": [], "predictions": {}, "missing_weights": "error", "published": None,
        }
    }  # fmt: skip
    return params.validate(tree)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> params.Params:
    """Frames and exact flow of two clips of two sizes: 4 px to the right, 1 px in the second; a part has no truth."""
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    with Writer(FRAMES, codec="raw", meta={"partial": None}) as frames:
        for clip, (height, width) in SIZES.items():
            for number in (7, 8, 9):
                frames.add(clip, number, rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    for path in (TRUTH, NOC):
        with Writer(path, codec="flow64", dtype="float32", channels=2, meta={}) as out:
            for i, (clip, (height, width)) in enumerate(SIZES.items()):
                field = np.zeros((height, width, 2), np.float32)
                field[..., 0] = (4, 1)[i]
                field[: 10 * (i + 1)] = np.nan
                if path == NOC:
                    field[-5:] = np.nan
                out.add(clip, 8, field)
    return toy()


def made(p: params.Params, *names: str) -> Any:
    for name in names:
        predict.predict(p, "toy", name)
        score.score(p, "toy", name)
    return table


def test_cells_of_zero_flow(project: params.Params) -> None:
    """Pooled, images count by their pixels with truth; `clips` leaves the others out."""
    made(project, "zero", "dis")
    row = measured.row(project, "toy", "zero")
    columns = flow_table.LAYOUT.columns(project.experiments["toy"], row.meta)
    measured.fill(row, columns, "pairs")
    cells = {name: cell.mean for name, cell in row.cells.items()}
    first, second = 30 * 64, 28 * 56
    assert cells == pytest.approx(
        {
            "epe": 2.5, "epe_noc": 2.5, "epe_occ": 2.5, "epe_clean": 4, "f1_all": 50,
            "f1_pooled": 100 * first / (first + second),
        }
    )  # fmt: skip
    assert [c.title for c in columns] == ["EPE", "EPE noc", "EPE occ", "EPE (clean)", "F1-all", "F1-all pooled"]
    assert row.steps == {}
    table.make(project, "toy")
    text = Path("results/toy_metrics.md").read_text()
    assert "2 pairs with ground truth" in text
    assert "t+" not in text + Path("results/toy_metrics.tex").read_text()
    first_bytes = Path("results/toy_metrics.csv").read_bytes(), Path("results/toy.png").read_bytes()
    table.make(project, "toy")
    assert (Path("results/toy_metrics.csv").read_bytes(), Path("results/toy.png").read_bytes()) == first_bytes


def test_predictions_are_of_the_pairs_with_truth(project: params.Params) -> None:
    predict.predict(project, "toy", "zero")
    store = Store("data/predictions/toy/zero.arrow")
    assert flow.pairs(store) == [("clean/a", 8), ("final/b", 8)]
    assert [tuple(size) for size in store.size] == list(SIZES.values())
    assert json.loads(Path("data/predictions/toy/zero.speed.json").read_text())["ms_per_frame"] > 0


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("clean/a", 8, 0)], r"has 1 fields, .*truth/toy/test.arrow has 2: make it again"),
        ([("clean/a", 8, 0), ("clean/a", 7, 0)], r"unknown: clean/a:7: make it again"),
        ([("clean/a", 8, np.nan), ("final/b", 8, 0)], r"clean/a:8: flow is NaN: look at the model"),
        ([("clean/a", 8, 0), ("final/b", 8, 1e9)], r"final/b:8: the flow is 9x9, the truth 56x48: make it again"),
    ],
    ids=["missing", "unknown", "nan", "size"],
)
def test_wrong_fields_are_named(project: params.Params, rows: list[Any], words: str) -> None:
    meta = {"data": Store(FRAMES).identity}
    with Writer("data/predictions/toy/zero.arrow", codec="raw", dtype="float32", channels=2, meta=meta) as out:
        for clip, frame, value in rows:
            size = (9, 9) if value == 1e9 else SIZES[clip]
            out.add(clip, frame, np.full((*size, 2), value, np.float32))
    with pytest.raises(RetakeError, match=words):
        score.score(project, "toy", "zero")


def test_an_estimator_that_gives_nan_is_named(project: params.Params, monkeypatch: pytest.MonkeyPatch) -> None:
    class Bad(Network):
        def estimate(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
            return np.full((*first.shape[:2], 2), np.nan, np.float32)

    monkeypatch.setattr(params.registry("models")["zero"], "build", lambda p: Bad())
    with pytest.raises(RetakeError, match="zero estimates NaN or infinity for clean/a frame 8"):
        predict.predict(project, "toy", "zero")
    assert not Path("data/predictions/toy/zero.arrow").exists()


def test_three_frames_come_with_the_one_before(project: params.Params) -> None:
    store = Store(FRAMES)
    before, first, second = flow.images(store, ("clean/a", 8))
    assert all(np.array_equal(a, store.image(r)) for a, r in ((before, 0), (first, 1), (second, 2)))
    before, first, _ = flow.images(store, ("final/b", 7))
    assert np.array_equal(before, first)
    with pytest.raises(RetakeError, match=r"frames/toy/test.arrow has no clean/a frame 10: make it again"):
        flow.images(store, ("clean/a", 9))


def test_validation_is_by_truth_where_there_is_some(project: params.Params) -> None:
    seen: list[Any] = []

    def validate(batch: Any, found: Any) -> dict[str, float]:
        seen.append((tuple(batch.shape), None if found is None else tuple(found.shape)))
        return {"val_epe": float(len(seen))} if found is not None else {"val_loss": 7.0}

    network = SimpleNamespace(validate=validate)
    assert flow_train.Validation(Store(FRAMES), Store(TRUTH), network, 9, 4).score("cpu") == ("val_epe", 1.5)
    assert seen == [((1, 2, 3, 40, 64), (1, 2, 40, 64)), ((1, 2, 3, 48, 56), (1, 2, 48, 56))]
    assert flow_train.Validation(Store(FRAMES), None, network, 9, 4).score("cpu") == ("val_loss", 7.0)
    assert len(seen) == 2 + 4


def test_training_clips_of_different_sizes_are_of_one(project: params.Params) -> None:
    train: Any = SimpleNamespace(
        batch=1, window=2, windows="all", crop=None, seed=0, height=32, width=64, max_stride=1, repeats=1
    )
    clips = flow_train.TrainingClips(Store(FRAMES), train, lambda clip, rng: clip)
    assert {tuple(clips[0, i].shape) for i in range(len(clips))} == {(2, 3, 32, 64)}


def test_metrics_need_ground_truth() -> None:
    from pipeline.metrics import Undefined

    p = flow_epe.Params(kind="flow_epe", pixels="all", average="image", clips="")
    field = np.zeros((4, 4, 2), np.float32)
    with pytest.raises(Undefined, match="no pixel has ground truth"):
        flow_epe.build(p, "cpu")("clip", field, np.full_like(field, np.nan), None)
    f1 = flow_f1.Params(kind="flow_f1", average="pooled", clips="")
    assert flow_f1.build(f1, "cpu")("clip", field, field + 3.1, None) == (100.0, 16.0)
    assert flow_f1.build(f1, "cpu")("clip", field + 100, field + 103.1, None) == (0.0, 16.0)  # below 5 %


# The plan


def test_the_plan_knows_start_weights_and_truth() -> None:
    p = params.validate(resolved())
    stages = plan.plan(p, ["kitti_flow"])
    tuned = stages["train"]["arflow_kitti15_ft_ar-kitti2015"]
    assert tuned["start"] == "data/checkpoints/arflow_kitti_raw/kitti.pt"
    assert tuned["truth"] == "data/flow/truth/kitti2015/test.arrow"
    assert "arflow_kitti_raw-kitti" in stages["train"]
    assert stages["score"]["kitti_flow-zero"]["truth_noc"] == "data/flow/truth_noc/kitti2015/test.arrow"


def test_flow_by_a_trained_estimator_waits_for_its_checkpoint() -> None:
    tree = resolved()
    tree["models"]["flow_warp"]["predict"]["flow"] = "arflow_sky"
    tree["models"]["arflow_sky"]["predict"]["export"] = "pairs"
    stages = plan.plan(params.validate(tree), ["demo"])
    made = stages["flow"]["arflow_sky-demo-test"]
    assert made["checkpoint"] == "data/checkpoints/arflow_sky/demo.pt"
    assert made["checkpoint"] in plan.inputs(params.validate(tree), "flow", made)
    assert stages["train"]["arflow_sky-demo"]["truth"] == "data/flow/truth/demo/test.arrow"
    other = copy.deepcopy(tree["experiments"]["demo"]) | {"trained_on": "kitti"}
    del other["models"]["dmvfn_demo"]
    tree["experiments"]["other"] = other
    with pytest.raises(RetakeError, match=r"asked for with .*arflow_sky/demo.pt and with .*arflow_sky/kitti.pt: make"):
        plan.plan(params.validate(tree), ["demo", "other"])


def test_flow_stores_are_made_ahead_of_any_experiment() -> None:
    """Those that `reproduce` names, and in Snakemake any other: of any dataset, trained on it or imported."""
    tree = resolved()
    sky = "data/flow/arflow_sky/sky_timelapse_arflow/train.arrow"
    tree["reproduce"] = [sky]
    p = params.validate(tree)
    assert plan.targets(p) == [sky]
    stages = plan.plan(p, p.reproduce)
    assert {stage: sorted(made) for stage, made in stages.items() if made} == {
        "download": ["sky_timelapse_arflow-test", "sky_timelapse_arflow-train"],
        "frames": ["sky_timelapse_arflow-test", "sky_timelapse_arflow-train"],
        "flow": ["arflow_sky-sky_timelapse_arflow-train"],
        "train": ["arflow_sky-sky_timelapse_arflow"],
    }
    tree["reproduce"] = []
    p = params.validate(tree)
    ahead = plan.fields_of(p, "flow", estimator="arflow_sky", dataset="sky_timelapse_arflow", split="train")
    assert ahead == stages["flow"]["arflow_sky-sky_timelapse_arflow-train"]
    trained = plan.fields_of(p, "train", model="arflow_sky", dataset="sky_timelapse_arflow")
    assert trained == stages["train"]["arflow_sky-sky_timelapse_arflow"]
    known = plan.fields_of(p, "flow", estimator="arflow_sintel_ar_mv_published", dataset="bair", split="test")
    assert known["checkpoint"] == "data/checkpoints/arflow_sintel_ar_mv_published/bair.pt"
    imported = plan.fields_of(p, "train", model="arflow_sintel_ar_mv_published", dataset="bair")
    assert plan.inputs(p, "train", imported) == ["data/weights/arflow_sintel_ar_mv.json"]
    with pytest.raises(RetakeError, match=r"no experiment in params.yaml needs train of dis-bair"):
        plan.fields_of(p, "train", model="dis", dataset="bair")


def test_published_entries_name_their_files_and_networks() -> None:
    from pipeline import fetch

    p = params.validate(resolved())
    rows = {row.name for row in fetch.sources(ROOT / "workflow/weights.csv", key="name", extra=("use",))}
    entries = {name: p.models[name] for name in p.models if name.startswith("arflow") and name.endswith("_published")}
    assert {model.checkpoint for model in entries.values()} == {name for name in rows if name.startswith("arflow")}
    for name, model in entries.items():
        assert name == f"{model.checkpoint}_published"
        assert (model.network.frames == 3) == ("_mv" in name)
        assert (model.export == "sky") == ("_sky" in name)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("reproduce", ["data/flow/diss/demo/test.arrow"], r"unknown flow estimator 'diss' \(did you mean 'dis'"),
        ("reproduce", ["data/flow/copy_last/demo/test.arrow"], "unknown flow estimator 'copy_last'"),
        ("reproduce", ["data/flow/dis/dem/test.arrow"], r"unknown dataset 'dem' \(did you mean 'demo'"),
        ("reproduce", ["data/flow/dis/demo/tset.arrow"], r"dataset demo has no split 'tset' \(did you mean 'test'"),
        ("models.flow_warp.predict.flow", "dis_sky", "dis_sky exports flow for DTVNet alone; name one whose"),
        ("models.dis.predict.export", "skies", "models.dis.predict.export: Input should be 'pairs' or 'sky'"),
        ("experiments.kitti_flow.report", [1], r"kitti_flow.report must be \[\]: the task flow has no steps"),
        ("experiments.demo.report", [], "must name steps from 1 to horizon 5"),
        ("experiments.kitti_flow.predictions", {"mine": "x"}, "only frames that were predicted can be brought"),
        ("experiments.kitti_flow.metrics", {"psnr": {"kind": "psnr"}}, "psnr is no metric of the task flow"),
        ("experiments.kitti_flow.models", {"copy_last": "x"}, "copy_last is a prediction model"),
        ("experiments.sintel.published", {"epe_cleam": "x"}, r"unknown metric 'epe_cleam' \(did you mean 'epe_clean'"),
        ("protocols.pairs.task", "flw", r"protocols.pairs.task: unknown 'flw' \(did you mean 'flow'"),
        (
            "models.arflow_sintel_ft.train.start",
            "data/checkpoints/arflow_sintel/sintel.pt",
            r"models.arflow_sintel_ft.train.start: unknown model 'arflow_sintel'",
        ),
    ],
)
def test_wrong_params_are_named(key: str, value: Any, words: str) -> None:
    tree = resolved()
    node = tree
    *parents, leaf = key.split(".")
    for part in parents:
        node = node[part]
    node[leaf] = value
    with pytest.raises(RetakeError, match=words):
        params.validate(tree)
