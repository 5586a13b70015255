"""Score a folder of clips, a video or an array against the truth, without any experiment: prints a table.

    python -m pipeline.evaluate PREDICTIONS TRUTH --metrics psnr,ssim,lpips,fvd

PREDICTIONS and TRUTH, each one of: a folder of clips (sub-folders of PNG images, or videos), a folder of the PNG images
of one clip, a video, or an array file (.npy, or .npz with one array): (T, H, W, 3) or (N, T, H, W, 3), RGB, uint8, or
float in [0,1]. Clips are paired by name (those of an array are 0000, 0001, …; a single clip with a single one), images
by position in the natural order of their names. Frame metrics are averaged over the frames of a clip, and in the last
row over all frames; FID, FVD and DTFVD are of the whole set. What a cell is stands below the table.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline import params
from pipeline.errors import RetakeError, near, progress, run
from pipeline.metrics import Undefined, sets, variants

SLACK = 1e-3  # what a float may lie outside [0,1]
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm")
ARRAYS = (".npy", ".npz")
SHOWN = 8
# What may be asked for: module of pipeline/metrics and its settings
FRAMES: dict[str, tuple[str, dict[str, str]]] = {
    "psnr": ("psnr", {}),
    "ssim": ("ssim", {}),
    "ms_ssim": ("ms_ssim", {}),
    "lpips": ("lpips", {"net": "alex", "colour": "rgb"}),
    "lpips_vgg": ("lpips", {"net": "vgg", "colour": "rgb"}),
    "lpips_squeeze": ("lpips", {"net": "squeeze", "colour": "rgb"}),
    "lpips_bgr": ("lpips", {"net": "alex", "colour": "bgr"}),
}
# Those of 8-bit images; floats are rounded
EIGHT: dict[str, tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], str]] = {
    "psnr_y": (variants.psnr_y, "PSNR of luma, range 255, TecoGAN's border crop, no frames left out"),
    "ssim_y": (variants.ssim_y, "SSIM of luma, 7x7 uniform, range that of the output, TecoGAN's border crop"),
    "psnr_ffmpeg": (
        functools.partial(variants.ffmpeg, measure="psnr"),
        "FFmpeg's psnr_avg, planes of yuv444p (DTVNet)",
    ),
    "ssim_ffmpeg": (functools.partial(variants.ffmpeg, measure="ssim"), "FFmpeg's SSIM, planes of yuv444p (DTVNet)"),
}
KNOWN = (*FRAMES, *EIGHT, *sets.SETS)


@dataclass
class Clip:
    """One clip: `read()` gives (T, H, W, 3), uint8, or float32 in [0,1]; `rate` in frames a second, videos only."""

    where: str
    read: Callable[[], np.ndarray]
    rate: Fraction | None = None


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("--metrics", default="psnr,ssim", help=f"of {', '.join(KNOWN)}")
    args = parser.parse_args()
    print(evaluate(args.predictions, args.truth, [name.strip() for name in args.metrics.split(",")]))


def evaluate(predictions: Path, truth: Path, metrics: list[str]) -> str:
    """Return the table as text. Raises RetakeError for what cannot be scored, when its clip is reached."""
    for name in metrics:
        if name not in KNOWN:
            raise RetakeError(f"no metric {name!r}{near(name, KNOWN)}")
    found = _paired(clips(predictions), clips(truth), predictions, truth)
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    modules = params.registry("metrics")
    built: dict[str, Any] = {}
    notes: dict[str, str] = {}
    for name in metrics:
        if name in FRAMES:
            kind, keys = FRAMES[name]
            settings = modules[kind].Params(kind=kind, **keys)
            built[name] = modules[kind].build(settings, device)
            notes[name] = json.dumps(modules[kind].settings(settings), ensure_ascii=False)
        elif name in EIGHT:
            built[name] = functools.partial(_eight, EIGHT[name][0])
            notes[name] = EIGHT[name][1]
    networks = {name: sets.build(name, device) for name in metrics if name in sets.SETS}

    values: dict[str, dict[str, np.ndarray]] = {name: {} for name in built}
    features: dict[str, list[list[np.ndarray]]] = {name: [[], []] for name in networks}
    for clip, (predicted, true) in progress(found.items(), unit="clip", desc="evaluate"):
        pair = [_checked(c) for c in (predicted, true)]
        if pair[0].shape != pair[1].shape:
            raise RetakeError(
                f"{predicted.where} has {_size(pair[0])}, {true.where} has {_size(pair[1])}: give as many of the same size"
            )
        images = [_unit(p) for p in pair]
        for name, function in list(built.items()):
            try:
                values[name][clip] = function(*images)
            except Undefined as reason:
                built.pop(name)
                values[name] = {}
                notes[name] = f"no values: {reason}"
        for name, network in networks.items():
            for kept, image in zip(features[name], images, strict=True):
                kept.append(network.features(image))
    whole: dict[str, float] = {}
    for name, network in networks.items():
        whole[name], notes[name] = network.distance(*(np.concatenate(rows) for rows in features[name]))
    return _table(list(found), metrics, values, whole, notes)


def clips(path: Path) -> dict[str, Clip]:
    """Return the clips at a path by name; a single clip is named "". Raises RetakeError where there is none."""
    if path.is_dir():
        images = _images(path)
        if images:
            return {"": _folder(path, images)}
        found: dict[str, Clip] = {}
        for entry in sorted(path.rglob("*")):
            name = str(entry.relative_to(path))
            if entry.is_dir() and _images(entry):
                found[name] = _folder(entry, _images(entry))
            elif entry.suffix.lower() in VIDEOS:
                found[str(entry.relative_to(path).with_suffix(""))] = _video(entry)
        if not found:
            raise RetakeError(f"{path} holds no PNG images, no folders of them and no videos ({', '.join(VIDEOS)})")
        return found
    if not path.is_file():
        raise RetakeError(f"no file or folder {path}")
    if path.suffix.lower() in VIDEOS:
        return {"": _video(path)}
    if path.suffix.lower() in ARRAYS:
        return _array(path)
    raise RetakeError(
        f"{path} is neither a folder nor a video ({', '.join(VIDEOS)}) nor an array ({', '.join(ARRAYS)})"
    )


def _images(folder: Path) -> list[Path]:
    def natural(file: Path) -> list[Any]:
        return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.name)]

    return sorted((f for f in folder.iterdir() if f.suffix.lower() == ".png" and f.name[0] != "."), key=natural)


def _folder(folder: Path, files: list[Path]) -> Clip:
    def read() -> np.ndarray:
        images: list[np.ndarray] = []
        for file in files:
            image = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
            if image is None:
                raise RetakeError(f"{file} is no PNG image, or damaged")
            if image.ndim != 3 or image.shape[2] != 3:
                raise RetakeError(f"{file} has {1 if image.ndim == 2 else image.shape[2]} channels: write it as RGB")
            if images and (image.shape, image.dtype) != (images[0].shape, images[0].dtype):
                raise RetakeError(
                    f"{file} is {_side(image)} {image.dtype}, the first image {_side(images[0])} {images[0].dtype}"
                )
            images.append(image[..., ::-1])
        return np.stack(images)

    return Clip(str(folder), read)


def _side(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def _video(file: Path) -> Clip:
    import av

    from pipeline.store import video
    from pipeline.store.archives import Member

    def read() -> np.ndarray:
        return np.stack([image() for _, image in video.frames(Member(file.parent, file.name))])

    try:
        with av.open(str(file), options={"format_whitelist": video.FORMATS}) as container:
            stream = container.streams.best("video")
            rate = getattr(stream, "average_rate", None)
    except (av.FFmpegError, ValueError) as error:
        raise RetakeError(f"{file} cannot be read as a video: {error}") from None
    return Clip(str(file), read, rate)


def _array(file: Path) -> dict[str, Clip]:
    try:
        loaded = np.load(file, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            if len(loaded.files) != 1:
                raise RetakeError(f"{file} holds {len(loaded.files)} arrays ({', '.join(loaded.files[:5])}): give one")
            loaded = loaded[loaded.files[0]]
    except (ValueError, EOFError, OSError) as error:
        raise RetakeError(f"{file} cannot be read as an array: {error}") from None
    if loaded.ndim not in (4, 5) or loaded.shape[-1] != 3 or not loaded.size:
        raise RetakeError(f"{file} has the shape {loaded.shape}: (T, H, W, 3) or (N, T, H, W, 3) is needed")
    if loaded.dtype not in (np.uint8, np.float16, np.float32, np.float64):
        raise RetakeError(f"{file} is {loaded.dtype}: uint8, or float in [0,1], is needed")

    def clip(index: int) -> Clip:
        return Clip(f"{file}, clip {index:04}", functools.partial(np.array, loaded[index]))

    if loaded.ndim == 4:
        return {"": Clip(str(file), functools.partial(np.array, loaded))}
    return {f"{index:04}": clip(index) for index in range(len(loaded))}


def _paired(
    predicted: dict[str, Clip], true: dict[str, Clip], predictions: Path, truth: Path
) -> dict[str, tuple[Clip, Clip]]:
    if len(predicted) == len(true) == 1:
        pairs = {next(iter(true)): (next(iter(predicted.values())), next(iter(true.values())))}
    else:
        missing, unknown = sorted(set(true) - set(predicted)), sorted(set(predicted) - set(true))
        if missing or unknown:
            lines = [f"{name or '(one clip)'} is missing" for name in missing]
            lines += [f"{name or '(one clip)'} is not expected" for name in unknown]
            more = f"\n  and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
            some = "".join(f"\n  {line}" for line in lines[:SHOWN])
            expected = ", ".join(list(true)[:SHOWN]) + (", …" if len(true) > SHOWN else "")
            raise RetakeError(
                f"{predictions} does not hold the clips of {truth}:{some}{more}\nExpected {len(true)}: {expected}"
            )
        pairs = {name: (predicted[name], true[name]) for name in true}
    for ours, theirs in pairs.values():
        if ours.rate and theirs.rate and ours.rate != theirs.rate:
            raise RetakeError(
                f"{ours.where} has {float(ours.rate):g} frames a second, {theirs.where} {float(theirs.rate):g}: "
                "their frames do not show the same times"
            )
    return pairs


def _checked(clip: Clip) -> np.ndarray:
    images = clip.read()
    if images.dtype.kind == "f":
        for number, image in enumerate(images):
            if np.isnan(image).any():
                raise RetakeError(f"{clip.where}, frame {number}: NaN")
            if not (image.min() >= -SLACK and image.max() <= 1 + SLACK):
                raise RetakeError(
                    f"{clip.where}, frame {number}: values from {image.min():g} to {image.max():g}, [0,1] is needed: "
                    "divide, or save uint8"
                )
    return images


def _unit(images: np.ndarray) -> np.ndarray:
    scale = np.float32(np.iinfo(images.dtype).max) if images.dtype.kind == "u" else np.float32(1)
    unit = images.astype(np.float32) / scale
    unit.flags.writeable = False  # SSIM and MS-SSIM share what they find of these very arrays
    return unit


def _eight(function: Callable[..., np.ndarray], *images: np.ndarray) -> np.ndarray:
    return function(*(np.rint(np.clip(i, 0, 1) * 255).astype(np.uint8) for i in images))


def _size(images: np.ndarray) -> str:
    return f"{len(images)} frames of {images.shape[2]}x{images.shape[1]}"


def _table(
    names: list[str],
    metrics: list[str],
    values: dict[str, dict[str, np.ndarray]],
    whole: dict[str, float],
    notes: dict[str, str],
) -> str:
    def cell(number: float | None) -> str:
        return "" if number is None else f"{number:.4f}"

    rows = [["clip", *metrics]]
    for clip in names if len(names) > 1 else []:
        rows.append(
            [clip, *(cell(float(values[m][clip].mean()) if clip in values.get(m, {}) else None) for m in metrics)]
        )
    last: list[str] = []
    for metric in metrics:
        found = list(values.get(metric, {}).values())
        last.append(cell(float(np.concatenate(found).mean()) if found else whole.get(metric)))
    rows.append([f"all {len(names)}", *last])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join([*(line.rstrip() for line in lines), "", *(f"{m}: {notes[m]}" for m in metrics)])


if __name__ == "__main__":
    run(main, "evaluate")
