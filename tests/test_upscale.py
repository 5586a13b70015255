"""Upscaling of videos and folders: time stamps, sound, colours, resuming, memory, tiles, bad input."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import tf_writer
import torch
import yaml
from parity_tecogan import params as entry
from parity_tecogan import recipe
from test_tecogan import published, texture

from pipeline import params, upscale, weights
from pipeline.errors import RetakeError
from pipeline.models.tecogan import build
from pipeline.models.tecogan.training import TecoGAN
from pipeline.params import Params
from pipeline.sources.images import read_frame
from tests.conftest import ROOT, resolved
from tests.layouts_zips import coded, number, turned, write_video

HEIGHT, WIDTH = 12, 16


@pytest.fixture(scope="module")
def p() -> Params:
    """The project's params with `frvsr_demo` of one block, on one thread."""
    tree = resolved()
    tree["models"]["frvsr_demo"]["network"]["blocks"] = 1
    tree["compute"] |= {"device": "cpu", "threads": 1}
    return params.validate(tree)


def network(zero: bool = False) -> TecoGAN:
    """Return one block with random weights; `zero`: exactly bicubic."""
    torch.manual_seed(4)
    options = dict(adversarial=0, layers=0, vgg=0, vgg_weights=None, first_output="zero" if zero else "glorot")
    return build(entry(1, recipe(**options)))


def saved(path: Path, net: TecoGAN) -> Path:
    made_by = json.dumps({"models.frvsr_demo.kind": "tecogan"})
    weights.save(path, {"kind": "tecogan", "weights": net.state_dict(), "best": None, "params": made_by})
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("weights") / "random.pt", network())


@pytest.fixture(scope="module")
def bicubic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("weights") / "bicubic.pt", network(zero=True))


def pan(count: int, height: int = HEIGHT, width: int = WIDTH) -> list[np.ndarray]:
    """Return frames of a moving texture, uint8."""
    image = (255 * texture(height + count, width + 2 * count)).astype(np.uint8)
    return [np.ascontiguousarray(image[i : i + height, 2 * i : 2 * i + width]) for i in range(count)]


def folder(path: Path, images: list[np.ndarray]) -> Path:
    path.mkdir()
    for i, image in enumerate(images):
        cv2.imwrite(str(path / f"{i:04d}.png"), image[..., ::-1] if image.ndim == 3 else image)
    return path


