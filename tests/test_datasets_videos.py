"""The datasets of videos, records and time-lapses: true layouts, published counts, real samples, bad archives."""

from __future__ import annotations

import csv
import io
import itertools
import logging
import shutil
import struct
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline import download, fetch, frames, params
from pipeline.datasets import bair, dtdb, iper, qst, sky_timelapse, tecogan_train
from pipeline.errors import RetakeError
from pipeline.sources import layout, scenes, tars, tfrecord, video
from pipeline.sources.archives import Clip, Member, Stream
from pipeline.sources.tars import Span
from pipeline.store.frames import Store
from tests.conftest import ROOT
from tests.layouts import encoded, make_zip, manifest, picture, project
from tests.layouts_zips import coded, cut_zip, entry, jpg, number, png, write_video
from tests.tf_writer import crc, message

MODULES = [bair, dtdb, iper, qst, sky_timelapse, tecogan_train]
ID = "-kO_m7yQ-Lk"  # ids of YouTube may begin with a minus


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def _logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "retake")


def raw(kind: str) -> Path:
    return Path("data/raw") / kind


def params_of(kind: str, **changes: Any) -> Any:
    """Return an entry's params, the module's own keys as published."""
    own: dict[str, dict[str, Any]] = {
        "sky_timelapse": {"paper": "cinn"},
        "iper": {"release": 1024},
        "dtdb": {"texture": "fire"},
        "tecogan_train": {"videos": None},
    }
    return entry(kind, **{**own.get(kind, {}), **changes})


def store(p: Any, split: str, files: list[Path], missing: Iterable[str] = ()) -> Store:
    """Make the frame store of archives that lie in data/raw, under the kind's own name as entry."""
    manifest(p.kind, split, files, list(missing))
    return Store(frames.make(project(**{p.kind: p}), p.kind, split))


def refused(p: Any, split: str, files: list[Path]) -> str:
    with pytest.raises(RetakeError) as caught:
        store(p, split, files)
    assert not list(Path("data").rglob("*.arrow*"))
    return str(caught.value)


def shapes(found: list[Clip]) -> dict[str, list[int]]:
    return {clip.name: [n for n, _ in clip.frames] for clip in found}


def shown(clip: Stream) -> list[int]:
    """Return the numbers that a stream of coded frames shows."""
    return [number(image()) for _, image in clip.frames()]


# What every module declares


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__.rpartition(".")[2])
def test_every_archive_has_a_source(module: Any) -> None:
    kind = module.__name__.rpartition(".")[2]
    variants = [params_of(kind), *([params_of("iper", release=256)] if kind == "iper" else [])]
    rows = {row.file: row for row in fetch.sources(ROOT / "workflow/sources.csv") if row.name == kind}
    used = {name for p in variants for split in module.SPLITS for name in module.archives(p, split)}
    assert used == rows.keys()
    assert "\n" not in module.LICENCE
    for split in module.SPLITS:
        assert module.expected(params_of(kind), split).keys() <= {"clips", "frames"}


def test_listing_has_every_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    lines = {line.split()[0]: line for line in download.listing().splitlines()}
    assert "32.3 GB" in lines["bair"]
    assert "machine" in lines["sky_timelapse"]
    assert "hand" in lines["qst"]
    assert "28 " in lines["tecogan_train"]


# Sky Time-lapse


def sky_zip(short: Mapping[str, Mapping[int, bytes]]) -> Path:
    """Write the archive; "sky_test/<video>/<video>_1" -> frame number -> JPEG."""
    members = {"sky_timelapse/readme": b"", "sky_timelapse/video_folder.py": b""}
    for place, numbered in short.items():
        members[f"sky_timelapse/{place}/"] = b""
        name = place.split("/")[1]
        members |= {f"sky_timelapse/{place}/{name}_frames_{n:08d}.jpg": data for n, data in numbered.items()}
    return make_zip(raw("sky_timelapse") / "sky_timelapse.zip", members)


def sky_names(monkeypatch: pytest.MonkeyPatch, lengths: Mapping[str, int]) -> Path:
    """Let an archive have these names: "sky_train/<video>/<clip>" -> frames."""
    found = [
        f"sky_timelapse/{place}/x_frames_{n:08d}.jpg" for place, length in lengths.items() for n in range(1, length + 1)
    ]
    monkeypatch.setattr(layout, "names", lambda _: found)
    return raw("sky_timelapse") / "sky_timelapse.zip"


def test_sky_counts_of_cinn_from_names_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    p = params_of("sky_timelapse")
    items = {split: sky_timelapse.items(p, split) for split in sky_timelapse.SPLITS}
    repeats = {"train": 10, "val": 7, "test": 6}
    assert {split: len(names) * repeats[split] for split, names in items.items()} == {
        "train": 10740, "val": 840, "test": 918,
    }  # fmt: skip
    assert len([n for n, k in Counter(items["val"]).items() if k == 2]) == 8
    assert not set(items["train"]) & set(items["val"])
    lengths = {f"sky_train/{clip}": 2 for split in ("train", "val") for clip in items[split]}
    archive = sky_names(monkeypatch, lengths | {f"sky_test/{clip}": 2 for clip in items["test"]})
    for split, count in (("train", 1074), ("val", 112), ("test", 153)):
        found = sky_timelapse.clips(p, split, [archive])
        assert [clip.name for clip in found] == list(dict.fromkeys(items[split]))
        assert sky_timelapse.expected(p, split) == {"clips": len(found)} == {"clips": count}


