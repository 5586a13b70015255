"""Look at a store: its clips; or one clip as PNGs, a sheet and an MP4, flow in colours, predictions beside the truth.

    python -m pipeline.view data/frames/kitti/test.arrow                        # metadata and clips
    python -m pipeline.view data/frames/kitti/test.arrow --clip CLIP
    python -m pipeline.view data/flow/dis/kitti/test.arrow --clip CLIP          # colours of Baker et al., and a legend
    python -m pipeline.view data/predictions/kitti/dmvfn.arrow --clip CLIP:START
    python -m pipeline.view data/predictions/vid4/tecogan.arrow --clip SCENE
    python -m pipeline.view data/flow/dis/kitti/test.arrow --format flo         # every field (of --clip) as a file
    python -m pipeline.view data/flow/arflow_sky/sky_timelapse_arflow/train.arrow --format npy --output flow/sky_train

Files go to `--output`, or to `data/view/` under the store's and the clip's name. Only the rows that are shown are read.
`picture` is the one that the table stage leaves in `results/`.
"""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from pipeline.drawing import colours
from pipeline.drawing.encode import write_video
from pipeline.drawing.images import write_image
from pipeline.drawing.sheets import (
    ERROR_SCALE,
    GAP,
    WIDTH,
    Cell,
    difference,
    display,
    error_cell,
    error_legend,
    error_map,
    legend,
    sheet,
    spread,
    step_name,
    title_of,
    wrap,
)
from pipeline.errors import RetakeError, log, progress, run
from pipeline.store import flow as files
from pipeline.store.frames import Store
from pipeline.tasks import super_resolution
from pipeline.tasks.p_prediction import Protocol as Prediction

SHEET = 24  # frames on a contact sheet
STEPS = 8  # predicted steps on a sheet
CANDIDATES = 50  # windows among which `picture` looks for its own
RATE = 10  # frames/s of an MP4, KITTI's own; predictions run at half a second a step
SLOW = 2
DETAIL = 96  # px, side of the part of a scene that `scene_picture` enlarges
ABREAST = 5  # such parts side by side


