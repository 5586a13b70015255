"""Data that people have unpacked: every kind of dataset is read from folders in the published layout, which stay as they are."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import download, frames, params
from pipeline.datasets import davis2017, iper, kitti, sky_timelapse, ucf101
from pipeline.errors import RetakeError
from pipeline.sources.archives import Stream
from pipeline.store.frames import Store
from tests.conftest import ROOT
from tests.layouts import drive_zip, kitti_params, make_zip, manifest, project
from tests.layouts_zips import (
    cityscapes_zip,
    coded,
    davis_zip,
    entry,
    jpg,
    kitti_flow_zips,
    png,
    scenes_zip,
    sintel_zip,
    ucf_lists,
    ucf_parts,
    video_bytes,
    vimeo_zip,
    write_video,
)
from tests.test_datasets_videos import bair_files, bair_tar, iper_zip, mp4, qst_members, sky_zip
from tests.test_datasets_zips import SIZES, UCF, vid4_zips


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "workflow", "workflow")
    return tmp_path


def raw(kind: str) -> Path:
    return Path("data/raw") / kind


DRIVES = list(kitti.EXPECTED["test"])[:2]
DOGS = {"dog": [jpg(n) for n in range(3)], "pigs": [jpg(5)] * 2}
CLIP = "019_2_1"


def videos(tmp_path: Path) -> list[Path]:
    members = {f"UCF-101/{c.split('_')[1]}/{c}.avi": video_bytes(map(coded, range(4)), tmp_path) for c in UCF}
    return [ucf_lists(raw("ucf101"), UCF), make_zip(raw("ucf101") / "UCF101_videos.zip", members)]


def jpegs(tmp_path: Path) -> list[Path]:
    parts = ucf_parts(tmp_path, {name: [jpg(n) for n in range(3)] for name in UCF}, {}, 1)
    archive = raw("ucf101") / "ucf101_jpegs_256.zip"
    archive.parent.mkdir(parents=True, exist_ok=True)
    return [ucf_lists(raw("ucf101"), UCF), parts[0].rename(archive)]


def pairs(name: str, scale: int) -> Path:
    return scenes_zip(raw("tos") / name, {"room": {f"{n}.png": png(n, 16 * scale, 20 * scale) for n in range(3)}})


# kind, its own keys, split, and what writes its archives: paths of the zips and tars that it has
KINDS: list[tuple[str, dict[str, Any], str, Callable[[Path], list[Path]]]] = [
    ("kitti", {}, "test", lambda _: [drive_zip(raw("kitti"), d, [png(n) for n in range(3)]) for d in DRIVES]),
    ("cityscapes", {}, "test", lambda _: [cityscapes_zip(raw("cityscapes"), {"val/frankfurt": [(1, 475)]}, png(1))]),
    ("ucf101", {"source": "avi"}, "train", videos),
    ("ucf101", {"source": "jpegs_256"}, "train", jpegs),
    ("davis2017", {"resolution": "480p", "fit": "resize"}, "test", lambda _: [davis_zip(raw("davis2017"), DOGS)]),
    (
        "vimeo90k", {"part": "septuplet"}, "test",
        lambda _: [vimeo_zip(raw("vimeo90k"), "septuplet", {"00001/0001": [png(1)] * 7}, test=["00001/0001"])],
    ),
    ("vid4", {}, "test_lr", lambda _: vid4_zips(raw("vid4"), SIZES)),
    ("tos", {}, "test", lambda _: [pairs("tos_HR.zip", 4), pairs("tos_LR.zip", 1)]),
    (
        "kitti_flow", {"year": 2012, "views": 3}, "test",
        lambda _: list(kitti_flow_zips(raw("kitti_flow"), 2012, {"000003": png(0)}, b"")),
    ),
    (
        "kitti_flow", {"year": 2015, "views": 2}, "train",
        lambda _: list(kitti_flow_zips(raw("kitti_flow"), 2015, {"000003": png(0)}, b"")),
    ),
    (
        "sintel", {"renderings": ["final"], "scenes": "all"}, "test",
        lambda _: [sintel_zip(raw("sintel"), {"cave_2": [png(n) for n in range(3)]}, {})],
    ),
    (
        "sky_timelapse", {"paper": "cinn"}, "test",
        lambda _: [sky_zip({f"sky_test/{sky_timelapse.items(entry('sky_timelapse', paper='cinn'), 'test')[0]}":
                            {n: jpg(n) for n in (9, 10, 11)}})],
    ),
    (
        "qst", {}, "test",
        lambda at: [make_zip(raw("qst") / "Quick-Sky-Time.zip",
                             qst_members({"-a b": mp4(at, map(coded, range(5)))}, {"test": ["-a b"]}))],
    ),
    ("bair", {}, "test", lambda _: [bair_tar(bair_files())]),
    ("iper", {"release": 1024}, "test", lambda at: [iper_zip({CLIP: mp4(at, map(coded, range(5)))})]),
    (
        "dtdb", {"texture": "fire"}, "test",
        lambda _: [make_zip(raw("dtdb") / "dtdb.zip", {f"fire/eval/a/frame{n}.jpg": jpg(n) for n in range(3)})],
    ),
]  # fmt: skip


def state(folder: Path) -> list[tuple[Path, int, int]]:
    return [(p, p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(folder.rglob("*"))]


def store(p: Any, split: str) -> Store:
    download.download(project(**{p.kind: p}), p.kind, split)
    return Store(frames.make(project(**{p.kind: p}), p.kind, split))


def params_of(kind: str, keys: dict[str, Any]) -> Any:
    return kitti_params() if kind == "kitti" else entry(kind, **keys)


@pytest.mark.parametrize(("kind", "keys", "split", "write"), KINDS, ids=[f"{k[0]}-{k[2]}" for k in KINDS])
def test_folders_give_the_same_frames_and_stay_as_they_are(
    tmp_path: Path, kind: str, keys: dict[str, Any], split: str, write: Callable[[Path], list[Path]]
) -> None:
    p = params_of(kind, keys)
    archives = write(tmp_path)
    manifest(kind, split, archives)
    packed = Store(frames.make(project(**{kind: p}), kind, split))
    wanted = {clip: packed.read(clip, range(len(rows))) for clip, rows in packed.clips.items()}
    assert wanted
    shutil.rmtree("data/frames")
    (raw(kind) / f"{split}.json").unlink()
    mine = tmp_path / "elsewhere"
    for archive in archives:
        with zipfile.ZipFile(archive) if archive.suffix == ".zip" else tarfile.open(archive) as opened:
            opened.extractall(mine / archive.stem)
        archive.unlink()
        archive.with_name(archive.stem).symlink_to(mine / archive.stem)
    before = state(mine)
    made = store(p, split)
    assert list(made.clips) == list(wanted)
    for clip, rows in made.clips.items():
        assert np.array_equal(made.read(clip, range(len(rows))), wanted[clip])
    assert state(mine) == before
    there = {path.name for path in raw(kind).iterdir()}
    assert there == {archive.stem for archive in archives} | {f"{split}.json"}, "nothing is copied"


def test_every_kind_is_here() -> None:
    """But the demos, which are rendered, and what is never packed: TecoGAN's videos and folders of one's own."""
    with_archives = {kind for kind, module in params.registry("datasets").items() if module.generate is None}
    assert with_archives - {kind for kind, *_ in KINDS} == {"tecogan_train", "folder"}


@pytest.mark.parametrize("level", ["", "2011_09_26", f"2011_09_26/{DRIVES[0]}"])
def test_drives_from_a_folder_at_any_level(tmp_path: Path, level: str) -> None:
    """One tree with all drives, as people have it, linked once for each drive; or the drive's own folder."""
    mine = tmp_path / "KITTI"
    with zipfile.ZipFile(drive_zip(tmp_path, DRIVES[0], [png(n) for n in range(3)])) as opened:
        opened.extractall(mine)
    with zipfile.ZipFile(drive_zip(tmp_path, DRIVES[1], [png(9)])) as opened:
        opened.extractall(mine)
    raw("kitti").mkdir(parents=True)
    (raw("kitti") / DRIVES[0]).symlink_to(mine / level)
    made = store(kitti_params(), "test")
    assert {clip: len(rows) for clip, rows in made.clips.items()} == {f"{DRIVES[0]}/image_02": 3}


