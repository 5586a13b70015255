"""The datasets that are zips of images or videos: their true layouts, published counts, real samples, bad archives."""

from __future__ import annotations

import io
import logging
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline import download, fetch, flow, frames, params
from pipeline.datasets import cityscapes, davis2017, kitti_flow, sintel, tos, ucf101, vid4, vimeo90k
from pipeline.errors import RetakeError
from pipeline.models import truth
from pipeline.sources import archives, layout
from pipeline.sources.archives import Clip, Stream
from pipeline.store.frames import Store
from tests.conftest import ROOT
from tests.layouts import encoded, make_zip, manifest, picture
from tests.layouts_zips import (
    cityscapes_zip,
    coded,
    cut_zip,
    davis_zip,
    entry,
    flo,
    huge_zip,
    inside,
    jpg,
    kitti_flow_zips,
    number,
    numbered,
    png,
    scenes_zip,
    sintel_zip,
    ucf_lists,
    ucf_parts,
    video_bytes,
    vimeo_zip,
)

MODULES = [cityscapes, davis2017, kitti_flow, sintel, tos, ucf101, vid4, vimeo90k]
PNG = png(0)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def _logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "retake")


def raw(kind: str) -> Path:
    return Path("data/raw") / kind


def project(**datasets: Any) -> params.Params:
    models = {"truth": truth.Params(kind="truth", network=None, train=None, checkpoint=None, predict=None)}
    return params.Params.model_construct(datasets=datasets, models=models)


def store(p: Any, split: str, files: list[Path]) -> Store:
    """Make the frame store of archives that lie in data/raw, under the kind's own name as entry."""
    manifest(p.kind, split, files)
    return Store(frames.make(project(**{p.kind: p}), p.kind, split))


def refused(p: Any, split: str, files: list[Path]) -> str:
    with pytest.raises(RetakeError) as caught:
        store(p, split, files)
    assert not list(Path("data").rglob("*.arrow*"))
    return str(caught.value)


def shapes(found: list[Clip]) -> dict[str, list[int]]:
    return {clip.name: [n for n, _ in clip.frames] for clip in found}


def rgb(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


# What every module declares


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__.rpartition(".")[2])
def test_every_archive_has_a_source(module: Any) -> None:
    kind = module.__name__.rpartition(".")[2]
    rows = {row.file: row for row in fetch.sources(ROOT / "workflow/sources.csv") if row.name == kind}
    used = {name for p in entries(kind) for split in module.SPLITS for name in module.archives(p, split)}
    assert used == rows.keys()
    assert all(row.urls or row.login for row in rows.values())
    assert "\n" not in module.LICENCE
    for p in entries(kind):
        for split in module.SPLITS:
            assert module.expected(p, split).keys() <= {"clips", "frames"}


def entries(kind: str) -> Iterator[Any]:
    keys: dict[str, list[dict[str, Any]]] = {
        "davis2017": [{"resolution": r, "fit": "resize"} for r in ("480p", "full")],
        "kitti_flow": [{"year": y, "views": v} for y in (2012, 2015) for v in (2, 3)],
        "sintel": [
            {"renderings": r, "scenes": s} for r in (["clean"], ["movie", "final"]) for s in ("all", "unofficial")
        ],
        "ucf101": [{"source": s} for s in ("avi", "jpegs_256")],
        "vimeo90k": [{"part": p} for p in ("interp_test", "triplet", "septuplet")],
    }
    return (entry(kind, **changes) for changes in keys.get(kind, [{}]))


# Cityscapes

CITY = {"train/aachen": [(0, 0), (1, 0), (2, 0)], "val/frankfurt": [(0, 275), (1, 47529), (1, 47559), (1, 47800)]}


def test_cityscapes() -> None:
    archive = cityscapes_zip(Path(), CITY | {"test/berlin": [(0, 0)]})
    p = entry("cityscapes")
    train = shapes(cityscapes.clips(p, "train", [archive]))
    assert train == {f"aachen_{n:06d}_000000": list(range(30)) for n in range(3)}
    test = shapes(cityscapes.clips(p, "test", [archive]))
    firsts = {"000000_000275": 275, "000001_047529": 47529, "000001_047559": 47559, "000001_047800": 47800}
    assert test == {f"frankfurt_{name}": list(range(n, n + 30)) for name, n in firsts.items()}
    # Two of them touch: the second one's annotated frame is frankfurt_000001_047578 all the same.
    assert cityscapes.annotated("frankfurt_000001_047559") == "frankfurt_000001_047578"
    assert cityscapes.annotated("aachen_000000_000000") == "aachen_000000_000019"


def test_cityscapes_frames_that_are_missing() -> None:
    archive = cityscapes_zip(Path("whole"), CITY)
    gone = ["val/frankfurt/frankfurt_000001_047560", "val/frankfurt/frankfurt_000000_000304"]
    with zipfile.ZipFile(archive) as whole:
        names = [n for n in whole.namelist() if not any(g in n for g in gone)]
    cut = make_zip(Path(archive.name), dict.fromkeys(names, b""))
    with pytest.raises(RetakeError) as caught:
        cityscapes.clips(entry("cityscapes"), "test", [cut])
    head, *lines = str(caught.value).splitlines()
    assert head == "frames are missing, get the archive again:"
    assert lines == [
        f"{cut}: frankfurt_000000: the 29 frames from 275 to 303 are no snippets of 30",
        f"{cut}: frankfurt_000001: the 31 frames from 47529 to 47559 are no snippets of 30",
        f"{cut}: frankfurt_000001: the 28 frames from 47561 to 47588 are no snippets of 30",
    ]
    assert len(cityscapes.clips(entry("cityscapes"), "train", [cut])) == 3


def test_cityscapes_counts_from_names_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """18 cities for training and 3 for validation, all snippets numbered as published."""
    names = []
    for place, count in (("train", 2975), ("val", 500), ("test", 1525)):
        for i in range(count):
            city = f"city{i % 7}"
            seq, first = (i, 0) if i % 7 else (i % 2, 100 * i)
            names += [
                f"leftImg8bit_sequence/{place}/{city}/{city}_{seq:06d}_{n:06d}_leftImg8bit.png"
                for n in range(first, first + 30)
            ]
    monkeypatch.setattr(layout, "names", lambda _: names)
    for split, count in (("train", 2975), ("test", 500)):
        found = cityscapes.clips(entry("cityscapes"), split, [Path("x.zip")])
        assert len(found) == count
        assert {len(clip.frames) for clip in found} == {30}
        assert cityscapes.expected(entry("cityscapes"), split) == {"clips": count, "frames": count * 30}
        assert [c.name for c in found] == sorted(c.name for c in found)