def main() -> None:
    """Parse the command line; list the store, show a clip, or export flow."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path, help="an .arrow file of data/frames, data/flow or data/predictions")
    parser.add_argument("--clip", help="the clip (of predictions: the window, CLIP:START); without it they are listed")
    parser.add_argument("--output", type=Path, help="folder to write to (default: under data/view/)")
    parser.add_argument(
        "--format", choices=["flo", "kitti", "npy", "png"], help="flow: write files of this format, no sheet"
    )
    args = parser.parse_args()
    store = Store(args.store)
    if args.clip is not None and args.clip not in store.clips:
        raise RetakeError(f"{store.path} has no clip {args.clip!r}: {_nearest(args.clip, store)}")
    if args.format and store.meta["channels"] != 2:
        raise RetakeError(f"{store.path} is not a flow store: --format {args.format} is for those")
    if args.clip is None and not args.format:
        describe(store)
        return
    clips = list(store.clips) if args.clip is None else [args.clip]
    base = args.output or _folder(store.path, args.format)
    for clip in progress(clips, unit="clip", desc="view") if len(clips) > 1 else clips:
        folder = base if args.output and args.clip is not None else base / _safe(clip)
        if args.format:
            export(store, clip, args.format, folder)
        elif store.meta["channels"] == 2:
            show_flow(store, clip, folder)
        elif store.meta.get("task") == "super_resolution":
            show_scene(store, clip, folder)
        elif "protocol" in store.meta:
            show_predictions(store, clip, folder)
        else:
            show_frames(store, clip, folder)
    log.info("wrote %s", folder if len(clips) == 1 else base)


def describe(store: Store) -> None:
    """Print the metadata and, for each clip, its name, number of frames and size."""
    print(json.dumps(store.meta, indent=2, sort_keys=True))
    print(f"{store.path}: {len(store)} images in {len(store.clips)} clips, sha256 {store.identity}")
    for clip, rows in store.clips.items():
        height, width = store.size[rows[0]]
        print(f"{clip}  {len(rows)} frames  {width}x{height}")


def show_frames(store: Store, clip: str, folder: Path) -> None:
    """Write every frame of a clip as `<frame>.png`, `sheet.png` and `clip.mp4`."""
    rows = store.clips[clip]

    def images() -> Iterator[np.ndarray]:
        for row in progress(rows, unit="frame", desc="frames"):
            image = display(store.image(row))
            write_image(folder / f"{store.frame[row]:010d}.png", image)
            yield image

    write_video(folder / "clip.mp4", images(), RATE)
    cells: list[Cell] = [(f"{store.frame[row]}", display(store.image(row))) for row in spread(rows, SHEET)]
    write_image(folder / "sheet.png", sheet(wrap(cells), title_of(store, clip)))


def show_flow(store: Store, clip: str, folder: Path) -> None:
    """Write every field of a clip in colours, one scale for all, `legend.png`, `sheet.png` and `clip.mp4`.

    On the sheet and in the video a field stands below its frame, where the frame store named in the metadata is there.
    """
    rows = store.clips[clip]
    scale = _scale(store, rows)
    frames = _frames_of(store) if Path(store.meta["frames"]).exists() else None

    sky = store.meta.get("export") == "sky"

    def stacked(row: int, field: np.ndarray) -> np.ndarray:
        if frames is None:
            return field
        image = display(frames.image(frames.row(clip, int(store.frame[row]))))
        size = field.shape[1], field.shape[0]
        if image.shape != field.shape:
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return np.vstack([image, field])

    def caption(row: int) -> str:
        number = int(store.frame[row])
        return f"{number if row == rows[0] else number - 1} to {number}" if sky else f"{number} to {number + 1}"

    def images() -> Iterator[np.ndarray]:
        for row in progress(rows, unit="field", desc="flow"):
            field = colours.colours(store.image(row), scale)
            write_image(folder / f"{store.frame[row]:010d}.png", field)
            yield stacked(row, field)

    write_video(folder / "clip.mp4", images(), RATE)
    cells: list[Cell] = [
        (caption(row), stacked(row, colours.colours(store.image(row), scale))) for row in spread(rows, SHEET)
    ]
    key = legend(scale)
    write_image(folder / "legend.png", key)
    write_image(folder / "sheet.png", sheet(wrap(cells), title_of(store, clip), key))


def show_predictions(store: Store, clip: str, folder: Path) -> None:
    """Write one window's predictions: `t+<k>.png`, its `_truth` and `_error`, `sheet.png` and `clip.mp4`.

    With several samples the further ones are `t+<k>_sample<s>.png`; the sheet and the video show the first.
    """
    frames = _frames_of(store)
    window = _Window(frames, clip, **{k: store.meta["protocol"][k] for k in ("first", "context", "horizon")})
    model = str(store.meta.get("model", store.path.stem))
    rows: dict[int, list[Cell]] = {}
    for row in store.clips[clip]:
        step, sample = int(store.frame[row]), int(store.sample[row])
        predicted = store.image(row)
        name = f"t+{step}" + (f"_sample{sample}" if sample else "")
        write_image(folder / f"{name}.png", display(predicted))
        if sample:
            continue
        truth = window.image(step)
        error = difference(predicted, truth)
        rows[step] = [(f"truth t+{step}", truth), (f"{model} t+{step}", display(predicted)), error_cell(step, error)]
        write_image(folder / f"{name}_truth.png", truth)
        write_image(folder / f"{name}_error.png", error_map(error))
    given: list[Cell] = [(step_name(step), window.image(step)) for step in window.given]
    shown = [rows[step] for step in spread(sorted(rows), STEPS)]
    title = title_of(store, clip)
    write_image(folder / "sheet.png", sheet([*wrap(given, 3), *shown], title, error_legend()))
    still = [[("truth " + caption, image), ("given", image), ("", np.zeros_like(image))] for caption, image in given]
    video = (sheet([cells], title) for cells in [*still, *(rows[step] for step in sorted(rows))])
    write_video(folder / "clip.mp4", video, SLOW)


def show_scene(store: Store, clip: str, folder: Path) -> None:
    """Write every upscaled frame of a scene: `<frame>.png`, its `_error`, `sheet.png`, and `clip.mp4` beside the truth."""
    frames = _frames_of(store)
    rows = store.clips[clip]
    model = str(store.meta.get("model", store.path.stem))

    def cells(row: int) -> list[Cell]:
        number, image = int(store.frame[row]), store.image(row)
        truth = display(frames.image(frames.row(clip, number)))
        error = difference(image, truth)
        caption = f"error, mean {error.mean():.2%}"
        return [(f"truth {number}", truth), (f"{model} {number}", image), (caption, error_map(error))]

    def pairs() -> Iterator[np.ndarray]:
        for row in progress(rows, unit="frame", desc="frames"):
            (_, truth), (_, image), (_, error) = cells(row)
            assert truth is not None and image is not None and error is not None
            name = f"{store.frame[row]:010d}"
            write_image(folder / f"{name}.png", image)
            write_image(folder / f"{name}_error.png", error)
            yield np.hstack([truth, image])

    write_video(folder / "clip.mp4", pairs(), RATE)
    shown = [cells(row) for row in spread(rows, STEPS)]
    write_image(folder / "sheet.png", sheet(shown, title_of(store, clip), error_legend()))


def export(store: Store, clip: str, kind: str, folder: Path) -> None:
    """Write every field of a clip as `<frame>.flo`, as KITTI's 16-bit `.png` (kitti), or in colours as `.png` (png).

    npy: `.npy`, named like the image that names the field, as DTVNet looks for it; images of one name: by number.
    """
    rows = store.clips[clip]
    images = [Path(store.source(row)).stem for row in rows]
    distinct = len(set(images)) == len(images)
    scale = _scale(store, rows) if kind == "png" else 0.0
    for row in progress(rows, unit="field", desc=kind, leave=False):
        flow, name = store.image(row), f"{store.frame[row]:010d}"
        if kind == "flo":
            files.write_flo(folder / f"{name}.flo", flow)
        elif kind == "npy":
            files.write_npy(folder / f"{images[row - rows[0]] if distinct else name}.npy", flow)
        elif kind == "kitti":
            files.write_kitti(folder / f"{name}.png", flow)
        else:
            write_image(folder / f"{name}.png", colours.colours(flow, scale))


def picture(frames: Store, predictions: dict[str, Store], protocol: Prediction, path: str | Path) -> None:
    """Write one PNG, at most `WIDTH` px wide, that shows what the rows of a table look like.

    The top row has the last context frames and the true frames at t+1 and t+horizon; each further row one entry of
    `predictions` (label -> store), its first sample, with the maps of its error. The window is the one, of up to
    `CANDIDATES` evenly spread over the test set, where copying the last frame has the median error at t+1.
    """
    names = [
        name for name in next(iter(predictions.values())).clips if all(name in s.clips for s in predictions.values())
    ]
    if not names:
        raise RetakeError(f"{path}: the predictions of {', '.join(predictions)} have no window in common")
    windows = [
        _Window(frames, name, protocol.first, protocol.context, protocol.horizon) for name in spread(names, CANDIDATES)
    ]
    motion = [float(difference(w.image(0), w.image(1)).mean()) for w in windows]
    window = windows[int(np.argsort(motion, kind="stable")[len(motion) // 2])]
    steps = sorted({1, protocol.horizon})
    given: list[int | None] = [*[None] * len(steps), *window.given]
    rows: list[list[Cell]] = [
        [
            ("", None) if step is None else ("input " + step_name(step), window.image(step))
            for step in given[-len(steps) :]
        ]
        + [("truth " + step_name(step), window.image(step)) for step in steps]
    ]
    for label, store in predictions.items():
        errors: list[Cell] = []
        images: list[Cell] = []
        for step in steps:
            image = store.image(store.row(window.name, step))
            if image.shape != window.image(step).shape:
                raise RetakeError(
                    f"{store.path}: {window.name} step {step} is {image.shape}, not the size of {frames.path}"
                )
            caption, error = error_cell(step, difference(image, window.image(step)))
            errors.append((f"{label}: {caption}", error))
            images.append((f"{label} {step_name(step)}", display(image)))
        rows.append(errors + images)
    title = f"{window.clip}, t = frame {window.number(0)}: the window of median motion"
    write_image(path, sheet(rows, title, error_legend()))


def flow_picture(frames: Store, truth: Store, estimates: dict[str, Store], path: str | Path) -> None:
    """Write one PNG, at most `WIDTH` px wide, that shows what the rows of a table of flow look like.

    The top row has the two frames and the true flow; each further row one entry of `estimates` (label -> store): its
    flow, and the map of its endpoint error. The pair is the one, of up to `CANDIDATES` evenly spread over the test
    set, whose true motion is the median.
    """
    found = [(clip, int(truth.frame[row])) for clip, rows in truth.clips.items() for row in rows]
    pairs = spread(found, CANDIDATES)
    motion = [float(np.nanmean(np.hypot(*np.moveaxis(truth.image(truth.row(*pair)), -1, 0)))) for pair in pairs]
    clip, frame = pairs[int(np.argsort(motion, kind="stable")[len(motion) // 2])]
    true = truth.image(truth.row(clip, frame))
    scale = colours.scale_of(true)
    given: list[Cell] = [(f"frame {n}", frames.image(frames.row(clip, n))) for n in (frame, frame + 1)]
    rows: list[list[Cell]] = [[*given, ("true flow", colours.colours(true, scale))]]
    for label, store in estimates.items():
        flow = store.image(store.row(clip, frame))
        if flow.shape != true.shape:
            raise RetakeError(f"{store.path}: {clip} frame {frame} is {flow.shape}, not the size of {truth.path}")
        error = np.hypot(*np.moveaxis(flow - true, -1, 0))
        caption = f"{label}: error, mean {np.nanmean(error):.2f} px"
        wrong = error_map(np.nan_to_num(error) / (scale / ERROR_SCALE))
        rows.append([("", None), (caption, wrong), (label, colours.colours(flow, scale))])
    title = f"{clip}, frame {frame}: the pair of median motion; errors are brightest from {scale:.1f} px on"
    write_image(path, sheet(rows, title, legend(scale)))


def scene_picture(frames: Store, low: Store | None, upscaled: dict[str, Store], path: str | Path) -> None:
    """Write one PNG, at most `WIDTH` px wide, that shows what the rows of a table of super-resolution look like.

    A part of one frame, `DETAIL` px wide, of low resolution (each pixel a block of 4x4), of each entry of `upscaled`
    (label -> store) and of the truth; below each its middle row of pixels through up to `DETAIL` frames, time downwards:
    what flickers has ragged edges there. The scene is the first, the frame its middle one, the part where the first
    entry's error is largest.
    """
    stores = list(upscaled.values())
    clip = next(iter(stores[0].clips))
    numbers = [int(n) for n in frames.frame[frames.clips[clip]]]
    number = numbers[len(numbers) // 2]
    truth = frames.image(frames.row(clip, number))
    height, width = truth.shape[:2]
    side = min(DETAIL, height, width) // super_resolution.SCALE * super_resolution.SCALE
    error = difference(stores[0].image(stores[0].row(clip, number)), truth)
    mean = cv2.boxFilter(error, -1, (side, side), anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)
    y, x = np.unravel_index(
        int(mean[: height - side + 1, : width - side + 1].argmax()), (height - side + 1, width - side + 1)
    )
    top, left = (int(n) // super_resolution.SCALE * super_resolution.SCALE for n in (y, x))
    part = (slice(top, top + side), slice(left, left + side))

    def blocks(image: np.ndarray) -> np.ndarray:
        eight = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
        return eight.repeat(super_resolution.SCALE, 0).repeat(super_resolution.SCALE, 1)

    def enlarged(image: np.ndarray) -> np.ndarray:
        factor = ((WIDTH - GAP) // ABREAST - GAP) // side
        return image.repeat(factor, 0).repeat(factor, 1)

    def scene(store: Store) -> Iterator[np.ndarray]:
        return (display(store.image(store.row(clip, n))) for n in numbers)

    shown: dict[str, Iterator[np.ndarray]] = {
        "low resolution": map(blocks, super_resolution.low_resolution(frames, low, clip))
    }
    shown |= {label: scene(store) for label, store in upscaled.items()}
    shown["truth"] = scene(frames)
    parts: list[Cell] = []
    profiles: list[Cell] = []
    for label, images in shown.items():
        lines = []
        for at, image in zip(numbers, images, strict=True):
            if at == number:
                parts.append((label, enlarged(image[part])))
            lines.append(image[top + side // 2, part[1]])
        middle = lines[max(len(lines) - DETAIL, 0) // 2 :][:DETAIL]
        profiles.append(("through time", enlarged(np.stack(middle))))
    bands = zip(wrap(parts, ABREAST), wrap(profiles, ABREAST), strict=True)
    rows = [row + [("", None)] * (ABREAST - len(row)) for band in bands for row in band]
    title = (
        f"{clip}, frame {number}: {side}x{side} px at x {left}, y {top}; below, its middle row of pixels through time"
    )
    write_image(path, sheet(rows, title))


class _Window:
    """The true frames of one window of a prediction store, by step: 0 is the last one given, 1 the first predicted."""

    def __init__(self, frames: Store, name: str, first: int, context: int, horizon: int) -> None:
        self.clip, _, start = name.rpartition(":")
        if self.clip not in frames.clips or not start.isdigit():
            raise RetakeError(f"{frames.path} has no clip for the window {name!r}: the predictions are of other frames")
        self.name, self.frames = name, frames
        self.given = range(1 - context, 1)
        self._rows = frames.clips[self.clip][int(start) + first :][: context + horizon]
        if len(self._rows) < context + horizon:
            raise RetakeError(f"{frames.path}: {self.clip} ends before the window {name!r}: remake the predictions")

    def _at(self, step: int) -> int:
        return self._rows[step + len(self.given) - 1]

    def image(self, step: int) -> np.ndarray:
        """Return the true frame of a step, (height, width, 3) uint8."""
        return display(self.frames.image(self._at(step)))

    def number(self, step: int) -> int:
        """Return the frame's own number in its clip."""
        return int(self.frames.frame[self._at(step)])