def unpacked_drive(tmp_path: Path) -> Path:
    """Return the folder of frames of a drive that is unpacked in its archive's place."""
    with zipfile.ZipFile(drive_zip(tmp_path, DRIVES[0], [png(n) for n in range(3)])) as opened:
        opened.extractall(raw("kitti") / DRIVES[0])
    return next((raw("kitti") / DRIVES[0]).rglob("image_02")) / "data"


def test_a_drive_whose_frames_lie_behind_a_link_is_read(tmp_path: Path) -> None:
    frames_folder = unpacked_drive(tmp_path)
    frames_folder.rename(tmp_path / "elsewhere")
    frames_folder.symlink_to(tmp_path / "elsewhere")
    assert {clip: len(rows) for clip, rows in store(kitti_params(), "test").clips.items()} == {
        f"{DRIVES[0]}/image_02": 3
    }


def test_a_drive_kept_as_jpeg_is_refused_with_the_reason(tmp_path: Path) -> None:
    frames_folder = unpacked_drive(tmp_path)
    for file in frames_folder.iterdir():
        file.rename(file.with_suffix(".jpg"))
    with pytest.raises(RetakeError, match=r"It holds JPEG images .*what was published are PNG") as error:
        store(kitti_params(), "test")
    assert "delete" not in str(error.value)
    assert len(list(frames_folder.iterdir())) == 3


