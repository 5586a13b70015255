"""The TensorFlow checkpoint reader against the tests' own writer, and against damage."""

from __future__ import annotations

import gzip
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tf_writer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.errors import RetakeError
from pipeline.sources import tars, tensorflow

DTYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")

tensors = st.dictionaries(
    st.text("abcdefghij/_", min_size=1, max_size=30),
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(np.dtype(dtype), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    ),
    min_size=1,
    max_size=8,
)


def same(found: dict[str, np.ndarray], written: dict[str, np.ndarray]) -> None:
    assert found.keys() == written.keys()
    for name, value in written.items():
        assert found[name].dtype == value.dtype
        assert found[name].shape == value.shape
        assert found[name].tobytes() == value.tobytes(), name  # NaNs and signs of zero too


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(written=tensors, shards=st.integers(1, 3), big=st.booleans())
def test_v2_reads_back(tmp_path: Path, written: dict[str, np.ndarray], shards: int, big: bool) -> None:
    tf_writer.write_v2(tmp_path / "model", written, shards=shards, big=big)
    for source in ("model", "model.index"):
        same(tensorflow.read(tmp_path / source, check=True), written)
    assert tensorflow.shapes(tmp_path / "model") == {name: value.shape for name, value in written.items()}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(written=tensors, content=st.booleans(), packed=st.booleans())
def test_v1_reads_back(tmp_path: Path, written: dict[str, np.ndarray], content: bool, packed: bool) -> None:
    tf_writer.write_v1(tmp_path / "model.ckpt", written, content=content, packed=packed)
    same(tensorflow.read(tmp_path / "model.ckpt", check=True), written)


@pytest.fixture
def written() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    names = {"a/weights": (3, 3, 4, 5), "a/biases": (5,), "a/weights/Adam": (3, 3, 4, 5), "b/weights": (7, 2)}
    return {name: rng.standard_normal(size).astype(np.float32) for name, size in names.items()}


def test_v1_slices_are_joined(tmp_path: Path, written: dict[str, np.ndarray]) -> None:
    tf_writer.write_v1(tmp_path / "model.ckpt", written, partitioned={"b/weights": 3})
    same(tensorflow.read(tmp_path / "model.ckpt"), written)


def test_names_are_exact(tmp_path: Path, written: dict[str, np.ndarray]) -> None:
    tf_writer.write_v2(tmp_path / "model", written, strings=("saver/name",))
    assert list(tensorflow.read(tmp_path / "model", ["a/weights"])) == ["a/weights"]
    same(tensorflow.read(tmp_path / "model"), written)  # strings are left out
    with pytest.raises(
        RetakeError, match=r"model\.index lacks 1 of 2 variables: a/weight \(did you mean 'a/weights'\?\)"
    ):
        tensorflow.read(tmp_path / "model", ["b/weights", "a/weight"])
    with pytest.raises(RetakeError, match="type 7, which is not numeric"):
        tensorflow.read(tmp_path / "model", ["saver/name"])


def test_is_checkpoint(tmp_path: Path, written: dict[str, np.ndarray]) -> None:
    tf_writer.write_v2(tmp_path / "two", written)
    tf_writer.write_v1(tmp_path / "one.ckpt", written)
    (tmp_path / "other.pt").write_bytes(b"PK\x03\x04")
    assert [tensorflow.is_checkpoint(tmp_path / n) for n in ("two", "two.index", "one.ckpt", "other.pt", "none")] == [
        *(True, True, True),
        *(False, False),
    ]


def test_missing_files(tmp_path: Path, written: dict[str, np.ndarray]) -> None:
    with pytest.raises(RetakeError, match=r"no TensorFlow checkpoint .*model: neither a V1 file.*nor model\.index"):
        tensorflow.read(tmp_path / "model")
    tf_writer.write_v2(tmp_path / "model", written, shards=2)
    (tmp_path / "model.data-00001-of-00002").unlink()
    with pytest.raises(RetakeError, match=r"needs model\.data-00001-of-00002 beside it, which is missing"):
        tensorflow.read(tmp_path / "model")


