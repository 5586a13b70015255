"""What leaves the project and comes back: exported test sets, brought predictions with labels, stores read without us."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.store.frames import Store, Writer
from tests.engines import ROOT, Project


def test_exported_truth_comes_back_as_perfect_predictions(demo: Project, tmp_path: Path) -> None:
    project = demo.copy(tmp_path / "p")
    done = project.run(sys.executable, "-m", "pipeline.export", "demo", "--output", "out", "--truth")
    assert done.returncode == 0, done.stderr
    store = Store(project.folder / "data/frames/demo/test.arrow")
    windows = sorted((project.folder / "out/inputs").iterdir())
    assert [f.name for f in sorted(windows[0].iterdir())] == ["input_1.png", "input_2.png"]
    first = cv2.imread(str(windows[0] / "input_1.png"))[..., ::-1]
    clip = next(iter(store.clips))
    np.testing.assert_array_equal(first, store.image(store.clips[clip][2]))  # the protocol's first input
    project.edit({"experiments.demo.predictions": {"mine": "out/truth"}, "experiments.demo.labels": {"mine": "My own"}})
    done = project.snakemake("results/demo_metrics.csv")
    assert done.returncode == 0, done.stderr
    rows = {model: row for (model, _), row in project.rows("results/demo_metrics.csv").items()}
    assert float(rows["My own"]["ssim_t1"]) == pytest.approx(100)
    again = project.run(sys.executable, "-m", "pipeline.export", "demo", "--output", "out")
    assert again.returncode == 1
    assert "holds other files" in again.stderr


def test_export_says_what_it_cannot(demo: Project, tmp_path: Path) -> None:
    project = demo.copy(tmp_path / "p")
    for name, message in (("dem", "did you mean 'demo'"), ("kitti_flow", "cannot be brought back")):
        done = project.run(sys.executable, "-m", "pipeline.export", name, "--output", "out")
        assert done.returncode == 1
        assert message in done.stderr


READ = """
import sys
sys.modules["pipeline"] = None
sys.path.insert(0, ".")
import numpy as np
from read_store import images
for name in sys.argv[1:]:
    np.savez(name + ".npz", **{f"{clip}|{frame}|{sample}": image for clip, frame, sample, image in images(name)})
"""


def test_stores_are_read_without_us(tmp_path: Path) -> None:
    text = (ROOT / "docs/stores.md").read_text()
    (tmp_path / "read_store.py").write_text(re.search(r"```python file=read_store.py\n(.*?)```", text, re.S).group(1))  # type: ignore[union-attr]
    rng = np.random.default_rng(0)
    smooth = cv2.GaussianBlur(rng.integers(0, 256, (40, 56, 3), np.uint8), (0, 0), 3)
    field = rng.normal(size=(40, 56, 2)).astype(np.float32) * 3
    field[3:5, 7:9] = np.nan
    made = {
        **{codec: (codec, "uint8", smooth) for codec in ("raw", "zstd", "png", "jpeg")},
        **{f"{codec}16": (codec, "uint16", smooth.astype(np.uint16) * 257 - 7) for codec in ("raw", "zstd")},
        "flow": ("flow64", "float32", field),
        "far": ("flow64", "float32", field * 300),
    }
    for name, (codec, dtype, image) in made.items():
        with Writer(tmp_path / f"{name}.arrow", codec=codec, dtype=dtype, channels=image.shape[2], meta={}) as out:
            for clip in ("a", "b"):
                for i in range(3):
                    out.add(clip, i, np.roll(image, i, axis=1))
    files = [f"{name}.arrow" for name in made]
    subprocess.run([sys.executable, "-c", READ, *files], cwd=tmp_path, check=True)
    for file in files:
        store, theirs = Store(tmp_path / file), np.load(tmp_path / f"{file}.npz")
        assert len(theirs.files) == len(store) == 6
        for clip, rows in store.clips.items():
            for row in rows:
                np.testing.assert_array_equal(theirs[f"{clip}|{store.frame[row]}|0"], store.image(row), err_msg=file)
