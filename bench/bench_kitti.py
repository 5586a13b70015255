"""KITTI preparation and window reads, against the published procedure re-created here.

Published (DMVFN): for each window of 9 frames every frame is read, resized, encoded and written over the original, then copied by a
shell `cp` into the window's folder; the loader lists a folder and decodes its 9 PNGs.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np

from bench.common import Row, interleave
from tests.engines import Project

FRAMES, WINDOW = 383, 9  # the length of the drive whose name it takes


def drive(folder: Path) -> list[Path]:
    """Write PNGs of 1242x375 with the entropy of photographs (about 1 MB each)."""
    rng = np.random.default_rng(0)
    base = cv2.resize(
        rng.integers(0, 256, (48, 156, 3), dtype=np.uint8), (1242 + FRAMES, 375), interpolation=cv2.INTER_CUBIC
    )
    noise = rng.normal(0, 8, (375, 1242 + FRAMES, 3))
    wide = np.clip(base + noise, 0, 255).astype(np.uint8)
    paths = []
    folder.mkdir(parents=True)
    for i in range(FRAMES):
        paths.append(folder / f"{i:010d}.png")
        cv2.imwrite(str(paths[-1]), wide[:, i : i + 1242])
    return paths


def published(frames: list[Path], output: Path) -> int:
    written = 0
    for window in range(len(frames) - WINDOW + 1):
        target = output / f"{window:06d}"
        target.mkdir(parents=True)
        for i in range(WINDOW):
            image = cv2.resize(cv2.imread(str(frames[window + i])), (832, 256))
            cv2.imwrite(str(frames[window + i]), image)
            subprocess.run(f"cp {frames[window + i]} {target}/{i:010d}.png", shell=True, check=True)
            written += 2 * frames[window + i].stat().st_size
    return written


def run() -> list[Row]:
    from pipeline.store.frames import Store, Writer

    cv2.setNumThreads(2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frames = drive(folder / "source")
        project = Project(folder / "project")
        project.forget_lengths()
        official = "2011_09_26_drive_0084"
        raw = project.folder / "data/raw/kitti"
        raw.mkdir(parents=True)
        with zipfile.ZipFile(raw / f"{official}_sync.zip", "w") as archive:
            for path in frames:
                archive.write(path, f"2011_09_26/{official}_sync/image_02/data/{path.name}")
        project.edit({"datasets.kitti.archives": "present"})
        seconds, ours = [], []
        for round_ in range(2):
            copies = folder / f"copy{round_}"
            copies.mkdir()
            for path in frames:
                (copies / path.name).write_bytes(path.read_bytes())
            start = time.perf_counter()
            written = published(sorted(copies.iterdir()), folder / f"windows{round_}")
            seconds.append(time.perf_counter() - start)
            target = project.folder / "data/frames/kitti/test.arrow"
            target.unlink(missing_ok=True)
            ours.append(_frames(project))
        size = target.stat().st_size
        stored = sum(f.stat().st_size for f in (folder / "windows0").rglob("*.png")) + sum(
            f.stat().st_size for f in (folder / "copy0").iterdir()
        )
        rate = min(seconds) / min(ours)
        detail = f"{FRAMES} frames 1242x375 to 832x256, whole stage with its start, {FRAMES / min(seconds):.1f} against {FRAMES / min(ours):.1f} frames/s"
        rows = [
            Row("KITTI preparation, frames/s", "published procedure", rate, 20, detail),
            Row(
                "KITTI preparation, bytes stored",
                "published procedure",
                size / stored,
                1 / 7,
                f"{stored / 1e6:.0f} MB against {size / 1e6:.0f} MB; written {written / 1e6:.0f} MB",
                at_most=True,
            ),
        ]

        store = Store(target)
        clip = next(iter(store.clips))
        with Writer(folder / "raw.arrow", codec="raw", meta={}) as out:
            for i, row in enumerate(store.clips[clip]):
                out.add(clip, i, store.image(row))
        fast = Store(folder / "raw.arrow")
        windows = sorted((folder / "windows0").iterdir())
        chosen = np.random.default_rng(0).integers(0, len(windows), 40)

        def folders() -> None:
            for i in chosen:
                np.stack([cv2.imread(str(path)) for path in sorted(windows[i].iterdir())[:WINDOW]])[:, :, :256]

        def stores() -> None:
            for i in chosen:
                fast.read(clip, range(i, i + WINDOW), (0, 0, 256, 256))

        slow, quick = interleave(5, folders, stores)
        rows.append(
            Row(
                "9-frame window, 256 crop",
                "PNG folders",
                slow / quick,
                50,
                f"raw store, warm cache, {1000 * slow / 40:.1f} against {1000 * quick / 40:.2f} ms",
            )
        )
    return rows


def _frames(project) -> float:

    for stage in ("download",):
        done = project.run(sys.executable, "-m", f"pipeline.{stage}", "--dataset", "kitti", "--split", "test")
        assert done.returncode == 0, done.stderr
    start = time.perf_counter()
    done = project.run(sys.executable, "-m", "pipeline.frames", "--dataset", "kitti", "--split", "test")
    seconds = time.perf_counter() - start
    assert done.returncode == 0, done.stderr
    return seconds