def test_kitti_flow_pairs_and_views_in_one_folder(tmp_path: Path) -> None:
    mine = tmp_path / "KITTI2015"
    for archive in kitti_flow_zips(tmp_path, 2015, {"000003": png(0)}, b""):
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(mine)
        raw("kitti_flow").mkdir(parents=True, exist_ok=True)
        (raw("kitti_flow") / archive.stem).symlink_to(mine)
    assert store(entry("kitti_flow", year=2015, views=2), "test").frame.tolist() == [10, 11]
    shutil.rmtree("data/frames")
    (raw("kitti_flow") / "test.json").unlink()
    assert store(entry("kitti_flow", year=2015, views=3), "test").frame.tolist() == [9, 10, 11]


def test_videos_in_a_folder_are_read_in_place(tmp_path: Path) -> None:
    """A video of many GB is not read into memory first."""
    path = write_video(raw("iper") / "iPER_1024_video_release" / f"{CLIP}.mp4", map(coded, range(3)))
    (clip,) = iper.clips(entry("iper", release=1024), "test", [path.parent])
    assert isinstance(clip, Stream)
    assert clip.source.archive / clip.source.name == path


def test_a_folder_of_something_else_is_named(tmp_path: Path) -> None:
    for kind, keys, split, example in (
        ("davis2017", {"resolution": "480p", "fit": "resize"}, "test", "JPEGImages/480p/blackswan/00000.jpg"),
        ("kitti", {}, "test", f"2011_09_26/{DRIVES[0]}/image_02/data/0000000000.png"),
    ):
        name = {"davis2017": Path(davis2017.ARCHIVES["480p"]).stem, "kitti": DRIVES[0]}[kind]
        (raw(kind) / name).mkdir(parents=True)
        (raw(kind) / name / "notes.txt").write_text("x")
        with pytest.raises(RetakeError) as caught:
            store(params_of(kind, keys), split)
        assert f"data/raw/{kind}/{name}: no " in str(caught.value)
        assert example in str(caught.value)


def test_check_says_that_folders_are_not_verified(capsys: pytest.CaptureFixture[str]) -> None:
    place = raw("ucf101") / Path(ucf101.LIST_ARCHIVE).stem
    place.mkdir(parents=True)
    (place / "trainlist01.txt").write_text("x" * 2000)
    both = {f"ucf101_{source}": entry("ucf101", source=source) for source in ("avi", "jpegs_256")}
    download.check(project(**both), "ucf101")  # a kind, as --list names it: all that its entries take
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"folder   {place.name}  2.0 kB, read as it is: there is no checksum of its files",
        "missing  UCF101_videos.zip",
        *(f"missing  ucf101_jpegs_256.zip.{part:03d}" for part in (1, 2, 3)),
    ]
    download.check(project(**both), "ucf101_avi")
    assert len(capsys.readouterr().out.splitlines()) == 2