def wanted(net: TecoGAN, images: list[np.ndarray], **options: Any) -> list[np.ndarray]:
    """Return what the network itself makes of frames, rounded to 8 bits."""
    tensors = [torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 for image in images]
    out = [(x[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy() for x in net.upscale(tensors, **options)]
    return list(out)


def pngs(path: Path) -> list[np.ndarray]:
    return [read_frame(file) for file in sorted(path.glob("*.png"))]


def decoded(path: Path) -> list[tuple[Fraction, np.ndarray]]:
    """Return (seconds, RGB) of the frames of a video."""
    with av.open(str(path)) as container:
        return [(f.pts * f.time_base, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]  # type: ignore[operator]


def lengths(path: Path) -> list[Fraction]:
    """Return how long each frame is shown, seconds."""
    with av.open(str(path)) as container:
        return [f.duration * f.time_base for f in container.decode(video=0)]


# Folders


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8])
def test_folder_to_folder(p: Params, checkpoint: Path, tmp_path: Path, count: int) -> None:
    images = pan(count)
    upscale.upscale(p, folder(tmp_path / "in", images), tmp_path / "out", checkpoint)
    assert [f.name for f in sorted((tmp_path / "out").glob("*.png"))] == [f"{i:04d}.png" for i in range(count)]
    for found, right in zip(pngs(tmp_path / "out"), wanted(network(), images), strict=True):
        assert found.shape == (4 * HEIGHT, 4 * WIDTH, 3)
        assert np.array_equal(found, right)


def test_outputs_that_are_not_finite_are_refused(
    p: Params, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TecoGAN.predict_from

    def spoilt(self: Any, *arguments: Any) -> Any:
        for index, (output, state) in enumerate(real(self, *arguments)):
            yield output * (float("nan") if index == 1 else 1), state

    monkeypatch.setattr(TecoGAN, "predict_from", spoilt)
    with pytest.raises(RetakeError, match="the network gives NaN or infinity for frame 0001"):
        upscale.upscale(p, folder(tmp_path / "in", pan(3)), tmp_path / "out", checkpoint)
    assert not (tmp_path / "out/0001.png").exists()


def test_published_dropping(p: Params, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = json.loads(p.model_dump_json())
    tree["models"]["frvsr_demo"]["predict"]["quirks"] = ["published_dropping"]
    published_rule = params.validate(tree)
    images = pan(4)
    monkeypatch.setattr(upscale, "SAVE_EVERY", 0)
    write = upscale.write_bytes
    with monkeypatch.context() as patch:  # killed behind the first frame, and run again
        patch.setattr(upscale, "write_bytes", lambda path, data: write(path, data) if "2" in path.name else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            upscale.upscale(published_rule, folder(tmp_path / "in", images), tmp_path / "out", checkpoint)
    assert [f.name for f in (tmp_path / "out").glob("*.png")] == ["0002.png"]
    upscale.upscale(published_rule, tmp_path / "in", tmp_path / "out", checkpoint)
    assert [f.name for f in sorted((tmp_path / "out").glob("*.png"))] == ["0002.png", "0003.png"]
    for found, right in zip(pngs(tmp_path / "out"), wanted(network(), images)[2:], strict=True):
        assert np.array_equal(found, right)
    for output in ("none", "none.mp4"):
        with pytest.raises(RetakeError, match="as published a clip of 3 frames has no output"):
            upscale.upscale(
                published_rule, folder(tmp_path / f"in {output}", images[:3]), tmp_path / output, checkpoint
            )
    assert not (tmp_path / "none.mp4").exists()


def test_frames_go_by_number(p: Params, bicubic: Path, tmp_path: Path) -> None:
    source = folder(tmp_path / "in", [])
    for name, value in (("f_9", 10), ("f_10", 200), ("f_2", 90)):
        cv2.imwrite(str(source / f"{name}.png"), np.full((HEIGHT, WIDTH, 3), value, np.uint8))
    upscale.upscale(p, source, tmp_path / "out.mkv", bicubic)
    assert [round(image.mean() / 10) for _, image in decoded(tmp_path / "out.mkv")] == [9, 1, 20]


def test_pngs_of_all_kinds(tmp_path: Path) -> None:
    from PIL import Image

    rgb = pan(1)[0]
    grey = rgb[..., 0]
    deep = rgb.astype(np.uint16) * 257 + np.random.default_rng(0).integers(-128, 129, rgb.shape)
    deep = deep.clip(0, 65535).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "rgb.png"), rgb[..., ::-1])
    cv2.imwrite(str(tmp_path / "rgb16.png"), deep[..., ::-1])
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    cv2.imwrite(str(tmp_path / "grey16.png"), grey.astype(np.uint16) * 257)
    opaque = np.dstack([rgb, np.full_like(grey, 255)])
    Image.fromarray(opaque).save(tmp_path / "opaque.png")
    few = Image.fromarray(rgb).quantize(16)
    few.save(tmp_path / "palette.png")
    Image.fromarray(grey > 128).save(tmp_path / "bits.png")
    for name in ("rgb", "rgb16", "opaque"):
        assert np.array_equal(read_frame(tmp_path / f"{name}.png"), rgb), name
    for name in ("grey", "grey16"):
        assert np.array_equal(read_frame(tmp_path / f"{name}.png"), np.dstack([grey] * 3)), name
    assert np.array_equal(read_frame(tmp_path / "palette.png"), np.array(few.convert("RGB")))
    assert np.array_equal(read_frame(tmp_path / "bits.png"), np.dstack([np.uint8(255) * (grey > 128)] * 3))

    opaque[3, 4, 3] = 254
    Image.fromarray(opaque).save(tmp_path / "clear.png")
    with pytest.raises(RetakeError, match=r"clear\.png has pixels that can be seen through"):
        read_frame(tmp_path / "clear.png")
    data = (tmp_path / "rgb.png").read_bytes()
    for name, content, message in (
        ("cut.png", data[:-40], "cut off or damaged"),
        ("huge.png", data[:16] + b"\0\1\0\0" * 2 + data[24:], "claims to be 65536x65536"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RetakeError, match=rf"{name}.* {message}"):
            read_frame(tmp_path / name)


def test_folder_that_was_killed_goes_on_to_the_same_frames(
    p: Params, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(tmp_path / "in", pan(14))
    upscale.upscale(p, source, tmp_path / "whole", checkpoint)
    monkeypatch.setattr(upscale, "SAVE_EVERY", 0)
    write, made = upscale.write_bytes, []

    def killed(path: Path, data: bytes) -> None:
        if len(made) == 9:
            raise KeyboardInterrupt
        made.append(path.name)
        write(path, data)

    monkeypatch.setattr(upscale, "write_bytes", killed)
    with pytest.raises(KeyboardInterrupt):
        upscale.upscale(p, source, tmp_path / "out", checkpoint)
    assert len(list((tmp_path / "out").glob("*.png"))) == 9
    again: list[str] = []
    monkeypatch.setattr(upscale, "write_bytes", lambda path, data: (again.append(path.name), write(path, data)))
    upscale.upscale(p, source, tmp_path / "out", checkpoint)
    assert again == [f"{i:04d}.png" for i in range(9, 14)]  # finished frames are not made again
    for found, right in zip(pngs(tmp_path / "out"), pngs(tmp_path / "whole"), strict=True):
        assert np.array_equal(found, right)
    upscale.upscale(p, source, tmp_path / "out", checkpoint)  # all is there
    assert len(again) == 5
    shutil.move(tmp_path / "out/0003.png", tmp_path / "moved.png")
    with pytest.raises(RetakeError, match="out holds 13 images, 14 were written"):
        upscale.upscale(p, source, tmp_path / "out", checkpoint)
    shutil.move(tmp_path / "moved.png", tmp_path / "out/0003.png")
    first = source / "0000.png"
    first.write_bytes(first.read_bytes()[:-1] + b"x")  # another image of as many bytes
    with pytest.raises(RetakeError, match="out was begun with another source, checkpoint, model or compute settings"):
        upscale.upscale(p, source, tmp_path / "out", checkpoint)


def test_kill_9_leaves_whole_pngs_and_the_same_result(p: Params, checkpoint: Path, tmp_path: Path) -> None:
    """The real command, killed at a moment that nobody chose."""
    images = pan(60)
    folder(tmp_path / "in", images)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(json.loads(p.model_dump_json())))
    quick = "import pipeline.upscale as u; u.SAVE_EVERY = 0.0; u.main()"
    command = (sys.executable, "-c", quick, "in", "--output", "out", "--checkpoint", str(checkpoint))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list((tmp_path / "out").glob("*.png"))) < 10:
        time.sleep(0.01)
    assert process.poll() is None, "it ended before it could be killed"
    process.kill()
    process.wait()
    assert all(image.shape == (4 * HEIGHT, 4 * WIDTH, 3) for image in pngs(tmp_path / "out"))
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for found, right in zip(pngs(tmp_path / "out"), wanted(network(), images), strict=True):
        assert np.array_equal(found, right)
    assert not list((tmp_path / "out").glob(".*.tmp*"))


# Videos


def with_tone(path: Path, video: Path, codec: str = "aac", seconds: float = 1.0, **options: str) -> Path:
    """Write a video anew with the same time stamps, and a tone before it."""
    with av.open(str(video)) as source, av.open(str(path), "w", options=options) as out:
        picture = source.streams.video[0]
        stream: Any = out.add_stream("libx264", rate=picture.average_rate)
        stream.height, stream.width, stream.pix_fmt = picture.height, picture.width, "yuv420p"
        stream.codec_context.time_base = picture.time_base
        stream.codec_context.flags |= av.codec.context.Flags.frame_duration
        tone: Any = out.add_stream(codec, rate=44100, layout="mono")
        kind = next(f.name for f in tone.codec_context.codec.audio_formats if f.name in ("fltp", "s16", "s16p"))
        tone.codec_context.format = kind
        wave = (0.3 * np.sin(2 * np.pi * 440 * np.arange(int(44100 * seconds)) / 44100)).astype(np.float32)
        if kind.startswith("s16"):
            wave = (32767 * wave).astype(np.int16)
        fifo = av.AudioFifo()
        frame = av.AudioFrame.from_ndarray(wave[None], format=kind, layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 44100, 0, Fraction(1, 44100)
        fifo.write(frame)
        tone.codec_context.open()
        for part in fifo.read_many(tone.codec_context.frame_size or 1024, partial=True):
            out.mux(tone.encode(part))
        out.mux(tone.encode(None))
        for image in source.decode(picture):
            image.pict_type = av.video.frame.PictureType.NONE
            image.duration = round(Fraction(3, 100) / picture.time_base)
            out.mux(stream.encode(image))
        out.mux(stream.encode(None))
    return path


def sound(path: Path) -> list[tuple[Fraction, bytes]]:
    with av.open(str(path)) as container:
        return [(p.pts * p.time_base, bytes(p)) for p in container.demux(audio=0) if p.pts is not None]  # type: ignore[operator]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_time_stamps_and_sound_are_kept(p: Params, bicubic: Path, tmp_path: Path, suffix: str) -> None:
    """Long and short times between frames, B-frames, a first frame that is not shown at 0."""
    times = list(itertools.accumulate([7, 1, 1, 40, 2, 1, 9, 3, 1, 1, 25] * 3))
    silent = write_video(tmp_path / f"silent.{suffix}", (coded(n, 32, 48) for n in range(33)), "libx264", times=times)
    source = with_tone(tmp_path / f"in.{suffix}", silent, seconds=float(decoded(silent)[-1][0]))
    output = tmp_path / f"out.{suffix}"
    upscale.upscale(p, source, output, bicubic)
    before, after = decoded(source), decoded(output)
    assert [number(image) for _, image in after] == list(range(33))
    assert {image.shape for _, image in after} == {(128, 192, 3)}
    assert [t for t, _ in after] == [t for t, _ in before]
    assert lengths(output)[-1] == lengths(source)[-1]
    assert len(sound(source)) > 100
    assert [data for _, data in sound(output)] == [data for _, data in sound(source)]
    for (t, _), (u, _) in zip(sound(output), sound(source), strict=True):
        assert abs(t - u) <= Fraction(1, 1000)
    with av.open(str(source)) as a, av.open(str(output)) as b:
        assert abs(a.duration - b.duration) < 20_000  # type: ignore[operator]


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(119912, 3979), Fraction(24)])
def test_frame_rates_are_kept(p: Params, bicubic: Path, tmp_path: Path, rate: Fraction) -> None:
    with av.open(str(tmp_path / "in.mp4"), "w") as container:
        stream: Any = container.add_stream("libx264", rate=rate)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for n in range(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(coded(n), format="rgb24")))
        container.mux(stream.encode(None))
    upscale.upscale(p, tmp_path / "in.mp4", tmp_path / "out.mp4", bicubic)
    assert [t for t, _ in decoded(tmp_path / "out.mp4")] == [t for t, _ in decoded(tmp_path / "in.mp4")]
    with av.open(str(tmp_path / "in.mp4")) as a, av.open(str(tmp_path / "out.mp4")) as b:
        assert a.streams.video[0].average_rate == b.streams.video[0].average_rate
        assert a.streams.video[0].frames == b.streams.video[0].frames
        assert abs(a.duration - b.duration) <= 1000  # microseconds: MP4 has milliseconds for the whole