def test_sky_counts_of_dtvnet_from_names_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    p = params_of("sky_timelapse", paper="dtvnet")
    lengths = {f"sky_train/v{i // 3:03d}/v{i // 3:03d}_{i % 3 + 1}": 2 + i % 50 for i in range(2392)}
    test = {f"sky_test/t{i}/t{i}_1": 32 + i % 2 for i in range(225)}
    archive = sky_names(monkeypatch, lengths | test)
    found = sky_timelapse.clips(p, "train", [archive])
    assert len(found) == sum(length >= 33 for length in lengths.values()) <= 2392
    assert len(sky_timelapse.clips(p, "test", [archive])) == 112 <= 225
    assert "sky_test: 112 of 225 short videos have 33 frames or more" in caplog.text
    assert {tuple(n for n, _ in clip.frames) for clip in found} == {tuple(range(32))}
    for split in ("train", "test"):
        assert sky_timelapse.expected(p, split) == sky_timelapse.counts(p, split, [archive])
    archive = sky_names(monkeypatch, test | {"sky_test/t/t_1": 2})
    with pytest.raises(RetakeError, match="226 short videos in sky_test, 225 are published: it is another archive"):
        sky_timelapse.clips(p, "test", [archive])


@pytest.mark.parametrize(("paper", "name"), [("dtvnet", "DTVNet"), ("arflow", "ARFlow")])
def test_some_papers_have_no_validation(paper: str, name: str) -> None:
    archive = sky_zip({"sky_train/a/a_1": {1: jpg(0)}})
    assert f"{name} has no split val" in refused(params_of("sky_timelapse", paper=paper), "val", [archive])


def test_arflow_takes_every_frame_of_sky_as_it_is() -> None:
    short = {f"sky_train/{ID}/{ID}_1": {n: jpg(n, 36, 64) for n in (1, 2, 4)}, "sky_train/b/b_1": {7: jpg(9, 36, 64)}}
    archive = sky_zip({**short, "sky_train/b/b_2": {}})
    p = params_of("sky_timelapse", paper="arflow", height=36, width=64, codec="jpeg")
    made = store(p, "train", [archive])
    assert {clip: made.frame[rows.start : rows.stop].tolist() for clip, rows in made.clips.items()} == {
        f"{ID}/{ID}_1": [0, 1, 2], "b/b_1": [0],
    }  # fmt: skip
    assert bytes(made.encoded(2)) == jpg(4, 36, 64)
    assert made.source(2).endswith(f"{ID}_frames_00000004.jpg")
    assert made.meta["partial"] == "1 of 1 archives, 2 of 2392 clips"


def test_sky_frames_in_natural_order_and_gaps_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Numbers without zeros before them, as the published script renames them; cINN's order is that of the numbers."""
    clip = sky_timelapse.items(params_of("sky_timelapse"), "test")[0]
    numbers = [*range(8, 12), 13, *range(16, 46)]
    members = {f"sky_test/{clip}/frame{n}.jpg": bytes([n]) for n in sorted(numbers, key=str)}
    archive = make_zip(raw("sky_timelapse") / "sky_timelapse.zip", members | {"__MACOSX/sky_test/._x": b""})
    (found,) = sky_timelapse.clips(params_of("sky_timelapse"), "test", [archive])
    assert found.name == clip
    assert [n for n, _ in found.frames] == list(range(35))
    assert [int(member.name.rpartition("frame")[2][:-4]) for _, member in found.frames] == numbers
    assert f"{clip}: frames are missing, the next ones follow: 12, 14 to 15" in caplog.text
    assert "1 of 1 clips have gaps in their frames' numbers" in caplog.text
    assert "152 of the 153 clips that cinn_test.txt names are not in the archives" in caplog.text


def test_sky_ids_with_a_minus_and_folders_without_frames() -> None:
    short = {f"sky_test/{ID}/{ID}_1": dict.fromkeys(range(1, 41), jpg(1)), f"sky_test/{ID}/{ID}_2": {}}
    archive = sky_zip({**short, "sky_test/a b/a b_1": dict.fromkeys(range(1, 34), jpg(2))})
    found = sky_timelapse.clips(params_of("sky_timelapse", paper="dtvnet"), "test", [archive])
    assert shapes(found) == {f"{ID}/{ID}_1": list(range(32)), "a b/a b_1": list(range(32))}


def test_sky_empty_clip_of_a_list_is_refused() -> None:
    first, second = sky_timelapse.items(params_of("sky_timelapse"), "test")[:2]
    archive = sky_zip({f"sky_test/{first}": {1: jpg(0)}, f"sky_test/{second}": {}})
    assert f"clip {second} has no frames" in refused(params_of("sky_timelapse"), "test", [archive])


