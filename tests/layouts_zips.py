"""Tiny archives of the datasets that are zips of images or videos, in their true layouts and names; tiny videos."""

from __future__ import annotations

import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from pipeline import params
from tests.layouts import encoded, make_zip, picture

BITS = 6  # a coded frame shows its number in so many bars


def entry(kind: str, **changes: Any) -> Any:
    """Return the params of an entry of a dataset, with the frames' own size by default."""
    values = {"kind": kind, "height": None, "width": None, "codec": "png", "archives": "present", **changes}
    return params.registry("datasets")[kind].Params.model_validate(values)


# Videos


def coded(number: int, height: int = 32, width: int = 48) -> np.ndarray:
    """Return a frame, (height, width, 3) uint8, whose black and white bars say its number, through any codec."""
    bars = [number >> bit & 1 for bit in range(BITS)]
    row = np.repeat(bars, width // BITS).astype(np.uint8)
    return np.broadcast_to(np.pad(row, (0, width - len(row)))[None, :, None] * 255, (height, width, 3)).copy()


def number(image: np.ndarray) -> int:
    """Return the number that a frame of `coded` shows."""
    width = image.shape[1] // BITS
    bars = image[2:-2].astype(float).mean(axis=(0, 2))
    return sum(int(bars[bit * width : (bit + 1) * width].mean() > 128) << bit for bit in range(BITS))


def write_video(
    path: Path,
    frames: Iterable[np.ndarray],
    codec: str = "mpeg4",
    *,
    pixels: str = "yuv420p",
    times: Sequence[int] | None = None,
    bframes: int = 2,
    options: Mapping[str, str] | None = None,
) -> Path:
    """Write a video of frames (H, W, 3) uint8; `times`: when each is shown, in 1/100 s, instead of 25 a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=dict(options or {})) as container:
        stream: Any = None
        for i, image in enumerate(frames):
            if stream is None:
                more = (
                    {"x264-params": "b-adapt=0:scenecut=0"} if codec == "libx264" else {}
                )  # B-frames, whatever is seen
                stream = container.add_stream(codec, rate=25 if times is None else 100, options=more)
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt = pixels
                stream.codec_context.max_b_frames = bframes
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[i], Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def turned(mp4: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """Return an MP4 whose picture is to be shown turned: (a, b, c, d) of its track's display matrix."""
    at = mp4.index(b"tkhd") + 4
    at += 4 + (36 if mp4[at] == 0 else 48)
    a, b, c, d = (value << 16 for value in matrix)
    return mp4[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + mp4[at + 36 :]


def video_bytes(frames: Iterable[np.ndarray], folder: Path, **options: Any) -> bytes:
    """Return an AVI as UCF101 has them."""
    return write_video(folder / "clip.avi", frames, **options).read_bytes()


# Archives


def huge_zip(path: Path, names: Iterable[str], data: bytes) -> Path:
    """Write a zip of millions of members that all hold `data`; the zipfile module would take minutes and gigabytes."""
    crc, size, count, at = zlib.crc32(data), len(data), 0, 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as out, tempfile.TemporaryFile() as directory:
        for name in map(str.encode, names):
            fields = struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 0x21, crc, size, size, len(name), 0)
            out.write(b"PK\x03\x04" + fields + name + data)
            directory.write(b"PK\x01\x02\x14\x03" + fields + struct.pack("<HHHII", 0, 0, 0, 0o644 << 16, at) + name)
            at += 30 + len(name) + size
            count += 1
        length = directory.tell()
        directory.seek(0)
        shutil.copyfileobj(directory, out, 1 << 20)
        out.write(struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, length, at))
        out.write(struct.pack("<4sIQI", b"PK\x06\x07", 0, at + length, 1))
        out.write(struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, length, at, 0))
    return path