def test_cityscapes_store() -> None:
    archive = cityscapes_zip(raw("cityscapes"), {"val/frankfurt": [(1, 47529)]}, png(1, 64, 128))
    made = store(entry("cityscapes", height=32, width=64), "test", [archive])
    assert made.meta["partial"] == "1 of 1 archives, 1 of 500 clips, 30 of 15000 frames"
    assert made.frame.tolist() == list(range(47529, 47559))
    half = cv2.resize(picture(1, 64, 128)[..., ::-1], (64, 32))[..., ::-1]
    assert np.array_equal(made.image(0), half)


# UCF101

UCF = ["v_HandstandPushups_g08_c01", "v_Archery_g09_c02", "v_ApplyEyeMakeup_g08_c01"]


def test_ucf101_videos(tmp_path: Path) -> None:
    spelt = {name.replace("HandstandPushups", "HandStandPushups"): n for n, name in enumerate(UCF)}
    members = {
        f"UCF-101/{name.split('_')[1]}/{name}.avi": video_bytes((coded(k, 48, 64) for k in range(10 + n)), tmp_path)
        for name, n in spelt.items()
    }
    videos = make_zip(raw("ucf101") / "UCF101_videos.zip", members | {"UCF-101/Thumbs.db": b""})
    lists = ucf_lists(raw("ucf101"), UCF, ["v_Archery_g01_c01"])
    made = store(entry("ucf101", source="avi", height=32), "train", [lists, videos])
    assert list(made.clips) == UCF  # in the list's order, and with its spelling
    assert [len(rows) for rows in made.clips.values()] == [10, 11, 12]
    assert set(map(tuple, made.size.tolist())) == {(32, 42)}  # 42.67: the nearest even number
    for rows in made.clips.values():
        assert made.frame[rows].tolist() == list(range(1, len(rows) + 1))
        assert [number(made.image(r)) for r in rows] == list(range(len(rows)))
    assert made.meta["partial"] == "2 of 2 archives, 3 of 9537 clips"
    assert made.source(0) == "UCF101_videos.zip/UCF-101/HandStandPushups/v_HandStandPushups_g08_c01.avi"


def test_ucf101_jpegs_in_three_parts(caplog: pytest.LogCaptureFixture) -> None:
    spelt = [UCF[0].replace("HandstandPushups", "HandStandPushups"), *UCF[1:]]
    images = {name: [jpg(10 * k + n, 256, 342) for n in range(3)] for k, name in enumerate(spelt)}
    junk = {f"jpegs_256/{spelt[1]}/TSP Flows/{name}": b"" for name in ("", "a.jpg", "frame000001.jpg.bin")}
    parts = ucf_parts(raw("ucf101"), images, junk, 3)
    lists = ucf_lists(raw("ucf101"), UCF)
    made = store(entry("ucf101", source="jpegs_256", height=256, codec="jpeg"), "train", [lists, *parts])
    assert list(made.clips) == UCF
    for clip, name in zip(UCF, spelt, strict=True):
        rows = made.clips[clip]
        assert made.frame[rows].tolist() == [1, 2, 3]
        assert [bytes(made.encoded(r)) for r in rows] == images[name]  # the sources' own bytes
    assert "ucf101_jpegs_256.zip.001: 9 files are used, 2 others are not ('jpegs_256/v_Archery" in caplog.text


def test_ucf101_a_part_is_missing() -> None:
    parts = ucf_parts(raw("ucf101"), {UCF[1]: [jpg(0)] * 3}, {}, 3)
    lists = ucf_lists(raw("ucf101"), UCF)
    parts[1].unlink()
    text = refused(entry("ucf101", source="jpegs_256"), "train", [lists, parts[0], parts[2]])
    assert f"{parts[0]} is not a whole zip archive" in text


def test_ucf101_list_names_a_clip_that_is_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    members = {f"{UCF[1]}.avi": video_bytes((coded(k) for k in range(3)), tmp_path)}
    videos = make_zip(raw("ucf101") / "UCF101_videos.zip", members)
    lists = ucf_lists(raw("ucf101"), UCF)
    assert list(store(entry("ucf101", source="avi"), "train", [lists, videos]).clips) == [UCF[1]]
    assert f"2 of the 3 clips that trainlist01.txt names are not in the archives: {UCF[0]!r}, {UCF[2]!r}" in caplog.text
    other = ucf_lists(raw("ucf101"), ["v_Nunchucks_g01_c01"])
    shutil.rmtree("data/frames")
    text = refused(entry("ucf101", source="avi"), "train", [other, videos])
    assert "1 of the 1 clips that trainlist01.txt names are not in the archives: 'v_Nunchucks_g01_c01'" in text
    text = refused(entry("ucf101", source="avi"), "train", [videos])
    assert "no trainlist01.txt in the archives, none of which is there" in text


