"""No command writes over what is there; what the operating system says becomes words that name the file and its disk."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from pipeline import animate, evaluate, flow, params, statistics
from pipeline.atomic import atomic, write_text
from pipeline.drawing import encode
from pipeline.errors import RetakeError, explain
from pipeline.outputs import unused, unused_folder


def test_what_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/.hidden").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/.DS_Store").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "full", "link"):
        with pytest.raises(RetakeError, match=f"{name} exists: nothing is overwritten"):
            unused(tmp_path / name)
    for name, words in (("file", "is a file: nothing"), ("link", "is a file: nothing"), ("full", "holds other files")):
        with pytest.raises(RetakeError, match=f"{name} {words}"):
            unused_folder(tmp_path / name)
    for free in (None, tmp_path / "new"):
        unused(free)
    for folder in ("empty", "new"):
        unused_folder(tmp_path / folder)


def test_animate_takes_what_is_meant_and_keeps_what_is_there(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "._a.png", "notes.txt"):
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "c.png")
    (tmp_path / "link").symlink_to("nowhere")
    images = animate.found([tmp_path])
    assert [image.name for image in images] == ["a.JPG", "b.png"]
    for name in ("b.png", "c.png", "link", "."):
        with pytest.raises(RetakeError, match=r"is a file|holds other files"):
            animate.check(tmp_path / name, images, single=False)


def test_a_video_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """PyAV's errors name the temporary file, and let nobody change that."""
    with pytest.raises(OSError, match=r"/proc/self/x\.mp4") as error:
        encode.write_video(Path("/proc/self/x.mp4"), iter([np.zeros((16, 16, 3), np.uint8)]), 10)
    assert explain(error.value) == "missing file /proc/self/x.mp4: check the name"


@pytest.mark.parametrize("given", [["--metrics", ",,"], ["--metrics", " , "]])
def test_no_metric_is_not_all_metrics(given: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for stage, more in ((evaluate, []), (statistics, ["--output", "x.moments"])):
        monkeypatch.setattr(sys, "argv", ["x", "a", *(["b"] if stage is evaluate else []), *given, *more])
        with pytest.raises(SystemExit):
            stage.main()


def test_flow_and_its_picture_are_two_files(tmp_path: Path) -> None:
    same = tmp_path / "same.png"
    (tmp_path / "link").symlink_to(".")
    for other in (same, tmp_path / "link/same.png", tmp_path / "new/../same.png"):
        with pytest.raises(RetakeError, match="cannot hold both the flow and its picture"):
            flow.make_pair(params.load({}).models["dis"], [tmp_path, tmp_path], same, other)


def test_a_file_where_a_folder_is_needed_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as caught:
        write_text(tmp_path / "file/x", "")
    assert (
        explain(caught.value)
        == f"{tmp_path}/file is a file where a folder is needed: give another name, or move it away"
    )


def test_a_full_disk_is_named_by_file_and_by_its_own_free_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def usage(folder: Path) -> types.SimpleNamespace:
        asked.append(Path(folder))
        return types.SimpleNamespace(free=3 << 20)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    output = tmp_path / "disk/store.arrow"
    for error in (
        OSError("[Errno 28] Error writing bytes: No space left on device"),
        OSError(errno.ENOSPC, "No space"),
    ):
        with pytest.raises(OSError) as caught, atomic(output):
            raise error
        assert explain(caught.value).startswith(f"disk full while writing {output} (3 MiB free): ")
    assert asked == [output.parent] * 2
    assert not list(output.parent.iterdir())
    assert (
        explain(OSError(errno.ENOSPC, "No space")) == "disk full while writing output: No space. Free space, run again"
    )


def test_reading_and_writing_that_is_not_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "secret.png", "")
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.R_OK and Path(path).exists())
    assert explain(PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "secret.png"))).startswith(
        f"cannot read {tmp_path / 'secret.png'}: Permission denied. Its owner can make it readable"
    )
    assert explain(PermissionError(errno.EACCES, "Permission denied", "new.png")).startswith("cannot write new.png")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path and tmp_path not in Path(path).parents)
    assert (
        explain(PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "in/0.png")))
        == f"cannot reach {tmp_path}/in/0.png: Permission denied. The owner of {tmp_path} can open it (chmod +rx), then run again"
    )
    assert explain(OSError(errno.EROFS, "Read-only file system", str(tmp_path / "secret.png"))).startswith(
        "cannot write"
    )