def numbered(prefix: str, numbers: Iterable[int], digits: int, suffix: str, data: bytes) -> dict[str, bytes]:
    """Return members `<prefix><number>.<suffix>`."""
    return {f"{prefix}{n:0{digits}d}.{suffix}": data for n in numbers}


def cityscapes_zip(folder: Path, snippets: Mapping[str, Sequence[tuple[int, int]]], image: bytes = b"") -> Path:
    """Write the zip with snippets of 30: "train/aachen" -> [(sequence, number of the first frame)]."""
    members = {"license.txt": b"", "README": b""}
    for place, some in snippets.items():
        city = place.split("/")[1]
        members[f"leftImg8bit_sequence/{place}/"] = b""
        for sequence, first in some:
            for n in range(first, first + 30):
                members[f"leftImg8bit_sequence/{place}/{city}_{sequence:06d}_{n:06d}_leftImg8bit.png"] = image
    return make_zip(folder / "leftImg8bit_sequence_trainvaltest.zip", members)


def ucf_lists(folder: Path, train: Sequence[str], test: Sequence[str] = ()) -> Path:
    """Write the archive of UCF101's lists; clips "v_Archery_g01_c01"."""

    def text(clips: Sequence[str], label: str) -> bytes:
        return "".join(f"{clip.split('_')[1]}/{clip}.avi{label}\r\n" for clip in clips).encode()

    members = {f"ucfTrainTestlist/trainlist0{n}.txt": text(train if n == 1 else [], " 1") for n in (1, 2, 3)}
    members |= {f"ucfTrainTestlist/testlist0{n}.txt": text(test if n == 1 else [], "") for n in (1, 2, 3)}
    return make_zip(folder / "UCF101TrainTestSplits-RecognitionTask.zip", members)


