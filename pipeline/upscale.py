"""Upscale a video, or a folder of PNG or JPEG frames, with a super-resolution model.

    python -m pipeline.upscale clip.mp4 --checkpoint data/weights/model.zip --output large.mp4
    python -m pipeline.upscale frames/ --checkpoint data/checkpoints/frvsr/tecogan_train.pt --output large/

Decoding, network and encoding overlap, and memory does not grow with the length. A video keeps its frame rate, time
stamps from its start on, colours and, where the container allows it, sound and subtitles with their languages; frames keep
their names. Interlaced and damaged videos are refused, with the command that mends them. A folder that was begun and not
finished is gone on with by the same command: beside the frames lies the network's state (`.upscale.pt`), so the frames
are those that an undisturbed run makes. Values are rounded to 8 bits; the published script cuts them off.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import json
import math
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
from pydantic import ValidationError

from pipeline import compute, params, tasks, weights
from pipeline.atomic import write_bytes
from pipeline.drawing import encode
from pipeline.errors import RetakeError, log, progress, run
from pipeline.outputs import unused, unused_folder
from pipeline.params import Model, Params
from pipeline.sources import video
from pipeline.sources.archives import CutOff, Damaged, Member
from pipeline.sources.images import frame_name, image_files, read_frame

DEFAULT = "tecogan_published"
STATE = ".upscale.pt"
SAVE_EVERY = 10.0  # seconds of work that a killed run into a folder may lose
AHEAD = 4  # frames that wait between two stages
RATE = 25  # frames a second of a video made of images
RATES = (Fraction(1, 1000), Fraction(1000))  # frames a second, from and to

T = TypeVar("T")


def main() -> None:
    """Parse the command line and upscale."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, metavar="VIDEO_OR_FOLDER", help="a video, or a folder of frames")
    parser.add_argument(
        "--output", type=Path, required=True, help="a video (.mp4, .mov or .mkv), or a folder for PNG frames"
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        help="one of data/checkpoints, or a published TensorFlow checkpoint (default: what the model names in params.yaml)",
    )
    parser.add_argument(
        "--model", help=f"entry of `models` in params.yaml (default: the one that the checkpoint is of, or {DEFAULT})"
    )
    parser.add_argument(
        "--tile", type=int, help="side of tiles, source pixels, where whole frames do not fit in memory"
    )
    parser.add_argument(
        "--rate",
        type=_rate,
        default=Fraction(RATE),
        help=f"frames a second of a video made of images (default: {RATE})",
    )
    args = parser.parse_args()
    upscale(params.load(), args.source, args.output, args.checkpoint, args.model, args.tile, args.rate)


def _rate(text: str) -> Fraction:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number or fraction of frames a second, such as 30000/1001"
        ) from None


def upscale(
    p: Params,
    source: Path,
    output: Path,
    checkpoint: Path | None = None,
    name: str | None = None,
    tile: int | None = None,
    rate: Fraction = Fraction(RATE),
) -> None:
    """Write the frames of `source`, four times as large, to `output`.

    Raises RetakeError for a source that cannot be read, an output that exists (but a folder of ours that is not
    finished), a checkpoint that does not fit, frames that change size or are too small, a video that is interlaced or
    damaged in its middle. Of a video that is cut off the frames before the cut are written, with a warning.
    """
    if not RATES[0] <= rate <= RATES[1]:
        raise RetakeError(f"--rate {str(rate)[:20]}: frames a second are from {RATES[0]} to {RATES[1]}")
    to_video = output.suffix.lower() in encode.SUFFIXES
    _check_output(output, to_video)
    clip = _folder(source, rate) if source.is_dir() else _video(source)
    model, checkpoint = _model(p, name, checkpoint, tile)
    device = compute.device(p)
    network, digest = weights.load_model(model, checkpoint, device)
    done, key, state = 0, "", None
    if not to_video:
        settings = [clip.identity(), digest, model.model_dump(mode="json"), p.compute.model_dump(mode="json")]
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        done, whole, state = _resume(output, key)
        if whole:
            log.info("all %d frames are in %s already", done, output)
            return
    started, made, size = time.monotonic(), 0, (0, 0)
    with contextlib.closing(ahead(_network(p, model, network, clip, done, state, device), AHEAD)) as results:
        bar = progress(results, total=clip.count, initial=done, unit="frame", desc="upscale")
        for result in _write_video(clip, output, bar) if to_video else _write_folder(clip, output, bar, done, key):
            made, size = made + 1, result.image.shape[:2]
    if clip.cut:
        log.warning("%s: they are in %s", clip.cut, output)
    spent = time.monotonic() - started
    log.info("wrote %d frames of %dx%d, %.2f a second: %s", made, size[1], size[0], made / spent, output)


