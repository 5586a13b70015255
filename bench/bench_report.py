"""Tables, results.json and the report of 20 experiments x 10 models x 1,337 windows x 5 steps x 4 metrics, and its first sort.

The scores are made up, and written by the real stores; the 20 experiments share the files of the 10 models, each of which is
read and checked 20 times all the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.common import Row, peak_of
from tests.test_score import NONE

EXPERIMENTS, MODELS, CLIPS, WINDOWS, HORIZON = 20, 10, 7, 191, 5
METRICS = ("psnr", "psnr_of_mean", "ssim", "ms_ssim")
SIZE = (24, 32)  # px; pictures cost what they cost once an experiment, values are what there is much of
PROTOCOL = {"task": "prediction", "window": 9, "windows": "all", "first": 2, "context": 2, "horizon": HORIZON}
VALUES = EXPERIMENTS * MODELS * CLIPS * WINDOWS * HORIZON * len(METRICS)


def run() -> list[Row]:
    from pipeline import report, results, table

    root = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        p = _project(root)

        def make() -> None:
            start = time.perf_counter()
            for experiment in p.experiments:
                table.make(p, experiment)
            tables = time.perf_counter()
            results.make(p)
            report.make(p)
            Path("seconds").write_text(json.dumps([tables - start, time.perf_counter() - tables]))

        peak = peak_of(make)
        tables, page = json.loads(Path("seconds").read_text())
        plain = _plain()
        size = Path("results/report.html").stat().st_size / 1e6
        sort = _first_sort(Path("results/report.html").absolute())
    what = f"{VALUES / 1e6:.1f} million values: tables {tables:.1f} s, results.json and the page of {size:.1f} MB {page:.1f} s"
    seconds = tables + page
    return [
        Row("tables and report of 20 x 10 rows", "30 s", seconds / 30, 1, what, at_most=True),
        Row("tables and report of 20 x 10 rows, memory", "2 GiB", peak / 2048, 1, f"{peak:.0f} MiB", at_most=True),
        Row(
            "tables and report of 20 x 10 rows",
            "pandas: read_parquet and groupby of the same files",
            seconds / plain,
            10,
            f"{seconds:.1f} against {plain:.1f} s for the means alone, without intervals, tests and pictures",
            at_most=True,
        ),
        *([Row("report in Chromium, opened and sorted", "1 s", sort[0], 1, sort[1], at_most=True)] if sort else []),
    ]


def _project(root: Path) -> Any:
    """Make frames, predictions and scores in the current folder; return the params."""
    import numpy as np

    from pipeline import params, plan, score
    from pipeline.store import scores, sealed
    from pipeline.store.frames import Store, Writer

    shutil.copytree(root / "results/published", "results/published")
    shutil.copytree(root / "workflow", "workflow")
    Path("pipeline").symlink_to(root / "pipeline")
    models = [f"m{i}" for i in range(MODELS)]
    experiment = {
        "dataset": "toy", "trained_on": "toy", "protocol": "next5", "models": {m: f"Model {m}" for m in models},
        "metrics": {m: {"kind": m} for m in METRICS}, "report": list(range(1, HORIZON + 1)), "predictions": {},
        "missing_weights": "error", "published": None,
    }  # fmt: skip
    names = [f"e{i}" for i in range(EXPERIMENTS)]
    p = params.validate({
        "reproduce": names, "tracking": {"mlflow": False}, "profiles": {}, "protocols": {"next5": PROTOCOL},
        "datasets": {"toy": {"kind": "demo", "height": SIZE[0], "width": SIZE[1], "codec": "raw", "archives": "all"}},
        "models": {m: {"kind": "copy_last"} | NONE for m in models}, "experiments": dict.fromkeys(names, experiment),
    })  # fmt: skip
    rng = np.random.default_rng(0)
    frames = plan.path("frames", dataset="toy", split="test")
    with Writer(frames, codec="raw", meta={"dataset": "toy", "split": "test"}) as out:
        for clip in range(CLIPS):
            for number in range(WINDOWS + PROTOCOL["window"] - 1):
                out.add(f"clip{clip}", number, rng.integers(0, 256, (*SIZE, 3), np.uint8))
    meta = {
        "model": "m", "frames": str(frames), "data": Store(frames).identity, "checkpoint": "", "params": "ab" * 32,
        "samples": 1, "parameters": 1000, "gmacs": 1.0, "licence": "", "partial": "",
        "protocol": {k: v for k, v in PROTOCOL.items() if k != "task"},
    }  # fmt: skip
    windows = [f"clip{clip}:{start}" for clip in range(CLIPS) for start in range(WINDOWS)]
    first = plan.path("predict", experiment="e0", model="m0")
    with Writer(first, codec="raw", dtype="uint16", meta=meta) as out:
        for window in windows:
            for step in range(1, HORIZON + 1):
                out.add(window, step, rng.integers(0, 65536, (*SIZE, 3), np.uint16))
    speed = {
        "ms_per_frame": 1.5,
        "frames_per_s": 666.0,
        "peak_memory_mib": 99.5,
        "device": "cpu",
        "threads": 1,
        "batch": 2,
    }
    hard = rng.normal(0, 3, len(windows))
    for number, model in enumerate(models):
        values = 25 + number / 10 + hard[:, None, None] + rng.normal(0, 1, (len(windows), HORIZON, len(METRICS)))
        rows = [
            (window, step + 1, 0, metric, float(values[w, step, m]), 1.0)
            for w, window in enumerate(windows)
            for step in range(HORIZON)
            for m, metric in enumerate(METRICS)
        ]
        told = {k: v | {"values": len(windows) * HORIZON} for k, v in score._describe(p, "e0").items()}
        about = {"metrics": told, "skipped": {}, "lacking": {}, "identity": Store(first).identity, "predictions": meta}
        about |= {"experiment": "e0", "model": model, "windows": len(windows), "samples": 1, "flow": [], "sets": {}}
        made = Path(f"{model}.parquet")
        scores.write(made, rows, about)
        for name in names:
            for source, stage in ((made, "score"), (first, "predict")):
                file = plan.path(stage, experiment=name, model=model)
                file.parent.mkdir(parents=True, exist_ok=True)
                if file != source:
                    os.link(source, file)
            sealed.write(
                plan.OUTPUTS["predict"][1].format(experiment=name, model=model), speed | {"ms_per_frame": number + 1.0}
            )
    return p


def _plain() -> float:
    """Return the seconds that pandas needs for the means of all files."""
    import pandas as pd

    start = time.perf_counter()
    for file in sorted(Path("data/scores").glob("*/*.parquet")):
        pd.read_parquet(file).groupby(["metric", "horizon"])["value"].mean()
    return time.perf_counter() - start


def _first_sort(page: Path) -> tuple[float, str] | None:
    """Return the seconds until a page is open and sorted in Chromium, of three the middle one; None where there is none."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        return None
    sorting = """() => { const start = performance.now();
        document.querySelector("#table-e0 thead th:nth-child(2) button").click();
        document.body.getBoundingClientRect(); return [performance.now() - start, performance.now()]; }"""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        times = []
        for _ in range(3):
            view = browser.new_page()
            view.goto(f"file://{page}", wait_until="domcontentloaded")
            times.append(view.evaluate(sorting))
            view.close()
        browser.close()
    alone, whole = sorted(times, key=lambda each: each[1])[1]
    return whole / 1000, f"{whole:.0f} ms from the start of the navigation, of which sorting {alone:.1f} ms"