@pytest.mark.parametrize("kind", ["zip", "gztar"])
def test_published_archives(tmp_path: Path, written: dict[str, np.ndarray], kind: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    tf_writer.write_v2(folder / "TecoGAN", written, shards=2)
    (folder / "TecoGAN.meta").write_bytes(b"graph")
    archive = shutil.make_archive(str(tmp_path / "model"), kind, tmp_path, "model")
    same(tensorflow.read(archive, check=True), written)
    tf_writer.write_v1(folder / "vgg_19.ckpt", written)
    archive = shutil.make_archive(str(tmp_path / "two"), kind, tmp_path, "model")
    with pytest.raises(RetakeError, match=r"must hold one TensorFlow .* model/TecoGAN\.index, model/vgg_19\.ckpt"):
        tensorflow.read(archive)


def damage(path: Path, at: int, value: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] = value
    path.write_bytes(data)


def test_snappy_is_refused(tmp_path: Path, written: dict[str, np.ndarray]) -> None:
    tf_writer.write_v2(tmp_path / "model", {"a": written["a/biases"]})
    index = tmp_path / "model.index"
    first = index.read_bytes().index(b"\x01\x00\x00\x00\x00")  # number of restarts, then the type byte
    damage(index, first + 4, 1)
    with pytest.raises(RetakeError, match=r"model\.index: the block at byte 0 is compressed \(Snappy\)"):
        tensorflow.read(tmp_path / "model")


def test_wrong_crc(tmp_path: Path, written: dict[str, np.ndarray]) -> None:
    tf_writer.write_v2(tmp_path / "model", written)
    shard = tmp_path / "model.data-00000-of-00001"
    damage(shard, 10, shard.read_bytes()[10] ^ 1)
    tensorflow.read(tmp_path / "model")  # only on request
    with pytest.raises(RetakeError, match=r"model\.data-00000-of-00001: wrong CRC-32C of a/biases"):
        tensorflow.read(tmp_path / "model", check=True)

    tf_writer.write_v1(tmp_path / "model.ckpt", written)
    data = (tmp_path / "model.ckpt").read_bytes()
    at = data.index(written["b/weights"].tobytes()) + 5
    damage(tmp_path / "model.ckpt", at, data[at] ^ 1)
    tensorflow.read(tmp_path / "model.ckpt")
    with pytest.raises(RetakeError, match=r"model\.ckpt: wrong CRC-32C of the block at byte \d+"):
        tensorflow.read(tmp_path / "model.ckpt", check=True)


def test_other_files(tmp_path: Path) -> None:
    for content in (b"", b"\x80\x02}q\x00.", b"\0" * 100):
        (tmp_path / "model.ckpt").write_bytes(content)
        with pytest.raises(RetakeError, match=r"model\.ckpt is not a TensorFlow checkpoint"):
            tensorflow.read(tmp_path / "model.ckpt")


def test_shard_cut_off(tmp_path: Path, written: dict[str, np.ndarray]) -> None:
    tf_writer.write_v2(tmp_path / "model", written)
    shard = tmp_path / "model.data-00000-of-00001"
    shard.write_bytes(shard.read_bytes()[:-4])
    with pytest.raises(RetakeError, match="b/weights: the data file ends before byte"):
        tensorflow.read(tmp_path / "model")


def test_partitioned_bundle_is_refused(tmp_path: Path) -> None:
    entry = tf_writer.message((1, 1), (2, tf_writer.shape((4,))), (7, tf_writer.message((1, b""))))
    header = tf_writer.message((1, 1))
    (tmp_path / "model.index").write_bytes(tf_writer.table([(b"", header), (b"\0a", b""), (b"a", entry)]))
    with pytest.raises(RetakeError, match=r"a was saved in slices \(a partitioned variable\)"):
        tensorflow.read(tmp_path / "model")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_refused_or_read(tmp_path: Path, data: Any) -> None:
    """Whatever a byte is changed to, the reader ends with arrays or with an error of its own, in little time."""
    small = {"a/w": np.arange(6, dtype=np.float32).reshape(2, 3), "a/n": np.array(7, np.int64)}
    v1 = data.draw(st.booleans())
    path = tmp_path / ("model.ckpt" if v1 else "model.index")
    if v1:
        tf_writer.write_v1(path, small)
    else:
        tf_writer.write_v2(tmp_path / "model", small)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        tensorflow.read(path)
    except RetakeError as error:
        assert "model" in str(error)  # noqa: PT017


@given(st.binary(max_size=20_000))
@settings(max_examples=30, deadline=None)
def test_crc32c(data: bytes) -> None:
    assert tensorflow.masked_crc(data) == tf_writer.crc(data)


def test_crc32c_of_the_standard() -> None:
    assert tensorflow.crc32c(b"123456789") == 0xE3069283
    assert tensorflow.crc32c(bytes(32)) == 0x8A9136AA
    assert tensorflow.crc32c(b"\xff" * 32) == 0x62A8AB43
    rng = np.random.default_rng(1)
    long = rng.bytes(100_003)  # longer than the lanes
    assert tensorflow.masked_crc(long) == tf_writer.crc(long)


# Archives that are larger than they look


def packed(path: Path, members: dict[str, int], header: bytes = b"") -> Path:
    """Write a gzipped tar of members of zeros, (name, size), behind some bytes of a header."""
    with gzip.open(path, "wb", compresslevel=9) as out:
        out.write(header)
        for name, size in members.items():
            info = tarfile.TarInfo(name)
            info.size = size
            out.write(info.tobuf())
            for start in range(0, size, 1 << 20):
                out.write(bytes(min(1 << 20, size - start)))
            out.write(bytes(-size % 512 + 1024))
    return path


def test_a_packed_archive_is_read_within_the_limits(tmp_path: Path) -> None:
    bomb = packed(tmp_path / "bomb.tar.gz", {"model.ckpt": 64 << 20})
    with pytest.raises(RetakeError, match=r"bomb\.tar\.gz is not a whole tar archive: it is truncated, or unpacks to"):
        tensorflow.holds(bomb)
    pax = tarfile.TarInfo("pax")
    pax.type, pax.size = tarfile.XHDTYPE, 32 << 20
    (tmp_path / "pax.tar").write_bytes(pax.tobuf(tarfile.GNU_FORMAT) + bytes(32 << 20))
    with pytest.raises(RetakeError, match=r"pax\.tar is not a whole tar archive: a header of it claims"):
        tars.members(tmp_path / "pax.tar")
    assert not tensorflow.holds(tmp_path / "pax.tar")