class Frame(NamedTuple):
    """A frame to be upscaled: the name of its PNG, (height, width, 3) uint8 RGB, how it was shown in a video."""

    name: str
    image: np.ndarray
    shown: video.Shown | None


class Result(NamedTuple):
    """An upscaled frame, uint8; now and then (`save`) with the network's state behind it, None for a model without."""

    frame: Frame
    image: np.ndarray
    save: bool
    state: Any


@dataclass
class Clip:
    """What is upscaled. `frames(n)` yields its frames from number n on; `cut`: why there are no more than `seen`.

    `tracks`: the video whose sound and subtitles go into the output.
    """

    path: Path
    identity: Callable[[], list[Any]]
    count: int
    rate: Fraction
    read: Callable[[int], Iterator[Frame]]
    tracks: Path | None = None
    cut: str = ""
    seen: int = 0
    size: tuple[int, ...] = field(default=())

    def frames(self, first: int) -> Iterator[Frame]:
        """Yield the frames from number `first` on; raises RetakeError when there is none, or their size changes."""
        self.seen = first
        try:
            for frame in self.read(first):
                size = frame.image.shape[:2]
                if self.size and size != self.size:
                    (height, width), (rows, columns) = size, self.size
                    raise RetakeError(
                        f"{self.path}: frame {frame.name} is {width}x{height}, those before are {columns}x{rows}: a video "
                        "has one size; split it where the size changes"
                    )
                self.size = size
                self.seen += 1
                yield frame
        except Damaged:
            raise
        except CutOff as error:
            self.cut = str(error)


# In


def _folder(path: Path, rate: Fraction) -> Clip:
    files = image_files(path)
    if not files:
        raise RetakeError(f"{path} holds no PNG or JPEG images: give a folder of frames, or a video")

    def read(first: int) -> Iterator[Frame]:
        with ThreadPoolExecutor(2) as pool:
            for file, image in in_order(pool, read_frame, files[first:]):
                yield Frame(frame_name(file), image, None)

    return Clip(path, lambda: [[file.name, _sha256(file)] for file in files], len(files), rate, read)


def _video(path: Path) -> Clip:
    if not path.is_file():
        raise RetakeError(f"no video or folder {path}: check the name")
    said = video.info(path)

    def read(first: int) -> Iterator[Frame]:
        for number, image, shown in video.shown(Member(path.parent, path.name)):
            if number >= first:
                yield Frame(f"{number:06d}", image(), shown)

    return Clip(path, lambda: [path.name, _sha256(path)], said.packets, said.rate, read, path)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


# Network


def _model(p: Params, name: str | None, checkpoint: Path | None, tile: int | None) -> tuple[Model, Path | None]:
    """Return the entry of params.yaml, tiles set, and its checkpoint."""
    if name is None:
        made_by = weights.params_of(checkpoint) if checkpoint is not None else {}
        name = next((key.split(".")[1] for key in made_by if key.endswith(".kind")), DEFAULT)
    model = tasks.model(p, name, "super_resolution")
    if tile is not None:
        if "tile" not in type(model.predict).model_fields:
            raise RetakeError(f"{name} knows no tiles: leave --tile out")
        try:
            settings = type(model.predict).model_validate({**model.predict.model_dump(), "tile": tile})
        except ValidationError as error:
            raise RetakeError(f"--tile {tile}: {error.errors()[0]['msg']}") from None
        model = model.model_copy(update={"predict": settings})
    return model, weights.chosen(name, model, checkpoint if model.has_weights else None)