def test_sky_is_prepared_for_both_papers_from_one_archive() -> None:
    clip = sky_timelapse.items(params_of("sky_timelapse"), "test")[0]
    archive = sky_zip({f"sky_test/{clip}": {n: jpg(n, 36, 64) for n in range(1, 36)}})
    of_cinn = store(params_of("sky_timelapse", height=16, width=16), "test", [archive])
    assert of_cinn.meta["partial"] == "1 of 1 archives, 1 of 153 clips"
    assert (len(of_cinn), of_cinn.meta["resize"]) == (35, "cv2.INTER_LINEAR")
    source = cv2.imdecode(np.frombuffer(jpg(3, 36, 64), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.array_equal(of_cinn.image(2), cv2.resize(source, (16, 16)))
    of_dtvnet = store(params_of("sky_timelapse", paper="dtvnet", height=16, width=16), "test", [archive])
    assert len(of_dtvnet) == 32
    assert of_dtvnet.meta["resize"].startswith("Pillow")
    assert np.array_equal(of_dtvnet.image(2), Image.fromarray(source).resize((16, 16), Image.Resampling.BILINEAR))


def test_sky_as_the_published_reader_of_dtvnet_gives_it(shared: Path) -> None:
    """The golden case: 32 frames, resized to 128x128, in [0, 1]."""
    case = np.load(shared / "golden/dtvnet_data/case.npz")
    count = int(case["n_frames"]) if "n_frames" in case else 40
    shot = {i + 1: encoded(case["frames4"][i % 4]) for i in range(count)}  # the file names' .jpg is not looked at
    archive = sky_zip({"sky_test/vid/vid_1": shot})
    made = store(params_of("sky_timelapse", paper="dtvnet", height=128, width=128), "test", [archive])
    clip = made.read("vid/vid_1", range(32)).transpose(3, 0, 1, 2) / 255
    assert np.abs(clip.mean(axis=(2, 3)) - case["clip_mean"]).max() < 1e-5
    assert np.abs(clip[:, ::8, ::8, ::8] - case["clip_sub"]).max() < 1e-5


def test_real_sky_timelapse(shared: Path) -> None:
    """The real frames, packed as the official archive."""
    samples = sorted((shared / "data/sky_timelapse_sample/sky_test").glob("*/*"))
    samples += sorted(p for p in (shared / "data/landscape_clips").iterdir() if p.is_dir())
    short = {}
    for i, sample in enumerate(samples):
        files = sorted(sample.glob("*.jpg"), key=lambda path: int(path.stem.removeprefix("frame")))
        short[f"sky_test/id{i}/id{i}_1"] = {n: path.read_bytes() for n, path in enumerate(files, 1)}
    archive = sky_zip(short)
    made = store(params_of("sky_timelapse", paper="dtvnet", height=128, width=128), "test", [archive])
    assert {clip: len(rows) for clip, rows in made.clips.items()} == {f"id{i}/id{i}_1": 32 for i in range(len(samples))}
    steps = np.abs(np.diff(made.read("id0/id0_1", range(32)).astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert steps.max() < 12, "in order, clouds move a little from frame to frame"
    kept = store(params_of("sky_timelapse", paper="dtvnet", codec="jpeg"), "test", [archive])
    assert bytes(kept.encoded(0)) == short["sky_test/id0/id0_1"][1], "at their own size the files' bytes are kept"


# Quick-Sky-Time


def qst_members(clips: Mapping[str, bytes], lists: Mapping[str, Iterable[str]]) -> dict[str, bytes]:
    members = {f"clips/{clip.split(' ')[0]}/{clip}.mp4": data for clip, data in clips.items()}
    return members | {f"{split}_urls.txt": "".join(f"{c}\n" for c in some).encode() for split, some in lists.items()}


def mp4(folder: Path, some: Iterable[np.ndarray], **options: Any) -> bytes:
    return write_video(folder / "clip.mp4", some, **options).read_bytes()


A, B, C = f"{ID} 00_00_14-00_00_25", f"{ID} 00_01_00-00_01_09", "00MOhFGvOJs 00_00_14-00_00_25"


def test_qst(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    times = [0, 3, 4, 10, 30, 31, 50, 90]  # 1/100 s: a variable rate gives no frame twice
    videos = {A: mp4(tmp_path, map(coded, range(12))), B: mp4(tmp_path, map(coded, range(8)), times=times)}
    lists = {"train": [A, C], "val": [B], "test": []}
    members = {f"Quick-Sky-Time/{n}": d for n, d in qst_members(videos, lists).items()}
    archive = make_zip(raw("qst") / "Quick-Sky-Time.zip", members)
    found = qst.clips(params_of("qst"), "train", [archive])
    assert [clip.name for clip in found] == [A]
    assert shown(found[0]) == list(range(12))
    assert f"1 of the 2 clips that train_urls.txt names are not in the archives: {C!r}" in caplog.text
    made = store(params_of("qst", height=16, width=24), "val", [archive])
    assert made.clips == {B: range(8)}
    assert made.meta["partial"] == "1 of 1 archives, 1 of 100 clips"
    assert made.source(0) == f"Quick-Sky-Time.zip/Quick-Sky-Time/clips/{ID}/{B}.mp4"


def test_qst_counts() -> None:
    whole = [qst.expected(params_of("qst"), split) for split in qst.SPLITS]
    assert [w["clips"] for w in whole] == [1000, 100, 67]
    assert sum(w["frames"] for w in whole) == 285446


def test_qst_as_the_folder_that_baidu_gives(tmp_path: Path) -> None:
    """A link to it, read in place, with the list's names in other spellings of its lines."""
    there = tmp_path / "elsewhere/Quick-Sky-Time"
    for name, data in qst_members({A: mp4(tmp_path, map(coded, range(5)))}, {"test": [f"{A}.mp4 \r"]}).items():
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_bytes(data)
    before = sorted(there.rglob("*"))
    raw("qst").mkdir(parents=True)
    (raw("qst") / "Quick-Sky-Time").symlink_to(there)
    made_of = project(qst=params_of("qst"))
    shutil.copytree(ROOT / "workflow", "workflow")
    download.download(made_of, "qst", "test")
    made = Store(frames.make(made_of, "qst", "test"))
    assert [number(made.image(i)) for i in range(len(made))] == list(range(5))
    assert sorted(there.rglob("*")) == before


def test_qst_cut_off_video(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The frames before the cut, and a message; a cut before the first frame is refused."""
    path = write_video(tmp_path / "clip.mp4", map(coded, range(40)), codec="libx264", options={"movflags": "faststart"})
    whole = path.read_bytes()
    for share, count in ((0.8, range(10, 40)), (0.2, range(1))):
        archive = make_zip(
            raw("qst") / "Quick-Sky-Time.zip", qst_members({A: whole[: int(len(whole) * share)]}, {"test": [A]})
        )
        if not count.stop > 1:
            assert f"{A}.mp4" in refused(params_of("qst"), "test", [archive])
            continue
        made = store(params_of("qst"), "test", [archive])
        assert len(made) in count
        assert [number(made.image(i)) for i in range(len(made))] == list(range(len(made)))
        assert f"the {len(made)} frames before that are good" in caplog.text
        shutil.rmtree("data/frames")


def test_qst_without_its_lists(tmp_path: Path) -> None:
    archive = make_zip(raw("qst") / "Quick-Sky-Time.zip", qst_members({A: b""}, {}))
    assert "no test_urls.txt in data/raw/qst/Quick-Sky-Time.zip" in refused(params_of("qst"), "test", [archive])


# BAIR


def example(features: Mapping[str, Any]) -> bytes:
    """Return a tf.train.Example; floats in one run for even keys, one by one for odd ones: both are valid."""
    entries = b""
    for i, (name, value) in enumerate(features.items()):
        if isinstance(value, bytes):
            kind = (1, message((1, value)))
        elif i % 2:
            kind = (2, message((1, np.asarray(value, "<f4").tobytes())))
        else:
            kind = (2, b"".join(b"\x0d" + struct.pack("<f", x) for x in value))
        entries += message((1, message((1, name.encode()), (2, message(kind)))))
    return message((1, entries))


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", crc(length)) + data + struct.pack("<I", checksum(data))


def checksum(data: bytes) -> int:
    """Return the CRC of a record; the independent one of tests/tf_writer.py would take a second each."""
    from pipeline.sources.tensorflow import masked_crc

    return masked_crc(data)


def episode(seed: int, **changes: Any) -> dict[str, Any]:
    """Return an episode's features: frame i shows seed and i."""
    features: dict[str, Any] = {}
    for i in reversed(range(30)):
        image = np.full((64, 64, 3), (seed, i, 7), np.uint8)
        features[f"{i}/image_aux1/encoded"] = image.tobytes()
        features[f"{i}/image_main/encoded"] = b""
        features[f"{i}/action"] = [0.5] * 4
        features[f"{i}/endeffector_pos"] = [seed, i, -0.25]
    return features | changes


BAIR = raw("bair") / "bair_robot_pushing_dataset_v0.tar"


def bair_tar(members: Mapping[str, bytes], path: Path = BAIR) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as out:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.type = len(data), tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            out.addfile(info, io.BytesIO(data))
    return path


def episodes(*seeds: int) -> bytes:
    return b"".join(record(example(episode(seed))) for seed in seeds)


ROOT_OF = "softmotion30_44k"


def bair_files() -> dict[str, bytes]:
    return {
        f"{ROOT_OF}/": b"",
        f"{ROOT_OF}/test/traj_0_to_255.tfrecords": episodes(1, 2),
        f"{ROOT_OF}/train/traj_1024_to_1279.tfrecords": episodes(6),
        f"{ROOT_OF}/train/traj_256_to_511.tfrecords": episodes(3),
        f"{ROOT_OF}/train/traj_512_to_767.tfrecords": episodes(4, 5),
    }


def test_bair() -> None:
    archive = bair_tar(bair_files())
    p = params_of("bair", codec="raw")
    wanted = {
        "train": {"traj_512_to_767/1": 4, "traj_512_to_767/2": 5, "traj_1024_to_1279/1": 6},
        "val": {"traj_256_to_511/1": 3},
        "test": {"traj_0_to_255/1": 1, "traj_0_to_255/2": 2},
    }
    for split, clips in wanted.items():
        made = store(p, split, [archive])
        assert list(made.clips) == list(clips)
        for clip, seed in clips.items():
            images = made.read(clip, range(30))
            assert images.shape == (30, 64, 64, 3)
            assert (images == np.array([(seed, i, 7) for i in range(30)], np.uint8)[:, None, None]).all()
            positions = made.values(clip)
            assert positions.dtype == np.float32
            assert positions.tolist() == [[seed, i, -0.25] for i in range(30)]
        assert made.meta["values"] == "endeffector_pos: x, y, z of the gripper"
    assert made.meta["partial"] == "1 of 1 archives, 2 of 256 clips"
    assert made.source(0) == f"{archive.name}/{ROOT_OF}/test/traj_0_to_255.tfrecords"
    assert list(Path().rglob("*.tfrecords")) == [], "nothing is unpacked"


def test_bair_counts_from_names_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """170 files of 256 episodes."""
    span = Span(Path("x"), 0, 0)
    files = {f"{ROOT_OF}/train/traj_{a}_to_{a + 255}.tfrecords": span for a in range(256, 256 * 170, 256)}
    monkeypatch.setattr(tars, "members", lambda _: files | {f"{ROOT_OF}/test/traj_0_to_255.tfrecords": span})
    monkeypatch.setattr(tfrecord, "records", lambda _: [span] * 256)
    for split, count in (("train", 43008), ("val", 256), ("test", 256)):
        found = bair.clips(params_of("bair"), split, [Path("x.tar")])
        assert len(found) == len({clip.name for clip in found}) == count
        assert bair.expected(params_of("bair"), split) == {"clips": count, "frames": 30 * count}


def test_values_make_another_identity_and_other_stores_have_none() -> None:
    p = params_of("bair", codec="raw")
    name = f"{ROOT_OF}/test/traj_0_to_255.tfrecords"
    first = store(p, "test", [bair_tar({name: episodes(1)})])
    moved = episode(1, **{"7/endeffector_pos": [0.0, 0.0, 0.0]})
    second = store(p, "test", [bair_tar({name: record(example(moved))})])
    assert first.identity != second.identity
    clip = sky_timelapse.items(params_of("sky_timelapse"), "test")[0]
    without = store(params_of("sky_timelapse"), "test", [sky_zip({f"sky_test/{clip}": {1: jpg(0)}})])
    with pytest.raises(RetakeError, match="no values beside its frames: sky_timelapse measures nothing"):
        without.values(clip)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def test_bair_flipped_bit_in_a_record() -> None:
    name = f"{ROOT_OF}/test/traj_0_to_255.tfrecords"
    archive = bair_tar({name: episodes(1, 2, 3)})
    span = tars.members(archive)[name]
    flip(archive, span.offset + span.size // 2)
    text = refused(params_of("bair"), "test", [archive])
    assert f"{archive}: {name}, episode 2: " in text
    assert f"{archive}, byte " in text
    assert "wrong CRC-32C of a record's data" in text
    assert "episode 1" not in text
    assert "episode 3" not in text


def test_bair_flipped_bit_in_a_length_and_a_cut_file() -> None:
    name = f"{ROOT_OF}/test/traj_0_to_255.tfrecords"
    whole = episodes(1, 2)
    for data, reason in (
        (
            whole[: len(whole) // 2 + 8] + b"\xff" + whole[len(whole) // 2 + 9 :],
            "record 1: wrong CRC-32C of its length",
        ),
        (whole[: len(whole) // 2 + 7], "record 1 is cut off after 7 bytes"),
        (whole[:-1], "record 1 is cut off: 1 of its "),
    ):
        archive = bair_tar({name: data})
        text = refused(params_of("bair"), "test", [archive])
        assert reason in text
        assert str(archive) in text


def test_bair_records_of_something_else() -> None:
    name = f"{ROOT_OF}/test/traj_0_to_255.tfrecords"
    other = episode(1)
    del other["29/endeffector_pos"]
    for data, reason in (
        (record(example({"a": b"b"})), "no raw 64x64 image 0/image_aux1/encoded"),
        (record(example(other)), "no three numbers 29/endeffector_pos"),
        (record(example(episode(1, **{"3/image_aux1/encoded": b"\x89PNG"}))), "no raw 64x64 image 3/image_aux1"),
        (record(b"\xff\xff\xff"), "no tf.train.Example"),
    ):
        assert reason in refused(params_of("bair"), "test", [bair_tar({name: data})])


def test_bair_other_archives() -> None:
    path = bair_tar({"readme": b"x"})
    assert "no softmotion30_44k/test/traj_0_to_255.tfrecords or any other" in refused(params_of("bair"), "test", [path])
    path.write_bytes(b"<html>quota</html>")
    assert "is not a whole tar archive: it is an HTML page" in refused(params_of("bair"), "test", [path])
    with tarfile.open(path, "w:gz") as out:
        out.addfile(tarfile.TarInfo("x"))
    assert "it is compressed, unpack it to a plain .tar" in refused(params_of("bair"), "test", [path])


def test_bair_unpacked_folder_in_its_place() -> None:
    place = raw("bair") / "bair_robot_pushing_dataset_v0"
    for name, data in bair_files().items():
        if data:
            path = place / name.removeprefix(f"{ROOT_OF}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    found = bair.clips(params_of("bair"), "test", [place])
    assert [clip.name for clip in found] == ["traj_0_to_255/1", "traj_0_to_255/2"]
    assert next(iter(found[1].frames()))[1]()[0, 0].tolist() == [2, 0, 7]


def test_real_records(shared: Path) -> None:
    """Records that were written elsewhere, entries shuffled, in the official archive's layout."""
    data = (shared / "data/bair_tfrecord_sample/traj_0_to_1.tfrecords").read_bytes()
    archive = bair_tar({f"{ROOT_OF}/test/traj_0_to_255.tfrecords": data})
    made = store(params_of("bair", height=64, width=64), "test", [archive])
    assert {clip: len(rows) for clip, rows in made.clips.items()} == {"traj_0_to_255/1": 30, "traj_0_to_255/2": 30}
    starts = [cv2.imread(str(path))[..., ::-1] for path in sorted((shared / "data/bair_sample").glob("*.png"))]
    starts += [cv2.imread(str(path))[..., ::-1] for path in sorted((shared / "data/cinn_starts/bair").glob("*.png"))]
    for clip in made.clips:
        images = made.read(clip, range(30))
        assert any(np.array_equal(images[0], start) for start in starts), "a real start frame"
        for i in range(30):
            assert np.array_equal(images[i], np.roll(images[0], i, axis=1))
        assert np.abs(np.diff(made.values(clip), 2, axis=0)).max() < 1e-6, "positions lie on a line"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=80), max_size=6), st.integers(0, 8 * 700))
def test_records_are_right_or_refused(tmp_path_factory: pytest.TempPathFactory, some: list[bytes], bit: int) -> None:
    """Every flipped bit is noticed; without one the data is what was written."""
    path = tmp_path_factory.mktemp("r") / "x.tfrecords"
    whole = b"".join(
        struct.pack("<QI", len(d), crc(struct.pack("<Q", len(d)))) + d + struct.pack("<I", crc(d)) for d in some
    )
    path.write_bytes(whole)
    assert [tfrecord.payload(span) for span in tfrecord.records(Span(path, 0, len(whole)))] == some
    if bit // 8 < len(whole):
        flip_at = bytearray(whole)
        flip_at[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flip_at)
        with pytest.raises(RetakeError, match=r"CRC-32C|cut off|claims"):
            [tfrecord.payload(span) for span in tfrecord.records(Span(path, 0, len(whole)))]


def test_examples_of_all_kinds() -> None:
    numbers = [1, -1, 2**62, 0]
    packed = message((1, b"".join(varint_of(n) for n in numbers)))
    single = b"".join(b"\x08" + varint_of(n) for n in numbers)
    features = [(b"packed", (3, packed)), (b"single", (3, single)), (b"empty", (1, b""))]
    data = message((1, b"".join(message((1, message((1, n), (2, message(kind))))) for n, kind in features)))
    found = tfrecord.example(data)
    assert found["packed"].tolist() == found["single"].tolist() == numbers  # type: ignore[union-attr]
    assert found["empty"] == []
    with pytest.raises(ValueError, match="a feature of kind 9"):
        tfrecord.example(message((1, message((1, message((1, b"x"), (2, message((9, b"")))))))))


def varint_of(value: int) -> bytes:
    return message((1, value))[1:] or b"\0"


# Tar archives


def hostile(path: Path, **fields: Any) -> Path:
    with tarfile.open(path, "w") as out:
        info = tarfile.TarInfo("a")
        for key, value in fields.items():
            setattr(info, key, value)
        out.addfile(info)
    return path


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"name": "../a"}, "has a path that leaves its folder"),
        ({"name": "/a"}, "has an absolute path"),
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "is a link"),
        ({"type": tarfile.LNKTYPE, "linkname": "b"}, "is a link"),
        ({"type": tarfile.CHRTYPE}, "is a device"),
        ({"type": tarfile.FIFOTYPE}, "is a device, pipe"),
    ],
)
def test_hostile_tars(tmp_path: Path, fields: dict[str, Any], reason: str) -> None:
    path = hostile(tmp_path / "x.tar", **fields)
    with pytest.raises(RetakeError, match=reason) as caught:
        tars.check(path)
    assert str(path) in str(caught.value)
    assert "Put the publisher's x.tar there again" in str(caught.value)


def test_damaged_tars(tmp_path: Path) -> None:
    path = bair_tar({"a": b"1" * 600, "b": b"2" * 10, "c": b""}, tmp_path / "x.tar")
    whole = path.read_bytes()
    assert [span.bytes() for span in tars.members(path).values()] == [b"1" * 600, b"2" * 10, b""]
    for data, reason in (
        (whole[:700], "not a whole tar archive: unexpected end of data"),
        (whole[:1536], "is truncated: no header and no end mark at byte 1536 of 1536"),
        (whole[:1800], "is truncated: no header and no end mark at byte 1536"),
        (whole[:1540] + b"\xff" + whole[1541:], "is damaged: no header and no end mark at byte 1536"),
        (b"\xff" + whole[1:], "not a whole tar archive"),
        (b"", "not a whole tar archive"),
    ):
        path.write_bytes(data)
        with pytest.raises(RetakeError, match=reason):
            tars.check(path)
    twice = bair_tar({"a": b""}, tmp_path / "y.tar")
    with tarfile.open(twice, "a") as out:
        out.addfile(tarfile.TarInfo("a"))
    with pytest.raises(RetakeError, match="'a' stands in it twice"):
        tars.members(twice)
    with pytest.raises(RetakeError, match="no archive"):
        tars.members(tmp_path / "none.tar")


def test_stage_checks_tars(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "workflow", "workflow")
    path = bair_tar(bair_files())
    with (Path("workflow") / "sources.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if row["dataset"] == "bair":
            row["bytes"] = row["sha256"] = ""
    with (Path("workflow") / "sources.csv").open("w", newline="") as file:
        out = csv.DictWriter(file, rows[0])
        out.writeheader()
        out.writerows(rows)
    download.download(project(bair=params_of("bair")), "bair", "test")
    cut_zip(path, 0.5)
    with pytest.raises(RetakeError, match=r"wrong \(1\)"):
        download.download(project(bair=params_of("bair")), "bair", "test")


# iPER


def test_iper_counts_from_names_alone() -> None:
    p = params_of("iper")
    names = {split: set(iper.items(p, split)) for split in iper.SPLITS}
    assert {split: len(some) for split, some in names.items()} == {"train": 138, "val": 26, "test": 42}
    assert {split: len(some) for split, some in names.items()} == iper.EXPECTED
    assert len(set.union(*names.values())) == 206
    # Of its two repeats cINN's first stage makes 12,420 and 585 items an epoch.
    assert 60 * len(iper.items(p, "train")) == 12420
    assert 15 * len(iper.items(p, "val")) == 585


def iper_zip(videos: Mapping[str, bytes], release: int = 1024) -> Path:
    root = f"iPER_{release}_video_release"
    return make_zip(raw("iper") / f"{root}.zip", {f"{root}/{name}.mp4": data for name, data in videos.items()})


def test_iper(tmp_path: Path) -> None:
    videos = {"019_2_2": mp4(tmp_path, map(coded, range(9))), "019_2_1": mp4(tmp_path, map(coded, range(20)))}
    archive = iper_zip(videos | {"006_1_1": b"", "readme": b""})
    found = iper.clips(params_of("iper"), "test", [archive])
    assert [clip.name for clip in found] == ["019_2_1", "019_2_2"], "the list's order"
    assert shown(found[0]) == list(range(20))
    made = store(params_of("iper", height=16, width=16), "test", [archive])
    assert made.meta["partial"] == "1 of 1 archives, 2 of 42 clips"
    assert made.frame.tolist() == [*range(20), *range(9)]


def test_iper_another_archive() -> None:
    archive = iper_zip({"a": b""})
    assert "no 006_1_1.mp4 or any other such file" in refused(params_of("iper"), "test", [archive])


def test_real_videos_as_iper(shared: Path) -> None:
    """Real videos under iPER's names, at cINN's size: what OpenCV decodes and resizes in order."""
    sample = shared / "data/video_clips_sample/test-sample0.mp4"
    archive = iper_zip({"019_2_1": sample.read_bytes()})
    made = store(params_of("iper", height=256, width=256, codec="raw"), "test", [archive])
    assert len(made) == 92
    reader = cv2.VideoCapture(str(sample))
    for i in range(92):
        there, image = reader.read()
        assert there
        theirs = cv2.resize(image, (256, 256))[..., ::-1]
        assert np.abs(made.image(i).astype(int) - theirs).max() <= 3


# Dynamic textures


def test_dtdb() -> None:
    members = {f"DTDB/fire/train/v 1/frame{n}.jpg": jpg(n, 32, 48) for n in (0, 10, 9, *range(1, 9))}
    members |= {f"DTDB/fire/eval/v2/frame{n}.PNG": png(n, 48, 40) for n in range(3)}
    members |= {f"DTDB/clouds/eval/v2/frame{n}.png": png(n, 48, 40) for n in range(2)}
    archive = make_zip(raw("dtdb") / "dtdb.zip", members | {"DTDB/fire/eval/list.txt": b""})
    assert shapes(dtdb.clips(params_of("dtdb"), "train", [archive])) == {"v 1": list(range(11))}
    assert shapes(dtdb.clips(params_of("dtdb"), "test", [archive])) == {"v2": [0, 1, 2]}
    assert shapes(dtdb.clips(params_of("dtdb", texture="clouds"), "test", [archive])) == {"v2": [0, 1]}
    made = store(params_of("dtdb", height=16, width=16), "test", [archive])
    assert made.meta["partial"] is None
    with pytest.raises(RetakeError, match=r"no waterfall/eval/<video>/frame0.jpg or any other such file"):
        dtdb.clips(params_of("dtdb", texture="waterfall"), "test", [archive])


def test_dtdb_gaps_and_two_files_of_one_frame() -> None:
    archive = make_zip(raw("dtdb") / "dtdb.zip", {f"fire/eval/a/frame{n}.png": png(n) for n in (0, 2)})
    assert "clip a: frame 1 is missing" in refused(params_of("dtdb"), "test", [archive])
    archive = make_zip(archive, {f"fire/eval/a/frame0.{s}": png(0) for s in ("png", "jpg")})
    assert "are both frame 0 of 'a'" in refused(params_of("dtdb"), "test", [archive])


def test_real_dtdb(shared: Path) -> None:
    """Real start frames of all textures, PNG and JPEG in sizes of their own, in the archive's layout."""
    members = {}
    for texture in ("fire", "vegetation", "clouds", "waterfall"):
        for path in sorted((shared / f"data/dtdb_sample/{texture}").iterdir()):
            members |= {f"{texture}/eval/{path.stem}/frame{n}{path.suffix}": path.read_bytes() for n in range(2)}
    archive = make_zip(raw("dtdb") / "dtdb.zip", members)
    for texture in ("fire", "vegetation", "clouds", "waterfall"):
        made = store(params_of("dtdb", texture=texture, height=128, width=128), "test", [archive])
        assert len(made) == sum(name.startswith(texture) for name in members)
        assert (made.size == 128).all()


# TecoGAN's training scenes


def test_tecogan_counts() -> None:
    p = params_of("tecogan_train")
    assert [len(tecogan_train.published(split)) for split in tecogan_train.SPLITS] == [251, 40, 17]
    assert [tecogan_train.expected(p, split)["clips"] for split in tecogan_train.SPLITS] == [251, 40, 17]
    every = [scene for split in tecogan_train.SPLITS for scene in tecogan_train.published(split)]
    assert len(set(every)) == 308
    assert len({name for name, _ in every}) == 28
    shared_by_two = set(tecogan_train.archives(p, "train")) & set(tecogan_train.archives(p, "val"))
    assert shared_by_two == {"181180995.mp4"}, "as published"


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Scenes of 5 frames from three videos of small pictures, two scenes overlapping."""
    monkeypatch.setattr(tecogan_train, "LENGTH", 5)
    monkeypatch.setattr(tecogan_train, "LEAST", 32)
    rows = [("11", 0), ("11", 12), ("11", 14), ("11", 26), ("22", 3), ("33", 0), ("33", 28)]
    text = "".join(f"{name},{start},{'val' if name == '33' else 'train'}\n" for name, start in rows)
    monkeypatch.setattr(tecogan_train, "SCENES", tmp_path / "scenes.csv")
    (tmp_path / "scenes.csv").write_text("video,start,split\n" + text)


def vimeo(name: str, count: int, height: int = 64, width: int = 96, **options: Any) -> Path:
    some = (coded(n, height, width) for n in range(count))
    return write_video(raw("tecogan_train") / f"{name}.mp4", some, **options)


def test_tecogan_scenes_of_each_video(short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    real = video.frames
    monkeypatch.setattr(video, "frames", lambda member: opened.append(member.name) or real(member))
    files = [vimeo("11", 33), vimeo("22", 10)]
    made = store(params_of("tecogan_train"), "train", files)
    assert {clip: [number(made.image(i)) for i in rows] for clip, rows in made.clips.items()} == {
        "11/0": [0, 1, 2, 3, 4],
        "11/12": [12, 13, 14, 15, 16],
        "11/14": [14, 15, 16, 17, 18],
        "11/26": [26, 27, 28, 29, 30],
        "22/3": [3, 4, 5, 6, 7],
    }
    assert made.frame.tolist() == [0, 1, 2, 3, 4] * 5
    assert opened == ["11.mp4", "11.mp4", "22.mp4"], "one pass a video, one more where scenes overlap"
    assert made.meta["resize"] == "cv2.INTER_AREA, half"
    assert made.meta["partial"] is None
    whole = next(itertools.islice(real(Member(raw("tecogan_train"), "11.mp4")), 12, None))[1]()
    assert np.array_equal(made.image(5), cv2.resize(whole, (48, 32), interpolation=cv2.INTER_AREA))


def test_a_dead_link_shifts_nothing(short: None) -> None:
    made = store(params_of("tecogan_train"), "train", [vimeo("22", 10)], ["11.mp4"])
    assert list(made.clips) == ["22/3"]
    assert made.meta["partial"] == "1 of 2 archives, 1 of 5 clips"


def test_tecogan_videos_that_are_too_small_short_or_none(short: None, caplog: pytest.LogCaptureFixture) -> None:
    files = [vimeo("11", 20), vimeo("22", 10, height=30)]
    made = store(params_of("tecogan_train"), "train", files)
    assert list(made.clips) == ["11/0", "11/12", "11/14"]
    assert made.meta["partial"] == "2 of 2 archives, 3 of 5 clips"
    assert "left out: 11.mp4 has 20 frames, no scene of 5 at 26" in caplog.text
    assert "left out: 22.mp4 is 96x30; sides below 32 are left out, as published" in caplog.text
    files[0].write_bytes(b"<html>")
    shutil.rmtree("data/frames")
    text = refused(params_of("tecogan_train"), "train", files)
    assert "no scenes of 5 frames in data/raw/tecogan_train: put videos there" in text
    assert "'11.mp4' cannot be read as a video" in text


def test_tecogan_cut_off_video(short: None, caplog: pytest.LogCaptureFixture) -> None:
    path = vimeo("11", 33, options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.8)])
    made = store(params_of("tecogan_train"), "train", [path])
    assert "11/0" in made.clips
    assert "11/26" not in made.clips
    for clip, rows in made.clips.items():
        first = int(clip.split("/")[1])
        assert [number(made.image(i)) for i in rows] == [*range(first, first + len(rows))]
    assert "left out: 11.mp4 has " in caplog.text


def shots(*seeds: tuple[int, int], height: int = 64, width: int = 96) -> Iterator[np.ndarray]:
    """Yield pans over pictures: (seed, frames) of each shot."""
    for seed, count in seeds:
        still = cv2.resize(picture(seed, 8, 16), (width + count, height), interpolation=cv2.INTER_CUBIC)
        yield from (still[:, n : n + width] for n in range(count))


def test_own_videos_are_cut_at_shot_changes(short: None, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = tmp_path / "own videos"
    write_video(own / "train/a b.MP4", shots((1, 12), (2, 4), (3, 9)))
    write_video(own / "train/more/c.mkv", shots((4, 6)))
    write_video(own / "val/d.avi", shots((5, 11)))
    (own / "train/notes.txt").write_text("x")
    (own / "train/broken.mp4").write_bytes(b"x")
    p = params_of("tecogan_train", videos=str(own))
    assert tecogan_train.archives(p, "train") == []
    made = store(p, "train", [])
    assert [*made.clips] == ["a b.MP4/0", "a b.MP4/5", "a b.MP4/16", "more/c.mkv/0"]
    assert "left out: " in caplog.text
    assert "'broken.mp4' cannot be read as a video" in caplog.text
    assert made.meta["partial"] is None
    assert [*store(p, "val", []).clips] == ["d.avi/0", "d.avi/5"]
    assert "no folder" in refused_in_place(p, "unused")


def refused_in_place(p: Any, split: str) -> str:
    with pytest.raises(RetakeError) as caught:
        store(p, split, [])
    return str(caught.value)


def test_own_real_video(shared: Path, tmp_path: Path) -> None:
    """292 frames of 972x540, one shot: two scenes of 120, half the size."""
    (tmp_path / "own/train").mkdir(parents=True)
    shutil.copy(shared / "data/video_clips_sample/running_car.mp4", tmp_path / "own/train")
    found = tecogan_train.clips(params_of("tecogan_train", videos=str(tmp_path / "own")), "train", [])
    assert [clip.name for clip in found] == ["running_car.mp4/0", "running_car.mp4/120"]
    (first, image), *_ = itertools.islice(found[1].frames(), 1)
    assert (first, image().shape) == (0, (270, 486, 3))


def test_real_cuts(shared: Path) -> None:
    """The five cuts of a real video, looked at frame by frame, and none in one that pans fast."""
    clips = Member(shared / "data/video_clips_sample", "bikes.mp4")
    assert scenes.cuts(image() for _, image in video.frames(clips)) == ([30, 76, 137, 187, 242], 250)
    clips = Member(shared / "data/video_clips_sample", "test-sample0.mp4")
    assert scenes.cuts(image() for _, image in video.frames(clips)) == ([], 92)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(3, 20), min_size=1, max_size=4), st.integers(0, 1000))
def test_cuts_are_found_where_they_are(lengths: list[int], seed: int) -> None:
    found, total = scenes.cuts(shots(*((seed + i, n) for i, n in enumerate(lengths))))
    assert total == sum(lengths)
    assert found == list(itertools.accumulate(lengths))[:-1]


@given(st.sets(st.integers(1, 99), max_size=9), st.integers(0, 100), st.integers(1, 30))
def test_scenes_lie_inside_shots(positions: set[int], total: int, length: int) -> None:
    inside = sorted(p for p in positions if p < total)
    found = scenes.starts(inside, total, length)
    for start in found:
        assert 0 <= start <= total - length
        assert not any(start < p < start + length for p in inside)
    assert all(b - a >= length for a, b in itertools.pairwise(found))
    edges = [0, *inside, total]
    assert len(found) == sum((b - a) // length for a, b in itertools.pairwise(edges))


def test_no_frames_no_scenes() -> None:
    assert scenes.cuts(iter(())) == ([], 0)
    assert scenes.starts([], 0, 120) == []


# Bad archives


@pytest.mark.parametrize(
    ("kind", "split", "example"),
    [
        ("sky_timelapse", "test", "sky_test/07U1fSrk9oI/07U1fSrk9oI_1/07U1fSrk9oI_frames_00000001.jpg"),
        ("iper", "val", "006_1_1.mp4"),
        ("dtdb", "train", "fire/train/<video>/frame0.jpg"),
        ("qst", "train", "train_urls.txt"),
    ],
)
def test_wrong_archives_in_the_right_place(kind: str, split: str, example: str) -> None:
    """Another archive, the right one inside another zip, an empty one, half of one."""
    p = params_of(kind)
    path = make_zip(raw(kind) / params.registry("datasets")[kind].archives(p, split)[0], {"COCO/1.txt": b"", "a": b""})
    assert f"no {example}" in refused(p, split, [path])
    text = refused(p, split, [make_zip(path, {path.name: path.read_bytes()})])
    assert (f"it holds another archive, {path.name!r}: put that one there" in text) or kind == "qst"
    assert f"no {example}" in refused(p, split, [make_zip(path, {})])
    make_zip(path, {f"{n}.bin": bytes(100) for n in range(100)})
    text = refused(p, split, [cut_zip(path, 0.5)])
    assert f"{path} is not a whole zip archive: it is truncated" in text
    assert f"Put the publisher's {path.name} there again" in text


# Memory


@pytest.mark.slow
def test_memory_stays_flat_whatever_the_tar(tmp_path: Path) -> None:
    """3 GB of records, read in place: less than 1.5 GiB at the peak."""
    name = f"{ROOT_OF}/test/traj_0_to_255.tfrecords"
    path = raw("bair") / "bair_robot_pushing_dataset_v0.tar"
    path.parent.mkdir(parents=True)
    rng = np.random.default_rng(0)
    features = {k: rng.bytes(64 * 64 * 3) if k.endswith("encoded") else v for k, v in episode(1).items()}
    one = record(example(features))
    count = 3 * 10**9 // len(one)
    with tarfile.open(path, "w") as out:
        info = tarfile.TarInfo(name)
        info.size = len(one) * count
        out.addfile(info, Repeated(one, count))  # type: ignore[arg-type]
    code = (
        "import resource; from pathlib import Path; from pipeline.datasets import bair; from tests import test_datasets_videos as t;"
        f"found = bair.clips(t.params_of('bair'), 'test', [Path({str(path)!r})]);"
        "n = sum(len(image()) > 0 for clip in found for _, image in clip.frames());"
        "print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)}
    )
    frames_read, peak = map(int, done.stdout.split())
    assert frames_read == 30 * count
    assert peak < 1.5 * 2**20


class Repeated(io.RawIOBase):
    """A file of the same bytes again and again."""

    def __init__(self, piece: bytes, count: int) -> None:
        self._piece, self._left = piece, len(piece) * count

    def read(self, size: int = -1) -> bytes:
        take = min(size, self._left)
        at = -self._left % len(self._piece)
        self._left -= take
        times = (at + take) // len(self._piece) + 1
        return (self._piece * times)[at : at + take]
