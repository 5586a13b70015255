"""The report: one page that asks nobody for anything, whatever its tables hold; in a browser where there is one."""

from __future__ import annotations

import json
import re
import shutil
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
    assert lineages["kitti/dmvfn"]["label"] == name


def test_the_policy_allows_the_page_s_own_script_alone() -> None:
    text = page(record())
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text).group(1).replace("&#39;", "'")  # type: ignore[union-attr]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/=]{44}'", policy)


def test_verdicts_and_measured_rows_are_there() -> None:
    text = page(record())
    assert "2 one training, spread unknown" in text
    assert text.count('class="measured"') >= 2
    assert "Nothing" not in text


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
    drawn = [charts.Curve("a $x$ <b>", [1, 2], [3.0, 4.0], [2.0, 3.0], [4.0, 5.0])]
    first, second = (charts.curves(drawn, "step", "PSNR", "title & more") for _ in range(2))
    assert first == second
    assert 'aria-label="title &amp; more"' in first
    assert "<b>" not in first
    assert "currentColor" in first and "#000000" not in first
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", first)


def test_a_finished_demo_has_curves_pictures_and_sliders(demo: Project) -> None:
    text = (demo.folder / "results/report.html").read_text()
    assert len(text.encode()) < report.BUDGET
    assert text.count("<svg") >= 3
    assert text.count('type="range"') == 2 * report.WORST
    tags = parsed(text)
    assert (tags.fetched, tags.handlers) == ([], [])
    assert "2011_09_26_drive" in text  # archives, in the lineage


@pytest.mark.browser
def test_in_a_browser(demo: Project, tmp_path: Path) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="not checked: pip install playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("not checked: no Chromium here (Debian: chromium)")
    said: list[str] = []
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            for width in (1280, 390):
                view = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
                view.on("console", lambda message: said.append(message.text))
                view.on(
                    "request",
                    lambda request: said.append(request.url) if request.url[:5] not in ("data:", "file:") else None,
                )
                view.goto(f"file://{demo.folder}/results/report.html")
                assert view.evaluate("document.documentElement.scrollWidth") <= width
        names = "#table-demo tbody tr th"
        view.focus("#table-demo thead th:nth-child(2) button")
        view.keyboard.press("Enter")
        ascending = [cell.inner_text() for cell in view.query_selector_all(names)]
        view.keyboard.press("Enter")
        assert [cell.inner_text() for cell in view.query_selector_all(names)] == ascending[::-1]
        view.fill("[data-for='table-demo'] [data-filter]", "dmvfn")
        assert view.inner_text(".count[data-for='table-demo']") == "1 of 3 rows"
        view.focus("#table-demo tbody tr:not([hidden]) td button")
        view.keyboard.press("Enter")
        assert "made again by" in view.inner_text("#lineage")
        view.keyboard.press("Escape")
        assert not view.evaluate("document.getElementById('lineage').open")
        view.focus("[data-compare] + label input")
        view.keyboard.press("ArrowRight")
        assert view.evaluate("document.querySelector('[data-compare]').style.getPropertyValue('--at')") == "51%"
        browser.close()
    assert said == []


def test_the_template_has_one_script() -> None:
    assert (ROOT / report.TEMPLATE).read_text().count("<script>") == 1
