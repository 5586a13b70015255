"""No command writes over what is there; what the operating system says becomes words that name the file and its disk."""

from __future__ import annotations

import errno
import os
import shutil
import types
from pathlib import Path

import pytest

from pipeline.atomic import atomic, write_text
from pipeline.errors import RetakeError, explain
from pipeline.outputs import unused, unused_folder


def test_what_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/.hidden").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "full", "link"):
        with pytest.raises(RetakeError, match=f"{name} exists: nothing is overwritten"):
            unused(tmp_path / name)
    for name, words in (("file", "is a file: nothing is overwritten"), ("full", "holds other files")):
        with pytest.raises(RetakeError, match=f"{name} {words}"):
            unused_folder(tmp_path / name)
    for free in (None, tmp_path / "new"):
        unused(free)
    for folder in ("empty", "new"):
        unused_folder(tmp_path / folder)


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
    assert explain(OSError(errno.EROFS, "Read-only file system", str(tmp_path / "secret.png"))).startswith(
        "cannot write"
    )
