"""Frame stores: what goes in comes out, files are whole or absent, memory stays flat."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.atomic import atomic, write_text
from pipeline.errors import RetakeError
from pipeline.store import frames
from pipeline.store.frames import Store, Writer
from pipeline.tasks.common import windows_predict
from tests.engines import ROOT


def images(n: int, height: int = 16, width: int = 24, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (n, height, width, 3), endpoint=True).astype(dtype)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    codec=st.sampled_from(["raw", "zstd", "png"]),
    dtype=st.sampled_from(["uint8", "uint16"]),
    batch=st.sampled_from([1, 3000, 1 << 30]),
)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], codec: str, dtype: str, batch: int
) -> None:
    path = tmp_path_factory.mktemp("store") / "a.arrow"
    pictures = images(sum(lengths), dtype=dtype)
    before, frames.BATCH_BYTES = frames.BATCH_BYTES, batch
    try:
        with Writer(path, codec=codec, dtype=dtype, meta={"dataset": "x"}) as out:
            at = 0
            for c, n in enumerate(lengths):
                for i in range(n):
                    out.add(f"clip {c}", i + 5, pictures[at], source=f"{c}/{i}", sample=i % 2)
                    at += 1
    finally:
        frames.BATCH_BYTES = before
    store = pickle.loads(pickle.dumps(Store(path)))
    assert [len(r) for r in store.clips.values()] == lengths
    assert store.meta["dataset"] == "x"
    assert np.array_equal(np.concatenate([store.read(c, range(len(r))) for c, r in store.clips.items()]), pictures)
    row = store.clips[f"clip {len(lengths) - 1}"][-1]
    assert (store.frame[row], store.source(row)) == (lengths[-1] + 4, f"{len(lengths) - 1}/{lengths[-1] - 1}")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_zstd_is_exact_for_all_values_and_shapes(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from([np.uint8, np.uint16]))
    shape = data.draw(st.tuples(st.integers(1, 17), st.integers(1, 23), st.just(3)))
    values = st.sampled_from([0, 1, 127, 128, 255, 256, 32767, 32768, 65535]) | st.integers(0, 65535)
    image = data.draw(arrays(dtype, shape, elements=values.map(lambda v: int(dtype(v % 2 ** (8 * dtype(0).itemsize))))))
    image.flags.writeable = False
    encoded = frames.ENCODE["zstd"](image)
    assert np.array_equal(frames.DECODE["zstd"](memoryview(encoded), shape, np.dtype(dtype)), image)


def test_zstd_of_16_bits_is_smaller_than_what_zstd_alone_makes_of_them() -> None:
    noise = cv2.GaussianBlur(np.random.default_rng(0).random((240, 320, 3)), (0, 0), 5)
    smooth = (65535 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint16)
    size = len(frames.ENCODE["zstd"](smooth))
    assert size < 0.6 * smooth.nbytes
    assert size < 0.7 * len(pa.compress(smooth, "zstd", asbytes=True))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("codec", ["zstd", "png"])
def test_damaged_image_is_refused(codec: str, dtype: str) -> None:
    image = images(1, dtype=dtype)[0]
    data = frames.ENCODE[codec](image)
    for wrong, shape in (
        (data[:-4], image.shape),
        (b"", image.shape),
        (b"x" + data[1:], image.shape),
        (data, (8, 8, 3)),
    ):
        with pytest.raises(RetakeError, match="a stored image cannot be decoded as"):
            frames.DECODE[codec](memoryview(wrong), shape, np.dtype(dtype))


def test_crop_reads_the_same_pixels(tmp_path: Path) -> None:
    pictures = images(4)
    with Writer(tmp_path / "a.arrow", codec="raw", meta={}) as out:
        for i, image in enumerate(pictures):
            out.add("c", i, image)
    store = Store(tmp_path / "a.arrow")
    assert np.array_equal(store.read("c", [3, 1], (2, 4, 8, 16)), pictures[[3, 1], 2:10, 4:20])
    assert not store.image(0).flags.writeable  # a map of a file that the DVC cache may share


def test_same_rows_same_bytes_and_identity_follows_content(tmp_path: Path) -> None:
    pictures = images(3)
    for name, last in (("a", pictures[2]), ("b", pictures[2]), ("c", pictures[1])):
        with Writer(tmp_path / name, codec="png", meta={"k": 1}) as out:
            for i, image in enumerate([pictures[0], pictures[1], last]):
                out.add("c", i, image)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert Store(tmp_path / "a").identity != Store(tmp_path / "c").identity


def test_failed_writer_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    path.write_text("mine")
    with pytest.raises(ZeroDivisionError):
        with Writer(path, codec="raw", meta={}) as out:
            out.add("c", 0, images(1)[0])
            raise ZeroDivisionError
    assert path.read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["a.arrow"]


@pytest.mark.parametrize("keep", [0, 8, 200, -1])
def test_cut_off_store_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "a.arrow"
    with Writer(path, codec="raw", meta={}) as out:
        out.add("c", 0, images(1)[0])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RetakeError, match="not a complete frame store"):
        Store(path)


def test_missing_store_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(RetakeError, match=r"no store at .*make it with `snakemake"):
        Store(tmp_path / "none.arrow")


def test_wrong_images_and_interleaved_clips_are_refused(tmp_path: Path) -> None:
    with Writer(tmp_path / "a.arrow", codec="raw", meta={}) as out:
        with pytest.raises(ValueError, match="expected uint8"):
            out.add("c", 0, images(1).astype(np.float32)[0])
        out.add("c", 0, images(1)[0])
        out.add("d", 0, images(1)[0])
        with pytest.raises(ValueError, match="written before"):
            out.add("c", 1, images(1)[0])


def test_killed_writer_leaves_no_output_and_its_rest_is_removed(tmp_path: Path) -> None:
    script = f"""