def test_avi_without_time_stamps(p: Params, bicubic: Path, tmp_path: Path) -> None:
    source = write_video(tmp_path / "in.avi", (coded(n) for n in range(20)))
    upscale.upscale(p, source, tmp_path / "out.mp4", bicubic)
    found = decoded(tmp_path / "out.mp4")
    assert [number(image) for _, image in found] == list(range(20))
    assert [t - found[0][0] for t, _ in found] == [Fraction(n, 25) for n in range(20)]


@pytest.mark.parametrize("space", [1, 6, 9, 2])
@pytest.mark.parametrize("full", [False, True])
def test_colours_are_kept(p: Params, bicubic: Path, tmp_path: Path, space: int, full: bool) -> None:
    """YUV values of flat frames come out as they went in, with the same tags."""
    values = [(60, 110, 170), (128, 128, 128), (180, 140, 110), (35, 140, 120)]
    with av.open(str(tmp_path / "in.mp4"), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"crf": "0"})
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        context = stream.codec_context
        context.colorspace, context.color_range = space, 2 if full else 1
        context.color_primaries, context.color_trc = space, space if space != 9 else 14
        for i, colour in enumerate(values):
            frame = av.VideoFrame(48, 32, "yuv420p")
            for plane, value in zip(frame.planes, colour, strict=True):
                plane.update(bytes([value]) * plane.buffer_size)
            frame.pts, frame.colorspace, frame.color_range = i, space, 2 if full else 1
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    upscale.upscale(p, tmp_path / "in.mp4", tmp_path / "out.mp4", bicubic)
    with av.open(str(tmp_path / "in.mp4")) as a, av.open(str(tmp_path / "out.mp4")) as b:
        for before, after, colour in zip(a.decode(video=0), b.decode(video=0), values, strict=True):
            assert int(after.colorspace) == (6 if space == 2 else space)
            assert (int(after.color_range) == 2) == full
            assert (int(after.color_primaries), int(after.color_trc)) == (
                int(before.color_primaries),
                int(before.color_trc),
            )
            found = [np.frombuffer(bytes(plane), np.uint8)[: plane.width].mean() for plane in after.planes]
            np.testing.assert_allclose(found, colour, atol=1)


