"""Videos: every frame once and in order, whatever the container says; cut, turned and odd ones; what is no video."""

from __future__ import annotations

import itertools
import re
import struct
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import RetakeError
from pipeline.sources import limits, video
from pipeline.sources.archives import CutOff, Damaged, Member
from tests.layouts import make_zip
from tests.layouts_zips import coded, number, turned, write_video

COUNT = 40


def read(path: Path, first: int = 0) -> list[np.ndarray]:
    """Return the frames of a video, and see to it that they are numbered."""
    got = list(video.frames(Member(path.parent, path.name), first=first))
    assert [n for n, _ in got] == list(range(first, first + len(got)))
    return [image() for _, image in got]


def read_cut(path: Path) -> tuple[list[np.ndarray], str]:
    """Return the frames of a video that is cut off, and the message."""
    images: list[np.ndarray] = []
    with pytest.raises(RetakeError) as caught:
        images += (image() for _, image in video.frames(Member(path.parent, path.name)))
    assert isinstance(caught.value, CutOff) or not images
    return images, str(caught.value)


CONTAINERS = {
    "mpeg4.avi": {"codec": "mpeg4"},
    "ffv1.avi": {"codec": "ffv1"},
    "h264.mp4": {"codec": "libx264"},
    "h264_front.mp4": {"codec": "libx264", "options": {"movflags": "faststart"}},
    "h264_pieces.mp4": {"codec": "libx264", "options": {"movflags": "frag_keyframe+empty_moov"}},
    "mpeg4.mov": {"codec": "mpeg4"},
    "h264.mkv": {"codec": "libx264"},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "h264.ts": {"codec": "libx264"},
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name, options in CONTAINERS.items():
        write_video(folder / name, (coded(n) for n in range(COUNT)), **options)  # type: ignore[arg-type]
    return folder


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_frame_once_in_order(videos: Path, name: str) -> None:
    images = read(videos / name, first=1)
    assert [number(image) for image in images] == list(range(COUNT))
    assert {(image.shape, image.dtype.str) for image in images} == {((32, 48, 3), "|u1")}


def test_videos_have_b_frames(videos: Path) -> None:
    """Else the order of the tests above would be the order in the file."""
    for name in ("mpeg4.avi", "h264.mp4", "h264.mkv"):
        with av.open(str(videos / name)) as container:
            kinds = {frame.pict_type for frame in container.decode(video=0)}
        assert av.video.frame.PictureType.B in kinds, name


@pytest.mark.parametrize("name", ["steps.mp4", "steps.mkv"])
def test_variable_frame_rate(tmp_path: Path, name: str) -> None:
    """Long and short times between frames: none is doubled, none is left out."""
    steps = [1, 1, 90, 2, 1, 400, 3, 1, 1, 250]
    times = list(itertools.accumulate(steps * 3))
    path = write_video(tmp_path / name, (coded(n) for n in range(30)), "libx264", times=times)
    assert [number(image) for image in read(path)] == list(range(30))


def test_what_the_container_counts_is_not_believed(videos: Path, tmp_path: Path) -> None:
    data = bytearray((videos / "mpeg4.avi").read_bytes())
    struct.pack_into("<I", data, data.index(b"avih") + 8 + 16, 7)  # dwTotalFrames
    struct.pack_into("<I", data, data.index(b"strh") + 8 + 32, 7)  # dwLength
    (tmp_path / "liar.avi").write_bytes(data)
    with av.open(str(tmp_path / "liar.avi")) as container:
        assert container.streams.video[0].frames == 7
    assert len(read(tmp_path / "liar.avi")) == COUNT


def test_frames_out_of_a_zip(videos: Path, tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "videos.zip", {"a b/v\n1.mp4": (videos / "h264.mp4").read_bytes()})
    got = [image() for _, image in video.frames(Member(archive, "a b/v\n1.mp4"))]
    assert np.array_equal(np.stack(got), np.stack(read(videos / "h264.mp4")))


# Colours and shapes


def test_lossless_rgb_is_exact(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sources = [rng.integers(0, 256, (33, 47, 3), dtype=np.uint8) for _ in range(3)]
    path = write_video(tmp_path / "exact.mkv", sources, "ffv1", pixels="bgr0", bframes=0)
    assert np.array_equal(np.stack(read(path)), np.stack(sources))


@pytest.mark.parametrize(("height", "width"), [(33, 47), (48, 47), (33, 48), (17, 129)])
def test_odd_sides(tmp_path: Path, height: int, width: int) -> None:
    sources = [cv2.GaussianBlur(coded(n, height, width), (0, 0), 3) for n in range(3)]
    path = write_video(tmp_path / "odd.mkv", sources, "ffv1", bframes=0)
    images = read(path)
    assert {image.shape for image in images} == {(height, width, 3)}
    error = np.abs(np.stack(images).astype(int) - np.stack(sources))
    assert error.max() <= 6  # of the conversion to YUV and back, at the last column and row too


TURNS: dict[str, tuple[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]]] = {
    "upright": ((1, 0, 0, 1), lambda image: image),
    "clockwise": ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    "upside down": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    "counter-clockwise": ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
    "mirrored": ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
    "flipped": ((1, 0, 0, -1), lambda image: image[::-1]),
    "transposed": ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
    "transposed, upside down": ((0, -1, -1, 0), lambda image: np.rot90(image.transpose(1, 0, 2), 2)),
}


@pytest.mark.parametrize("turn", TURNS)
def test_turned_videos_are_upright(videos: Path, tmp_path: Path, turn: str) -> None:
    matrix, upright = TURNS[turn]
    plain = read(videos / "h264.mp4")
    (tmp_path / "turned.mp4").write_bytes(turned((videos / "h264.mp4").read_bytes(), matrix))
    for image, source in zip(read(tmp_path / "turned.mp4"), plain, strict=True):
        assert np.array_equal(image, upright(source))


def test_opencv_turns_the_same_way(videos: Path, tmp_path: Path) -> None:
    for turn in ("clockwise", "counter-clockwise", "upside down"):
        path = tmp_path / "turned.mp4"
        path.write_bytes(turned((videos / "h264.mp4").read_bytes(), TURNS[turn][0]))
        done, image = cv2.VideoCapture(str(path)).read()
        assert done
        assert np.array_equal(image[..., ::-1], read(path)[0])


def test_slanted_video(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "slanted.mp4").write_bytes(turned((videos / "h264.mp4").read_bytes(), (1, 1, -1, 1)))
    with pytest.raises(RetakeError, match=r"slanted.mp4', frame 0 is to be turned by an angle .* write it upright"):
        read(tmp_path / "slanted.mp4")


# Cut off, damaged


CUT = ["mpeg4.avi", "ffv1.avi", "h264_front.mp4", "h264_pieces.mp4", "h264.mkv", "vp9.webm"]


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(CUT), share=st.floats(0.02, 0.97))
def test_cut_off_videos_give_the_frames_before_the_cut(videos: Path, name: str, share: float) -> None:
    data = (videos / name).read_bytes()
    path = videos / f"cut_{name}"
    path.write_bytes(data[: int(len(data) * share)])
    images, message = read_cut(path)
    assert [number(image) for image in images] == list(range(len(images)))
    assert path.name in message


