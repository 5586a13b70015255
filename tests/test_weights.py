"""Pretrained files: fetched, verified, loaded without running code; checkpoints: the same content, the same bytes."""

from __future__ import annotations

import csv
import hashlib
import os
import pickle
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import fetch, params, weights
from pipeline.errors import RetakeError
from pipeline.store import sealed
from tests.conftest import ROOT, resolved
from tests.server import Move, Server

REFUSED = "http://127.0.0.1:9/w.pth"
COLUMNS = "name,file,url,mirror,bytes,sha256,licence,login,note,use"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as one:
        yield one


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fetch, "BACKOFF", 0.01)
    monkeypatch.chdir(tmp_path)


def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {"conv.weight": torch.randn(4, 3, 3, 3, generator=generator), "conv.bias": torch.zeros(4)}


def stored(tree: Any, **options: Any) -> bytes:
    path = Path("stored")
    torch.save(tree, path, **options)
    data = path.read_bytes()
    path.unlink()
    return data


def row(url: str = "", size: int | str = "", sha256: str = "", login: str = "", file: str = "w.pth") -> None:
    Path("workflow").mkdir(exist_ok=True)
    Path("workflow/weights.csv").write_text(f"{COLUMNS}\nnet,{file},{url},,{size},{sha256},MIT,{login},a note,tests\n")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


def place(data: bytes) -> Path:
    path = Path("data/weights/w.pth")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# Fetching


def test_fetched_once_verified_and_loaded_by_name_or_file(server: Server) -> None:
    data = stored(state())
    row(server.put("w", data, Move(drop=300), Move()), len(data), hashlib.sha256(data).hexdigest())
    assert equal(weights.load("net"), state())
    asked = len(server.log)
    assert weights.path("net") == Path("data/weights/w.pth")
    assert equal(weights.load("w.pth"), state())
    assert len(server.log) == asked
    assert not Path("data/weights/SHA256SUMS").exists(), "the published sum is enough"


def test_what_a_pulled_manifest_tells_of_is_fetched_when_it_is_needed(server: Server) -> None:
    data = stored(state())
    row(server.put("w", data), len(data), hashlib.sha256(data).hexdigest())
    assert not weights.here("net"), "nobody has asked for it"
    sealed.write("data/weights/net.json", {"file": "w.pth", "sha256": None})
    assert not weights.here("net"), "a colleague could not have it"
    sealed.write("data/weights/net.json", {"file": "w.pth", "sha256": hashlib.sha256(data).hexdigest()})
    assert weights.here("net")
    assert equal(weights.load("net"), state())
    Path("data/weights/w.pth").unlink()
    row(REFUSED, len(data), hashlib.sha256(data).hexdigest())
    assert not weights.here("net"), "it is not to be had here"


def test_unpublished_checksum_is_recorded_and_held_to(server: Server) -> None:
    data = stored(state())
    row(server.put("w", data))
    weights.load("net")
    assert Path("data/weights/SHA256SUMS").read_text() == f"{hashlib.sha256(data).hexdigest()}  w.pth\n"
    place(stored({"other": torch.ones(3)}))
    with pytest.raises(RetakeError, match=r"weights net: data/weights/w.pth has changed"):
        weights.path("net")


@pytest.mark.parametrize("wrong", ["sha256", "truncated", "page"])
def test_wrong_bodies_are_missing_weights_with_the_reason(server: Server, wrong: str) -> None:
    data = stored(state())
    body = {"sha256": data[:-1] + b"x", "truncated": data[:400], "page": b"<html>quota</html>"}[wrong]
    row(server.put("w", body), "", hashlib.sha256(data).hexdigest() if wrong == "sha256" else "")
    reason = {"sha256": "it is corrupt, or another file", "truncated": "not a whole zip", "page": "HTML page"}[wrong]
    with pytest.raises(weights.Missing, match=reason):
        weights.load("net")
    assert [p.name for p in Path("data/weights").iterdir()] == []


def test_wrong_file_put_there_by_hand_is_an_error_not_missing() -> None:
    row(REFUSED, 5)
    path = place(b"123456")
    with pytest.raises(RetakeError, match=r"has 6 bytes, 5 are published.*Put the publisher's file there") as caught:
        weights.load("net")
    assert not isinstance(caught.value, weights.Missing)
    assert path.read_bytes() == b"123456"


