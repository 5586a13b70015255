"""Datasets: KITTI's layout and counts, the demo's exactness and its bytes."""

from __future__ import annotations

import csv
import hashlib
import re
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.datasets import demo, kitti
from pipeline.drawing import rendering
from pipeline.errors import RetakeError
from pipeline.sources import drives
from pipeline.sources.archives import Member, names, read
from pipeline.sources.drives import folder as drive_folder
from pipeline.sources.verified import unpacked
from tests.conftest import ROOT
from tests.layouts import demo_params, drive_zip, encoded, kitti_params, make_zip, picture

A, B, C, D = list(kitti.EXPECTED["test"])
PNG = encoded(picture(0))


def windows(split: str) -> int:
    return sum(frames - 8 for frames in kitti.EXPECTED[split].values())


def test_published_counts() -> None:
    assert (len(kitti.EXPECTED["train"]), len(kitti.EXPECTED["test"])) == (24, 4)
    assert not set(kitti.EXPECTED["train"]) & set(kitti.EXPECTED["test"])
    assert windows("test") == 1337
    assert windows("train") == 6750
    p, one = kitti_params(), kitti_params(cameras=["image_02"])
    assert windows("train") * len(p.cameras) == 13500
    assert kitti.expected(p, "test") == kitti.expected(one, "test") == {"frames": 1369}
    assert [kitti.expected(q, "train") for q in (p, one)] == [{"frames": 2 * 6942}, {"frames": 6942}]


def test_every_archive_has_a_source() -> None:
    with (ROOT / "workflow/sources.csv").open() as file:
        rows = {row["file"]: row for row in csv.DictReader(file) if row["dataset"] == "kitti"}
    names = [name for split in kitti.SPLITS for name in kitti.archives(kitti_params(), split)]
    assert len(names) == 28
    assert all(int(rows[name]["bytes"]) > 10**7 and name in rows[name]["url"] for name in names)


def test_clips_of_both_cameras(tmp_path: Path) -> None:
    train = list(kitti.EXPECTED["train"])[:2]
    archives = [drive_zip(tmp_path, d, {2: PNG, 10: PNG, 0: PNG, 1: PNG}, ["image_02", "image_03"]) for d in train]
    clips = kitti.clips(kitti_params(), "train", archives)
    assert [c.name for c in clips] == [f"{d}/{c}" for d in train for c in ("image_02", "image_03")]
    assert [n for n, _ in clips[0].frames] == [0, 1, 2, 10]
    assert clips[1].frames[3][1].archive == archives[0]
    assert clips[1].frames[3][1].name == f"2011_09_26/{train[0]}/image_03/data/0000000010.png"
    right = kitti.clips(kitti_params(cameras=["image_03"]), "train", archives)
    assert [c.name for c in right] == [f"{d}/image_03" for d in train]


def test_testing_takes_the_left_camera_alone(tmp_path: Path) -> None:
    archive = drive_zip(tmp_path, A, [PNG] * 3, ["image_02", "image_03"])
    assert [c.name for c in kitti.clips(kitti_params(cameras=["image_03"]), "test", [archive])] == [f"{A}/image_02"]


def test_all_bad_archives_in_one_message(tmp_path: Path) -> None:
    swapped = drive_zip(tmp_path, A, [PNG] * 3, inside=B)
    cut = drive_zip(tmp_path, B, [PNG] * 3)
    cut.write_bytes(cut.read_bytes()[:200])
    late = drive_zip(tmp_path, C, {5: PNG, 6: PNG})
    hostile = make_zip(tmp_path / f"{D}.zip", {"../../0000000000.png": PNG})
    with pytest.raises(RetakeError) as caught:
        kitti.clips(kitti_params(), "test", [swapped, cut, late, hostile])
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert f"{swapped}: no frame 2011_09_26/{A}/image_02/data/0000000000.png" in lines[0]
    assert "another drive's archive" in lines[0]
    assert str(cut) in lines[1]
    assert "truncated" in lines[1]
    assert f"{late}: 2011_09_26/{C}/image_02/data begins with frame 5" in lines[2]
    assert str(hostile) in lines[3]
    assert "leaves its folder" in lines[3]