def test_pixels_that_are_not_square(p: Params, bicubic: Path, tmp_path: Path) -> None:
    with av.open(str(tmp_path / "in.mp4"), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(8, 9)
        for n in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(coded(n), format="rgb24")))
        container.mux(stream.encode(None))
    upscale.upscale(p, tmp_path / "in.mp4", tmp_path / "out.mp4", bicubic)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(8, 9)


def test_sound_that_the_container_cannot_hold(
    p: Params, bicubic: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    silent = write_video(tmp_path / "silent.mkv", (coded(n) for n in range(6)), "libx264")
    source = with_tone(tmp_path / "in.mkv", silent, "tta", 0.2)
    upscale.upscale(p, source, tmp_path / "out.mp4", bicubic)
    assert "its sound (tta) cannot be copied into .mp4 and is left out: write to .mkv to keep it" in caplog.text
    assert len(decoded(tmp_path / "out.mp4")) == 6
    upscale.upscale(p, source, tmp_path / "out.mkv", bicubic)
    assert [data for _, data in sound(tmp_path / "out.mkv")] == [data for _, data in sound(source)]


def test_video_to_folder(p: Params, checkpoint: Path, tmp_path: Path) -> None:
    source = write_video(tmp_path / "in.mp4", (coded(n) for n in range(7)), "libx264")
    upscale.upscale(p, source, tmp_path / "out", checkpoint)
    images = [image for _, image in decoded(source)]
    assert [f.name for f in sorted((tmp_path / "out").glob("*.png"))] == [f"{i:06d}.png" for i in range(7)]
    for found, right in zip(pngs(tmp_path / "out"), wanted(network(), images), strict=True):
        assert np.array_equal(found, right)


def test_tiles_have_no_seams(p: Params, checkpoint: Path, tmp_path: Path) -> None:
    source = folder(tmp_path / "in", pan(3, 37, 45))
    upscale.upscale(p, source, tmp_path / "whole", checkpoint)
    upscale.upscale(p, source, tmp_path / "tiles", checkpoint, tile=16)
    for found, right in zip(pngs(tmp_path / "tiles"), pngs(tmp_path / "whole"), strict=True):
        assert np.abs(found.astype(int) - right).max() <= 1  # rounding of sums in another order
        assert (found != right).mean() < 1e-3


def test_memory_does_not_grow_and_stages_overlap(
    p: Params, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the clip, few frames are alive; reading runs ahead of writing, by a bounded number."""
    source = folder(tmp_path / "in", pan(60))
    alive: list[weakref.ref[np.ndarray]] = []
    read, lead, most, done = 0, 0, 0, 0

    def counted(path: Path) -> np.ndarray:
        nonlocal read
        image = read_frame(path)
        alive.append(weakref.ref(image))
        read += 1
        return image

    def slow(path: Path, data: bytes) -> None:
        nonlocal lead, most, done
        time.sleep(0.01)
        done += 1
        lead, most = max(lead, read - done), max(most, sum(ref() is not None for ref in alive))

    monkeypatch.setattr(upscale, "read_frame", counted)
    monkeypatch.setattr(upscale, "write_bytes", slow)
    upscale.upscale(p, source, tmp_path / "out", checkpoint)
    assert (read, done) == (60, 60)
    assert lead > upscale.AHEAD
    assert most <= 6 * upscale.AHEAD


@pytest.mark.slow
def test_peak_memory_is_that_of_a_short_clip(p: Params, checkpoint: Path, tmp_path: Path) -> None:
    """In the real command: 270 frames more are 80 MB of outputs as they are written, 320 MB as the network gives them."""
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(json.loads(p.model_dump_json())))
    code = "import resource, pipeline.upscale as u; u.main(); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    peaks = []
    for count in (30, 300):
        folder(tmp_path / f"in{count}", pan(30, 64, 96) * (count // 30))
        command = (
            sys.executable,
            "-c",
            code,
            f"in{count}",
            "--output",
            f"{count}.mp4",
            "--checkpoint",
            str(checkpoint),
        )
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 40, peaks


def test_published_tensorflow_checkpoint(p: Params, tmp_path: Path) -> None:
    """`--model` says which entry; by itself a TensorFlow file is taken for the 16 blocks of tecogan_published."""
    tf_writer.write_v1(tmp_path / "ourFRVSR", published(network()), checksums=False)
    images = pan(2)
    source = folder(tmp_path / "in", images)
    upscale.upscale(p, source, tmp_path / "out", tmp_path / "ourFRVSR", "frvsr_demo")
    for found, right in zip(pngs(tmp_path / "out"), wanted(network(), images), strict=True):
        assert np.array_equal(found, right)
    with pytest.raises(RetakeError, match=r"generator has 1 residual blocks, network\.blocks is 16"):
        upscale.upscale(p, source, tmp_path / "other", tmp_path / "ourFRVSR")


# Threads


def test_ahead_ends_with_its_consumer_and_hands_errors_on() -> None:
    before = threading.active_count()
    closed = []

    def numbers() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            closed.append(True)

    for n in upscale.ahead(numbers(), 2):
        if n == 5:
            break
    some = upscale.ahead(numbers(), 2)
    assert next(some) == 0
    some.close()
    assert closed == [True, True]

    def bad() -> Iterator[int]:
        yield 1
        raise RetakeError("no more")

    got = []
    with pytest.raises(RetakeError, match="no more"):
        for n in upscale.ahead(upscale.ahead(bad(), 1), 1):
            got.append(n)
    assert got == [1]
    assert threading.active_count() == before


# Bad input


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return folder(tmp_path / "small", pan(2))


Refuse = Callable[..., None]


@pytest.fixture
def refuse(p: Params, checkpoint: Path, tmp_path: Path) -> Refuse:
    """A function that upscales, wants to be refused with a message, and looks that nothing was left."""

    def attempt(source: Path, message: str, output: str = "out.mp4", **options: Any) -> None:
        with pytest.raises(RetakeError, match=message):
            upscale.upscale(p, source, tmp_path / output, options.pop("checkpoint", checkpoint), **options)
        if output == "out.mp4":
            assert not [f.name for f in tmp_path.iterdir() if "out.mp4" in f.name]

    return attempt


def test_outputs_that_exist(refuse: Refuse, small: Path, tmp_path: Path) -> None:
    (tmp_path / "is.mp4").write_bytes(b"mine")
    refuse(small, r"is\.mp4 exists: nothing is overwritten", "is.mp4")
    (tmp_path / "file").write_bytes(b"mine")
    refuse(small, "file is a file: nothing is overwritten", "file")
    refuse(small, "small holds other files: give the name of a new or an empty folder", "small")
    refuse(small, r"--output .*out\.avi: a folder, or a video \(\.mp4", "out.avi")
    assert (tmp_path / "is.mp4").read_bytes() == (tmp_path / "file").read_bytes() == b"mine"


def test_sources_that_cannot_be(refuse: Refuse, tmp_path: Path) -> None:
    refuse(tmp_path / "gone.mp4", r"no video or folder .*gone\.mp4")
    refuse(folder(tmp_path / "empty", []), "empty holds no PNG")
    (tmp_path / "text.mp4").write_text("hello" * 100)
    refuse(tmp_path / "text.mp4", r"text\.mp4' cannot be read as a video")
    refuse(folder(tmp_path / "low", pan(2, 7, 20)), r"frames of 20x7 pixels: .* sides of at least 8")
    changing = folder(tmp_path / "changing", [*pan(7), *pan(1, 12, 20)])
    cv2.imwrite(str(changing / "0008.png"), pan(1, 12, 20)[0])
    refuse(changing, r"changing: frame 0007 is 20x12, those before are 16x12: a video has one size")


def test_video_without_frames(refuse: Refuse, tmp_path: Path) -> None:
    pieces = {"movflags": "frag_keyframe+empty_moov"}
    with av.open(str(tmp_path / "none.mp4"), "w", options=pieces) as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        container.start_encoding()
    refuse(tmp_path / "none.mp4", r"none\.mp4' is a video without frames")
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        tone: Any = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(tone.encode(frame))
    refuse(tmp_path / "sound.mkv", r"sound\.mkv' holds no video stream that can be decoded")


@pytest.mark.parametrize("output", ["out.mkv", "out"])
def test_video_that_is_cut_off(
    p: Params, bicubic: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, output: str
) -> None:
    """The frames before the cut, with the message."""
    source = write_video(tmp_path / "whole.mkv", (coded(n) for n in range(40)), "libx264")
    data = with_tone(tmp_path / "tone.mkv", source, seconds=1.6).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: int(0.8 * len(data))])
    with caplog.at_level(logging.WARNING):
        upscale.upscale(p, tmp_path / "cut.mkv", tmp_path / output, bicubic)
    images = pngs(tmp_path / output) if output == "out" else [image for _, image in decoded(tmp_path / output)]
    assert 10 < len(images) < 40
    assert [number(image) for image in images] == list(range(len(images)))
    assert f"the {len(images)} frames before that are good: they are in {tmp_path / output}" in caplog.text


def test_models_and_checkpoints_that_do_not_fit(refuse: Refuse, small: Path, tmp_path: Path, checkpoint: Path) -> None:
    refuse(small, r"dmvfn is a prediction model: name one of the task super_resolution", name="dmvfn")
    refuse(small, r"unknown super_resolution model 'tecogam': .*\(did you mean 'tecogan'\?\)", name="tecogam")
    refuse(small, r"frvsr needs --checkpoint: a file of data/checkpoints/frvsr/", name="frvsr", checkpoint=None)
    refuse(small, r"no checkpoint .*gone\.pt", checkpoint=tmp_path / "gone.pt")
    refuse(small, r"generator has 1 residual blocks, network\.blocks is 10", name="frvsr")
    refuse(small, r"--tile 3: Input should be greater than or equal to 16", tile=3)
    refuse(small, "frames a second are from 1/1000 to 1000", rate=Fraction(0))


def test_the_command(p: Params, checkpoint: Path, small: Path, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(json.loads(p.model_dump_json())))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = (
        *(sys.executable, "-m", "pipeline.upscale"),
        "small",
        "--checkpoint",
        str(checkpoint),
        "--output",
        "out.mp4",
        "--rate",
        "30000/1001",
    )
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "wrote 2 frames of 64x48" in done.stderr
    assert "\r" not in done.stderr  # no bar where there is no terminal
    assert [t for t, _ in decoded(tmp_path / "out.mp4")] == [0, Fraction(1001, 30000)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "out.mp4 exists" in done.stderr
    assert "Traceback" not in done.stderr


# Tracks, times and shapes of videos


def upscaled(p: Params, source: Path, output: Path) -> Path:
    upscale.upscale(p, source, output, None, "nearest")
    return output


def test_languages_default_track_subtitles_and_title_are_kept(
    p: Params, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    picture = write_video(tmp_path / "picture.mkv", (coded(n) for n in range(25)), "libx264")
    tones = [with_tone(tmp_path / f"{name}.mkv", picture, seconds=0.9) for name in ("eng", "fra")]
    (tmp_path / "words.srt").write_text("1\n00:00:00,100 --> 00:00:00,600\nbonjour\n")
    source = tmp_path / "in.mkv"
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(av.open(str(source), "w"))
        film: Any = out.add_stream("libx264", rate=25)
        film.height, film.width, film.pix_fmt = 32, 48, "yuv420p"
        parts = [stack.enter_context(av.open(str(path))) for path in (*tones, tmp_path / "words.srt")]
        streams: list[Any] = [*(part.streams.audio[0] for part in parts[:2]), parts[2].streams.subtitles[0]]
        copies = [out.add_stream_from_template(stream) for stream in streams]
        for copy, language, mark in zip(copies, ("eng", "fra", "fra"), (0, 1, 0), strict=True):
            copy.metadata["language"] = language
            copy.disposition = mark
        out.metadata["title"] = "A title"
        for n in range(25):
            out.mux(film.encode(av.VideoFrame.from_ndarray(coded(n), format="rgb24")))
        out.mux(film.encode(None))
        for part, stream, copy in zip(parts, streams, copies, strict=True):
            for packet in part.demux(stream):
                if packet.dts is not None:
                    packet.stream = copy
                    out.mux(packet)
    with av.open(str(upscaled(p, source, tmp_path / "out.mkv"))) as made:
        assert [s.metadata.get("language") for s in made.streams.audio] == ["eng", "fra"]
        assert [int(s.disposition) & 1 for s in made.streams.audio] == [0, 1]
        assert made.streams.subtitles[0].metadata["language"] == "fra"
        assert made.metadata["title"] == "A title"
        assert b"bonjour" in b"".join(bytes(packet) for packet in made.demux(made.streams.subtitles[0]))
    assert not caplog.records or "left out" not in caplog.text
    with av.open(str(upscaled(p, source, tmp_path / "out.mp4"))) as made:
        assert [s.metadata.get("language") for s in made.streams.audio] == ["eng", "fra"]
        assert len(made.streams.subtitles) == 0
    assert "its subtitles (subrip) cannot be copied into .mp4 and is left out: write to .mkv to keep it" in caplog.text


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_times_start_where_the_video_does(p: Params, tmp_path: Path, suffix: str) -> None:
    picture = write_video(tmp_path / "picture.mkv", (coded(n) for n in range(25)), "libx264")
    late = with_tone(tmp_path / "late.ts", picture, seconds=0.9, output_ts_offset="36000")
    assert decoded(late)[0][0] >= 36000
    made = upscaled(p, late, tmp_path / f"out.{suffix}")
    before, after = [t for t, _ in decoded(late)], [t for t, _ in decoded(made)]
    assert 0 <= after[0] < 0.2
    for a, b in itertools.pairwise(zip(before, after, strict=True)):
        assert abs((b[0] - a[0]) - (b[1] - a[1])) <= Fraction(1, 1000)
    assert abs((sound(made)[0][0] - after[0]) - (sound(late)[0][0] - before[0])) <= Fraction(2, 1000)


def anamorphic(path: Path, shape: Fraction, **options: str) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = shape
        for n in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(coded(n), format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("turn", [(1, 0, 0, 1), (0, 1, -1, 0), (0, -1, 1, 0), (-1, 0, 0, -1)])
def test_the_shape_of_pixels_turns_with_the_picture(p: Params, tmp_path: Path, turn: tuple[int, int, int, int]) -> None:
    source = anamorphic(tmp_path / "in.mp4", Fraction(4, 3))
    source.write_bytes(turned(source.read_bytes(), turn))
    with av.open(str(upscaled(p, source, tmp_path / "out.mp4"))) as made:
        stream = made.streams.video[0]
        quarter = turn[0] == 0
        assert stream.sample_aspect_ratio == (Fraction(3, 4) if quarter else Fraction(4, 3))
        assert (stream.width, stream.height) == ((128, 192) if quarter else (192, 128))


def test_interlaced_and_damaged_videos_are_refused(p: Params, tmp_path: Path) -> None:
    fields = anamorphic(tmp_path / "fields.mkv", Fraction(1), **{"x264-params": "interlaced=1"})
    damaged = write_video(tmp_path / "damaged.mp4", (coded(n) for n in range(40)), "libx264", bframes=0)
    with av.open(str(damaged)) as container:
        place, size = [(packet.pos, packet.size) for packet in container.demux(video=0)][20]
    data = damaged.read_bytes()
    damaged.write_bytes(data[:place] + bytes(size) + data[place + size :])
    for source, words in (
        (fields, r"fields\.mkv', frame 0 is interlaced, .*ffmpeg -i IN -vf bwdif OUT"),
        (
            damaged,
            r"the 20 frames before that are good\. Let FFmpeg conceal what is damaged first: ffmpeg -i damaged\.mp4",
        ),
    ):
        with pytest.raises(RetakeError, match=words):
            upscaled(p, source, tmp_path / "out.mp4")
        assert not [path for path in tmp_path.iterdir() if "out.mp4" in path.name]


def test_folders_as_people_have_them(p: Params, tmp_path: Path) -> None:
    images = pan(2)
    source = tmp_path / "in: {0}"
    source.mkdir()
    for name, image in zip(("10", "9"), images, strict=True):
        cv2.imwrite(str(source / f"{name}.jpg"), image[..., ::-1])
        (source / f"._{name}.jpg").write_bytes(b"a Mac's own")
    made = upscaled(p, source, tmp_path / "out: {0}")
    assert sorted(path.name for path in made.glob("*.png")) == ["10.png", "9.png"]
    upscaled(p, source, tmp_path / "c:out.mkv")
    assert len(decoded(tmp_path / "c:out.mkv")) == 2
    cv2.imwrite(str(source / "9.JPG"), images[0])
    with pytest.raises(RetakeError, match=r"9\.(jpg|JPG) and 9\.(jpg|JPG) are both frame 9: rename one"):
        upscaled(p, source, tmp_path / "again")
    with pytest.raises(RetakeError, match="FFmpeg writes to names in UTF-8 only"):
        upscaled(p, tmp_path / "c:out.mkv", tmp_path / os.fsdecode(b"\xe9.mkv"))


@pytest.mark.parametrize("text", ["1/0", "many", "", "1/2/3"])
def test_rates_that_are_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no number or fraction of frames a second"):
        upscale._rate(text)