@pytest.mark.parametrize("name", CUT)
def test_most_frames_of_a_cut_video_are_there(videos: Path, tmp_path: Path, name: str) -> None:
    data = (videos / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * 0.9)])
    images, message = read_cut(tmp_path / name)
    assert len(images) >= COUNT / 2
    assert f"{name}': it is cut off, {int(len(data) * 0.9)} bytes of at least" in message or "not whole" in message
    assert message.endswith(f"; the {len(images)} frames before that are good")


def test_cut_before_the_index(videos: Path, tmp_path: Path) -> None:
    data = (videos / "h264.mp4").read_bytes()  # its index is at the end
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    images, message = read_cut(tmp_path / "cut.mp4")
    assert not images
    assert "cannot be read as a video: it is cut off" in message


@pytest.mark.parametrize(("name", "codec"), [("damaged.avi", "mpeg4"), ("damaged.mp4", "libx264")])
def test_damaged_frame(tmp_path: Path, name: str, codec: str) -> None:
    path = write_video(tmp_path / name, (coded(n) for n in range(COUNT)), codec, bframes=0)
    with av.open(str(path)) as container:
        packet = [(packet.pos, packet.size) for packet in container.demux(video=0)][20]
    data = bytearray(path.read_bytes())
    at = packet[0] + (8 if codec == "mpeg4" else 0)  # behind the chunk's name and length
    data[at : at + packet[1]] = bytes(packet[1])
    path.write_bytes(data)
    images, message = read_cut(path)
    assert [number(image) for image in images] == list(range(20))
    assert "; the 20 frames before that are good. Let FFmpeg conceal" in message


