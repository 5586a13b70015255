"""Contact sheets: captioned pictures in rows, with maps of errors and their legends."""

from __future__ import annotations

import functools
import textwrap
from typing import Any

import cv2
import numpy as np

from pipeline.drawing import colours
from pipeline.store.frames import Store

WIDTH = 1600  # px, of sheets and pictures
GAP = 8  # px between cells
TALLEST = 320  # px, of a cell
ERROR_SCALE = 0.25  # of the range: the brightest colour of an error map

# A cell of a sheet: its caption, and the image or None to leave the place empty.
Cell = tuple[str, np.ndarray | None]


def sheet(rows: list[list[Cell]], title: str, footer: np.ndarray | None = None) -> np.ndarray:
    """Return captioned cells in rows, (height, width <= `WIDTH`, 3) uint8, with a title above and `footer` below.

    Images are reduced to fit; small ones are enlarged by a whole factor, so that every pixel stays visible.
    """
    columns = max(len(row) for row in rows)
    room = (WIDTH - GAP) // columns - GAP
    small = [[(caption, _fit(image, room)) for caption, image in row] for row in rows]
    cells = [image for row in small for _, image in row if image is not None]
    cell = max(image.shape[1] for image in cells)
    line, head = 22, 34
    heights = [max((i.shape[0] for _, i in row if i is not None), default=0) + line + GAP for row in small]
    width = max(columns * (cell + GAP) + GAP, 0 if footer is None else footer.shape[1] + 2 * GAP)
    below = 0 if footer is None else footer.shape[0] + GAP
    canvas = np.full((head + sum(heights) + below, width, 3), 255, np.uint8)
    texts = [(GAP, GAP, 18, _shorten(title, 18, width - 2 * GAP))]
    y = head
    for row, height in zip(small, heights, strict=True):
        for column, (caption, image) in enumerate(row):
            if image is not None:
                x = GAP + column * (cell + GAP)
                texts.append((x, y + 2, 15, _shorten(caption, 15, cell)))
                canvas[y + line : y + line + image.shape[0], x : x + image.shape[1]] = image
        y += height
    if footer is not None:
        canvas[y : y + footer.shape[0], GAP : GAP + footer.shape[1]] = footer
    return _write(canvas, texts)


def with_lines(picture: np.ndarray, lines: list[str]) -> np.ndarray:
    """Return a picture, (height, width, 3) uint8, with lines of text below it, wrapped to its width."""
    size, step = 13, 18
    room = picture.shape[1] - 2 * GAP
    characters = max(int(room / _font(size).getlength("n")), 20)
    wrapped = [part for line in lines for part in textwrap.wrap(line, characters, subsequent_indent="    ")]
    below = np.full((step * len(wrapped) + GAP, picture.shape[1], 3), 255, np.uint8)
    texts = [(GAP, step * i, size, _shorten(line, size, room)) for i, line in enumerate(wrapped)]
    return np.concatenate([picture, _write(below, texts)])


def legend(scale: float) -> np.ndarray:
    """Return the colour wheel of `flow.colours` with its scale, (height, width, 3) uint8."""
    radius = 55
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float32)
    wheel = colours.colours(np.dstack([x, y]) * np.float32(scale / radius), scale)
    wheel[np.hypot(x, y) > radius] = 255
    canvas = np.full((wheel.shape[0], 430, 3), 255, np.uint8)
    canvas[:, : wheel.shape[1]] = wheel
    lines = [f"rim: {scale:.1f} px a frame", "hue: direction of motion from the centre", "darker: faster than the rim"]
    if scale < 10:
        lines[0] = f"rim: {scale:.2f} px a frame"
    lines.append("black: no flow known")
    return _write(canvas, [(wheel.shape[1] + 14, 8 + 24 * i, 15, text) for i, text in enumerate(lines)])


def error_map(error: np.ndarray) -> np.ndarray:
    """Return an error (height, width), in parts of the range, as a picture: 0 is black, `ERROR_SCALE` the brightest."""
    level = np.rint(np.minimum(error / ERROR_SCALE, 1) * 255).astype(np.uint8)
    return cv2.applyColorMap(level, cv2.COLORMAP_INFERNO)[..., ::-1]


def error_legend() -> np.ndarray:
    """Return the bar that explains `error_map`, (height, width, 3) uint8."""
    canvas = np.full((22, 520, 3), 255, np.uint8)
    ramp = np.tile(np.linspace(0, ERROR_SCALE, 200, dtype=np.float32), (14, 1))
    canvas[4:18, 20:220] = error_map(ramp)
    text = f"{ERROR_SCALE:.0%} of the range or more, mean of R, G, B"
    return _write(canvas, [(4, 2, 15, "0"), (228, 2, 15, text)])


def display(image: np.ndarray) -> np.ndarray:
    """Return a stored image as 8 bits, rounded."""
    return image if image.dtype == np.uint8 else ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)


def difference(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the absolute error, mean over the channels, (height, width) float32 in parts of the range."""
    levels = [image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max) for image in (predicted, truth)]
    return np.abs(levels[0] - levels[1]).mean(axis=-1)


def error_cell(step: int, error: np.ndarray) -> Cell:
    """Return the map of a step's error, its mean in the caption."""
    return f"error {step_name(step)}, mean {error.mean():.2%}", error_map(error)


def step_name(step: int) -> str:
    """Return what captions call a step: "t+3", "t-1"; "t" for 0, the last frame that is given."""
    return f"t{step:+d}" if step else "t"


def spread(items: Any, count: int) -> list[Any]:
    """Return at most `count` of the items, evenly spread, the first and the last among them."""
    places = np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int))
    return [items[int(place)] for place in places]


def wrap(cells: list[Cell], columns: int = 0) -> list[list[Cell]]:
    """Return cells in rows of 4 wide or 6 narrow ones, or of `columns`."""
    if not columns:
        shape = next(image.shape for _, image in cells if image is not None)
        columns = 4 if shape[1] > 1.5 * shape[0] else 6
    return [cells[i : i + columns] for i in range(0, len(cells), columns)]


def title_of(store: Store, clip: str) -> str:
    """Return a sheet's title: the store, the clip, how many images of which size."""
    height, width = store.size[store.clips[clip][0]]
    what = "fields" if store.meta["channels"] == 2 else "images"
    return f"{store.path}   {clip}   {len(store.clips[clip])} {what} of {width}x{height}"


def _fit(image: np.ndarray | None, room: int) -> np.ndarray | None:
    if image is None:
        return None
    height, width = image.shape[:2]
    scale = min(room / width, TALLEST / height)
    size = (width * int(scale), height * int(scale)) if scale >= 1 else (int(width * scale), int(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_NEAREST if scale >= 1 else cv2.INTER_AREA)


@functools.cache
def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _write(canvas: np.ndarray, texts: list[tuple[int, int, int, str]]) -> np.ndarray:
    """Return the canvas with texts (x, y of the upper left corner, size in px, words)."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    for x, y, size, words in texts:
        draw.text((x, y), words, font=_font(size), fill=(30, 30, 30))
    return np.asarray(image)


def _shorten(words: str, size: int, room: int) -> str:
    """Return the words, their middle left out where they are wider than `room` px."""
    if _font(size).getlength(words) <= room:
        return words
    keep = len(words)
    while keep > 2 and _font(size).getlength(words[: keep // 2] + "…" + words[-(keep // 2) :]) > room:
        keep -= 1
    return words[: keep // 2] + "…" + words[-(keep // 2) :]