def ucf_parts(folder: Path, clips: Mapping[str, Sequence[bytes]], extra: Mapping[str, bytes], parts: int) -> list[Path]:
    """Write the JPEG release: one zip cut into parts."""
    members = {"jpegs_256/": b""}
    for clip, frames in clips.items():
        members[f"jpegs_256/{clip}/"] = b""
        members |= {f"jpegs_256/{clip}/frame{n:06d}.jpg": data for n, data in enumerate(frames, 1)}
    whole = make_zip(folder / "ucf101_jpegs_256.zip", members | dict(extra))
    data = whole.read_bytes()
    whole.unlink()
    size = -(-len(data) // parts)
    paths = [folder / f"ucf101_jpegs_256.zip.{i + 1:03d}" for i in range(parts)]
    for i, path in enumerate(paths):
        path.write_bytes(data[i * size : (i + 1) * size])
    return paths


def davis_zip(folder: Path, clips: Mapping[str, Sequence[bytes]], resolution: str = "480p") -> Path:
    """Write the zip of train and val."""
    members = {"DAVIS/ImageSets/2017/val.txt": b"", "DAVIS/README.md": b""}
    for clip, frames in clips.items():
        members[f"DAVIS/JPEGImages/{resolution}/{clip}/"] = b""
        for n, data in enumerate(frames):
            members[f"DAVIS/JPEGImages/{resolution}/{clip}/{n:05d}.jpg"] = data
            members[f"DAVIS/Annotations/{resolution}/{clip}/{n:05d}.png"] = b""
    name = {"480p": "480p", "Full-Resolution": "Full-Resolution"}[resolution]
    return make_zip(folder / f"DAVIS-2017-trainval-{name}.zip", members)


def vimeo_zip(
    folder: Path, part: str, clips: Mapping[str, Sequence[bytes]], train: Iterable[str] = (), test: Iterable[str] = ()
) -> Path:
    """Write the zip of one part."""
    root = f"vimeo_{part}"
    members: dict[str, bytes] = {f"{root}/readme.txt": b""}
    for clip, frames in clips.items():
        where = f"{root}/{'target' if part == 'interp_test' else 'sequences'}/{clip}"
        members |= {f"{where}/im{n}.png": data for n, data in enumerate(frames, 1)}
        if part == "interp_test":
            members |= {f"{root}/input/{clip}/im{n}.png": b"" for n in (1, 3)}
    if part != "interp_test":
        for name, some in (("train", train), ("test", test)):
            members[f"{root}/{part[:3]}_{name}list.txt"] = "".join(f"{clip}\n" for clip in some).encode()
    return make_zip(folder / f"vimeo_{part}.zip", members)


def scenes_zip(path: Path, scenes: Mapping[str, Mapping[str, bytes]], root: str = "") -> Path:
    """Write a zip of scenes: name -> file -> bytes."""
    members = {f"{root}{scene}/": b"" for scene in scenes}
    return make_zip(
        path, members | {f"{root}{s}/{name}": data for s, some in scenes.items() for name, data in some.items()}
    )


def kitti_flow_zips(folder: Path, year: int, scenes: Mapping[str, bytes], flow: bytes) -> tuple[Path, Path]:
    """Write the pairs and the multi-view extension; `scenes`: id -> the image of all its frames."""
    name, left, right = {
        2012: ("stereo", "colored_0", "colored_1"),
        2015: ("scene", "image_2", "image_3"),
    }[year]
    pairs: dict[str, bytes] = {}
    views: dict[str, bytes] = {}
    for scene, image in scenes.items():
        for part in ("training", "testing"):
            pairs |= {f"{part}/{left}/{scene}_{n}.png": image for n in (10, 11)}
            views |= {f"{part}/{camera}/{scene}_{n:02d}.png": image for camera in (left, right) for n in range(21)}
        pairs |= {f"training/flow_{which}/{scene}_10.png": flow for which in ("occ", "noc")}
        pairs[f"training/disp_occ_0/{scene}_10.png"] = b""
    return (
        make_zip(folder / f"data_{name}_flow.zip", pairs),
        make_zip(folder / f"data_{name}_flow_multiview.zip", views),
    )


def flo(flow: np.ndarray) -> bytes:
    """Return flow (H, W, 2) as the bytes of a `.flo` file."""
    return struct.pack("<fii", 202021.25, flow.shape[1], flow.shape[0]) + flow.astype("<f4").tobytes()


def sintel_zip(
    folder: Path, scenes: Mapping[str, Sequence[bytes]], flows: Mapping[str, Sequence[bytes]], test: Iterable[str] = ()
) -> Path:
    """Write MPI Sintel: training scenes with their frames and flows, and names of test scenes of 3 frames."""
    members: dict[str, bytes] = {"README.txt": b"", "training/flow_viz/": b""}
    for scene, frames in scenes.items():
        for rendering in ("albedo", "clean", "final"):
            members |= {f"training/{rendering}/{scene}/frame_{n:04d}.png": d for n, d in enumerate(frames, 1)}
        members |= {f"training/flow/{scene}/frame_{n:04d}.flo": d for n, d in enumerate(flows.get(scene, []), 1)}
        members |= numbered(f"training/occlusions/{scene}/frame_", range(1, len(frames)), 4, "png", b"")
    for scene in test:
        for rendering in ("clean", "final"):
            members |= numbered(f"test/{rendering}/{scene}/frame_", range(1, 4), 4, "png", b"")
    return make_zip(folder / "MPI-Sintel-complete.zip", members)


def png(seed: int, height: int = 24, width: int = 40) -> bytes:
    """Return a smooth picture as PNG."""
    return encoded(picture(seed, height, width))


def jpg(seed: int, height: int = 24, width: int = 40) -> bytes:
    """Return a smooth picture as JPEG."""
    return encoded(picture(seed, height, width), ".jpg")


def cut_zip(path: Path, share: float) -> Path:
    """Cut an archive, as a broken download leaves it."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def inside(path: Path) -> Path:
    """Put an archive into another of its own name, as happens when a download is zipped again."""
    return make_zip(path, {path.name: path.read_bytes()})