def _network(p: Params, model: Model, network: Any, clip: Clip, done: int, state: Any, device: str) -> Iterator[Result]:
    """Yield the upscaled frames of a clip from number `done` on."""
    import torch

    waiting: collections.deque[Frame] = collections.deque()

    def tensors() -> Iterator[Any]:
        for frame in ahead(clip.frames(done), AHEAD):
            waiting.append(frame)
            yield torch.from_numpy(frame.image).to(device).permute(2, 0, 1)[None].float() / 255

    compute.lay_out(p, network)
    first, saved = not done, time.monotonic()
    try:
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=p.compute.precision == "bf16-mixed"):
            for output, behind in network.predict_from(state, tensors()):
                if first:
                    for _ in range(network.skipped(len(waiting))):
                        waiting.popleft()
                        saved = math.inf  # of five frames at most, which are numbered otherwise: never gone on with
                first = False
                save = time.monotonic() - saved >= SAVE_EVERY
                saved = time.monotonic() if save else saved
                if not torch.isfinite(output).all():
                    raise RetakeError(f"{clip.path}: the network gives NaN or infinity for frame {waiting[0].name}")
                image = (output[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().cpu().numpy()
                yield Result(waiting.popleft(), image, save, behind if save else None)
    except torch.OutOfMemoryError as error:
        raise RetakeError(f"{clip.path}: frames of this size do not fit in memory: give --tile 256 ({error})") from None
    if first:
        raise RetakeError(
            clip.cut
            or f"{clip.path}: as published a clip of {clip.seen} frames has no output: take published_dropping out of the "
            "model's quirks in params.yaml"
        )


# Out


def _check_output(output: Path, to_video: bool) -> None:
    if to_video:
        unused(output)
    elif output.suffix and not output.is_dir():
        raise RetakeError(f"--output {output}: a folder, or a video ({', '.join(encode.SUFFIXES)})")
    elif not (output / STATE).is_file():
        unused_folder(output)


def _write_video(clip: Clip, output: Path, results: Iterable[Result]) -> Iterator[Result]:
    """Write each frame to a video and yield it."""
    with encode.Encoder(output, clip.rate, source=clip.tracks) as film:
        for result in results:
            film.add(result.image, result.frame.shown, result.frame.image.shape[0])
            yield result


def _write_folder(clip: Clip, output: Path, results: Iterable[Result], done: int, key: str) -> Iterator[Result]:
    """Write each frame to a folder and yield it; now and then the state behind the last one."""
    output.mkdir(parents=True, exist_ok=True)

    def save(whole: bool = False, state: Any = None) -> None:
        weights.save(output / STATE, {"key": key, "done": done, "whole": whole, "state": state})

    if not done:
        save()
    with ThreadPoolExecutor(2) as pool:
        for result, data in in_order(pool, _png, results):
            write_bytes(output / f"{result.frame.name}.png", data)
            done += 1
            if result.save:
                save(state=result.state)
            yield result
    save(whole=True)


def _png(result: Result) -> bytes:
    good, data = cv2.imencode(".png", result.image[..., ::-1])
    assert good
    return data.tobytes()


def _resume(output: Path, key: str) -> tuple[int, bool, Any]:
    """Return how many frames of a folder are done, whether those are all, and the state behind them."""
    if not (output / STATE).is_file():
        return 0, False, None
    try:
        tree: Any = weights.load_tree(output / STATE)
        begun, done, whole, state = (tree[name] for name in ("key", "done", "whole", "state"))
    except (RetakeError, LookupError, TypeError) as error:
        raise RetakeError(
            f"{output / STATE}, which says how far an earlier run came, is damaged ({error}): give another --output"
        ) from None
    if begun != key:
        raise RetakeError(
            f"{output} was begun with another source, checkpoint, model or compute settings: go on with those, or give "
            "another --output"
        )
    count = sum(1 for file in output.glob("*.png"))
    if count < done:
        raise RetakeError(
            f"{output} holds {count} images, {done} were written: put the others back, or give another --output"
        )
    if done and not whole:
        log.info("going on behind frame %d: %s", done, output)
    return done, whole, state


# Threads


def ahead(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """Yield `items`, which are made in a thread of their own; at most `depth` of them wait."""
    waiting: queue.Queue[tuple[bool, Any]] = queue.Queue(depth)
    stop = threading.Event()

    def put(entry: tuple[bool, Any]) -> bool:
        while not stop.is_set():
            try:
                waiting.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        made, end = iter(items), None
        try:
            for item in made:
                if not put((True, item)):
                    break
        except BaseException as error:
            end = error
        if hasattr(made, "close"):
            made.close()
        put((False, end))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            more, item = waiting.get()
            if more:
                yield item
            elif item is None:
                return
            else:
                raise item
    finally:
        stop.set()
        thread.join()


def in_order(pool: ThreadPoolExecutor, function: Callable[[Any], T], items: Iterable[Any]) -> Iterator[Any]:
    """Yield (item, function(item)) made in a pool, in the order of the items; at most `AHEAD` of them wait."""
    waiting: collections.deque[tuple[Any, Future[T]]] = collections.deque()
    for item in items:
        waiting.append((item, pool.submit(function, item)))
        if len(waiting) > AHEAD:
            first, done = waiting.popleft()
            yield first, done.result()
    for first, done in waiting:
        yield first, done.result()


if __name__ == "__main__":
    run(main, "upscale")
