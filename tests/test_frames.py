"""The frames stage: what is stored is the resized source; bad input is told whole; memory stays flat."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline import frames, params
from pipeline.datasets import demo, kitti
from pipeline.errors import RetakeError
from pipeline.sources.archives import Clip, Member
from pipeline.store.frames import Store
from tests.conftest import furnish, handed_over, resolved
from tests.layouts import demo_params, drive_zip, encoded, kitti_params, manifest, picture, project

A, B, C, D = list(kitti.EXPECTED["test"])
RAW = Path("data/raw/kitti")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(archives: list[Path], missing: list[str] | None = None, **changes: Any) -> Store:
    manifest("kitti", "test", archives, missing or [])
    return Store(frames.make(project(kitti=kitti_params(**changes)), "kitti", "test"))


def message(archives: list[Path], **changes: Any) -> str:
    with pytest.raises(RetakeError) as caught:
        make(archives, **changes)
    assert not list(Path("data").rglob("*.arrow*"))
    assert not list(Path("data").rglob("*.tmp*"))
    return str(caught.value)


@pytest.mark.parametrize("codec", ["raw", "zstd", "png"])
def test_frames_are_the_resized_sources(codec: str) -> None:
    sources = [[picture(10 * k + i, 37, 122) for i in range(4)] for k in range(2)]
    archives = [drive_zip(RAW, d, [encoded(s) for s in some]) for d, some in zip((A, B), sources, strict=True)]
    store = make(archives, height=16, width=48, codec=codec)
    assert list(store.clips) == [f"{A}/image_02", f"{B}/image_02"]
    for clip, some in zip(store.clips, sources, strict=True):
        assert store.frame[store.clips[clip]].tolist() == [0, 1, 2, 3]
        resized = [cv2.resize(s[..., ::-1], (48, 16))[..., ::-1] for s in some]  # as published: BGR, OpenCV's default
        assert np.array_equal(store.read(clip, range(4)), np.stack(resized))
    assert store.source(5) == f"{B}.zip/2011_09_26/{B}/image_02/data/0000000001.png"


def test_nothing_is_resized_where_the_size_is_right() -> None:
    sources = [picture(i, 24, 40) for i in range(3)]
    store = make([drive_zip(RAW, A, [encoded(s) for s in sources])])
    assert np.array_equal(store.read(f"{A}/image_02", range(3)), np.stack(sources))


def test_what_the_store_says_of_itself() -> None:
    archive = drive_zip(RAW, A, [encoded(picture(0))] * 3)
    store = make([archive], [f"{d}.zip" for d in (B, C, D)], codec="raw")
    versions = store.meta.pop("versions")
    assert versions == {"opencv": cv2.__version__}
    assert store.meta == {
        **{"dataset": "kitti", "kind": "kitti", "split": "test", "height": 24, "width": 40, "codec": "raw"},
        **{"colour": "RGB", "resize": "cv2.INTER_LINEAR", "licence": kitti.LICENCE, "dtype": "uint8", "channels": 3},
        "partial": "1 of 4 archives, 3 of 1369 frames",
    }


def test_partial_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kitti.EXPECTED, "test", {A: 2, B: 3})
    monkeypatch.setattr(kitti, "SUMS", [])
    png = encoded(picture(0))
    some, rest = drive_zip(RAW, A, [png] * 2), drive_zip(RAW, B, [png] * 2)
    assert make([some, rest]).meta["partial"] == "2 of 2 archives, 4 of 5 frames"
    rest = drive_zip(RAW, B, [png] * 3)
    assert make([some], [rest.name]).meta["partial"] == "1 of 2 archives, 2 of 5 frames"
    assert make([some, rest]).meta["partial"] is None


def test_the_same_bytes_whatever_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    archives = [drive_zip(RAW, A, [encoded(picture(i, 30, 50)) for i in range(20)])]
    stores = []
    for workers in (1, 8):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=workers: set(range(n)))
        stores.append(make(archives).path.read_bytes())
    assert stores[0] == stores[1]


def test_what_users_put_there_is_left_alone() -> None:
    archive = drive_zip(RAW, A, [encoded(picture(i)) for i in range(3)])
    os.utime(archive, ns=(10**18, 10**18))
    archive.chmod(0o444)
    before = archive.read_bytes(), archive.stat().st_mtime_ns, sorted(RAW.iterdir())
    make([archive])
    assert before[:2] == (archive.read_bytes(), archive.stat().st_mtime_ns)
    assert sorted(RAW.iterdir()) == sorted([*before[2], RAW / "test.json"])


def test_published_folder_in_place(tmp_path: Path) -> None:
    sources = {}
    for clip in ("000000", "000001"):
        (tmp_path / "published/test" / clip).mkdir(parents=True)
        for n in range(9):
            sources[clip, n] = picture(len(sources))
            (tmp_path / f"published/test/{clip}/{n:010d}.png").write_bytes(encoded(sources[clip, n]))
    store = make([], published_test=str(tmp_path / "published"))
    assert store.meta["partial"] == "18 of 12033 frames"
    assert all(np.array_equal(store.read(clip, [n])[0], image) for (clip, n), image in sources.items())
    assert str(tmp_path) not in store.source(0)


def test_demo_walks_the_same_path() -> None:
    p = demo_params()
    demo.generate(p, "val", Path("data/raw/demo"))
    manifest("demo", "val", [Path("data/raw/demo") / name for name in demo.archives(p, "val")])
    store = Store(frames.make(project(demo=p), "demo", "val"))
    assert store.meta["partial"] is None
    pictures, _ = demo.render("val", 1, 48, 64)
    assert np.array_equal(store.read("2011_09_26_drive_9018_sync/image_02", range(16)), np.stack(pictures))


# JPEG

JPEG = encoded(picture(3), ".jpg")


def encode(data: bytes, tmp_path: Path, **changes: Any) -> tuple[bytes, tuple[int, int]]:
    (tmp_path / "frame.bin").write_bytes(data)
    return frames.encode(Member(tmp_path, "frame.bin"), kitti_params(**changes))


def test_jpeg_sources_pass_through(tmp_path: Path) -> None:
    assert encode(JPEG, tmp_path, codec="jpeg") == (JPEG, (24, 40))


def test_other_sources_become_jpeg(tmp_path: Path) -> None:
    resized, size = encode(JPEG, tmp_path, codec="jpeg", height=16)
    assert size == (24, 40)
    image = cv2.imdecode(np.frombuffer(resized, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image.shape == (16, 40, 3)
    source = cv2.imdecode(np.frombuffer(JPEG, np.uint8), cv2.IMREAD_COLOR)
    done, again = cv2.imencode(".jpg", cv2.resize(source, (40, 16)), [cv2.IMWRITE_JPEG_QUALITY, 95])
    assert done
    assert resized == again.tobytes()
    from_png, _ = encode(encoded(picture(3)), tmp_path, codec="jpeg")
    assert from_png.startswith(b"\xff\xd8\xff")


def test_jpeg_sources_are_decoded_for_other_codecs(tmp_path: Path) -> None:
    raw, _ = encode(JPEG, tmp_path, codec="raw")
    assert np.array_equal(
        np.frombuffer(raw, np.uint8).reshape(24, 40, 3)[..., ::-1],
        cv2.imdecode(np.frombuffer(JPEG, np.uint8), cv2.IMREAD_COLOR),
    )


# Bad input


def pillow(mode: str, suffix: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture(0)).convert(mode).save(out, suffix, **options)
    return out.getvalue()


def huge() -> bytes:
    """Return a PNG that claims 60000x60000 pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return encoded(picture(0))[:8] + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + bytes(20)


