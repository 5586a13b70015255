"""A stage's code is what it imports, by its syntax: comments, docstrings and params' explanations do not count."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import pytest

from pipeline import identity, params, plan
from pipeline.errors import RetakeError
from pipeline.sources import verified
from pipeline.store import sealed

BEFORE = '''"""Docstring."""
from pydantic import Field
class Params:
    """What it is."""
    lr: float = Field(1.0, gt=0, description="rate")
    size: int = 3
def f(x):
    """Say what."""
    return x + 1  # a comment
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small package `pipeline` in the current folder: a imports b inside a function, b imports the package c."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "pipeline"
    (folder / "c").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "a.py").write_text("def f():\n    from pipeline import b\n    import numpy\n    return b\n")
    (folder / "b.py").write_text("from pipeline.c.inner import g\n")
    (folder / "c/__init__.py").write_text(BEFORE)
    (folder / "c/inner.py").write_text("def g():\n    return 1\n")
    (folder / "c/list.txt").write_text("one\n")
    (folder / "other.py").write_text("x = 1\n")
    return folder


def test_the_closure_has_all_that_is_imported_and_the_lists_beside_it(package: Path) -> None:
    files = identity.digests(("pipeline.a",))
    assert list(files) == ["pipeline/a.py", "pipeline/b.py", "pipeline/c/__init__.py", "pipeline/c/inner.py", "pipeline/c/list.txt"]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        ("# a comment", "# another", False),
        ('"""Docstring."""', '"""Another."""', False),
        ('"""Say what."""', "", False),
        ('description="rate"', 'description="the rate"', False),
        ("Field(1.0,", "Field(2.0,", False),  # arrives as a changed param
        ("x + 1", "x + 2", True),
        ("size: int = 3", "size: int = 4", True),
        ("return x", "return  x", False),
    ],
)
def test_what_changes_a_digest(package: Path, old: str, new: str, counts: bool) -> None:
    before = identity.digests(("pipeline.a",))
    file = package / "c/__init__.py"
    assert old in BEFORE
    file.write_text(BEFORE.replace(old, new))
    identity._read.cache_clear()
    after = identity.digests(("pipeline.a",))
    assert (before != after) == counts
    assert {f for f in before if before[f] != after[f]} == ({"pipeline/c/__init__.py"} if counts else set())


def test_a_list_counts(package: Path) -> None:
    before = identity.digests(("pipeline.a",))
    (package / "c/list.txt").write_text("two\n")
    assert identity.digests(("pipeline.a",)) != before


def test_content_is_read_again_only_when_the_file_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    identity._remembered.cache_clear()
    file = tmp_path / "weights.bin"
    file.write_bytes(b"one")
    first = identity.content(file)
    assert first == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    file.write_bytes(b"two")
    assert identity.content(file) != first
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"1")
    before = identity.content(folder)
    (folder / "a.png").write_bytes(b"2")
    assert identity.content(folder) != before
    identity._remembered.cache_clear()


BUILDS_ON = {"cinn": {"cinn_ae", "cinn_stage1"}}  # models whose code loads other models


def test_every_module_that_a_stage_loads_by_name_is_in_its_code() -> None:
    """Runs where the project lies: entries, task rooms and metrics of each instance are in its closure."""
    p = params.load()
    for stage, instances in plan.plan(p, list(p.experiments)).items():
        for name, fields in instances.items():
            files = identity.digests(plan.roots(p, stage, fields))
            assert f"pipeline/{stage}.py" in files, name
            if stage in ("train", "predict") and fields["model"] in p.models:
                kind = p.models[fields["model"]].kind
                assert any(f.startswith(f"pipeline/models/{kind}") for f in files), name
                others = {m.kind for m in p.models.values()} - {kind} - BUILDS_ON.get(kind, set())
                for other in others:
                    assert f"pipeline/models/{other}.py" not in files, f"{name} depends on {other}"
                    assert f"pipeline/models/{other}/__init__.py" not in files, f"{name} depends on {other}"
            if stage == "score":
                for metric in p.experiments[fields["experiment"]].metrics.values():
                    assert f"pipeline/metrics/{metric.kind}.py" in files, name


def test_a_linked_folder_is_part_of_what_a_folder_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where size and time of the file that changed are put back, which DVC would not see."""
    monkeypatch.chdir(tmp_path)
    for folder in ("elsewhere", "mine"):
        Path(folder).mkdir()
    frame = Path("elsewhere/0001.png")
    frame.write_bytes(b"black")
    Path("mine/clip").symlink_to("../elsewhere")
    before = identity.content(Path("mine")), plan.own("frames", {"own_0": "mine"})
    times = frame.stat()
    frame.write_bytes(b"white")
    os.utime(frame, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = identity.content(Path("mine")), plan.own("frames", {"own_0": "mine"})
    assert before[0] != after[0]
    assert before[1] != after[1]
    assert plan.own("frames", {"raw": "data/raw/demo/test.json"}) == ""
    Path("elsewhere/up").symlink_to("..")
    with pytest.raises(RetakeError, match="is a link to a folder that it lies in"):
        identity.content(Path("mine"))


def test_archives_that_come_or_change_are_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`archives: present`: the manifest is made again for one that was put there, renamed or replaced, not for one that went."""
    p = params.load()
    monkeypatch.chdir(tmp_path)
    folder = Path("data/raw/kitti")
    folder.mkdir(parents=True)
    first, second = folder / "a.zip", folder / "b.zip"
    first.write_bytes(b"first")
    fact = verified.known(verified.RAW, first, None, "")
    told = {"archives": [vars(fact)], "missing": ["b.zip", "c.zip"]}
    sealed.write(plan.path("download", dataset="kitti", split="test"), told)

    def outdated() -> bool:
        return plan.outdated(p, "kitti", "test")

    assert not outdated()
    os.utime(first)
    assert outdated(), "its time is another: it is read again"
    verified.known(verified.RAW, first, None, "")
    assert not outdated(), "and is the same"
    shutil.copytree("data", "copied/data")
    with contextlib.chdir("copied"):
        assert not outdated(), "a copy has other inodes"
    time = first.stat().st_mtime_ns
    first.write_bytes(b"other")
    os.utime(first, ns=(time, time))
    assert outdated(), "replaced, with size and time put back"
    first.rename(second)
    assert outdated(), "renamed to one that was missing"
    second.unlink()
    assert not outdated(), "gone"
    (folder / "c").mkdir()
    assert outdated(), "unpacked, in place of a zip"


def test_a_clone_keeps_the_tokens_of_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert plan._locked() == {}
    keys = "{download.kitti-test: token}"
    Path("dvc.lock").write_text(
        f"schema: '2.0'\nstages:\n  download@kitti-test:\n    params:\n      workflow/resolved/tokens.json: {keys}\n  plan: {{cmd: x}}\n"
    )
    assert plan._locked() == {"pretrained": {}, "download": {"kitti-test": "token"}}
