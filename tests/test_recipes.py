"""params.yaml, the papers' files and overrides become one tree; `like` takes over another entry; every value has a source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline import params, recipes
from pipeline.errors import RetakeError


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project's folder, the current one; `write` fills it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(params.VARIABLE, raising=False)
    (tmp_path / "workflow/papers").mkdir(parents=True)
    return tmp_path


def write(folder: Path, user: str = "", **papers: str) -> None:
    (folder / "params.yaml").write_text(user)
    for name, text in papers.items():
        (folder / f"workflow/papers/{name}.yaml").write_text(text)


def test_like_takes_over_mappings_key_by_key_and_replaces_the_rest(project: Path) -> None:
    write(
        project,
        user="models: {b: {train: {lr: 3}}}",
        one="models: {a: {kind: k, train: {lr: 1, sizes: [1, 2], deep: {x: 1, y: 2}}}}",
        two="models: {b: {like: a, train: {sizes: [9], deep: {y: 5}}}, c: {like: b, train: null}}",
    )
    read = recipes.read()
    assert read.values["models"]["b"] == {"kind": "k", "train": {"lr": 3, "sizes": [9], "deep": {"x": 1, "y": 5}}}
    assert read.values["models"]["c"] == {"kind": "k", "train": None}
    assert read.sources["models", "b", "train", "lr"] == "params.yaml"
    assert read.sources["models", "b", "train", "deep", "x"] == "like a (workflow/papers/one.yaml)"
    assert read.sources["models", "b", "train", "deep", "y"] == "workflow/papers/two.yaml"
    assert read.sources["models", "c", "kind"] == "like a (workflow/papers/one.yaml)"


def test_overrides_stand_over_files_and_reach_what_is_like_them(project: Path) -> None:
    write(project, user="models: {a: {lr: 2}}", one="models: {a: {lr: 1}, b: {like: a}}")
    read = recipes.read({"models": {"a": {"lr": 7}}})
    assert read.values["models"] == {"a": {"lr": 7}, "b": {"lr": 7}}
    assert read.sources["models", "a", "lr"] == "override"


@pytest.mark.parametrize(
    ("papers", "message"),
    [
        ({"one": "models: {a: {like: b}, b: {like: c}, c: {like: a}}"}, r"one.yaml: models.. ?\.?like|leads back to itself"),
        ({"one": "models: {aa: {like: bb}, ab: {}}"}, r"workflow/papers/one.yaml: models.aa.like: no entry 'bb' in models"),
        ({"one": "models: {a: {like: [1]}}"}, r"models.a.like: no entry \[1\]"),
        ({"one": "models: {a: {x: 1}}", "two": "models: {a: {x: 2}}"}, r"models.a stands in workflow/papers/one.yaml and in .*two.yaml"),
        ({"one": "modles: {a: {}}"}, r"one.yaml: modles is no section of a paper \(did you mean 'models'\?\)"),
        ({"one": "models:\n  a: {}\n  a: {}\n"}, r"one.yaml is not YAML: line 3: 'a' stands here and in line 2 already"),
        ({"one": "a: " + "[" * 5000}, "one.yaml is"),
        ({"one": "- 1"}, "one.yaml must be a mapping of sections"),
    ],
)  # fmt: skip
def test_what_no_recipe_can_mean_is_refused_with_its_file(project: Path, papers: dict[str, str], message: str) -> None:
    write(project, **papers)
    with pytest.raises(RetakeError, match=message):
        recipes.read()


@pytest.mark.parametrize("content", [b"a: \xff\xfe", "a: 1".encode("utf-16"), b"a: \xe9"])
def test_other_encodings_are_named(project: Path, content: bytes) -> None:
    (project / "params.yaml").write_bytes(content)
    with pytest.raises(RetakeError, match=r"params.yaml is not (UTF-8|YAML)"):
        recipes.read()


def test_an_error_of_a_value_names_the_file_that_gave_it(project: Path) -> None:
    root = Path(__file__).resolve().parents[1]
    for file in (root / "workflow/papers").glob("*.yaml"):
        (project / "workflow/papers" / file.name).write_text(file.read_text())
    (project / "params.yaml").write_text(
        "models: {frvsr_mine: {like: frvsr_demo, train: {lrr: 1}}}\nreproduce: [demo_vsr]\n"
    )
    with pytest.raises(
        RetakeError, match=r"params.yaml: models.frvsr_mine.train.lrr: unknown key \(did you mean 'lr'\?\)"
    ):
        params.load()
    (project / "params.yaml").write_text("models: {frvsr_mine: {like: frvsr_demo}}\n")
    demo = project / "workflow/papers/demo.yaml"
    demo.write_text(demo.read_text().replace("crop: 72", "crop: 73"))
    with pytest.raises(RetakeError, match=r"demo.yaml.*models.frvsr_demo.*crop"):
        params.load()


def test_explain_prints_each_value_with_where_it_comes_from(project: Path) -> None:
    root = Path(__file__).resolve().parents[1]
    for file in (root / "workflow/papers").glob("*.yaml"):
        (project / "workflow/papers" / file.name).write_text(file.read_text())
    (project / "params.yaml").write_text("models: {short: {like: dmvfn, train: {max_steps: 5}}}\n")
    lines = dict(line.split("  # ") for line in params.explain("models.short").splitlines())
    told = {key.strip(): source for key, source in lines.items()}
    assert told["train.max_steps: 5"] == "params.yaml"
    assert told["train.batch: 64"] == "default"
    assert told['kind: "dmvfn"'] == "like dmvfn (workflow/papers/dmvfn.yaml)"
    with pytest.raises(RetakeError, match=r"no models.shrot \(did you mean 'short'\?\)"):
        params.explain("models.shrot")
    for key in ("models.shrot.kind", "models.short.nope.deep", "models.short.kind.x", ""):
        with pytest.raises(RetakeError, match=f"params have no {key}"):
            params.explain(key)
    assert "# workflow/papers/dmvfn.yaml" in params.explain("experiments.kitti.metrics")


def test_null_takes_a_row_or_a_metric_away(project: Path) -> None:
    root = Path(__file__).resolve().parents[1]
    for file in (root / "workflow/papers").glob("*.yaml"):
        (project / "workflow/papers" / file.name).write_text(file.read_text())
    (project / "params.yaml").write_text("experiments: {demo_sky: {models: {start: null}, metrics: {psnr: null}}}\n")
    demo: Any = params.load().experiments["demo_sky"]
    assert list(demo.models) == ["warp_start_demo", "dtvnet_demo"]
    assert list(demo.metrics) == ["ssim", "flow_mse"]