FLIPPED = encoded(picture(0))[:-20] + bytes([encoded(picture(0))[-20] ^ 1]) + encoded(picture(0))[-19:]

BAD = {
    1: (encoded(picture(0).astype(np.uint16) * 257), "is RGB of 16 bits, RGB of 8 bits is needed"),
    2: (pillow("L"), "is grey of 8 bits"),
    3: (pillow("RGBA"), "is RGB with alpha of 8 bits"),
    4: (pillow("P"), "is palette of 8 bits"),
    5: (pillow("LA"), "is grey with alpha of 8 bits"),
    6: (encoded(picture(0))[:-40], "cannot be read as an image: it is cut off or damaged"),
    7: (encoded(picture(0, 24, 41)), "is 41x24, its clip is 40x24"),
    8: (b"", "is no PNG or JPEG image, it is empty"),
    9: (b"GIF89a" + bytes(40), "is no PNG or JPEG image, it begins with b'GIF89a"),
    10: (huge(), "claims to be 60000x60000"),
    11: (pillow("CMYK", "JPEG"), "is CMYK of 8 bits"),
    12: (pillow("L", "JPEG"), "is grey of 8 bits"),
    13: (JPEG[:100], "is a JPEG image without a frame header"),
    14: (JPEG[:-200], "cannot be read as an image: it is cut off or damaged"),
    15: (pillow("RGB", transparency=(0, 0, 0)), "has a transparent colour"),
    16: (FLIPPED, "cannot be read as an image: it is cut off or damaged"),  # OpenCV gives other pixels
}