def test_missing_camera(tmp_path: Path) -> None:
    archive = drive_zip(tmp_path, "2011_09_26_drive_0048_sync", [PNG] * 2)
    with pytest.raises(RetakeError, match=r"0048_sync.zip: no frame .*/image_03/data/0000000000.png"):
        kitti.clips(kitti_params(), "train", [archive])


def test_more_frames_than_the_drive_has(tmp_path: Path) -> None:
    archive = drive_zip(tmp_path, A, [b""] * 79)
    with pytest.raises(RetakeError, match=rf"image_02: {A} 79 frames, more than the 78 that {A} has") as caught:
        kitti.clips(kitti_params(), "test", [archive])
    assert "move them away" in str(caught.value)


def test_counts_that_are_certain_in_sum_only(tmp_path: Path) -> None:
    # 383 and 475 frames are remembered, 858 is certain: another sharing of the sum is right, more is not.
    other = [drive_zip(tmp_path, B, [b""] * 384), drive_zip(tmp_path, D, [b""] * 474)]
    assert sum(len(c.frames) for c in kitti.clips(kitti_params(), "test", other)) == 858
    more = [other[0], drive_zip(tmp_path, D, [b""] * 475)]
    with pytest.raises(
        RetakeError, match=rf"{B} 384, {D} 475 frames, more than the 858 that {B} and {D} have together"
    ):
        kitti.clips(kitti_params(), "test", more)


def test_an_archive_that_is_no_drive(tmp_path: Path) -> None:
    with pytest.raises(RetakeError, match=r"calib\.zip: not a drive's name"):
        drives.clips([make_zip(tmp_path / "2011_09_26_calib.zip", {"a": b""})], ["image_02"])


@pytest.mark.parametrize("level", ["", "test"])
def test_published_test_split(tmp_path: Path, level: str) -> None:
    for clip in ("000001", "000000"):
        folder = tmp_path / level / clip
        folder.mkdir(parents=True)
        for n in range(9):
            (folder / f"{n:010d}.png").write_bytes(PNG)
    p = kitti_params(published_test=str(tmp_path))
    assert kitti.archives(p, "test") == []
    assert len(kitti.archives(p, "train")) == 24
    assert kitti.expected(p, "test") == {"frames": 1337 * 9}
    clips = kitti.clips(p, "test", [])
    assert [c.name for c in clips] == ["000000", "000001"]
    assert [n for n, _ in clips[1].frames] == list(range(9))
    (tmp_path / level / "000001" / "0000000003.png").unlink()
    (tmp_path / level / "000000" / "0000000009.png").write_bytes(PNG)
    with pytest.raises(RetakeError, match="000000: 10 frames, not the 9") as caught:
        kitti.clips(p, "test", [])
    assert "000001: 0000000003.png missing" in str(caught.value)


def test_published_test_split_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RetakeError, match=r"no clips in .*nowhere: a folder with test/000000/0000000000.png"):
        kitti.clips(kitti_params(published_test=str(tmp_path / "nowhere")), "test", [])


