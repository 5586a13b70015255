"""Look at a store: its clips; or one clip as PNGs, a sheet and an MP4, flow in colours, predictions beside the truth.

    python -m pipeline.view data/frames/kitti/test.arrow                        # metadata and clips
    python -m pipeline.view data/frames/kitti/test.arrow --clip CLIP
    python -m pipeline.view data/flow/dis/kitti/test.arrow --clip CLIP          # colours of Baker et al., and a legend
    python -m pipeline.view data/predictions/kitti/dmvfn.arrow --clip CLIP:START
    python -m pipeline.view data/predictions/vid4/tecogan.arrow --clip SCENE
    python -m pipeline.view data/flow/dis/kitti/test.arrow --format flo         # every field (of --clip) as a file
    python -m pipeline.view data/flow/arflow_sky/sky_timelapse_arflow/train.arrow --format npy --output flow/sky_train
    python -m pipeline.view data/predictions/kitti/dmvfn.arrow --format npy     # floats in [0,1], not rounded to 8 bits

Frames go alone to the folder `--output`, which `upscale` and `evaluate` take, or to one under `data/view/` with the
store's and the clip's name. Sheet, video, legend and maps of errors go to a folder beside it, whose name ends in
`_sheets`. Nothing in `--output` is overwritten. Only the rows that are shown are read.
"""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from pipeline import tasks
from pipeline.drawing.encode import write_video
from pipeline.drawing.images import write_image
from pipeline.drawing.sheets import (
    Cell,
    display,
    sheet,
    spread,
    title_of,
    wrap,
)
from pipeline.errors import RetakeError, log, progress, run
from pipeline.outputs import unused_folder
from pipeline.store.flow import write_npy
from pipeline.store.frames import Store
from pipeline.tables.text import visible

SHEET = 24  # frames on a contact sheet
RATE = 10  # frames a second of an MP4


def main() -> None:
    """Parse the command line; list the store, show a clip, or export flow."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path, help="an .arrow file of data/frames, data/flow or data/predictions")
    parser.add_argument("--clip", help="the clip (of predictions: the window, CLIP:START); without it they are listed")
    parser.add_argument("--output", type=Path, help="folder to write to (default: under data/view/)")
    parser.add_argument(
        "--format",
        choices=["flo", "kitti", "npy", "png"],
        help="write files of this format, no sheet: flow as any of them, frames and predictions as npy, RGB in [0,1]",
    )
    args = parser.parse_args()
    if args.store.suffix != ".arrow":
        raise RetakeError(
            f"{args.store} is no store: give an .arrow file of data/frames, data/flow or data/predictions"
        )
    store = Store(args.store)
    if args.clip is not None and args.clip not in store.clips:
        raise RetakeError(f"{store.path} has no clip {args.clip!r}: {_nearest(args.clip, store)}")
    if args.format not in (None, "npy") and store.meta["channels"] != 2:
        raise RetakeError(
            f"{store.path} is not a flow store: --format {args.format} is for those; images are given as npy"
        )
    if args.clip is None and not args.format:
        describe(store)
        return
    clips = list(store.clips) if args.clip is None else [args.clip]
    base = args.output or _folder(store.path, args.format)
    sheets = base.with_name(f"{base.name}_sheets")
    for folder in (args.output, sheets) if args.output else ():
        unused_folder(folder)
    folders = _folders(store)
    for clip in progress(clips, unit="clip", desc="view") if len(clips) > 1 else clips:
        inner = Path() if args.output and args.clip is not None else folders[clip]
        if not args.output:
            _clear(base / inner)
        if args.format and store.meta["channels"] != 2:
            export(store, clip, base / inner)
        elif args.format:
            tasks.part("flow", "view").export(store, clip, args.format, base / inner)
        else:
            shown(store)(store, clip, base / inner, sheets / inner)
            log.info("sheet and video: %s", sheets / inner)
    log.info("wrote %s", base / inner if len(clips) == 1 else base)


def shown(store: Store) -> Callable[[Store, str, Path, Path], None]:
    """Return what writes a clip of this store for people: as its task does; flow is also made ahead of any task."""
    if store.meta["channels"] == 2:
        return tasks.part("flow", "view").show
    return tasks.part(store.meta["task"], "view").show if "task" in store.meta else show_frames


def describe(store: Store) -> None:
    """Print the metadata and, for each clip, its name, number of frames and size."""
    print(json.dumps(store.meta, indent=2, sort_keys=True))
    print(f"{store.path}: {len(store)} images in {len(store.clips)} clips, sha256 {store.identity}")
    for clip, rows in store.clips.items():
        height, width = store.size[rows[0]]
        print(f"{visible(clip)}  {len(rows)} frames  {width}x{height}")


def show_frames(store: Store, clip: str, folder: Path, sheets: Path) -> None:
    """Write every frame of a clip as `<frame>.png` to `folder`, `sheet.png` and `clip.mp4` to `sheets`."""
    rows = store.clips[clip]

    def images() -> Iterator[np.ndarray]:
        for row in progress(rows, unit="frame", desc="frames"):
            image = display(store.image(row))
            write_image(folder / f"{store.frame[row]:010d}.png", image)
            yield image

    write_video(sheets / "clip.mp4", images(), RATE)
    cells: list[Cell] = [(f"{store.frame[row]}", display(store.image(row))) for row in spread(rows, SHEET)]
    write_image(sheets / "sheet.png", sheet(wrap(cells), title_of(store, clip)))


def export(store: Store, clip: str, folder: Path) -> None:
    """Write every image of a clip as `<frame>.npy`, (height, width, 3) float32 RGB in [0,1], just what the store holds.

    Of several samples those after the first are `<frame>_sample<s>.npy`.
    """
    for row in progress(store.clips[clip], unit="frame", desc="npy", leave=False):
        image, sample = store.image(row), int(store.sample[row])
        name = f"{store.frame[row]:010d}" + (f"_sample{sample}" if sample else "")
        write_npy(folder / f"{name}.npy", image / np.iinfo(image.dtype).max)


def _nearest(clip: str, store: Store) -> str:
    match = difflib.get_close_matches(clip, store.clips, n=1, cutoff=0)
    return (
        f"did you mean {match[0]!r}? `python -m pipeline.view {store.path}` lists them all" if match else "it is empty"
    )


def _folders(store: Store) -> dict[str, Path]:
    """Return the folder of each clip, no two the same, nor on a disk that does not tell capitals."""
    folders: dict[str, Path] = {}
    taken: set[str] = set()
    for number, clip in enumerate(store.clips):
        folder = _safe(clip)
        while str(folder).casefold() in taken:
            folder = folder.with_name(f"{folder.name}_{number}")
        taken.add(str(folder).casefold())
        folders[clip] = folder
    return folders


def _clear(folder: Path) -> None:
    """Remove the files of a folder below data/view: frames of an older store would be taken for this one's."""
    for file in folder.iterdir() if folder.is_dir() else ():
        if file.is_file():
            file.unlink()


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
