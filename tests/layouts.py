"""Tiny archives in the true layouts and names, and the manifests that the download stage would write of them."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from pipeline import params
from pipeline.datasets import demo, kitti
from pipeline.store import sealed


def picture(seed: int, height: int = 24, width: int = 40) -> np.ndarray:
    """Return a smooth picture, (height, width, 3) uint8 RGB."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def encoded(image: np.ndarray, suffix: str = ".png") -> bytes:
    """Return an image (RGB, or whatever OpenCV writes) as a file's bytes."""
    done, data = cv2.imencode(suffix, image[..., ::-1] if image.ndim == 3 and image.shape[2] == 3 else image)
    assert done
    return data.tobytes()


def make_zip(path: Path, members: Mapping[str, bytes]) -> Path:
    """Write a zip with these members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def drive_zip(
    folder: Path,
    drive: str,
    frames: Sequence[bytes] | Mapping[int, bytes],
    cameras: Sequence[str] = ("image_02",),
    inside: str | None = None,
) -> Path:
    """Write `<drive>.zip` in KITTI raw's layout; `frames` by number, `inside`: the drive that is in it, if another."""
    numbered = frames if isinstance(frames, Mapping) else dict(enumerate(frames))
    root = f"{(inside or drive)[:10]}/{inside or drive}"
    members = {f"{root}/{camera}/timestamps.txt": b"" for camera in cameras}
    members |= {f"{root}/{camera}/data/{n:010d}.png": data for camera in cameras for n, data in numbered.items()}
    return make_zip(folder / f"{drive}.zip", members)


def kitti_params(**changes: object) -> kitti.Params:
    """Return the params of a KITTI entry, tiny frames by default."""
    values = {"kind": "kitti", "height": 24, "width": 40, "codec": "png", "archives": "present"}
    return kitti.Params.model_validate(
        {**values, "cameras": ["image_02", "image_03"], "published_test": None, **changes}
    )


def demo_params(**changes: object) -> demo.Params:
    """Return the params of a demo entry, tiny frames by default."""
    values = {"kind": "demo", "height": 48, "width": 64, "codec": "png", "archives": "all"}
    return demo.Params.model_validate({**values, **changes})


def project(**datasets: params.Dataset) -> params.Params:
    """Return Params with nothing but these datasets."""
    return params.Params.model_construct(datasets=datasets)


def manifest(dataset: str, split: str, archives: Sequence[Path], missing: Sequence[str] = ()) -> Path:
    """Write the manifest of archives, below the working directory."""
    facts = []
    for archive in archives:
        with archive.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        facts.append({"file": archive.name, "bytes": archive.stat().st_size, "sha256": digest})
    path = Path(f"data/raw/{dataset}/{split}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    sealed.write(path, {"dataset": dataset, "split": split, "archives": facts, "missing": list(missing)})
    return path