def test_nothing_reachable_is_missing_and_quick_for_the_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "BACKOFF", 5.0)
    row(REFUSED)
    before = time.monotonic()
    with pytest.raises(weights.Missing) as caught:
        weights.load("net", patient=False)
    assert time.monotonic() - before < 4
    assert "weights net: w.pth (size not published) cannot be downloaded" in str(caught.value)
    assert f"{REFUSED}: Failed to establish a new connection" in str(caught.value)
    assert "Or put it there by hand, as data/weights/w.pth" in str(caught.value)


def test_weights_of_a_loss_name_the_setting_that_does_without() -> None:
    row(login="https://drive.example/folder")
    with pytest.raises(weights.Missing, match=r"(?s)Get w\.pth.*Or set train\.vgg_weight: 0 in the model's entry"):
        with weights.or_without("train.vgg_weight: 0"):
            weights.load("net")


def test_weights_to_be_had_by_hand_name_the_page_the_file_and_the_folder() -> None:
    row(login="https://drive.example/folder")
    with pytest.raises(weights.Missing) as caught:
        weights.load("net")
    assert "no data/weights/w.pth. Get w.pth from https://drive.example/folder (a note)" in str(caught.value)
    place(stored(state()))
    assert equal(weights.load("net"), state())


def test_unknown_name() -> None:
    row(REFUSED)
    with pytest.raises(RetakeError, match=r"no weights 'nett' in workflow/weights.csv .did you mean 'net'"):
        weights.path("nett")


def test_rows_of_the_project_are_valid() -> None:
    rows = {row.name: row for row in fetch.sources(ROOT / "workflow/weights.csv", key="name", extra=("use",))}
    assert {"alexnet", "vgg16", "vgg19", "squeezenet", "inception"} <= set(rows)
    for name in ("alexnet", "vgg16", "vgg19", "squeezenet", "inception"):
        digits = rows[name].file.removesuffix(".pth").rsplit("-", 1)[1]
        assert rows[name].sha256.startswith(digits), "torchvision's names end in the sum's first digits"
    assert all(row.use for row in rows.values())
    for name in ("dmvfn_city", "dmvfn_kitti", "dmvfn_vimeo"):
        assert rows[name].file == f"{name}.pkl"
        assert not rows[name].urls


def test_heads_of_the_lpips_package_are_the_listed_ones() -> None:
    import lpips

    with (ROOT / "workflow/weights.csv").open(newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    for net in ("alex", "vgg"):
        data = (Path(lpips.__file__).parent / f"weights/v0.1/{net}.pth").read_bytes()
        assert (str(len(data)), hashlib.sha256(data).hexdigest()) == (
            rows[f"lpips_{net}"]["bytes"],
            rows[f"lpips_{net}"]["sha256"],
        )


# Loading


def test_published_forms_are_unpacked() -> None:
    for tree in (state(), {"state_dict": state(), "epoch": 7}, {"state_dict": OrderedDict(state())}):
        for zipped in (True, False):
            path = place(stored(tree, _use_new_zipfile_serialization=zipped))
            assert equal(weights.load_file(path), state())


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


@pytest.mark.parametrize("form", ["torch", "old torch", "pickle 2", "pickle 4"])
def test_file_that_would_run_code_is_refused(form: str) -> None:
    tree = {"weight": torch.ones(2) if "torch" in form else 1, "evil": Evil()}
    if "torch" in form:
        data = stored(tree, _use_new_zipfile_serialization=form == "torch")
    else:
        data = pickle.dumps(tree, protocol=int(form[-1]))
    path = place(data)
    for load in (weights.load_file, weights.load_tree):
        with pytest.raises(RetakeError, match=r"w.pth was refused: loading it would run code \((posix|nt).system\)"):
            load(path)
    assert not Path("ran").exists()


def test_whole_network_instead_of_its_weights_is_refused() -> None:
    path = place(stored(torch.nn.Linear(2, 2)))
    with pytest.raises(RetakeError, match=r"run code \(torch.nn.modules.linear.Linear\).*save its state_dict"):
        weights.load_file(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 0.98])