@pytest.mark.parametrize(
    ("cameras", "message"),
    [([], "at least 1"), (["image_02", "image_02"], "names a camera twice"), (["image_00"], "image_02")],
)
def test_bad_cameras(cameras: list[str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        kitti_params(cameras=cameras)


# The demo

PINNED = "b57023baea7ea33b4bf2086ca21f824bfea0f9f48ce19577c1354b103e1772e3"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    demo.generate(demo_params(), "test", folder)
    return folder


def paths(folder: Path, split: str = "test") -> list[Path]:
    return [folder / name for name in demo.archives(demo_params(), split)]


def test_demo_has_the_same_bytes_on_every_machine(made: Path, tmp_path: Path) -> None:
    demo.generate(demo_params(), "test", tmp_path)
    assert [a.read_bytes() for a in paths(tmp_path)] == [a.read_bytes() for a in paths(made)]
    assert sorted(tmp_path.iterdir()) == sorted(paths(tmp_path))
    assert hashlib.sha256(paths(made)[0].read_bytes()).hexdigest() == PINNED


def test_demo_is_kittis_layout(made: Path) -> None:
    with zipfile.ZipFile(paths(made)[0]) as archive:
        names = archive.namelist()
        assert {i.compress_type for i in archive.infolist()} == {zipfile.ZIP_STORED}
    root = "2011_09_26/2011_09_26_drive_9021_sync"
    assert names[0] == f"{root}/image_02/data/0000000000.png"
    assert [n for n in names if "/flow/" in n] == [f"{root}/flow/data/{i:010d}.png" for i in range(15)]
    clips = demo.clips(demo_params(), "test", paths(made))
    assert [c.name for c in clips] == [f"2011_09_26_drive_{n}_sync/image_02" for n in range(9021, 9025)]
    assert {"frames": sum(len(c.frames) for c in clips)} == demo.expected(demo_params(), "test") == {"frames": 64}


def test_demo_drives_are_never_taken_for_kitti() -> None:
    real = {int(drive[17:21]) for split in kitti.EXPECTED.values() for drive in split}
    numbers = [n for split in demo.SPLITS for n in demo.DRIVES[split]]
    assert len(set(numbers)) == len(numbers)
    assert min(numbers) > 9000 > max(real)


def test_each_split_has_landscapes_of_its_own() -> None:
    landscapes = [text for split in demo.SPLITS for text in rendering.LANDSCAPES[split]]
    assert len(set(landscapes)) == len(landscapes)
    first = {demo.render(split, place, 32, 48)[0][0].tobytes() for split in demo.SPLITS for place in range(2)}
    assert len(first) == 6


def test_demo_flow_is_exact(made: Path) -> None:
    """A pixel inside a moving part is found again, unchanged, where its flow says, if the same part is seen there."""
    images = {
        (clip.name, n): demo_image(member)
        for clip in demo.clips(demo_params(), "test", paths(made))
        for n, member in clip.frames
    }
    flows = {(clip, n): (flow, valid) for clip, n, flow, valid in demo.truth(demo_params(), "test", paths(made))}
    assert len(flows) == 4 * 15
    found: dict[tuple[float, float], int] = {}
    for (clip, n), (flow, valid) in flows.items():
        assert flow.shape == (48, 64, 2)
        assert flow.dtype == np.float32
        assert valid.all()
        if (clip, n + 1) not in flows:
            continue
        after = flows[clip, n + 1][0]
        for u, v in np.unique(flow.reshape(-1, 2), axis=0).astype(int):
            here, there = (inside((f == (u, v)).all(-1)) for f in (flow, after))
            y, x = np.nonzero(here)
            kept = (y + v >= 0) & (y + v < 48) & (x + u >= 0) & (x + u < 64)
            y, x = y[kept], x[kept]
            seen = there[y + v, x + u]
            y, x = y[seen], x[seen]
            assert np.array_equal(images[clip, n][y, x], images[clip, n + 1][y + v, x + u])
            found[u, v] = found.get((u, v), 0) + len(y)
    assert {motion for motion, count in found.items() if count} == {(-demo.PAN, 0), *demo.DRIFTS}


def demo_image(member: object) -> np.ndarray:
    data = zipfile.ZipFile(member.archive).read(member.name)  # type: ignore[attr-defined]
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image.shape == (48, 64, 3)
    assert image.dtype == np.uint8
    return image


def inside(mask: np.ndarray) -> np.ndarray:
    """Return the mask without its rim, where colours of two parts are mixed."""
    return cv2.erode(mask.astype(np.uint8), np.ones((3, 3)), borderValue=1).astype(bool)


def test_balloons_are_small_and_pass_behind_each_other() -> None:
    hidden = 0
    for place in range(len(demo.DRIVES["test"])):
        _, flows = demo.render("test", place, 192, 320)
        counts = []
        for flow in flows:
            motions, n = np.unique(flow.reshape(-1, 3), axis=0, return_counts=True)
            counts.append({tuple(m): int(c) for m, c in zip(motions.tolist(), n, strict=True)})
            assert 0.005 < 1 - max(n) / (192 * 320) < 0.08
        for motion in demo.DRIFTS:
            sizes = [c.get((64 * motion[0] + 2**15, 64 * motion[1] + 2**15, 1), 0) for c in counts]
            hidden += min(sizes) < max(sizes) * 0.9
    assert hidden >= 2


def test_demo_truth_is_in_the_test_drives_alone(tmp_path: Path) -> None:
    demo.generate(demo_params(), "val", tmp_path)
    assert list(demo.truth(demo_params(), "val", paths(tmp_path, "val"))) == []
    assert len(demo.clips(demo_params(), "val", paths(tmp_path, "val"))) == 2


def test_smallest_demo(tmp_path: Path) -> None:
    pictures, flows = demo.render("train", 0, 16, 16)
    assert {image.shape for image in pictures + flows} == {(16, 16, 3)}


def test_png_of_many_blocks() -> None:
    image = np.random.default_rng(0).integers(0, 65536, (120, 200, 3)).astype(np.uint16)
    assert np.array_equal(
        cv2.imdecode(np.frombuffer(rendering.png(image), np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1], image
    )


def test_a_camera_whose_folder_is_a_link(tmp_path: Path) -> None:
    """Frames on another disk are read, and count in what the folder is."""
    elsewhere = tmp_path / "disk"
    elsewhere.mkdir()
    for number in range(2):
        (elsewhere / f"{number:010d}.png").write_bytes(PNG)
    data = tmp_path / A / drive_folder(Path(A)) / "image_02"
    data.mkdir(parents=True)
    (data / "data").symlink_to(elsewhere)
    (clip,) = kitti.clips(kitti_params(), "test", [tmp_path / A])
    assert [read(member) for _, member in clip.frames] == [PNG, PNG]
    assert unpacked(tmp_path / A).bytes == 2 * len(PNG)
    (elsewhere / "loop").symlink_to(data)
    with pytest.raises(RetakeError, match=r"is a link to a folder that it lies in: remove the link"):
        kitti.clips(kitti_params(), "test", [tmp_path / A])


def test_frames_that_are_jpeg_are_refused_with_the_reason(tmp_path: Path) -> None:
    data = tmp_path / A / drive_folder(Path(A)) / "image_02/data"
    data.mkdir(parents=True)
    (data / "0000000000.jpg").write_bytes(b"")
    with pytest.raises(RetakeError, match=r"It holds JPEG images .*Put the published PNG there") as caught:
        kitti.clips(kitti_params(), "test", [tmp_path / A])
    assert "delete" not in str(caught.value)


def test_members_whose_names_are_not_written_plainly(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"./a/x.txt": b"1", "b\\y.txt": b"2", "./": b"", "./a/": b""})
    assert set(names(archive)) == {"a/x.txt", "b/y.txt", "./", "a/"}
    assert [read(Member(archive, name)) for name in ("a/x.txt", "b/y.txt")] == [b"1", b"2"]
    with pytest.raises(RetakeError, match=r"'\./x' has the same name as 'x'"):
        names(make_zip(tmp_path / "twice.zip", {"x": b"", "./x": b""}))


def test_no_message_advises_to_delete_what_is_the_users() -> None:
    """The project deletes, and advises to delete, only what it made."""
    own = {"verified.py", "hosts.py"}  # a line of a list; what an attempt left
    for file in sorted((ROOT / "pipeline").rglob("*.py")):
        if file.parent.name in ("sources", "datasets") and file.name not in own:
            assert not re.search(r'".*\bdelete\b', file.read_text()), file
