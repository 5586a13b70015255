"""Papers' tables: every published number as published, verdicts in their places, text that cannot break out of its format."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline import cite, leaderboard, params, plan, results
from pipeline.errors import RetakeError
from pipeline.tables import paper_text, papers
from tests.engines import ROOT

SOURCES = sorted((ROOT / "results/published").glob("*.csv"))


def record(experiment: str = "kitti", cell: dict[str, Any] | None = None, **row: Any) -> dict[str, Any]:
    """Return a record of one row, DMVFN, with MS-SSIM and LPIPS at t+1."""
    about = {
        "label": "MS-SSIM",
        "identity": "1",
        "settings": {},
        "better": "higher",
        "scale": 100.0,
        "digits": 2,
        "needs": "frames",
    }
    usual = {
        "mean": 88.53,
        "low": 87.0,
        "high": 90.0,
        "spread": None,
        "unit": "clips",
        "units": 8,
        "note": "",
        "trainings": [],
    }
    made = {
        "name": "dmvfn", "label": "DMVFN", "kind": "dmvfn", "imported": False, "references": [], "trainings": 1, "samples": 1,
        "windows": 1337, "frames": "", "size": "832x256", "flow": "", "training": "", "partial": "", "note": "", "parameters": 3,
        "gmacs": None, "digests": {"checkpoint": "", "data": "d", "params": "", "code": ""}, "speed": {}, "precision": "32-true",
        "cells": {"ms_ssim_t1": usual | (cell or {}), "lpips_t1": usual | {"mean": 10.74} | (cell or {})}, "steps": [],
    }  # fmt: skip
    columns = [
        {"name": f"{m}_t1", "metric": m, "title": m, "step": 1, "group": "", "scene": "", "average": "windows"}
        for m in ("ms_ssim", "lpips")
    ]
    return {
        "format": 1, "experiment": experiment, "task": "prediction", "dataset": "kitti", "trained_on": "kitti", "protocol": "next5",
        "protocol_settings": {}, "over": "windows", "windows": 1337, "archives": [], "licence": "", "references": [],
        "metrics": {"ms_ssim": about, "lpips": about | {"label": "LPIPS", "better": "lower"}}, "columns": columns,
        "rows": [made | row], "published": [], "pairs": [],
    }  # fmt: skip


def test_the_published_numbers_are_the_given_ones(shared: Path) -> None:
    """Byte for byte, and every file has a table."""
    given = sorted((shared / "paper_tables").glob("*.csv"))
    assert [path.name for path in given] == [path.name for path in SOURCES]
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(given, SOURCES, strict=True))
    assert {table.file for table in papers.tables().values()} == {path.stem for path in SOURCES}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_every_published_number_stands_in_a_table_unaltered(source: Path) -> None:
    with source.open(newline="") as file:
        lines = [x for x in csv.DictReader(file) if papers.NUMBER.fullmatch(x["value"])]
    printed: dict[tuple[str, ...], str] = {}
    for name, table in papers.tables().items():
        if table.file != source.stem:
            continue
        made = papers.make(name, {})
        assert not made.measured
        for row in csv.DictReader(io.StringIO(paper_text.as_long_csv(made))):
            if papers.NUMBER.fullmatch(row["value"]):
                printed[
                    row["dataset"].removeprefix("'"),
                    row["metric"],
                    row["horizon"].removeprefix("'"),
                    row["unit"],
                    row["row"],
                    row["source"],
                ] = (
                    row["value"],
                    row["grade"],
                )  # type: ignore[assignment]
        markdown, latex = paper_text.as_markdown(made), paper_text.as_latex(made)
        numbers = [
            (text, line.grades[c])
            for line in made.published
            for c, text in line.cells.items()
            if papers.NUMBER.fullmatch(text)
        ]
        for text, grade in numbers:
            mark = papers.GRADES[grade]
            assert f"| {text} {mark} " in markdown
            assert rf"\num{{{text}}}\textsuperscript{{{mark}}}" in latex
        assert latex.count(r"\num{") == len(numbers), "a cell without a source"
    expected = {
        (x["dataset"], x["metric"], x["horizon"], x["unit"], x["method"], "; ".join(filter(None, [x["paper"], x["table"], x["source"]]))):
        (x["value"], x["grade"]) for x in lines
    }  # fmt: skip
    assert len(expected) == len(lines), "two numbers for one cell"
    assert printed == expected  # none is missing, and no cell is filled that has no source


def test_one_training_is_said_to_be_one() -> None:
    made = papers.make("dmvfn_table1", {"kitti": record()})
    (line,) = made.measured
    verdicts = {c.metric: v for c, v in line.verdicts.items()}
    assert {m: v.kind for m, v in verdicts.items()} == {"MS-SSIM": "one training", "LPIPS": "one training"}
    text = paper_text.as_markdown(made)
    assert "Of 2 cells with a published and a measured value: 2 one training, spread unknown." in text
    assert "Not measured here: `cityscapes`" in text
    assert "| **DMVFN**, measured" in text


def test_every_format_has_intervals_their_unit_and_n() -> None:
    made = papers.make("dmvfn_table1", {"kitti": record()})
    latex, markdown = paper_text.as_latex(made), paper_text.as_markdown(made)
    (line,) = [line for line in latex.splitlines() if "interval &" in line]
    assert line.startswith(r"    \quad its 95\,\% interval & ") and r"\num{87.00} -- \num{90.00}" in line
    for text in (latex, markdown):
        assert "1337 windows, interval over 8 clips: DMVFN, KITTI." in text
    (cell,) = [
        row
        for row in csv.DictReader(io.StringIO(paper_text.as_long_csv(made)))
        if row["row"] == "DMVFN" and row["low"] and row["metric"] == "LPIPS"
    ]
    assert [cell[key] for key in ("low", "high", "n", "interval_over")] == ["87", "90", "1337", "8 clips"]
    none = record(cell={"low": None, "high": None, "unit": ""})
    assert "interval &" not in paper_text.as_latex(papers.make("dmvfn_table1", {"kitti": none}))


def test_published_weights_agree_and_another_size_is_not_compared() -> None:
    published = next(line for line in papers.make("dmvfn_table1", {}).published if line.label == "DMVFN")
    theirs = {c.metric: t for c, t in published.cells.items() if (c.part, c.horizon) == (1, "t+1")}
    made = record(imported=True)
    made["rows"][0]["cells"]["lpips_t1"]["mean"] = float(theirs["LPIPS"])
    (line,) = papers.make("dmvfn_table1", {"kitti": made}).measured
    assert {c.metric: v.kind for c, v in line.verdicts.items()}["LPIPS"] == "agrees"
    (line,) = papers.make("dmvfn_table1", {"kitti": record(imported=True, size="320x192")}).measured
    assert {v.kind for v in line.verdicts.values()} == {"not comparable"}
    (line,) = papers.make("dmvfn_table1", {"kitti": record(partial="1 of 4 archives", windows=70)}).measured
    assert {v.kind for v in line.verdicts.values()} <= {"partial inside", "partial outside"}


def test_another_variant_of_a_metric_is_not_compared_and_other_metrics_are() -> None:
    made = record(imported=True)
    made["metrics"]["lpips"]["settings"] = {"net": "alex", "version": "0.1", "colour": "rgb", "range": [-1, 1]}
    (line,) = papers.make("dmvfn_table1", {"kitti": made}).measured
    found = {column.metric: verdict for column, verdict in line.verdicts.items()}
    assert found["LPIPS"].words == "not comparable: another variant of the metric (colour bgr there, colour rgb here)"
    assert found["MS-SSIM"].kind == "agrees"


def test_a_method_without_weights_is_no_training() -> None:
    (line,) = papers.make("dmvfn_table1", {"kitti": record(trainings=0)}).measured
    assert {v.kind for v in line.verdicts.values()} == {"agrees"}
    (line,) = papers.make("dmvfn_table1", {"kitti": record(trainings=0, kind="brought")}).measured
    assert {v.kind for v in line.verdicts.values()} == {"one training"}


@pytest.mark.parametrize(
    ("table", "experiment", "row", "ours", "scale", "mean", "published"),
    [
        ("cinn_landscape", "landscape", "cinn_landscape", "lpips", 100.0, 23.0, "0.23"),  # printed as a fraction, without a unit
        ("cinn_bair", "bair_aligned", "cinn", "div_vgg", 1.0, 0.98, "0.98"),
        ("tecogan_vid4", "vid4", "tecogan_published", "tlp", 1.0, 0.668, "0.668"),
        ("arflow_sintel", "sintel", "arflow_sintel_ar_published", "epe_clean", 1.0, 2.79, "2.79"),
    ],
)  # fmt: skip
def test_measured_values_are_brought_to_the_unit_of_each_paper(
    table: str, experiment: str, row: str, ours: str, scale: float, mean: float, published: str
) -> None:
    made = record(experiment, name=row, imported=True)
    made["metrics"] = {ours: made["metrics"]["lpips"] | {"scale": scale}}
    made["columns"] = [made["columns"][0] | {"name": ours, "metric": ours, "step": None}]
    made["rows"][0]["cells"] = {ours: made["rows"][0]["cells"]["lpips_t1"] | {"mean": mean}}
    done = papers.make(table, {experiment: made})
    (line,) = done.measured
    assert [(line.against[c], float(line.cells[c]), v.kind) for c, v in line.verdicts.items()] == [
        (published, float(published), "agrees")
    ]


def test_a_folder_average_is_not_held_against_a_frame_average(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {
        "caption": "c", "file": "tecogan",
        "parts": [{
            "title": "Vid4", "dataset": "Vid4", "experiment": "vid4", "metrics": {"PSNR": "psnr_y"},
            "rows": {"tecogan": "TecoGAN PyTorch (frame average)"}, "methods": {"TecoGAN PyTorch (frame average)": {"average": "frames"}},
        }],
    }  # fmt: skip
    monkeypatch.setattr(papers, "tables", lambda: {"one": papers.Table.model_validate(entry)})
    made = record("vid4", name="tecogan", imported=True)
    made["over"] = "scenes"
    made["metrics"] = {"psnr_y": made["metrics"]["ms_ssim"] | {"scale": 1.0}}
    made["columns"] = [made["columns"][0] | {"name": "psnr_y", "metric": "psnr_y", "step": None}]
    made["rows"][0]["cells"] = {"psnr_y": made["rows"][0]["cells"]["ms_ssim_t1"] | {"mean": 26.0145}}
    table = papers.make("one", {"vid4": made})
    assert [v.words for v in table.verdicts] == ["not comparable: another average (frames there, scenes here)"]
    assert "another average" in paper_text.as_markdown(table)


def test_trainings_are_judged_in_the_papers_unit() -> None:
    made = record(trainings=3, cell={"trainings": [88.0, 88.5, 89.0], "mean": 88.5})
    (line,) = papers.make("dmvfn_table1", {"kitti": made}).measured
    assert {v.kind for v in line.verdicts.values()} <= {"inside", "outside"}


@pytest.mark.parametrize(
    "label", ["a_b%c", "a|b", "=cmd()", "<script>alert(1)</script>", r"\input{/etc/passwd}", "a\nb"]
)
def test_labels_cannot_leave_their_format(label: str, tmp_path: Path) -> None:
    made = papers.make("dmvfn_table1", {"kitti": record(label=label, note=label)})
    rows = list(csv.DictReader(io.StringIO(paper_text.as_long_csv(made))))
    assert all(len(row) == len(paper_text.HEAD) for row in rows)
    assert not any(row["row"][:1] in "=+-@" for row in rows)
    lines = [line for line in paper_text.as_markdown(made).splitlines() if line.startswith("|")]
    assert len({line.replace(r"\|", "").count("|") for line in lines}) == 1
    assert not re.search("<[a-z!/]", paper_text.as_markdown(made))
    board = leaderboard.merged([write(tmp_path / "a.json", record(label=label, note=label))])
    assert not re.search("<[a-z!/]", leaderboard.as_markdown(board))
    latex = paper_text.as_latex(made)
    assert r"\input{" not in latex
    assert "a_b%c" not in latex
    for tabular in latex.replace(r"\&", "").split(r"\begin{tabular}")[1:]:
        rows = [line for line in tabular.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
        assert {line.count("&") for line in rows} == {tabular.split("}")[0].count("r")}


@pytest.mark.parametrize("name", ["dmvfn_table1", "tecogan_vid4", "dtvnet_sky", "cinn_bair"])
def test_latex_compiles(name: str, tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None or subprocess.run(["kpsewhich", "siunitx.sty"], capture_output=True).returncode:
        pytest.skip("not checked: no pdflatex with siunitx here (Debian: texlive-latex-extra, texlive-science)")
    made = papers.make(name, {"kitti": record(label="a_b%c & <d> $e$ {f} #1 ~^\\")})
    (tmp_path / "macros.tex").write_text(paper_text.macros({"kitti": record()}))
    (tmp_path / "t.tex").write_text(
        "\\documentclass{article}\n\\usepackage[T1]{fontenc}\n\\usepackage{booktabs,graphicx,siunitx}\n\\input{macros}\n\\begin{document}\n"
        f"{paper_text.as_latex(made)}\n\\retake{{kitti.dmvfn.lpips.t1}} \\retake{{kitti.none}}\n\\end{{document}}\n"
    )
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert not re.search(r"Overfull \\hbox \(\d{2,}", done.stdout), "wider than the text"


def test_macros_name_experiment_model_metric_and_step() -> None:
    text = paper_text.macros({"kitti": record()})
    assert r"\@namedef{retake@kitti.dmvfn.lpips.t1}{10.74}" in text


def test_the_tables_name_what_there_is() -> None:
    p = params.load()
    for name, table in papers.tables().items():
        for part in table.parts:
            if part.experiment is None:
                continue
            e = p.experiments[part.experiment]
            known = {line.label for line in papers.make(name, {}).published}
            assert set(part.rows.values()) <= known | ({"DTVNet"} if table.file == "dtvnet" else set()) | (
                {"cINN"} if name == "cinn_iper" else set()
            ), name
            assert set(part.metrics.values()) <= set(e.metrics), name
    with pytest.raises(RetakeError, match=r"no table 'dmvfn_tabel1'.*dmvfn_table1"):
        papers.table("dmvfn_tabel1")


# results.json, what to cite, the leaderboard


def test_results_follow_their_schema() -> None:
    import jsonschema

    schema = json.loads((ROOT / "workflow/schemas/results.schema.json").read_text())
    made = results.collected({"kitti": record()})
    jsonschema.validate(made, schema)
    assert made["tables"]["kitti"]["rows"][0]["cells"]["lpips_t1"]["mean"] == 10.74
    assert {v["verdict"] for v in made["verdicts"]} == {"one training"}
    assert all(v["grade"] for v in made["verdicts"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(made | {"format": 2}, schema)


def test_a_changed_digit_in_results_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    p = params.load()
    p.reproduce[:] = ["kitti"]
    monkeypatch.setattr(results.record, "read", lambda _: record())
    monkeypatch.setattr(results, "write_text", lambda path, text: (tmp_path / Path(path).name).write_text(text))
    monkeypatch.setattr(results, "claim", lambda _: None)
    results.make(p)
    file = tmp_path / "results.json"
    assert leaderboard.read(file)["tables"] == {"kitti": json.loads(json.dumps(record()))}
    text = file.read_text()
    file.write_text(text.replace("10.74", "10.70", 1))
    with pytest.raises(RetakeError, match=r"results\.json is damaged, or was changed by hand"):
        leaderboard.read(file)


def test_everything_cited_is_in_the_file() -> None:
    p = params.load()
    for name in p.experiments:
        assert set(cite.of_experiment(p, name)) <= set(cite.entries())
    assert cite.of_experiment(p, "kitti") == [
        "kroeger2016dis", "hu2023dmvfn", "geiger2013kitti", "wang2004ssim", "wang2003msssim", "zhang2018lpips",
    ]  # fmt: skip
    kinds = {
        "model": params.registry("models"),
        "dataset": params.registry("datasets"),
        "metric": params.registry("metrics"),
    }
    for keyword in cite.by_keyword():
        what, _, kind = keyword.partition(":")
        assert kind in kinds[what], keyword
    with pytest.raises(RetakeError, match=r"no experiment 'kiti' \(did you mean 'kitti'\?\)"):
        cite.of_experiment(p, "kiti")


def write(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text(json.dumps(results.collected({r["experiment"]: r for r in records})))
    return path


def test_a_leaderboard_joins_the_rows_of_several_files(tmp_path: Path) -> None:
    ours, theirs = record(), record(label="Other", name="other")
    table = leaderboard.merged([write(tmp_path / "a.json", ours), write(tmp_path / "b.json", theirs)])
    text = leaderboard.as_markdown(table)
    assert "DMVFN" in text and "Other" in text
    assert next(csv.DictReader(io.StringIO(leaderboard.as_csv_text(table))))["model"] in ("DMVFN", "Other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["metrics"]["lpips"].update(identity="2", settings={"net": "vgg"}), "LPIPS.*net.*vgg"),
        (lambda r: r.update(protocol_settings={"window": 3}), "another protocol"),
        (lambda r: r["rows"][0]["digests"].update(data="x"), "other data"),
        (
            lambda r: r["rows"][0].update(
                label="DMVFN", digests={"checkpoint": "9", "data": "d", "params": "", "code": ""}
            ),
            "two rows.*DMVFN",
        ),
    ],
)
def test_a_leaderboard_refuses_what_does_not_compare(change: Any, message: str, tmp_path: Path) -> None:
    theirs = record(label="Other", name="other")
    change(theirs)
    with pytest.raises(RetakeError, match=message):
        leaderboard.merged([write(tmp_path / "a.json", record()), write(tmp_path / "b.json", theirs)])


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 2}', '{"format": 1, "tables": 3}', "[" * 10_000])
def test_a_leaderboard_refuses_what_is_no_results_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(RetakeError, match=str(path)):
        leaderboard.merged([path])


def test_the_plan_publishes_what_reproduce_names() -> None:
    p = params.load({"reproduce": ["demo", "kitti"]})
    stages = plan.reproduced(p)
    assert list(stages["paper"]) == ["dmvfn_table1"]
    assert stages["paper"]["dmvfn_table1"]["record_0"] == "results/records/kitti.json"
    assert set(stages["report"]) == {"all"}
    assert not plan.reproduced(params.load({"reproduce": []}))["results"]


def test_seeds_are_trainings_of_their_own() -> None:
    p = params.load({"experiments": {"demo": {"seeds": {"dmvfn_demo": 3}}}})
    assert p.experiments["demo"].rows == ["copy_last", "flow_warp", "dmvfn_demo"]
    assert p.experiments["demo"].trainings("dmvfn_demo") == ["dmvfn_demo", "dmvfn_demo_seed2", "dmvfn_demo_seed3"]
    train = [p.models[name].train for name in p.experiments["demo"].trainings("dmvfn_demo")]
    assert [t.seed - train[0].seed for t in train if t and train[0]] == [0, 1, 2]
    stages = plan.plan(p, ["demo"])
    assert {"dmvfn_demo-demo", "dmvfn_demo_seed2-demo", "dmvfn_demo_seed3-demo"} <= set(stages["train"])
    again = params.validate(json.loads(p.model_dump_json()))  # as a stage reads it
    assert again.tree == p.tree
    for seeds, message in (({"copy_last": 2}, "is not trained"), ({"dmvfn_dem": 2}, "did you mean 'dmvfn_demo'")):
        with pytest.raises(RetakeError, match=message):
            params.load({"experiments": {"demo": {"seeds": seeds}}})
