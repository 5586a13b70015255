"""The table stage: averages, intervals, published rows, the three formats, and what it refuses."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from test_score import blend, copy, pan, save, toy, write_flows, write_frames, write_predictions

from pipeline import bring, compare, params, score, table
from pipeline.drawing import sheets
from pipeline.errors import RetakeError
from pipeline.params import Params
from pipeline.store import scores, sealed
from pipeline.store.frames import Store
from pipeline.tables import measured, published, text
from pipeline.tables.cells import Cell, Column, Row
from tests.conftest import furnish

ALL = ("copy_last", "flow_warp", "brought")


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the scores of three rows: two models and brought predictions."""
    folder = tmp_path_factory.mktemp("scored")
    with pytest.MonkeyPatch.context() as patch:
        furnish(folder)
        patch.chdir(folder)
        p = toy()
        write_frames()
        write_flows()
        write_predictions(p, "copy_last", copy)
        write_predictions(p, "flow_warp", pan, samples=1, checkpoint="cd" * 32)
        save(Path("brought"), blend)
        bring.bring(p, "toy", "brought")
        for name in ALL:
            score.score(p, "toy", name)
        shutil.copytree(ROOT / "results/published", "results/published")
    return folder


@pytest.fixture
def project(scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A copy of it, and its parameters."""
    shutil.copytree(scored, tmp_path / "project")
    furnish(tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return toy()


def lines(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def values(name: str, metric: str) -> np.ndarray:
    """Return scores as (windows, samples, steps)."""
    import pyarrow.parquet as pq

    rows = [r for r in pq.read_table(f"data/scores/toy/{name}.parquet").to_pylist() if r["metric"] == metric]
    shape = [len({r[k] for r in rows}) for k in ("window", "sample", "horizon")]
    return np.array([r["value"] for r in rows]).reshape(shape)


def test_cells_are_cumulative_means_over_windows_and_samples(project: Params) -> None:
    table.make(project, "toy")
    rows = lines("results/toy_metrics.csv")
    assert [(r["model"], r["source"]) for r in rows] == [
        (label, "measured") for label in ("Copy last", "Flow & warp_1", "brought")
    ]
    for row, name in zip(rows, ALL, strict=True):
        for metric, scale in (("psnr", 1), ("ssim", 100), ("ms_ssim", 100)):
            v = values(name, metric) * scale
            for k in (1, 3):
                assert row[f"{metric}_t{k}"] == f"{v[:, :, :k].mean():.6g}"
                assert (row[f"{metric}_t{k}_low"], row[f"{metric}_t{k}_high"]) == ("", "")  # two clips
                spread = f"{v[:, :, :k].mean(axis=(0, 2)).std(ddof=1):.6g}" if v.shape[1] > 1 else ""
                assert row[f"{metric}_t{k}_spread"] == spread
    assert "psnr_t2" not in rows[0]
    steps = {(r["model"], r["metric"], r["step"]): r for r in lines("results/toy_steps.csv")}
    assert len(steps) == 3 * 3 * 3
    for step in (1, 2, 3):
        assert (
            steps["Copy last", "ssim", str(step)]["mean"]
            == f"{100 * values('copy_last', 'ssim')[:, :, step - 1].mean():.6g}"
        )


@pytest.mark.parametrize(
    ("fit", "words"),
    [
        ("pad", "* Frames: `fit: pad`, scaled down where they do not fit, then padded by their last column and row; "
                "padding is not scored."),
        ("resize", "* Frames: `fit: resize`, resized without regard to their aspect ratio (OpenCV, linear)."),
    ],
)  # fmt: skip
def test_table_says_how_frames_came_to_their_size(project: Params, fit: str, words: str) -> None:
    write_predictions(project, "flow_warp", pan, samples=1, fit=fit)
    score.score(project, "toy", "flow_warp")
    table.make(project, "toy")
    assert Path("results/toy_metrics.md").read_text().splitlines().count(words) == 1


def test_facts_and_lineage_of_rows(project: Params) -> None:
    table.make(project, "toy")
    copy_last, flow_warp, brought = lines("results/toy_metrics.csv")
    assert (copy_last["n"], copy_last["samples"], copy_last["parameters"], copy_last["gmacs"]) == (
        "4",
        "2",
        "12345",
        "0.5",
    )
    assert copy_last["checkpoint"] == ""
    assert flow_warp["checkpoint"] == "cdcdcdcdcdcd"
    assert copy_last["data"] == Store("data/frames/toy/test.arrow").identity[:12]
    assert copy_last["params"] == "ab" * 6
    assert (brought["parameters"], brought["gmacs"], brought["samples"]) == ("", "", "1")
    assert {r["partial"] for r in (copy_last, flow_warp, brought)} == {"1 of 2 archives"}
    none = "no interval: fewer than 4 clips, and too few independent windows"
    assert (copy_last["epe"], copy_last["note"]) == ("", f"epe: the row's model reads no precomputed flow; {none}")
    assert (flow_warp["epe"], flow_warp["epe_low"], flow_warp["note"]) == ("0.5", "", none)
    assert brought["note"].startswith("brought as 8-bit images; epe: ")
    assert {(r["unit"], r["units"]) for r in (copy_last, flow_warp, brought)} == {("clips", "2")}


def test_the_picture_says_below_what_its_rows_rest_on(project: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def with_lines(picture: np.ndarray, below: list[str]) -> np.ndarray:
        told.extend(below)
        return sheets.with_lines(picture, below)

    monkeypatch.setattr(table, "with_lines", with_lines)
    table.make(project, "toy")
    for row in lines("results/toy_metrics.csv")[: len(ALL)]:
        assert any(line.startswith(f"{row['model']}: ") and row["data"] in line for line in told), row["label"]
    assert "Partial data: 1 of 2 archives. Not comparable with published numbers" in told


def test_the_same_scores_give_the_same_bytes_and_no_speed(project: Params) -> None:
    names = [f"results/toy{suffix}" for suffix in ("_metrics.csv", "_metrics.md", "_metrics.tex", "_steps.csv", ".png")]
    table.make(project, "toy")
    first = [Path(n).read_bytes() for n in names]
    for name in names:
        Path(name).unlink()
    for speed in Path("data/predictions/toy").glob("*.speed.json"):
        sealed.write(speed, sealed.read(speed) | {"ms_per_frame": 77.0})
    table.make(project, "toy")
    assert [Path(n).read_bytes() for n in names] == first
    assert not any(b"77" in text and b"ms_per" in text for text in first)
    speed_rows = lines("results/toy_speed.csv")
    assert speed_rows[0] == {
        "model": "Copy last", "ms_per_frame": "77", "frames_per_s": "666", "peak_memory_mib": "99.5", "device": "cpu",
        "threads": "1", "batch": "2",
    }  # fmt: skip
    assert [r["model"] for r in speed_rows] == ["Copy last", "Flow & warp_1"]


def test_an_infinite_mean_is_printed(project: Params) -> None:
    from pipeline.tasks.prediction import clips as prediction

    frames, protocol = Store("data/frames/toy/test.arrow"), project.protocols["next3"]
    truth = iter([t for w in prediction.windows(frames, protocol) for t in prediction.targets(frames, w, protocol)])
    write_predictions(project, "flow_warp", lambda *_: next(truth).astype(np.uint16) * 257, samples=1)
    score.score(project, "toy", "flow_warp")
    table.make(project, "toy")
    row = lines("results/toy_metrics.csv")[1]
    assert (row["psnr_t1"], row["psnr_t3_low"], row["psnr_t3_high"], row["psnr_t1_spread"]) == ("inf", "", "", "")
    assert row["note"].startswith("psnr_t1, psnr_t3: no interval: a value is infinite; ")
    assert "**inf**" in Path("results/toy_metrics.md").read_text()


def test_published_rows_stand_below_as_printed(project: Params) -> None:
    table.make(toy(experiments__toy__published="KITTI", experiments__toy__report=[1, 3]), "toy")
    rows = {(r["model"], r["source"] == "measured"): r for r in lines("results/toy_metrics.csv")}
    dmvfn = rows["DMVFN", False]
    assert (dmvfn["ms_ssim_t1"], dmvfn["ms_ssim_t3"], dmvfn["parameters"]) == ("88.53", "78.01", "3560000")
    assert dmvfn["note"] == "parameters: Motion Graph Unleashed (NeurIPS 2024, arXiv 2410.22288)"
    assert (dmvfn["ms_ssim_t1_low"], dmvfn["psnr_t1"], dmvfn["n"], dmvfn["checkpoint"]) == ("", "", "", "")
    assert rows["CorrWise", False]["ms_ssim_t1"] == "82.00"
    assert rows["CorrWise", False]["ms_ssim_t3"] == ""
    assert rows["CorrWise", False]["note"] == "N/A: ms_ssim_t3"
    assert rows["DMVFN (w/o routing)", False]["note"] == "not established: ms_ssim_t1, ms_ssim_t3"
    assert dmvfn["source"].startswith("DMVFN (CVPR 2023, arXiv 2303.09875); Table 1 as read in Motion Graph Unleashed")
    assert [r["source"] == "measured" for r in lines("results/toy_metrics.csv")] == [True] * 3 + [False] * 11


def test_all_of_the_paper_s_kitti_columns(project: Params) -> None:
    about = {"label": "", "better": "higher", "scale": 100.0, "digits": 2, "needs": "frames", "settings": {}}
    columns = [Column(f"{m}_t{k}", m, about, k) for m in ("ms_ssim", "lpips") for k in (1, 3, 5)]
    e = toy(experiments__toy__published="KITTI").experiments["toy"]
    rows = {row.label: [row.cells.get(c.name, Cell()).text for c in columns] for row in published.rows_of(e, columns)}
    assert rows["DMVFN"] == ["88.53", "78.01", "70.52", "10.74", "19.27", "26.05"]
    assert rows["OPT"] == ["82.71", "69.50", "61.09", "12.34", "20.29", "26.35"]
    assert rows["Vid2vid"] == [""] * 6


def test_published_values_take_the_table_s_scale() -> None:
    assert published.rescale("88.50", "1e-2", 100) == "88.50"
    assert published.rescale("26.05", "dB", 1) == "26.05"
    assert published.rescale("0.152", "", 100) == "15.200"


def test_an_unknown_published_dataset_is_refused(project: Params) -> None:
    with pytest.raises(
        RetakeError, match=r"no published row of dataset 'Kitti' in results/published/\*.csv \(known: .*KITTI"
    ):
        table.make(toy(experiments__toy__published="Kitti"), "toy")


def cells(markdown: str, label: str) -> list[list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if "|" in line]
    return [row for row in rows if row[0] == label]


def test_only_the_best_measured_cells_are_bold(project: Params) -> None:
    table.make(toy(experiments__toy__published="KITTI"), "toy")
    text = Path("results/toy_metrics.md").read_text()
    head = cells(text, "model")[0]
    assert head[2:] == [
        "PSNR t+1 ↑", "PSNR t+3 ↑", "SSIM t+1 ↑", "SSIM t+3 ↑", "MS-SSIM t+1 ↑", "MS-SSIM t+3 ↑", "EPE ↓", "n",
        "parameters", "GMACs",
    ]  # fmt: skip
    ours = [cells(text, label)[0] for label in ("Copy last", "Flow & warp_1", "brought")]
    for i, title in enumerate(head):
        numbers = {j: float(row[i].strip("*")) for j, row in enumerate(ours) if re.match(r"\**[0-9.]+\**$", row[i])}
        bold = {j for j, row in enumerate(ours) if row[i].startswith("**")}
        top = {j for j, v in numbers.items() if v == max(numbers.values())} if "↑" in title else set()
        top = {1} if "↓" in title else top  # the only row with a flow
        assert bold == top, title
    assert "**" not in cells(text, "DMVFN")[0][4]
    assert (cells(text, "Vid2vid")[0][1], cells(text, "DMVFN")[0][1]) == ("[1]", "[1]")


def test_ties_as_printed_are_all_best() -> None:
    about = {"label": "", "better": "lower", "scale": 1.0, "digits": 2, "needs": "frames", "settings": {}}
    rows = [Row(n, n, "measured", {"m": Cell(mean=v)}) for n, v in (("a", 1.001), ("b", 1.004), ("c", 1.2))]
    rows.append(Row("", "d", "a paper", {"m": Cell(text="0.5")}))
    assert text.best(rows, [Column("m", "m", about, 1)], []) == {("a", "m"), ("b", "m")}


def test_what_markdown_says_below_the_table(project: Params) -> None:
    table.make(toy(experiments__toy__published="KITTI"), "toy")
    text = Path("results/toy_metrics.md").read_text()
    for words in (
        "4 windows of 6 frames; the models see 2 frames from index 1 and predict 3",
        "(`ms_ssim`): higher is better, times 100;",
        "**Partial data: 1 of 2 archives.** Not comparable with published numbers.",
        "Data: CC0 of the toy",
        "Copy last: epe: the row's model reads no precomputed flow; no interval: fewer than 4 clips, and too few",
        "No cell has a 95 % interval over 2 clips: the rows' notes say why. ± standard deviation between samples.",
        "Flow & warp_1: flow: by `dis` (",
        "; checkpoint `cdcdcdcdcdcd`, data `",
        "1. DMVFN (CVPR 2023, arXiv 2303.09875); Table 1 as read in Motion Graph",
    ):
        assert words in text
    widths = {len(line) for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 2  # two tables, each aligned


def test_latex_is_well_formed(project: Params, tmp_path: Path) -> None:
    table.make(
        toy(experiments__toy__published="KITTI", experiments__toy__models={"copy_last": r"a_b & 5 % \{~^$#}"}), "toy"
    )
    text = Path("results/toy_metrics.tex").read_text()
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert r"a\_b \& 5 \% \textbackslash{}\{\textasciitilde{}\textasciicircum{}\$\#\}" in text
    for line in body[1:]:
        assert len(re.findall(r"(?<!\\)&", line)) == 8, line
    spans = sum(int(n) for n in re.findall(r"multicolumn\{(\d+)\}", body[0]))
    assert (spans, len(re.findall("&", body[0]))) == (7, 5)
    bare = re.sub(r"\\[{}]", "", "\n".join(line for line in text.splitlines() if not line.startswith("%")))
    assert bare.count("{") == bare.count("}")
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    if shutil.which("pdflatex"):
        (tmp_path / "t.tex").write_text(r"\documentclass{article}\begin{document}" + text + r"\end{document}")
        done = subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "label", ["a_b%c", "a|b", "=cmd()", "<script>alert(1)</script>", r"\input{/etc/passwd}", "<!-- a"]
)
def test_labels_cannot_leave_their_format(project: Params, label: str) -> None:
    table.make(
        toy(experiments__toy__models={"copy_last": label}, experiments__toy__labels={"brought": f"{label} 2"}), "toy"
    )
    rows = lines("results/toy_metrics.csv")
    assert [row["model"].removeprefix("'") for row in rows] == [label, f"{label} 2"]
    assert not any(str(cell)[:1] in ("=", "@") for row in rows for cell in row.values())
    markdown = Path("results/toy_metrics.md").read_text()
    assert not re.search("<[a-z!/]", markdown)
    for group in re.findall(r"(?:^\|.*\n)+", markdown, re.M):
        assert len({line.replace(r"\|", "").count("|") for line in group.splitlines()}) == 1
    latex = "\n".join(line for line in Path("results/toy_metrics.tex").read_text().splitlines() if line[0] != "%")
    assert not re.search(r"(?<!\\)[_#$]|\\input\b|(?<!\\)%", latex.replace("$t+", "").replace("$", ""))


def test_a_metric_without_weights_leaves_empty_cells_and_says_why(
    project: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline import weights

    def missing(name: str, *, patient: bool) -> Path:
        raise weights.Missing("no network")

    monkeypatch.setattr(weights, "path", missing)
    metrics = {"psnr": {"kind": "psnr"}, "lpips": {"kind": "lpips", "net": "alex", "colour": "bgr"}}
    p = toy(experiments__toy__metrics=metrics, experiments__toy__missing_weights="skip")
    for name in ALL:
        score.score(p, "toy", name)
    table.make(p, "toy")
    for row in lines("results/toy_metrics.csv"):
        assert (row["lpips_t1"], row["lpips_t3_low"]) == ("", "")
        assert "lpips: no weights alexnet" in row["note"]
    assert "lpips: no weights alexnet" in Path("results/toy_metrics.md").read_text()
    assert {r["metric"] for r in lines("results/toy_steps.csv")} == {"psnr"}


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("scores", "no scores data/scores/toy/flow_warp.parquet: make them with `snakemake"),
        ("predictions", "flow_warp.parquet was made from other predictions than today's .*/flow_warp.arrow"),
        ("metrics", "has scores of epe, ms_ssim, psnr, ssim, not of psnr: make it again"),
        ("protocol", r"copy_last.parquet is of another protocol \({'horizon': 3}, next3 has {'horizon': 2}\): make it again"),
        ("truncated", r"flow_warp.parquet is damaged .*: make it again"),
        ("variants", r"ssim of flow_warp is .*'variant': 'another'.*that of copy_last .*they do not compare. Score all rows again"),
        ("speed", r"flow_warp.speed.json is damaged .*: make it again"),
    ],
)  # fmt: skip
def test_stale_and_missing_inputs_are_named(project: Params, what: str, words: str) -> None:
    p = project
    if what == "scores":
        Path("data/scores/toy/flow_warp.parquet").unlink()
    elif what == "predictions":
        write_predictions(p, "flow_warp", copy, samples=1)
    elif what == "protocol":
        values = p.tree | {"protocols": {"next3": p.tree["protocols"]["next3"] | {"horizon": 2}}}
        values["experiments"]["toy"]["report"] = [1, 2]
        p = params.validate(values)
    elif what == "truncated":
        path = Path("data/scores/toy/flow_warp.parquet")
        path.write_bytes(path.read_bytes()[:-500])
    elif what == "variants":
        path = Path("data/scores/toy/flow_warp.parquet")
        columns, meta = scores.read(path)
        meta["metrics"]["ssim"] |= {"identity": "0", "settings": {"variant": "another"}}
        scores.write(path, list(zip(*columns.values(), strict=True)), meta)
    elif what == "metrics":
        p = toy(experiments__toy__metrics={"psnr": {"kind": "psnr"}})
    else:
        Path("data/predictions/toy/flow_warp.speed.json").write_text("{")
    with pytest.raises(RetakeError, match=words):
        table.make(p, "toy")


def test_show_prints_and_makes_nothing(project: Params) -> None:
    with pytest.raises(
        RetakeError, match=r"no results/toy_metrics\.md: make it with `snakemake results/toy_metrics.csv`"
    ):
        table.show(project, "toy")
    table.make(project, "toy")
    before = {f: f.stat().st_mtime_ns for f in Path("results").iterdir()}
    text = table.show(project, "toy")
    assert Path("results/toy_metrics.md").read_text() in text
    for name in ("results/toy.png", "results/toy_speed.csv", "data/predictions/toy/"):
        assert name in text
    assert {f: f.stat().st_mtime_ns for f in Path("results").iterdir()} == before


def test_without_mlflow_there_is_the_table_and_a_warning(
    project: Params, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    table.make(toy(tracking__mlflow=True), "toy")
    assert len(lines("results/toy_metrics.csv")) == 3
    assert "mlflow" in caplog.text.lower()


def test_mirrored_runs_hold_the_cells(project: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import contextmanager

    runs: list[Any] = []

    class Run:
        active = True

        def metrics(self, step: int, cells: dict[str, float]) -> None:
            runs[-1]["cells"] = cells

        def artifact(self, file: Path, folder: str = "") -> None:
            runs[-1].setdefault(folder or "files", []).append(str(file))

        def dataset(self, *told: str | Path) -> None:
            runs[-1]["dataset"] = list(map(str, told))

        def columns(self, names: Any) -> None:
            runs[-1]["columns"] = list(names)

    @contextmanager
    def run(enabled: bool, **about: Any) -> Any:
        runs.append({"enabled": enabled} | about)
        yield Run()

    monkeypatch.setattr(table.tracking, "run", run)
    table.make(toy(tracking__mlflow=True), "toy")
    whole, *rows = runs
    assert [r["tags"]["model"] for r in rows] == list(ALL)
    assert all(r["nested"] for r in rows)
    assert rows[1]["cells"]["psnr_t3"] == pytest.approx(values("flow_warp", "psnr").mean())
    assert rows[1]["params"]["models.flow_warp"]["kind"] == "flow_warp"
    assert {"results/toy.png", "results/toy_metrics.csv", "results/toy_steps.csv"} <= set(whole["files"])
    assert [r["scores"] for r in rows] == [[f"data/scores/toy/{name}.parquet"] for name in ALL]
    assert {tuple(r["dataset"][i] for i in (0, 1, 3)) for r in rows} == {("toy", "data/frames/toy/test.arrow", "test")}
    assert rows[1]["columns"] == list(rows[1]["cells"])
    assert {r["experiment"] for r in runs} == {"table"}


def test_even_windows_are_read_at_once_and_others_one_by_one() -> None:
    """Two windows of two samples of three steps; then one step of one sample less, and another order."""
    rows = [(f"c:{w}", step, s, 100.0 * w + 10 * s + step) for w in (0, 1) for s in (0, 1) for step in (1, 2, 3)]

    def part(rows: list[tuple[str, int, int, float]]) -> dict[str, np.ndarray]:
        names, steps, samples, values = zip(*rows, strict=True)
        return {
            "window": np.array(names, object), "horizon": np.array(steps), "sample": np.array(samples), "value": np.array(values),
        }  # fmt: skip

    even, uneven = measured._even(part(rows), 2), measured._uneven(part(rows))
    assert even is not None
    expected = {"c:0": [[1, 2, 3], [11, 12, 13]], "c:1": [[101, 102, 103], [111, 112, 113]]}
    for values, horizons in (even, uneven):
        assert {window: cells.tolist() for window, cells in values.items()} == expected
        assert horizons == {"c:0": [1, 2, 3], "c:1": [1, 2, 3]}
    assert measured._even(part(rows[:-1]), 2) is None
    assert measured._even(part([*rows[1:6], rows[0], *rows[6:]]), 2) is None
    values, _ = measured._uneven(part(rows[:-1]))
    assert np.isnan(values["c:1"][1, 2]) and values["c:0"].tolist() == expected["c:0"]


def test_trainings_of_a_model_are_one_row_and_runs_below_its_run(
    project: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow holds experiment, model, seed as nested runs; a table that is made again, with fewer seeds too, replaces them."""
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{Path.cwd()}/mlflow.db")
    own = {"kind": "dmvfn", "network": {"routing": False}, "train": {"seed": 7}, "predict": {"routing": "all"}}
    changes = {
        "tracking__mlflow": True, "models__own": own, "experiments__toy__predictions": {},
        "datasets__toy__height": 176,  # DMVFN takes no other sides
        "experiments__toy__models": {"flow_warp": "Warp", "own": "Own"},
    }  # fmt: skip
    p = toy(**changes, experiments__toy__seeds={"own": 3})
    guesses = dict(zip(p.experiments["toy"].trainings("own"), (0, 2, 7), strict=True))
    assert list(guesses) == ["own", "own_seed2", "own_seed3"]
    for name, darker in guesses.items():
        write_predictions(
            p, name, lambda context, step, sample, darker=darker: context[-1].astype(np.uint16) * (250 - darker)
        )
        score.score(p, "toy", name)

    def runs() -> dict[str, Any]:
        client = mlflow.MlflowClient()
        found = client.search_runs([client.get_experiment_by_name("table").experiment_id])
        names = {run.info.run_id: run.info.run_name for run in found}
        assert len(set(names.values())) == len(found)  # none is there twice
        parents = {run.info.run_name: names.get(run.data.tags.get("mlflow.parentRunId", "")) for run in found}
        return {"parents": parents} | {run.info.run_name: run for run in found}

    for _ in range(2):
        table.make(p, "toy")
        made = runs()
        assert made["parents"] == {
            "toy": None, "toy, Warp": "toy", "toy, Own, seed 7 8 9": "toy",
            "toy, Own, seed 7": "toy, Own, seed 7 8 9", "toy, Own, seed 8": "toy, Own, seed 7 8 9",
            "toy, Own, seed 9": "toy, Own, seed 7 8 9",
        }  # fmt: skip
    single = [made[f"toy, Own, seed {seed}"].data for seed in (7, 8, 9)]
    assert [run.params["model.train.seed"] for run in single] == ["7", "8", "9"]
    assert made["toy, Warp"].data.params["flow.predict.preset"] == "medium"
    values = [run.metrics["psnr_t1"] for run in single]
    assert len(set(values)) == 3
    whole = made["toy, Own, seed 7 8 9"].data
    assert whole.metrics["psnr_t1"] == pytest.approx(np.mean(values))
    (line,) = [line for line in lines("results/toy_metrics.csv") if line["model"] == "Own"]
    assert (line["trainings"], line["unit"], line["units"]) == ("3", "trainings", "3")
    half = 4.302653 * np.std(values, ddof=1) / np.sqrt(3)  # Student's t of 2 degrees of freedom
    assert float(line["psnr_t1_high"]) == pytest.approx(np.mean(values) + half, rel=1e-5)
    assert f"| {np.mean(values):.3f} " in compare.models(p, "toy", "own", "flow_warp", ["psnr"])
    table.make(toy(**changes), "toy")
    assert set(runs()["parents"]) == {"toy", "toy, Warp", "toy, Own, seed 7"}