def test_every_fault_in_one_message() -> None:
    good = encoded(picture(0))
    first = drive_zip(RAW, A, {n: BAD.get(n, (good, ""))[0] for n in range(40) if n not in (17, 20, 21, 22)})
    spoilt = drive_zip(RAW, B, [good] * 5)
    data = bytearray(spoilt.read_bytes())
    at = data.find(good, data.find(good) + 1)
    data[at + 60] ^= 0xFF
    spoilt.write_bytes(data)
    text = message([first, spoilt])
    head, *lines = text.splitlines()
    assert head.startswith("kitti test: faults in 41 frames (19), no store is written")
    assert len(lines) == 19
    for number, (_, words) in BAD.items():
        told = [line for line in lines if f"{number:010d}.png" in line and str(first) in line]
        assert len(told) == 1, number
        assert words in told[0]
    assert any(f"{first}: clip {A}/image_02: frame 17 is missing" in line for line in lines)
    assert any(f"{first}: clip {A}/image_02: frames 20 to 22 are missing" in line for line in lines)
    (damaged,) = [line for line in lines if str(spoilt) in line]
    assert "0000000001.png" in damaged
    assert "damaged" in damaged


def test_the_size_of_a_clip_is_that_of_most_frames() -> None:
    text = message([drive_zip(RAW, A, [encoded(picture(0, 25, 40)), *[encoded(picture(0))] * 3])])
    assert "faults in 4 frames (1)" in text
    assert "0000000000.png is 40x25, its clip is 40x24" in text


def test_clip_without_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, empty = Clip("a", [(0, Member(drive_zip(RAW, A, [encoded(picture(0))]), "0"))]), Clip("b", [])
    monkeypatch.setattr(kitti, "clips", lambda *_: [whole, empty])
    assert "clip b has no frames" in message([RAW / f"{A}.zip"])


def test_clips_may_differ_in_size() -> None:
    sizes = [(24, 40), (30, 60)]
    archives = [drive_zip(RAW, d, [encoded(picture(0, *s))] * 2) for d, s in zip((A, B), sizes, strict=True)]
    assert set(map(tuple, make(archives).size.tolist())) == {(24, 40)}


def test_long_lists_are_cut() -> None:
    text = message([drive_zip(RAW, A, [b"nonsense"] * 70)])
    assert "faults in 70 frames (70)" in text
    assert len(text.splitlines()) == 1 + frames.SHOWN + 1
    assert text.endswith("and 20 more")


def test_archive_that_changed_after_its_verification() -> None:
    here, gone = drive_zip(RAW, A, [encoded(picture(0))] * 3), drive_zip(RAW, B, [encoded(picture(0))])
    path = manifest("kitti", "test", [here, gone])
    size = here.stat().st_size
    here.write_bytes(here.read_bytes() + b"x")
    gone.unlink()
    with pytest.raises(RetakeError) as caught:
        frames.make(project(kitti=kitti_params()), "kitti", "test")
    first, second, advice = str(caught.value).splitlines()
    assert first == f"{here} has {size + 1} bytes, {path} has verified {size}"
    assert second.startswith(f"{gone} is gone, ")
    assert "verified archives back" in advice


def test_nothing_to_read() -> None:
    manifest("kitti", "test", [], [f"{d}.zip" for d in (A, B, C, D)])
    with pytest.raises(
        RetakeError, match=r"no frames of kitti test, 4 archives are missing: put some into data/raw/kitti"
    ):
        frames.make(project(kitti=kitti_params()), "kitti", "test")


@pytest.mark.parametrize(
    ("dataset", "split", "words"),
    [
        ("kiti", "test", r"unknown dataset 'kiti' \(did you mean 'kitti'"),
        ("kitti", "tset", r"dataset kitti has no split 'tset' \(did you mean 'test'"),
        ("kitti", "train", r"no file data/raw/kitti/train.json: make it with `snakemake"),
    ],
)
def test_wrong_names(dataset: str, split: str, words: str) -> None:
    with pytest.raises(RetakeError, match=words):
        frames.make(project(kitti=kitti_params()), dataset, split)