def _frames_of(store: Store) -> Store:
    """Return the frame store that a flow or prediction store was made from."""
    frames = Store(store.meta["frames"])
    if frames.identity != store.meta["data"]:
        raise RetakeError(
            f"{frames.path} was made anew after {store.path}: make that again with `snakemake {store.path}`"
        )
    return frames


def _scale(store: Store, rows: range) -> float:
    """Return one scale, px, for all fields of a clip: four in five have theirs below it, so no outlier rules."""
    return float(np.percentile([colours.scale_of(store.image(row)) for row in rows], 80))


def _nearest(clip: str, store: Store) -> str:
    match = difflib.get_close_matches(clip, store.clips, n=1, cutoff=0)
    return (
        f"did you mean {match[0]!r}? `python -m pipeline.view {store.path}` lists them all" if match else "it is empty"
    )


def _safe(clip: str) -> Path:
    """Return a clip's name as a relative folder."""
    parts = [part.replace(":", "_") for part in clip.split("/") if part not in ("", ".", "..")]
    return Path(*parts) if parts else Path("clip")


def _folder(path: Path, kind: str | None) -> Path:
    """Return data/view/ and what follows the last `data/` in the store's path; exports apart from pictures."""
    parts = path.with_suffix("").parts
    below = parts[::-1].index("data") if "data" in parts else 1
    return Path("data/view", *([f"as_{kind}"] if kind else []), *parts[len(parts) - below :])


if __name__ == "__main__":
    run(main, "view")