import os, signal
from pipeline.atomic import atomic
with atomic({str(tmp_path / "a.txt")!r}) as t:
    t.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", script], check=False)
    assert not (tmp_path / "a.txt").exists()
    assert len(list(tmp_path.iterdir())) == 1  # the temporary file of the killed process
    write_text(tmp_path / "a.txt", "whole")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_memory_stays_flat(tmp_path: Path) -> None:
    """600 MB of frames in one clip are written and read with less than 200 MB more than none."""
    script = f"""
import resource, sys
import cv2
import numpy as np
from pipeline.store.frames import Store, Writer
image = np.zeros((500, 1000, 3), np.uint8)
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with Writer({str(tmp_path / "a.arrow")!r}, codec="raw", meta={{}}) as out:
    for i in range(400):
        out.add("c", i, image)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) / 1024)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 200


def test_atomic_reports_a_full_disk(tmp_path: Path) -> None:
    from pipeline.errors import explain

    with pytest.raises(OSError) as error:
        with atomic(tmp_path / "x"):
            with Path("/dev/full").open("w") as file:
                file.write("x" * 100000)
    assert "disk full" in explain(error.value)


def test_a_store_that_this_user_may_not_read_is_not_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"
    with Writer(path, codec="raw", meta={}) as out:
        out.add("clip", 0, np.zeros((4, 4, 3), np.uint8))
    path.chmod(0)
    command = [sys.executable, "-m", "pipeline.view", str(path)]
    if os.geteuid() == 0:  # root reads everything, but for what it gives up
        if shutil.which("setpriv") is None:
            pytest.skip("root reads every file, and there is no setpriv to give that up")
        given_up = "-dac_override,-dac_read_search"
        command = ["setpriv", f"--bounding-set={given_up}", f"--inh-caps={given_up}", *command]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert f"cannot read {path}: Permission denied. Its owner can make it readable" in done.stderr


def test_threads_that_encode_change_no_byte(tmp_path: Path) -> None:
    """Predictions of windows: encoded by several threads they are the file that one `add` after another makes."""
    images = np.random.default_rng(0).integers(0, 1 << 16, (2, 3, 4, 3, 24, 32), np.uint16)  # windows, samples, steps
    layout: dict[str, Any] = {"codec": "zstd", "dtype": "uint16", "meta": {}}
    with Writer(tmp_path / "one.arrow", **layout) as out:
        for (window, sample, step), image in zip(np.ndindex(2, 3, 4), images.reshape(-1, 3, 24, 32), strict=True):
            out.add(f"clip:{window}", step + 1, np.ascontiguousarray(image.transpose(1, 2, 0)), sample=sample)
    with Writer(tmp_path / "several.arrow", **layout) as out, ThreadPoolExecutor(3) as pool:
        windows_predict.write(out, pool, ["clip:0", "clip:1"], images)
    assert (tmp_path / "several.arrow").read_bytes() == (tmp_path / "one.arrow").read_bytes()
    wrong = images.astype(np.uint8)
    with (
        pytest.raises(ValueError, match="clip:0 frame 1: expected uint16"),
        Writer(tmp_path / "wrong.arrow", **layout) as out,
        ThreadPoolExecutor(3) as pool,
    ):
        windows_predict.write(out, pool, ["clip:0", "clip:1"], wrong)
    assert not (tmp_path / "wrong.arrow").exists()