def test_ucf101_cut_and_bad_videos(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = video_bytes((coded(k) for k in range(60)), tmp_path)
    archive = raw("ucf101") / "UCF101_videos.zip"
    lists = ucf_lists(raw("ucf101"), UCF)
    members = {f"{UCF[0]}.avi": whole, f"{UCF[1]}.avi": whole[: len(whole) * 9 // 10]}
    made = store(entry("ucf101", source="avi"), "train", [lists, make_zip(archive, members)])
    rows = made.clips[UCF[1]]
    assert 10 < len(rows) < 60
    assert [number(made.image(r)) for r in rows] == list(range(len(rows)))
    assert f"'{UCF[1]}.avi': it is cut off" in caplog.text
    assert f"; the {len(rows)} frames before that are good" in caplog.text
    shutil.rmtree("data/frames")
    members[f"{UCF[2]}.avi"] = b"no video"
    text = refused(entry("ucf101", source="avi"), "train", [lists, make_zip(archive, members)])
    assert f"faults in {60 + len(rows)} frames (1)" in text
    assert f"'{UCF[2]}.avi' cannot be read as a video" in text


def test_ucf101_the_list_and_its_counts() -> None:
    names = [
        f"v_{'Class' + chr(65 + k % 26) + chr(97 + k // 26)}_g{8 + i:02d}_c01" for k in range(101) for i in range(18)
    ]
    lists = ucf_lists(Path(), names)
    text = layout.text([lists], "trainlist01.txt")
    assert ucf101.names(text) == names
    assert (ucf101.EXPECTED["train"], ucf101.EXPECTED["test"]) == (9537, 3783)
    assert sum(ucf101.EXPECTED.values()) == 13320


@pytest.mark.parametrize("source", ["avi", "jpegs_256"])
def test_ucf101_counts_from_names_alone(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """13,320 clips in the archive, 9,537 of them in trainlist01, 3,783 in testlist01."""
    clips = [f"v_Class{chr(65 + k // 2000)}_g{k // 100 % 99:02d}_c{k % 100:02d}" for k in range(13320)]
    lists = ucf_lists(Path(), clips[:9537], clips[9537:])
    archive = Path(ucf101.ARCHIVES[source][0])
    inside_ = {
        "avi": [f"UCF-101/{clip.split('_')[1]}/{clip}.avi" for clip in clips],
        "jpegs_256": [f"jpegs_256/{clip}/frame{n:06d}.jpg" for clip in clips for n in (1, 2)],
    }[source]
    monkeypatch.setattr(layout, "names", lambda path: inside_ if path == archive else archives.names(path))
    p = entry("ucf101", source=source)
    for split, count in (("train", 9537), ("test", 3783)):
        found = ucf101.clips(p, split, [lists, archive])
        assert {"clips": len({clip.name for clip in found})} == {"clips": count} == ucf101.expected(p, split)


# DAVIS 2017


def test_davis_lists() -> None:
    lists = {split: layout.lines(path.read_text()) for split, path in davis2017.LISTS.items()}
    assert {split: len(set(names)) for split, names in lists.items()} == davis2017.EXPECTED == {"train": 60, "test": 30}
    assert not set(lists["train"]) & set(lists["test"])
    everything = davis_zip(Path(), {name: [b""] * 2 for names in lists.values() for name in names})
    for split in davis2017.SPLITS:
        p = entry("davis2017", resolution="480p", fit="resize")
        assert [c.name for c in davis2017.clips(p, split, [everything])] == lists[split]


@pytest.mark.parametrize("resolution", ["480p", "full"])
def test_davis_fit(resolution: str) -> None:
    sources = {"dog": [png(n, 48, 85) for n in range(2)], "pigs": [png(9, 48, 110)] * 2, "bear": [b"train"]}
    name = {"480p": "480p", "full": "Full-Resolution"}[resolution]
    archive = davis_zip(raw("davis2017"), sources, name)
    padded = store(entry("davis2017", resolution=resolution, fit="pad", height=48, width=96), "test", [archive])
    assert padded.meta["fit"] == "pad"
    assert padded.meta["partial"] == "1 of 1 archives, 2 of 30 clips"
    assert set(map(tuple, padded.size.tolist())) == {(48, 96)}
    image = padded.read("dog", [1])[0]
    assert np.array_equal(image[:, :85], picture(1, 48, 85))
    assert np.array_equal(image[:, 85:], np.repeat(image[:, 84:85], 11, axis=1))
    wide = padded.read("pigs", [0])[0]  # 110 columns become 96, 48 rows 42
    small = cv2.resize(picture(9, 48, 110)[..., ::-1], (96, 42))[..., ::-1]
    assert np.array_equal(wide[:42], small)
    assert np.array_equal(wide[42:], np.repeat(small[-1:], 6, axis=0))
    assert padded.meta["values"] == frames.UNPADDED
    assert padded.content.tolist() == [[48, 85]] * 2 + [[42, 96]] * 2
    resized = store(entry("davis2017", resolution=resolution, fit="resize", height=48, width=96), "test", [archive])
    assert resized.meta["fit"] == "resize"
    assert "values" not in resized.meta
    assert np.array_equal(resized.read("dog", [1])[0], cv2.resize(picture(1, 48, 85)[..., ::-1], (96, 48))[..., ::-1])


def test_padding_needs_a_size() -> None:
    with pytest.raises(ValueError, match="fit pad needs height and width"):
        entry("davis2017", resolution="480p", fit="pad", height=480)


def test_davis_empty_clip() -> None:
    archive = davis_zip(raw("davis2017"), {"dog": [PNG] * 2, "pigs": []})
    text = refused(entry("davis2017", resolution="480p", fit="resize"), "test", [archive])
    assert "clip pigs has no frames" in text


# Vimeo-90K


def test_vimeo_interpolation_test() -> None:
    images = {"00001/0389": [png(n) for n in range(3)], "00002/0001": [png(n) for n in range(3, 6)]}
    made = store(entry("vimeo90k", part="interp_test"), "test", [vimeo_zip(raw("vimeo90k"), "interp_test", images)])
    assert list(made.clips) == list(images)
    assert made.frame.tolist() == [1, 2, 3, 1, 2, 3]
    assert [np.array_equal(made.image(n), picture(n)) for n in range(6)] == [True] * 6
    assert made.meta["partial"] == "1 of 1 archives, 2 of 3782 clips, 6 of 11346 frames"
    text = refused_without(entry("vimeo90k", part="interp_test"), "train")
    assert "interp_test has no split train: part triplet or septuplet has" in text


def refused_without(p: Any, split: str) -> str:
    shutil.rmtree("data/frames", ignore_errors=True)
    return refused(p, split, [])


@pytest.mark.parametrize(("part", "length"), [("triplet", 3), ("septuplet", 7)])
def test_vimeo_lists_of_the_archive(part: str, length: int, caplog: pytest.LogCaptureFixture) -> None:
    clips = ["00001/0001", "00001/0002", "00003/0005"]
    archive = vimeo_zip(
        Path(),
        part,
        dict.fromkeys(clips, [b""] * length),
        train=[clips[2], clips[0], "00009/0009"],
        test=[clips[1], ""],
    )
    p = entry("vimeo90k", part=part)
    assert shapes(vimeo90k.clips(p, "train", [archive])) == {
        clip: list(range(1, length + 1)) for clip in (clips[2], clips[0])
    }
    assert (
        "1 of the 3 clips that " + part[:3] + "_trainlist.txt names are not in the archives: '00009/0009'"
        in caplog.text
    )
    assert list(shapes(vimeo90k.clips(p, "test", [archive]))) == [clips[1]]


def test_vimeo_clip_without_its_last_frame() -> None:
    archive = vimeo_zip(raw("vimeo90k"), "interp_test", {"00001/0001": [PNG] * 3, "00001/0002": [PNG] * 2})
    text = refused(entry("vimeo90k", part="interp_test"), "test", [archive])
    assert f"{archive}: clip '00001/0002' has frames 1 to 2, not 1 to 3" in text


def test_vimeo_published_lists(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = shared / "data/vimeo_sample/lists"
    triplets, septuplets = (layout.lines((lists / f"{n}_testlist.txt").read_text()) for n in ("tri", "sep"))
    assert vimeo90k.EXPECTED["triplet"]["test"] == len(set(triplets)) == 3782
    assert vimeo90k.EXPECTED["septuplet"]["test"] == len(set(septuplets)) == 7824
    archive = vimeo_zip(Path(), "interp_test", dict.fromkeys(triplets, [b""] * 3))
    p = entry("vimeo90k", part="interp_test")
    found = vimeo90k.clips(p, "test", [archive])
    assert {"clips": len(found), "frames": sum(len(c.frames) for c in found)} == vimeo90k.expected(p, "test")
    text = (lists / "sep_testlist.txt").read_bytes()
    archive = make_zip(Path("vimeo_septuplet.zip"), {"vimeo_septuplet/sep_testlist.txt": text})
    listed = archives.names(archive) + [
        f"vimeo_septuplet/sequences/{c}/im{n}.png" for c in septuplets for n in range(1, 8)
    ]
    monkeypatch.setattr(layout, "names", lambda _: listed)
    assert [c.name for c in vimeo90k.clips(entry("vimeo90k", part="septuplet"), "test", [archive])] == septuplets


def test_real_vimeo(shared: Path) -> None:
    sample = sorted((shared / "data/vimeo_sample").rglob("im*.png"))
    images = {"00000/0001": [path.read_bytes() for path in sample]}
    archive = vimeo_zip(raw("vimeo90k"), "septuplet", images, test=images)
    made = store(entry("vimeo90k", part="septuplet", height=256, width=448), "test", [archive])
    assert made.frame.tolist() == list(range(1, 8))
    assert np.array_equal(made.image(3), rgb(sample[3].read_bytes()))


# Vid4, Tears of Steel

TECOGAN = vid4.LOW[1].removesuffix(".zip")


def vid4_zips(folder: Path, sizes: dict[str, tuple[int, int]], numbers: range = range(1, 4)) -> list[Path]:
    """Write the three zips; `sizes`: scene -> (height, width) of its low resolution."""

    def some(scene: str, scale: int, first: int = numbers[0]) -> dict[str, bytes]:
        height, width = sizes[scene]
        return {f"{first + i:04d}.png": png(i, height * scale, width * scale) for i in range(len(numbers))}

    rest = [scene for scene in sizes if scene != "calendar"]
    return [
        scenes_zip(folder / "vid4_HR.zip", {scene: some(scene, 4, 0) for scene in sizes}),
        scenes_zip(folder / "vid3_LR.zip", {scene: some(scene, 1) for scene in rest}, "LR/"),
        scenes_zip(
            folder / f"{TECOGAN}.zip", {"LR/calendar": some("calendar", 1), "resources": {"a1.png": b""}}, f"{TECOGAN}/"
        ),
    ]


SIZES = {"calendar": (18, 20), "city": (16, 22), "foliage": (15, 22), "walk": (15, 22)}


def test_vid4_pairs() -> None:
    files = vid4_zips(raw("vid4"), SIZES)
    p = entry("vid4")
    stores = {split: store(p, split, files) for split in vid4.SPLITS}
    for split, scale in (("test", 4), ("test_lr", 1)):
        made = stores[split]
        assert list(made.clips) == sorted(SIZES)
        for scene, rows in made.clips.items():
            assert made.frame[rows].tolist() == [0, 1, 2]  # paired by position: LR is numbered from 1, HR from 0
            assert set(map(tuple, made.size[rows].tolist())) == {(SIZES[scene][0] * scale, SIZES[scene][1] * scale)}
        assert made.meta["height"] is None
        assert made.meta["partial"] == "3 of 3 archives, 4 of 4 clips, 12 of 171 frames"
    assert stores["test_lr"].source(0) == f"{TECOGAN}.zip/{TECOGAN}/LR/calendar/0001.png"
    assert sum(vid4.FRAMES.values()) == 171


def test_vid4_pairs_that_do_not_belong_together() -> None:
    files = vid4_zips(raw("vid4"), SIZES)
    scenes_zip(
        files[1],
        {
            "city": {"0001.png": png(0, 16, 23)},
            "foliage": {f"{n:04d}.png": png(0, 15, 23) for n in (1, 2, 3)},
            "walk": {},
        },
    )
    text = refused(entry("vid4"), "test_lr", files)
    assert "these clips' archives do not belong together, get both again:" in text
    assert "city: 1 low-resolution frames, 3 high-resolution ones" in text
    assert "foliage: low resolution 23x15, high resolution 88x60, not 92x60" in text


def test_tos() -> None:
    scenes = {"bridge": (16, 20), "my face": (17, 21)}
    high, low = (
        scenes_zip(
            raw("tos") / name,
            {s: {f"{s} {n}.PNG": png(n, h * k, w * k) for n in range(9, 12)} for s, (h, w) in scenes.items()},
            root,
        )
        for name, k, root in (("tos_HR.zip", 4, "HR/"), ("tos_LR.zip", 1, "LR/"))
    )
    made = {split: store(entry("tos"), split, [high, low]) for split in tos.SPLITS}
    assert list(made["test"].clips) == list(made["test_lr"].clips) == list(scenes)
    assert made["test"].frame.tolist() == [0, 1, 2] * 2
    # 9, 10, 11 by number, not by name
    assert [np.array_equal(made["test_lr"].image(i), picture(n, 16, 20)) for i, n in enumerate((9, 10, 11))] == [
        True
    ] * 3
    assert made["test"].meta["partial"] == "2 of 2 archives, 2 of 3 clips"


def test_scene_with_a_gap() -> None:
    some = {f"{n:04d}.png": PNG for n in (1, 2, 5)}
    files = [scenes_zip(raw("tos") / name, {"room": some}) for name in ("tos_HR.zip", "tos_LR.zip")]
    assert f"{files[0]}: clip 'room': 3 to 4 missing" in refused(entry("tos"), "test", files)


def test_real_calendar(shared: Path) -> None:
    sample = sorted((shared / "data/vid4_calendar_lr").glob("*.png"))
    scene = {path.name: path.read_bytes() for path in sample}
    files = [scenes_zip(raw("vid4") / vid4.LOW[1], {"calendar": scene}, f"{TECOGAN}/LR/")]
    made = store(entry("vid4"), "test_lr", files)
    assert len(made) == vid4.FRAMES["calendar"] == 41
    assert [np.array_equal(made.image(n), rgb(path.read_bytes())) for n, path in enumerate(sample)] == [True] * 41
    assert set(map(tuple, made.size.tolist())) == {(144, 180)}


# KITTI flow


def kitti_png(flow_: np.ndarray, valid: np.ndarray) -> bytes:
    steps = np.dstack([flow_ * 64 + 2**15, valid])
    return encoded(steps.astype(np.uint16))


@pytest.mark.parametrize("year", [2012, 2015])
def test_kitti_flow(year: int) -> None:
    rng = np.random.default_rng(0)
    field = rng.integers(-640, 640, (24, 40, 2)) / 64
    valid = rng.random((24, 40)) < 0.2
    scenes = {"000000": png(0), "000007": png(1, 24, 44)}
    pairs, views = kitti_flow_zips(raw("kitti_flow"), year, scenes, kitti_png(field, valid))
    p = entry("kitti_flow", year=year, views=2)
    made = store(p, "test", [pairs])
    assert {name: made.frame[rows].tolist() for name, rows in made.clips.items()} == {
        scene: [10, 11] for scene in scenes
    }
    assert [tuple(made.size[rows[0]]) for rows in made.clips.values()] == [(24, 40), (24, 44)]
    three = shapes(kitti_flow.clips(entry("kitti_flow", year=year, views=3), "test", [pairs, views]))
    assert three == {scene: [9, 10, 11] for scene in scenes}
    train = shapes(kitti_flow.clips(p, "train", [views]))
    assert train == {
        f"{scene}/{camera}/{part}": numbers
        for scene in scenes
        for camera in ("image_2", "image_3")
        for part, numbers in (("00-08", list(range(9))), ("13-20", list(range(13, 21))))
    }
    for which in ("occ", "noc"):
        got = list(kitti_flow.truth(p, "test", [pairs], which))  # type: ignore[arg-type]
        assert [(clip, frame) for clip, frame, _, _ in got] == [(scene, 10) for scene in scenes]
        assert np.array_equal(got[0][3], valid)
        assert np.array_equal(got[0][2][valid], field[valid].astype(np.float32))
    assert list(kitti_flow.truth(p, "train", [views])) == []


def test_kitti_flow_counts_from_names_alone() -> None:
    for year, count in ((2012, 194), (2015, 200)):
        pairs, views = kitti_flow_zips(Path(), year, {f"{n:06d}": b"" for n in range(count)}, b"")
        for views_ in (2, 3):
            p = entry("kitti_flow", year=year, views=views_)
            for split, files in (("test", [pairs, views][: views_ - 1]), ("train", [views])):
                found = kitti_flow.clips(p, split, files)
                there = {"clips": len(found), "frames": sum(len(c.frames) for c in found)}
                assert there == kitti_flow.expected(p, split)
            assert kitti_flow.expected(p, "test")["clips"] == count


def test_no_training_window_shows_what_is_tested() -> None:
    _, views = kitti_flow_zips(Path(), 2015, {"000000": b""}, b"")
    shown = {
        n
        for clip in kitti_flow.clips(entry("kitti_flow", year=2015, views=2), "train", [views])
        for n, _ in clip.frames
    }
    assert shown == set(range(21)) - {9, 10, 11, 12}


def test_real_kitti_flow(shared: Path) -> None:
    """From archive to flow store, through both stages."""
    sample = shared / "data/kitti_flow_sample"
    members = {str(path.relative_to(sample)): path.read_bytes() for path in sample.rglob("*.png")}
    archive = make_zip(raw("kitti_flow") / "data_scene_flow.zip", members)
    p = entry("kitti_flow", year=2015, views=2)
    made = store(p, "test", [archive])
    image = next(data for name, data in members.items() if name.endswith("image_2/000000_10.png"))
    assert np.array_equal(made.read("000000", [0])[0], rgb(image))
    truths = Store(flow.make(project(kitti_flow=p), "truth", "kitti_flow", "test"))
    field = truths.image(0)
    known = ~np.isnan(field[..., 0])
    assert known.sum() == 75453
    assert (field[known].min(axis=0).tolist(), field[known].max(axis=0).tolist()) == (
        [-184.25, -7.171875],
        [74.609375, 53.265625],
    )
    with pytest.raises(RetakeError, match=r"data_scene_flow.zip: no training/flow_noc/000000_10.png"):
        list(kitti_flow.truth(p, "test", [archive], "noc"))


# Sintel


def test_sintel_split() -> None:
    scenes = {name: [b""] * 3 for name in sintel_scenes()}
    archive = sintel_zip(Path(), scenes, {}, [f"test_{n}" for n in range(12)])
    both = ["clean", "final"]
    whole = entry("sintel", renderings=both, scenes="all")
    parts = entry("sintel", renderings=both, scenes="unofficial")
    names = {split: list(shapes(sintel.clips(whole, split, [archive]))) for split in sintel.SPLITS}
    assert names["train"] == names["test"] == [f"{r}/{s}" for r in both for s in scenes]
    assert len(names["train"]) == 2 * 23
    assert len(names["benchmark"]) == 2 * 12
    split = {s: [c.name for c in sintel.clips(parts, s, [archive])] for s in ("train", "test")}
    assert sorted(split["train"] + split["test"]) == sorted(names["train"])
    assert {s: len(some) // 2 for s, some in split.items()} == {"train": 12, "test": 11}
    assert {"clean/alley_1", "final/temple_3"} <= set(split["train"])
    for p in (whole, parts):
        for s in sintel.SPLITS:
            assert sintel.expected(p, s)["clips"] == len(sintel.clips(p, s, [archive]))


def sintel_scenes() -> list[str]:
    return [line.split(",")[0] for line in sintel.SCENES.read_text().splitlines()[1:]]


def test_sintel_truth() -> None:
    rng = np.random.default_rng(1)
    fields = [rng.normal(0, 9, (24, 40, 2)).astype(np.float32) for _ in range(2)]
    fields[1][3, 4] = 1e10
    archive = sintel_zip(raw("sintel"), {"cave_2": [png(n) for n in range(3)]}, {"cave_2": [flo(f) for f in fields]})
    p = entry("sintel", renderings=["final"], scenes="all")
    made = store(p, "test", [archive])
    assert made.frame.tolist() == [1, 2, 3]
    assert made.meta["partial"] == "1 of 1 archives, 1 of 23 clips, 3 of 1064 frames"
    got = list(sintel.truth(p, "test", [archive]))
    assert [(clip, frame) for clip, frame, _, _ in got] == [("final/cave_2", 1), ("final/cave_2", 2)]
    assert np.array_equal(got[0][2], fields[0])
    assert got[0][3].all()
    assert np.argwhere(~got[1][3]).tolist() == [[3, 4]]
    truths = Store(flow.make(project(sintel=p), "truth", "sintel", "test"))
    assert np.abs(truths.image(0) - fields[0]).max() <= 1 / 128
    cut = sintel_zip(Path("cut"), {"cave_2": [b""] * 3}, {"cave_2": [flo(fields[0])]})
    with pytest.raises(RetakeError, match=r"no training/flow/cave_2/frame_0002.flo, the true flow of that frame"):
        list(sintel.truth(p, "test", [cut]))


def test_sintel_movie() -> None:
    shots = {"shot 01": numbered("", range(98, 103), 1, "png", b""), "02": numbered("frame_", [7, 8], 4, "png", b"")}
    archive = scenes_zip(Path("sintel_raw.zip"), shots, "Sintel_raw/")
    p = entry("sintel", renderings=["movie"], scenes="all")
    assert shapes(sintel.clips(p, "train", [archive])) == {"movie/02": [7, 8], "movie/shot 01": list(range(98, 103))}
    assert (sintel.archives(p, "train"), sintel.archives(p, "benchmark")) == (["sintel_raw.zip"], [])
    with pytest.raises(RetakeError, match="have no split benchmark: add clean or final"):
        sintel.clips(p, "benchmark", [])
    # its training is validated on MPI Sintel, which has true flow
    validation = sintel_zip(Path(), {"cave_2": [b""] * 2}, {"cave_2": [flo(np.ones((4, 6, 2)))]})
    assert sintel.archives(p, "test") == ["MPI-Sintel-complete.zip"]
    assert list(shapes(sintel.clips(p, "test", [validation]))) == ["clean/cave_2", "final/cave_2"]
    assert [clip for clip, *_ in sintel.truth(p, "test", [validation])] == ["clean/cave_2", "final/cave_2"]
    assert sintel.expected(p, "test") == {"clips": 46, "frames": 2128}
    mixed = entry("sintel", renderings=["final", "movie"], scenes="all")
    complete = sintel_zip(Path(), {"cave_2": [b""] * 2}, {})
    assert list(shapes(sintel.clips(mixed, "train", [complete, archive]))) == [
        "final/cave_2",
        "movie/02",
        "movie/shot 01",
    ]


def test_real_sintel(shared: Path) -> None:
    sample = sorted((shared / "data/sintel_sample/frames").glob("*.png"))
    archive = sintel_zip(raw("sintel"), {"ambush_2": [path.read_bytes() for path in sample]}, {})
    made = store(entry("sintel", renderings=["clean", "final"], scenes="unofficial"), "test", [archive])
    assert list(made.clips) == ["clean/ambush_2", "final/ambush_2"]
    assert set(map(tuple, made.size.tolist())) == {(436, 1024)}
    assert np.array_equal(made.image(2), rgb(sample[2].read_bytes()))


# Real DAVIS and UCF101


def test_real_davis(shared: Path) -> None:
    sample = shared / "data/davis_sample"
    members = {str(path.relative_to(sample)): path.read_bytes() for path in sorted(sample.rglob("*.*g"))}
    archive = make_zip(raw("davis2017") / "DAVIS-2017-trainval-480p.zip", members)
    p = entry("davis2017", resolution="480p", fit="pad", height=480, width=864, codec="raw")
    made = store(p, "test", [archive])
    assert {name: len(rows) for name, rows in made.clips.items()} == {"blackswan": 50, "car-shadow": 40}
    source = rgb(members["DAVIS/JPEGImages/480p/car-shadow/00007.jpg"])
    image = made.read("car-shadow", [7])[0]
    assert image.shape == (480, 864, 3)
    assert np.array_equal(image[:, :854], source)
    # The JPEGs themselves, where nothing is resized.
    same = store(
        entry("davis2017", resolution="480p", fit="resize", height=480, width=854, codec="jpeg"), "test", [archive]
    )
    assert bytes(same.encoded(3)) == members["DAVIS/JPEGImages/480p/blackswan/00003.jpg"]


def test_real_ucf101(shared: Path) -> None:
    path = next((shared / "data/ucf101_sample").rglob("*.avi"))
    videos = make_zip(raw("ucf101") / "UCF101_videos.zip", {f"UCF-101/ApplyEyeMakeup/{path.name}": path.read_bytes()})
    lists = ucf_lists(raw("ucf101"), [], [path.stem])
    made = store(entry("ucf101", source="avi", height=256, codec="jpeg"), "test", [lists, videos])
    assert (len(made), tuple(made.size[0])) == (164, (256, 342))
    capture = cv2.VideoCapture(str(path))
    image = cv2.resize(capture.read()[1], (342, 256))[..., ::-1]
    assert cv2.PSNR(np.ascontiguousarray(image), np.ascontiguousarray(made.image(0))) > 38


# Bad archives

DAVIS = {"resolution": "480p", "fit": "resize"}


@pytest.mark.parametrize(
    ("kind", "changes", "split"),
    [
        ("cityscapes", {}, "train"),
        ("davis2017", DAVIS, "test"),
        ("vimeo90k", {"part": "triplet"}, "train"),
        ("tos", {}, "test"),
        ("kitti_flow", {"year": 2012, "views": 2}, "train"),
        ("sintel", {"renderings": ["clean"], "scenes": "all"}, "benchmark"),
        ("ucf101", {"source": "avi"}, "train"),
    ],
)
def test_wrong_archives_in_the_right_place(kind: str, changes: dict[str, Any], split: str) -> None:
    p = entry(kind, **changes)
    module = params.registry("datasets")[kind]
    name = next(n for n in reversed(module.archives(p, split)) if n != ucf101.LIST_ARCHIVE)
    lists = [ucf_lists(raw(kind), UCF)] if kind == "ucf101" else []
    path = make_zip(raw(kind) / name, {"COCO/val2017/000000000139.txt": b"", "a\nb.jp2": b""})
    text = refused(p, split, [*lists, path])
    assert f"{path}: no " in text
    assert "it holds 2 other files ('COCO/val2017/000000000139.txt', 'a\\nb.jp2', …)" in text
    assert "another archive" in text
    text = refused(p, split, [*lists, inside(path)])
    assert f"it holds another archive, {name!r}: put that one there in its place" in text
    text = refused(p, split, [*lists, make_zip(path, {})])
    assert "it holds no files" in text
    make_zip(path, {f"{n}.bin": bytes(100) for n in range(100)})
    assert f"{path} is not a whole zip archive: it is truncated" in refused(p, split, [*lists, cut_zip(path, 0.5)])


def test_faults_inside_frames() -> None:
    def pillow(mode: str, suffix: str) -> bytes:
        out = io.BytesIO()
        Image.fromarray(picture(0)).convert(mode).save(out, suffix)
        return out.getvalue()

    good = jpg(0)
    bad = {
        1: (encoded(picture(0).astype(np.uint16) * 257), "is RGB of 16 bits, RGB of 8 bits is needed"),
        2: (pillow("L", "PNG"), "is grey of 8 bits"),
        3: (pillow("P", "PNG"), "is palette of 8 bits"),
        4: (pillow("CMYK", "JPEG"), "is CMYK of 8 bits"),
        5: (b"<html>", "is no PNG or JPEG image"),
        6: (jpg(0, 24, 41), "is 41x24, its clip is 40x24"),
        7: (good[:-100], "cannot be read as an image: it is cut off"),
    }
    archive = davis_zip(raw("davis2017"), {"dog": [bad.get(n, (good, ""))[0] for n in range(12)]})
    lines = refused(entry("davis2017", **DAVIS), "test", [archive]).splitlines()
    assert lines[0].startswith("davis2017 test: faults in 12 frames (7)")
    for frame, (_, words) in bad.items():
        (told,) = [line for line in lines if f"dog/{frame:05d}.jpg" in line]
        assert words in told


def test_upper_case_suffixes_hidden_files_and_folders_above() -> None:
    members = {f"my data/DAVIS/JPEGImages/480p/dog/{n:05d}.{s}": jpg(n) for n, s in enumerate(["JPG", "jpeg", "Jpg"])}
    members |= {"__MACOSX/my data/DAVIS/JPEGImages/480p/dog/._00000.JPG": b"", "my data/.DS_Store": b""}
    made = store(
        entry("davis2017", **DAVIS), "test", [make_zip(raw("davis2017") / davis2017.ARCHIVES["480p"], members)]
    )
    assert made.frame.tolist() == [0, 1, 2]


def test_the_same_frame_twice() -> None:
    members = {f"DAVIS/JPEGImages/480p/dog/00000.{s}": jpg(0) for s in ("jpg", "JPG")}
    text = refused(
        entry("davis2017", **DAVIS), "test", [make_zip(raw("davis2017") / davis2017.ARCHIVES["480p"], members)]
    )
    assert "dog/00000.JPG' and 'DAVIS/JPEGImages/480p/dog/00000.jpg' are both frame 0 of 'dog'" in text


NAMES = ["two words", "line\nbreak", "Grüße 北京", " blanks ", "a.b", "%d {x}"]


def test_odd_names(tmp_path: Path) -> None:
    """Blanks, newlines and letters of other scripts, in clips and files, go through to the store."""
    scenes = {name: {f"{name} {n}.png": png(n) for n in range(3)} for name in NAMES}
    archive = scenes_zip(raw("sintel") / "sintel_raw.zip", scenes)
    made = store(entry("sintel", renderings=["movie"], scenes="all"), "train", [archive])
    assert sorted(made.clips) == sorted(f"movie/{name}" for name in NAMES)
    for clip, rows in made.clips.items():
        name = clip.removeprefix("movie/")
        assert made.source(rows[1]) == f"sintel_raw.zip/{name}/{name} 1.png"
        assert np.array_equal(made.image(rows[1]), picture(1))


def test_bit_flip_in_a_member() -> None:
    archive = davis_zip(raw("davis2017"), {"dog": [jpg(n) for n in range(3)]})
    data = bytearray(archive.read_bytes())
    data[data.find(jpg(1)) + 300] ^= 4
    archive.write_bytes(data)
    text = refused(entry("davis2017", **DAVIS), "test", [archive])
    assert "dog/00001.jpg' is damaged: Bad CRC-32" in text


def test_more_than_was_published() -> None:
    archive = scenes_zip(raw("tos") / "tos_HR.zip", {f"scene{n}": {"1.png": PNG} for n in range(4)})
    assert "tos test has 3 clips, the archives in data/raw/tos hold 4" in refused(entry("tos"), "test", [archive])


# Folders that stand in for archives, parts that the user has joined


def get(p: Any, split: str) -> Store:
    """Walk through the download stage, too, with the real table of sources."""
    Path("workflow").mkdir(exist_ok=True)
    shutil.copy(ROOT / "workflow/sources.csv", "workflow/sources.csv")
    download.download(project(**{p.kind: p}), p.kind, split)
    return Store(frames.make(project(**{p.kind: p}), p.kind, split))


@pytest.mark.parametrize("link", [False, True])
def test_unpacked_folder(tmp_path: Path, link: bool) -> None:
    archive = davis_zip(tmp_path / "elsewhere", {"dog": [jpg(n) for n in range(3)], "pigs": [jpg(5)] * 2})
    mine = tmp_path / "elsewhere/unpacked"
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(mine)
    name = archive.stem
    raw("davis2017").mkdir(parents=True)
    if link:
        (raw("davis2017") / name).symlink_to(mine / "DAVIS")
    else:
        shutil.copytree(mine, raw("davis2017") / name)
        mine = raw("davis2017") / name
    before = [(path, path.stat().st_mtime_ns) for path in sorted(mine.rglob("*"))]
    p = entry("davis2017", **DAVIS)
    made = get(p, "test")
    assert {clip: len(rows) for clip, rows in made.clips.items()} == {"dog": 3, "pigs": 2}
    assert made.source(0).endswith("JPEGImages/480p/dog/00000.jpg")
    assert [(path, path.stat().st_mtime_ns) for path in sorted(mine.rglob("*"))] == before
    with (mine / ("" if link else "DAVIS") / ("DAVIS" if link else "") / "JPEGImages/480p/dog/00001.jpg").open(
        "ab"
    ) as file:
        file.write(b"x")
    with pytest.raises(RetakeError, match=rf"{name} has \d+ bytes, .* has verified \d+"):
        frames.make(project(davis2017=p), "davis2017", "test")


def test_joined_parts_and_parts_through_the_download_stage() -> None:
    parts = ucf_parts(raw("ucf101"), {name: [jpg(n) for n in range(3)] for name in UCF}, {}, 3)
    ucf_lists(raw("ucf101"), UCF)
    text = (ROOT / "workflow/sources.csv").read_text()
    p = entry("ucf101", source="jpegs_256")

    def made() -> Store:
        Path("workflow").mkdir(exist_ok=True)
        # These are not the published lists.
        Path("workflow/sources.csv").write_text(re.sub(r",113943,[0-9a-f]{64},", ",,,", text))
        download.download(project(ucf101=p), "ucf101", "train")
        return Store(frames.make(project(ucf101=p), "ucf101", "train"))

    whole = made()
    assert list(whole.clips) == UCF
    rows = [bytes(whole.encoded(n)) for n in range(9)]
    (raw("ucf101") / "ucf101_jpegs_256.zip").write_bytes(b"".join(part.read_bytes() for part in parts))
    for part in parts:
        part.unlink()
    (raw("ucf101") / "train.json").unlink()
    joined = made()
    assert [bytes(joined.encoded(n)) for n in range(9)] == rows
    assert "ucf101_jpegs_256.zip/" in joined.source(0)


def test_by_hand_in_one_clear_sentence() -> None:
    with pytest.raises(RetakeError) as caught:
        get(entry("cityscapes", archives="all"), "test")
    text = str(caught.value)
    assert "https://www.cityscapes-dataset.com/downloads/ (registration)" in text
    assert "Put them into data/raw/cityscapes under these names" in text
    assert "324 GB" in text


# A large archive

LARGE = """
import sys
from pathlib import Path
from pipeline import frames
from tests.layouts_zips import entry
from tests.layouts import manifest
from tests.test_datasets_zips import project
p = entry("vimeo90k", part="interp_test", height=16, width=28)
manifest("vimeo90k", "test", [])
frames.read_manifest = lambda path, kind: ([Path(sys.argv[1])], [])
frames.make(project(vimeo90k=p), "vimeo90k", "test")
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


def peak(archive: Path) -> int:
    """Return the peak memory, MiB, of the frames stage over an archive."""
    done = subprocess.run(
        [sys.executable, "-c", LARGE, str(archive)], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout) // 1024


@pytest.mark.slow
def test_memory_of_a_zip_of_3_gb() -> None:
    rng = np.random.default_rng(0)
    noise = [encoded(rng.integers(0, 256, (256, 448, 3), dtype=np.uint8)) for _ in range(8)]  # 344 kB each
    clips = {f"{n // 1000:05d}/{n % 1000:04d}": noise[:3] for n in range(3000)}
    path = Path("vimeo_interp_test.zip")
    with zipfile.ZipFile(path, "w") as out:
        for clip, images in clips.items():
            for n, data in enumerate(images, 1):
                out.writestr(f"vimeo_interp_test/target/{clip}/im{n}.png", data)
    assert path.stat().st_size > 3e9
    assert peak(path) < 700


HUGE = """
import sys
from pathlib import Path
from pipeline import frames
from pipeline.store.frames import Store
from tests.layouts_zips import entry
from tests.test_datasets_zips import project
p = entry("ucf101", source="jpegs_256", codec="jpeg")
frames.read_manifest = lambda path, kind: ([Path(name) for name in sys.argv[1:]], [])
print(len(Store(frames.make(project(ucf101=p), "ucf101", "train")).clips))
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_of_a_zip_of_two_and_a_half_million_members() -> None:
    """As many as UCF101's JPEG release has; the directory alone fills 250 MB."""
    clips = [f"v_Class{chr(65 + k // 2000)}_g{k // 100 % 99:02d}_c{k % 100:02d}" for k in range(13320)]
    images = (f"jpegs_256/{clip}/frame{n:06d}.jpg" for clip in clips for n in range(1, 188))
    archive = huge_zip(Path("ucf101_jpegs_256.zip"), images, jpg(0, 16, 16))
    lists = ucf_lists(Path(), clips[:9537])
    done = subprocess.run(
        [sys.executable, "-c", HUGE, str(lists), str(archive)],
        env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    count, kib = map(int, done.stdout.split())
    assert count == 9537
    assert kib < 1.5 * 2**20


def test_streams_say_where_they_are_from(tmp_path: Path) -> None:
    videos = make_zip(Path("UCF101_videos.zip"), {f"{UCF[1]}.avi": video_bytes([coded(0)], tmp_path)})
    (clip,) = ucf101.clips(entry("ucf101", source="avi"), "train", [ucf_lists(Path(), [UCF[1]]), videos])
    assert isinstance(clip, Stream)
    assert clip.source.name == f"{UCF[1]}.avi"