def test_truncated_checkpoints(zipped: bool, share: float) -> None:
    data = stored(state(), _use_new_zipfile_serialization=zipped)
    path = place(data[: int(len(data) * share)])
    with pytest.raises(RetakeError, match=r"data/weights/w.pth is no checkpoint, or (truncated|damaged)"):
        weights.load_file(path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<!DOCTYPE html>", "is no checkpoint, or damaged: it is an HTML page"),
        (b"hello world\n", "is no checkpoint, or"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "is no checkpoint, or"),
    ],
)
def test_other_files_are_no_checkpoints(data: bytes, reason: str) -> None:
    with pytest.raises(RetakeError, match=reason):
        weights.load_file(place(data))


def test_other_contents_are_no_weights() -> None:
    with pytest.raises(RetakeError, match="holds a list, not tensors by name"):
        weights.load_file(place(stored([1, 2])))
    with pytest.raises(RetakeError, match=r"holds a dict, not tensors by name"):
        weights.load_file(place(stored({})))
    with pytest.raises(RetakeError, match=r"holds other things than tensors: epoch"):
        weights.load_file(place(stored({"w": torch.ones(1), "epoch": 3})))
    with pytest.raises(RetakeError, match=r"no checkpoint none.pt: check the name$"):
        weights.load_file("none.pt")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_checkpoints_are_refused_or_read(data: st.DataObject) -> None:
    raw = bytearray(stored({"w": torch.ones(3)}, _use_new_zipfile_serialization=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = place(bytes(raw))
    try:
        found = weights.load_file(path)
    except RetakeError as error:
        found, message = {}, str(error)
    else:
        message = str(path)
    assert str(path) in message
    assert all(isinstance(value, torch.Tensor) for value in found.values())


# Saving


def tree_of(same: bool) -> dict[str, Any]:
    """The same content, once with parts that are one object and once with parts that are copies and views."""
    weight = torch.arange(6.0).reshape(2, 3)
    wide = torch.arange(12.0).reshape(2, 6)
    wide[:, :3] = weight
    key = "step" if same else "".join(["st", "ep"])
    return {
        "kind": "net",
        "weights": {"a": weight, "b": weight if same else wide[:, :3], "half": torch.ones(2, dtype=torch.bfloat16)},
        "best": None,
        "optimisers": {"main": {"state": {0: {key: 3, "exp_avg": weight if same else weight.clone()}}}},
        "text": ["step", key, "x" + str(1), 1.5, True, (1, 2), b"raw"],
        "parameter": torch.nn.Parameter(weight) if same else weight,
    }


def test_same_content_gives_the_same_bytes_in_every_process() -> None:
    weights.save("a.pt", tree_of(True))
    weights.save("b.pt", tree_of(False))
    data = Path("a.pt").read_bytes()
    assert Path("b.pt").read_bytes() == data
    weights.save("c.pt", weights.load_tree("a.pt"))
    assert Path("c.pt").read_bytes() == data
    code = (
        "import time; time.sleep(2.1)\n"  # zip archives know two seconds
        "from pipeline import weights; from tests.test_weights import tree_of; weights.save('d.pt', tree_of(False))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert Path("d.pt").read_bytes() == data


def test_saved_trees_come_back() -> None:
    tree = tree_of(True)
    weights.save("a.pt", tree)
    back = weights.load_tree("a.pt")
    assert equal(back["weights"], tree["weights"])
    assert back["weights"]["half"].dtype == torch.bfloat16
    assert back["optimisers"]["main"]["state"][0]["step"] == 3
    assert back["text"] == tree["text"]
    assert back["best"] is None


def test_view_of_a_large_tensor_is_saved_small() -> None:
    weights.save("a.pt", {"w": torch.zeros(1_000_000)[:10]})
    assert Path("a.pt").stat().st_size < 5000


def test_what_could_not_be_loaded_is_not_saved() -> None:
    for value in (np.float64(1), object(), {1, 2}, Path("x")):
        with pytest.raises(TypeError, match=f"cannot hold a {type(value).__name__}"):
            weights.save("a.pt", {"x": value})
    assert not Path("a.pt").exists()


def test_state_of_a_real_optimiser_resumes() -> None:
    def step(network: torch.nn.Module, optimiser: torch.optim.Optimizer, seed: int) -> None:
        optimiser.zero_grad()
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
        network(x).square().sum().backward()
        optimiser.step()

    def new() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
        return network, torch.optim.AdamW(network.parameters(), lr=0.1)

    whole, optimiser = new()
    step(whole, optimiser, 1)
    weights.save("a.pt", {"network": whole.state_dict(), "optimiser": optimiser.state_dict()})
    step(whole, optimiser, 2)
    resumed, other = new()
    back = weights.load_tree("a.pt")
    resumed.load_state_dict(back["network"])
    other.load_state_dict(back["optimiser"])
    step(resumed, other, 2)
    assert equal(resumed.state_dict(), whole.state_dict())


def test_digest_depends_on_names_types_shapes_and_values_alone() -> None:
    first = state()
    digest = weights.digest(first)
    assert weights.digest(dict(reversed(first.items()))) == digest
    assert (
        weights.digest({k: v.clone().transpose(0, -1).contiguous().transpose(0, -1) for k, v in first.items()})
        == digest
    )
    others = [
        {**first, "conv.bias": torch.full((4,), 1e-45)},
        {**first, "conv.bias": torch.zeros(4, dtype=torch.float16)},
        {**first, "conv.bias": torch.zeros(2, 2)},
        {"conv.weight": first["conv.weight"], "conv.bia": first["conv.bias"]},
        {"conv.weight": first["conv.weight"]},
        {**first, "scale": torch.tensor(1.0)},
        {**first, "empty": torch.zeros(0, 3, dtype=torch.bfloat16)},
    ]
    assert len({digest, *map(weights.digest, others)}) == len(others) + 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    model = params.validate(resolved()).models["frvsr_demo"]
    network = weights.load_model(model, None, "cpu")[0]
    state = network.state_dict()
    name = next(iter(state))
    state[name].view(-1)[0] = value
    weights.save(tmp_path / "bad.pt", {"kind": model.kind, "weights": state, "best": None, "params": "{}"})
    with pytest.raises(RetakeError, match=rf"bad\.pt has NaN or infinity in 1 of \d+ tensors, the first is {name}"):
        weights.load_model(model, tmp_path / "bad.pt", "cpu")


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"kind": "dmvfn"}, "holds other things than tensors: kind"),
        ({"kind": "dmvfn", "weights": 5}, "holds a int, not tensors by name"),
        ({"kind": "dmvfn", "weights": {1: torch.zeros(2)}}, "holds other things than tensors: 1"),
        ({"kind": "dmvfn", "weights": {"a": torch.zeros(2)}, "best": {"a": 3}}, "holds other things than tensors: a"),
        (
            {"a": torch.zeros(1).expand(2**30, 2**10)},
            r"a claims to be \(1073741824, 1024\), the file holds fewer values",
        ),
        ({"a": torch.eye(2).to_sparse()}, "a is sparse or quantized"),
    ],
)
def test_trees_that_are_no_checkpoint_are_refused_whoever_reads_them(tmp_path: Path, tree: Any, message: str) -> None:
    file = tmp_path / "x.pt"
    torch.save(tree, file)
    model = params.validate(resolved()).models["dmvfn_demo"]
    for read in (lambda: weights.starting(str(file)), lambda: weights.load_model(model, file, "cpu")):
        with pytest.raises(RetakeError, match=f"x.pt.*{message}"):
            read()


def test_a_tree_that_holds_itself_ends(tmp_path: Path) -> None:
    tree: dict[str, Any] = {}
    tree["state_dict"] = tree
    torch.save(tree, tmp_path / "x.pt")
    with pytest.raises(RetakeError, match="holds other things than tensors: state_dict"):
        weights.load_file(tmp_path / "x.pt")


@pytest.mark.parametrize("text", ["[1", "[" * 100_000, "5"])
def test_damaged_params_of_a_checkpoint_are_named(tmp_path: Path, text: str) -> None:
    torch.save({"params": text, "kind": "dmvfn", "weights": {}}, tmp_path / "x.pt")
    with pytest.raises(RetakeError, match=r"x\.pt is no checkpoint of this project, or damaged: its params"):
        weights.params_of(tmp_path / "x.pt")
