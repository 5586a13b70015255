"""How fast PNGs are decoded and their data inflated by the packages that are installed: numbers of bench/tried.md.

    pip install imagecodecs pyspng zlib-ng isal      # into an environment of its own, beside this project's packages
    python -m bench.decoders data/raw/kitti/2011_09_26

Every decoder in turn, one thread, CPU time of the process; ratios are medians of OpenCV's time over each one's.
"""

from __future__ import annotations

import importlib
import struct
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

ROUNDS, FILES = 15, 20


def main() -> None:
    cv2.setNumThreads(1)
    files = [path.read_bytes() for path in sorted(Path(sys.argv[1]).rglob("*.png"))[:FILES]]
    spent: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, decode, given in ways(files):
            start = time.process_time()
            for data in given:
                decode(data)
            spent.setdefault(name, []).append((time.process_time() - start) / len(given))
    for name, seconds in spent.items():
        ratio = np.median(np.array(spent["OpenCV"]) / seconds)
        print(f"{name:24} {1000 * np.median(seconds):6.2f} ms a file, {ratio:.2f} times as fast as OpenCV")


def ways(files: list[bytes]) -> list[tuple[str, Callable[[Any], Any], list[Any]]]:
    """Return name, function and what it is given, of each decoder and inflater that is installed."""
    inner = [compressed(data) for data in files]
    found: list[tuple[str, Callable[[Any], Any], list[Any]]] = [
        ("OpenCV", lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), files),
        ("zlib, inflating", zlib.decompress, inner),
    ]
    for module, function, given in (
        ("imagecodecs", "png_decode", files),
        ("imagecodecs", "spng_decode", files),
        ("pyspng", "load", files),
        ("zlib_ng.zlib_ng", "decompress", inner),
        ("isal.isal_zlib", "decompress", inner),
    ):
        try:
            found.append((f"{module}.{function}", getattr(importlib.import_module(module), function), given))
        except ImportError:
            continue
    return found


def compressed(data: bytes) -> bytes:
    """Return the deflated pixels of a PNG."""
    place, parts = 8, []
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        if data[place + 4 : place + 8] == b"IDAT":
            parts.append(data[place + 8 : place + 8 + length])
        place += length + 12
    return b"".join(parts)


if __name__ == "__main__":
    main()
