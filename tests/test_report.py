"""The report: one page that asks nobody for anything, whatever its tables hold; in a browser where there is one."""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pipeline import params, report, results
from pipeline.drawing import charts
from pipeline.errors import RetakeError
from tests.engines import ROOT, Project
from tests.test_papers import record

HOSTILE = [
    "<script>alert(1)</script>",
    "a_b%c|d",
    "=cmd()",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}",
    "</script>",
]


class Tags(HTMLParser):
    """Counts tags and collects what a page would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.scripts = 0
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.open.append(tag)
        self.fetched += [
            v for k, v in attrs if k in ("src", "srcset", "data", "action") and v and not v.startswith("data:")
        ]
        self.fetched += (
            [named["href"]] if tag in ("link", "image", "use") and str(named.get("href", "#"))[0] != "#" else []
        )  # type: ignore[list-item]
        self.handlers += [k for k, _ in attrs if k.startswith("on")]
        self.scripts += tag == "script"


def page(*records: dict[str, Any]) -> str:
    return report.page(params.load({"reproduce": []}), results.collected({r["experiment"]: r for r in records}))


def parsed(text: str) -> Tags:
    tags = Tags()
    tags.feed(text)
    return tags


@pytest.mark.parametrize("name", HOSTILE)
def test_names_stay_text_and_nothing_is_fetched(name: str) -> None:
    steps = [{"metric": "lpips", "step": s} | record()["rows"][0]["cells"]["lpips_t1"] for s in (1, 2)]
    text = page(record(label=name, note=name, partial=name, frames=name, steps=steps))
    tags = parsed(text)
    assert (tags.fetched, tags.handlers, tags.scripts) == ([], [], 2)
    assert "49" not in re.findall(r"<th scope=\"row\"[^>]*>([^<]*)", text)
    lineages = json.loads(re.search(r'id="lineages">(.*?)</script>', text, re.S).group(1))  # type: ignore[union-attr]
    assert lineages["kitti"]["rows"]["dmvfn"]["label"] == name


def test_the_policy_allows_the_page_s_own_script_alone() -> None:
    text = page(record())
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text).group(1).replace("&#39;", "'")  # type: ignore[union-attr]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/=]{44}'", policy)


def test_verdicts_and_measured_rows_are_there() -> None:
    text = page(record())
    assert "2 one training, spread unknown" in text
    assert text.count('class="measured"') >= 2
    head, main = text.split("<main>")
    assert "<strong>DMVFN</strong>: 2 one training, spread unknown." in head  # the answer, before anything is scrolled
    first = main[main.index("<tbody>") :].split("</tr>")[0]
    assert 'class="measured"' in first and "paper 88.53: one training, difference +0.00" in first
    assert "nothing can be said of reproducing" not in head
    assert "nothing can be said of reproducing" in page(record("demo")).split("<main>")[0]


def test_pictures_are_dropped_by_name_when_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    images = {"small": "x" * 1000, "large": "y" * 200_000}
    monkeypatch.setattr(
        report,
        "_pictures",
        lambda p, r: [{"name": n, "kind": "strip", "data": {"image": f"data:{d}"}} for n, d in images.items()],
    )
    monkeypatch.setattr(report, "BUDGET", 100_000)
    text = page(record())
    assert len(text.encode()) <= 100_000
    assert "Left out, to keep this page below 8 MB: large." in text
    assert "data:xxx" in text and "data:yyy" not in text
    monkeypatch.setattr(report, "BUDGET", 100)
    with pytest.raises(RetakeError, match="without any picture"):
        page(record())


def test_thousands_of_rows_and_none(monkeypatch: pytest.MonkeyPatch) -> None:
    many = record()
    many["rows"] = [many["rows"][0] | {"name": f"m{i}", "label": f"Model {i}"} for i in range(1000)]
    assert page(many).count('class="measured"') >= 1000
    assert "<main>" in page()


def test_a_table_without_predictions_on_this_machine_has_no_pictures() -> None:
    tags = parsed(page(record()))
    assert tags.open.count("img") == 0 and tags.fetched == []
    assert "DMVFN" in page(record())


def test_charts_are_the_same_bytes_and_named() -> None:
    drawn = [charts.Curve(1, [1, 2], [3.0, 4.0], [2.0, 3.0], [4.0, 5.0])]
    first, second = (charts.curves(drawn, "step", "a $x$ <b>", "title & more") for _ in range(2))
    assert first == second
    key = charts.key(["first", "a $x$ <b>"], "title & more")
    for svg in (first, key):
        assert 'aria-label="title &amp; more"' in svg
        assert "a $x$ &lt;b&gt;" in svg  # no formula, no element
        assert "currentColor" in svg and "#000000" not in svg
        assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", svg)
        assert charts.COLOURS[1] in svg  # a row looks alike in a chart and in the key
    assert charts.COLOURS[0] not in first


def test_a_finished_demo_has_curves_pictures_and_sliders(demo: Project) -> None:
    text = (demo.folder / "results/report.html").read_text()
    assert len(text.encode()) < report.BUDGET
    assert text.count("data:image/svg+xml") >= 3
    assert text.count('type="range"') == 2 * report.WORST
    tags = parsed(text)
    assert (tags.fetched, tags.handlers) == ([], [])
    assert "2011_09_26_drive" in text  # archives, in the lineage


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium; the tests that need one are skipped where it or playwright is missing, and say so."""
    api = pytest.importorskip("playwright.sync_api", reason="not checked: pip install playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("not checked: no Chromium here (Debian: chromium)")
    with api.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def opened(browser: Any, demo: Project, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The pages that are looked at: a finished demo's, and one with a paper's table beside a record of its experiment."""
    made = tmp_path_factory.mktemp("page") / "report.html"
    made.write_text(page(record()))
    return [demo.folder / "results/report.html", made]


def view_of(browser: Any, file: Path, said: list[str], **options: Any) -> Any:
    """Return a page that is open; what it logs and what it asks others for goes to `said`."""
    view = browser.new_context(**options).new_page()
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    view.on("request", lambda asked: said.append(asked.url) if asked.url[:5] not in ("data:", "file:") else None)
    view.goto(f"file://{file}")
    return view


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser_nothing_is_asked_for_and_everybody_can_use_it(
    browser: Any, opened: list[Path], width: int, scheme: str
) -> None:
    """axe-core: `npm install axe-core` in a folder that AXE_CORE names."""
    script = Path(os.environ.get("AXE_CORE", ""), "node_modules/axe-core/axe.min.js")
    if not script.exists():
        pytest.skip("not checked: no axe-core (npm install axe-core; AXE_CORE names that folder)")
    said: list[str] = []
    for file in opened:
        size = {"width": width, "height": 900}
        view = view_of(browser, file, said, viewport=size, color_scheme=scheme)
        assert view.evaluate("document.documentElement.scrollWidth") <= width
        tools = view.context.new_cdp_session(view)  # which the page's own policy does not bind
        tools.send("Runtime.evaluate", {"expression": script.read_text()})
        asked = {"expression": "axe.run().then(found => JSON.stringify(found))", "awaitPromise": True}
        found = json.loads(tools.send("Runtime.evaluate", asked | {"returnByValue": True})["result"]["value"])
        assert len(found["passes"]) > 10  # it did look
        assert [(v["id"], v["impact"], v["nodes"][0]["html"]) for v in found["violations"]] == []
    assert said == []


@pytest.mark.browser
def test_in_a_browser_all_works_by_keyboard(browser: Any, opened: list[Path]) -> None:
    said: list[str] = []
    view = view_of(browser, opened[0], said)
    table = "#table-demo"

    def press(element: str, key: str) -> None:
        view.focus(element)
        view.keyboard.press(key)

    def rows() -> list[str]:
        return [
            row.inner_text().split("\n")[0] for row in view.query_selector_all(f"{table} tbody tr:not([hidden]) th")
        ]

    head = f"{table} thead th:nth-child(2)"
    press(f"{head} button", "Enter")
    ascending = rows()
    values = view.evaluate(
        f"[...document.querySelectorAll('{table} tbody td:nth-child(2)')].map(c => +c.dataset.value)"
    )
    assert values == sorted(values) and len(set(values)) == 3
    press(f"{head} button", "Enter")
    assert rows() == ascending[::-1]
    assert view.get_attribute(head, "aria-sort") == "descending"

    step = "[data-for='table-demo'] [data-step='t+3']"
    press(step, "Space")
    assert view.is_hidden(f"{table} th[data-step='t+3']") and view.is_visible(f"{table} th[data-step='t+5']")
    press(step, "Space")
    assert view.is_visible(f"{table} th[data-step='t+3']")
    press("[data-for='table-demo'] [data-rows='measured']", "Space")
    assert rows() == []
    press("[data-for='table-demo'] [data-rows='measured']", "Space")
    view.focus("[data-for='table-demo'] [data-filter]")
    view.keyboard.type("dmvfn")
    assert rows() == ["DMVFN"]
    assert view.inner_text(".count[data-for='table-demo']") == "1 of 3 rows"

    cell = f"{table} tbody tr:not([hidden]) td button"
    press(cell, "Enter")
    told = view.inner_text("#lineage")
    steps = [step.inner_text() for step in view.query_selector_all("#lineage strong")]
    assert steps == ["archives", "frames", "checkpoint", "predictions", "scores", "table"]
    for part in ("SHA-256", "steps: 3", "machine:", "--force data/checkpoints/dmvfn_demo/demo.pt"):
        assert part in told
    view.keyboard.press("Escape")
    assert view.is_hidden("#lineage")
    assert view.evaluate(f"document.activeElement === document.querySelector('{cell}')")
    press("[data-compare] + label input", "ArrowRight")
    assert view.evaluate("document.querySelector('[data-compare]').style.getPropertyValue('--at')") == "51%"

    view = view_of(browser, opened[1], said)
    paper = "#table-paper-dmvfn_table1"
    press("[data-for='table-paper-dmvfn_table1'] [data-rows='published']", "Space")
    assert [row.inner_text() for row in view.query_selector_all(f"{paper} tbody tr:not([hidden]) th")] == [
        "DMVFN, measured"
    ]
    press(f"{paper} tbody tr:not([hidden]) td button", "Enter")
    assert "one training" in view.inner_text("#lineage-cell")
    assert said == []


def test_snakemake_s_report_has_captions_and_the_page(demo: Project, tmp_path: Path) -> None:
    done = demo.snakemake("--report", str(tmp_path / "retake.zip"))
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(tmp_path / "retake.zip") as archive:
        text = archive.read("retake/report.html").decode()
        kept = {Path(name).name: archive.read(name) for name in archive.namelist() if "/data/" in name}
    files = {name: (demo.folder / "results" / name).read_bytes() for name in kept}
    assert kept == files
    assert set(files) == {"report.html", "demo_metrics.csv", "demo_steps.csv", "demo_speed.csv", "demo.png"}
    for caption in (
        "Tables of video-synthesis papers, made by Retake",
        "The table of experiment demo: means over windows",
        "Means at each single predicted step of experiment demo",
        "Time and peak memory of prediction in experiment demo",
        "One test window, pair or scene of experiment demo",
        "on one page that needs nothing else",
    ):
        assert caption in text


def test_the_template_has_one_script() -> None:
    assert (ROOT / report.TEMPLATE).read_text().count("<script>") == 1