def test_time_stamps_against_the_order(tmp_path: Path) -> None:
    path = tmp_path / "wrong.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for n, shown in enumerate([1, 2, 5, 3, 6]):
            frame = av.VideoFrame.from_ndarray(coded(n), format="rgb24")
            frame.pts, frame.time_base = n, Fraction(1, 25)
            for packet in stream.encode(frame):
                packet.pts, packet.dts = 40 * shown, 40 * n
                packet.time_base = Fraction(1, 1000)
                container.mux(packet)
    with pytest.raises(RetakeError, match=r"wrong.mkv': frame 3 is shown at \d+, the one before at \d+: .*ffmpeg -i"):
        read(path)


# What is no video


def test_no_video(tmp_path: Path) -> None:
    files = {
        "empty.avi": b"",
        "text.mp4": b"hello, world" * 100,
        "zip.avi": make_zip(tmp_path / "x.zip", {"a": b"b"}).read_bytes(),
        "head.avi": b"RIFF\x00\x10\x00\x00AVI LIST",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(RetakeError, match=f"{name}' cannot be read as a video"):
            read(tmp_path / name)
    with pytest.raises(RetakeError, match=r"gone.avi': no such file"):
        read(tmp_path / "gone.avi")


def test_sound_alone(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream: Any = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(RetakeError, match=r"sound.mkv' holds no video stream that can be decoded"):
        read(tmp_path / "sound.mkv")


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile h264.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nh264.mp4\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    ],
)
def test_playlists_open_no_other_file(videos: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(videos)
    path = videos / "list.avi"
    path.write_text(text)
    with pytest.raises(RetakeError, match=r"list.avi' cannot be read as a video"):
        read(path)


def test_frames_beyond_8k(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, videos: Path) -> None:
    monkeypatch.setattr(limits, "PIXELS", 1000)
    with pytest.raises(RetakeError, match=r"h264.mp4' cannot be read as a video"):
        read(videos / "h264.mp4")


def test_memory_does_not_grow_with_the_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "long.avi", (coded(n % 64, 240, 320) for n in range(300)))
    tracemalloc.start()
    count = sum(image().size > 0 for _, image in video.frames(Member(path.parent, path.name)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 300
    assert peak < 10 * 240 * 320 * 3  # all of them would be 300


# Real videos


def test_real_ucf101(shared: Path) -> None:
    """Xvid with packed B-frames: FFmpeg's time stamps are out of order, the frames are not."""
    path = next((shared / "data/ucf101_sample").rglob("*.avi"))
    with av.open(str(path)) as container:
        shown = [frame.pts for frame in container.decode(video=0)]
    assert shown != sorted(shown)  # type: ignore[type-var]
    images = read(path)
    assert len(images) == 164
    capture = cv2.VideoCapture(str(path))
    for image in images:
        done, same = capture.read()
        assert done
        assert np.array_equal(image, same[..., ::-1])
    assert not capture.read()[0]


def test_real_clips(shared: Path) -> None:
    paths = sorted((shared / "data").rglob("*.mp4"))
    assert len(paths) > 10
    for path in paths[::4]:
        capture = cv2.VideoCapture(str(path))
        for image in read(path):
            done, same = capture.read()
            assert done
            assert np.array_equal(image, same[..., ::-1]), path
        assert not capture.read()[0]


def test_real_video_that_is_cut(shared: Path, tmp_path: Path) -> None:
    data = next((shared / "data/ucf101_sample").rglob("*.avi")).read_bytes()
    whole = read(next((shared / "data/ucf101_sample").rglob("*.avi")))
    (tmp_path / "cut.avi").write_bytes(data[:100_000])
    images, message = read_cut(tmp_path / "cut.avi")
    assert 20 < len(images) < 164
    assert np.array_equal(np.stack(images), np.stack(whole[: len(images)]))
    assert "100000 bytes of at least" in message or "not whole" in message


# What is said of a video


def test_damage_in_the_middle_is_no_cut(tmp_path: Path) -> None:
    """Whoever may take what is before a cut must know that more lies behind."""
    path = write_video(tmp_path / "a.mp4", (coded(n) for n in range(COUNT)), "libx264", bframes=0)
    with av.open(str(path)) as container:
        packet = [(packet.pos, packet.size) for packet in container.demux(video=0)][20]
    data = bytearray(path.read_bytes())
    data[packet[0] : sum(packet)] = bytes(packet[1])
    path.write_bytes(data)
    with pytest.raises(Damaged):
        read(path)
    whole = write_video(tmp_path / "b.mkv", (coded(n) for n in range(COUNT)), "libx264").read_bytes()
    (tmp_path / "b.mkv").write_bytes(whole[: len(whole) * 3 // 4])
    with pytest.raises(CutOff) as caught:
        read(tmp_path / "b.mkv")
    assert not isinstance(caught.value, Damaged)


@pytest.mark.parametrize(
    ("codec", "pixels", "words"),
    [
        ("ffv1", "yuva420p", r"a\.mkv' has alpha \(yuva420p\), which is left out"),
        ("ffv1", "yuv420p10le", r"a\.mkv' has 10 bits a component \(yuv420p10le\): they become 8"),
        ("ffv1", "yuv420p", ""),
    ],
)
def test_what_eight_bits_cannot_hold_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, codec: str, pixels: str, words: str
) -> None:
    path = write_video(tmp_path / "a.mkv", (coded(n) for n in range(3)), codec, pixels=pixels, bframes=0)
    assert len(read(path)) == 3
    assert [bool(re.search(words, record.message)) for record in caplog.records] == [True] * bool(words)


def test_a_high_dynamic_range_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.codec_context.color_trc = 16
        frame = av.VideoFrame.from_ndarray(coded(0), format="rgb24").reformat(format="yuv420p")
        frame.color_trc = 16
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    read(tmp_path / "a.mkv")
    assert "has a high dynamic range (PQ): its values are read as they are" in caplog.text


def test_fields_and_pixels_that_are_not_square_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"x264-params": "interlaced=1"})
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for n in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(coded(n), format="rgb24")))
        container.mux(stream.encode(None))
    read(tmp_path / "a.mkv")
    pixels, fields = (record.message for record in caplog.records)
    assert "a.mkv', frame 0 is interlaced, two half pictures of different times: they are taken as one" in fields
    assert "a.mkv', frame 0 has pixels that are not square (4/3): they are taken as they are stored" in pixels


def test_several_videos_in_one_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with av.open(str(tmp_path / "two.ts"), "w", format="mpegts") as container:
        streams: list[Any] = [container.add_stream("libx264", rate=25) for _ in range(2)]
        for side, stream in zip((32, 64), streams, strict=True):
            stream.height, stream.width, stream.pix_fmt = side, 48, "yuv420p"
        for n in range(4):
            for stream in streams:
                image = np.full((stream.height, 48, 3), 60 * n, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode(None))
    ((height, width, _),) = {image.shape for image in read(tmp_path / "two.ts")}
    assert f"two.ts' holds 2 videos: the one of {width}x{height} is read" in caplog.text


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "zero.mp4").write_bytes(b"")
    for ask in (read, video.rate, video.info):
        with pytest.raises(RetakeError, match=r"zero\.mp4'? cannot be read as a video: it is empty, 0 bytes"):
            ask(tmp_path / "zero.mp4")