@settings(max_examples=30, deadline=None)
@given(delays=st.lists(st.integers(0, 3), max_size=20), ahead=st.integers(1, 6))
def test_order_is_kept_and_work_is_bounded(delays: list[int], ahead: int) -> None:
    begun, lock = [], threading.Lock()

    def work(item: tuple[int, int]) -> int:
        with lock:
            begun.append(item[0])
        time.sleep(item[1] / 1000)
        return item[0]

    with ThreadPoolExecutor(3) as pool:
        for i, number in enumerate(frames.in_order(pool, work, list(enumerate(delays)), ahead)):
            assert number == i
            assert len(begun) <= i + ahead
    assert sorted(begun) == list(range(len(delays)))


# The command


def run(*arguments: str, **datasets: params.Dataset) -> subprocess.CompletedProcess[str]:
    tree = resolved()
    tree["datasets"] |= {name: d.model_dump(mode="json") for name, d in datasets.items()}
    furnish(Path())
    env = handed_over(tree)
    return subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=300)


def test_command() -> None:
    manifest("kitti", "test", [drive_zip(RAW, A, [encoded(picture(i)) for i in range(3)])], [f"{B}.zip"])
    done = run(
        "-m", "pipeline.frames", "--dataset", "kitti", "--split", "test", kitti=kitti_params(height=32, width=48)
    )
    assert done.returncode == 0, done.stderr
    assert "3 frames in 1 clips (1 of 2 archives, 3 of 1369 frames)" in done.stderr
    assert len(Store("data/frames/kitti/test.arrow")) == 3
    manifest("kitti", "test", [drive_zip(RAW, A, [b"no image"])])
    done = run(
        "-m", "pipeline.frames", "--dataset", "kitti", "--split", "test", kitti=kitti_params(height=32, width=48)
    )
    assert done.returncode == 1
    assert "error: kitti test: faults in 1 frames (1)" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(Store("data/frames/kitti/test.arrow")) == 3  # what was there before


def test_the_stage_loads_nothing_heavy() -> None:
    code = "import sys, pipeline.frames as f; f.params.load(); print([m for m in sys.modules if m in %r])"
    done = run("-c", code % (["torch", "mlflow", "lpips", "torchvision"],))
    assert done.stdout.strip() == "[]", done.stderr


PEAK = """
import sys
from pathlib import Path
from pipeline import frames
from pipeline.datasets import kitti
from tests.layouts import kitti_params, project
drive, count = sys.argv[1], int(sys.argv[2])
kitti.EXPECTED["test"], kitti.SUMS = {drive: count}, []
frames.make(project(kitti=kitti_params(height=256, width=832, codec="raw")), "kitti", "test")
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


def peak(count: int) -> int:
    """Return the peak memory, MiB, of a run over one clip of `count` frames of KITTI's size."""
    archive = drive_zip(RAW, A, [encoded(picture(0, 375, 1242))] * count)
    manifest("kitti", "test", [archive])
    done = run("-c", PEAK, A, str(count))
    assert done.returncode == 0, done.stderr
    assert len(Store("data/frames/kitti/test.arrow")) == count
    return int(done.stdout) // 1024


def test_memory_does_not_grow_with_the_clip() -> None:
    short, long = peak(60), peak(240)  # decoded 80 and 320 MiB, stored 37 and 146 MiB
    assert long < short + 60
    assert long < 600


@pytest.mark.slow
def test_memory_of_a_long_clip() -> None:
    assert peak(3000) < 600


# Real frames


def test_real_kitti_frames(shared: Path) -> None:
    sample = sorted((shared / "data/kitti_sample").rglob("image_02/data/*.png"))
    assert len(sample) == 20
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in sample]
    archive = drive_zip(RAW, A, [data for data, _ in before])
    store = make([archive], [f"{d}.zip" for d in (B, C, D)], height=256, width=832)
    assert store.meta["partial"] == "1 of 4 archives, 20 of 1369 frames"
    published = np.stack([cv2.resize(cv2.imread(str(path)), (832, 256))[..., ::-1] for path in sample])
    assert np.array_equal(store.read(f"{A}/image_02", range(20)), published)
    assert before == [(path.read_bytes(), path.stat().st_mtime_ns) for path in sample]
