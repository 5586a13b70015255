"""Pretrained files and checkpoints: fetched, verified, loaded, saved; the only place that unpickles anything.

In: rows of workflow/weights.csv (or a user's own file). Out: `data/weights/<file>`, and tensors by name. Everything is
loaded with `weights_only`: a file that would run code is refused. TensorFlow's checkpoints are read too, as they lie or in
the archive that they are published in.

    weights.load("alexnet")             # fetched when it is not there; Missing when it cannot be had
    weights.load_file("dmvfn.pkl")
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import pickle
import pickletools
import re
import struct
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import fetch, params
from pipeline.atomic import write_bytes
from pipeline.errors import RetakeError, near, progress
from pipeline.params import Model
from pipeline.sources import archives, limits, tensorflow
from pipeline.sources.verified import known
from pipeline.store import sealed

if TYPE_CHECKING:
    from torch import Tensor

SOURCES = Path("workflow/weights.csv")
ROOT = Path("data/weights")
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "params",
    "network",
    "net",
    "generator",
    "ema",
    "model_ema",
    "params_ema",
    "ema_state_dict",
)  # keys under which training code keeps a network's tensors
WRAPPED = 8  # times at most
# What torch raises for truncated and foreign files differs with the place of the damage
DAMAGE = (
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    AttributeError,
    TypeError,
    AssertionError,
    struct.error,
    OverflowError,
)
PREFIXES = ("module.", "_orig_mod.")  # of names, by DistributedDataParallel and torch.compile


class Missing(RetakeError):
    """Weights that cannot be had, and why; `missing_weights: skip` goes on without them."""


@contextlib.contextmanager
def or_without(setting: str) -> Iterator[None]:
    """Weights of a loss: where they cannot be had, the error names the `setting` of the model that does without."""
    try:
        yield
    except Missing as error:
        raise Missing(f"{error}\nOr set {setting} in the model's entry: another recipe, which needs none") from None


def source_of(name: str) -> fetch.Source:
    """Return the row of workflow/weights.csv by its name or file name; raises RetakeError when there is none."""
    rows = {key: row for row in fetch.sources(SOURCES, key="name", extra=("use",)) for key in (row.name, row.file)}
    if name not in rows:
        raise RetakeError(f"no weights {name!r} in {SOURCES}{near(name, rows)}")
    return rows[name]


def path(name: str, *, patient: bool = True) -> Path:
    """Return the verified file of the row `name` (or of that file name) of workflow/weights.csv, fetched if not there.

    `patient` False gives up at once where no connection is to be had, instead of trying again for a while. Raises
    Missing when the file cannot be had, RetakeError when the one that is there is wrong.
    """
    source = source_of(name)
    file, digest = ROOT / source.file, None
    if not file.exists():
        how = f"Or put it there by hand, as {file}; it is verified there"
        if not source.urls:
            note = f" ({source.note})" if source.note else ""
            raise Missing(f"weights {name}: no {file}. Get {source.file} from {source.login}{note}, put it there")
        try:
            with progress(total=source.bytes, unit="B", unit_scale=True, desc=source.file) as bar:
                digest = fetch.fetch(
                    source, file, check=_whole, patient=patient, moved=lambda at: bar.update(at - bar.n)
                )
        except fetch.Failed as error:
            raise Missing(f"weights {name}: {error}\n{how}") from None
    try:
        known(ROOT, file, source.bytes, source.sha256, _whole, digest=digest)
    except RetakeError as error:
        raise RetakeError(f"weights {name}: {error}. Put the publisher's file there, or move this one away") from None
    return file


def here(name: str) -> bool:
    """Return whether the file of a row of workflow/weights.csv lies in data/weights; fetched where a colleague's manifest tells of it."""
    source = source_of(name)
    manifest = ROOT / f"{source.name}.json"
    if not (ROOT / source.file).exists() and manifest.exists() and sealed.read(manifest)["sha256"] is not None:
        with contextlib.suppress(Missing):
            path(name, patient=False)
    return (ROOT / source.file).exists()


def load(name: str, *, patient: bool = True, check: bool = False) -> dict[str, Tensor]:
    """Return the weights of the row `name` of workflow/weights.csv, tensors by name, on the CPU; raises as `path`.

    `check`: as `load_file`.
    """
    return load_file(path(name, patient=patient), check=check)


def load_file(file: str | Path, *, check: bool = False) -> dict[str, Tensor]:
    """Return the tensors by name of a checkpoint, on the CPU, without what training code wraps them in (`WRAPPERS`, `PREFIXES`).

    Read are files of `torch.save` and safetensors. Of a TensorFlow checkpoint: its numeric variables, in TensorFlow's layout; `check` compares their checksums. Raises
    RetakeError for a file that is missing, truncated, no checkpoint, or would run code.
    """
    import torch

    if tensorflow.holds(file):
        return {name: torch.from_numpy(value) for name, value in tensorflow.read(file, check=check).items()}
    tree: Any = _safetensors(Path(file)) if Path(file).suffix == ".safetensors" else load_tree(file)
    for _ in range(WRAPPED):  # a hostile tree may hold itself
        inner = [tree[key] for key in WRAPPERS if isinstance(tree.get(key), dict)] if isinstance(tree, dict) else []
        tree = inner[0] if inner else tree
    tree = _by_name(tree, file)
    while prefix := next((prefix for prefix in PREFIXES if all(key.startswith(prefix) for key in tree)), None):
        tree = {key.removeprefix(prefix): value for key, value in tree.items()}
    return dict(tree)


def _by_name(tree: Any, file: str | Path) -> dict[str, Tensor]:
    """Return a tree that must be tensors by name, each of values that the file holds; raises RetakeError where it is not."""
    import torch

    if not isinstance(tree, dict) or not tree:
        raise RetakeError(
            f"{file} holds a {type(tree).__name__}, not tensors by name: it is no checkpoint of a network"
        )
    others = [str(key) for key, value in tree.items() if not (isinstance(value, torch.Tensor) and isinstance(key, str))]
    if others:
        raise RetakeError(
            f"{file} holds other things than tensors: {', '.join(others[:9])}. It is no checkpoint of a network"
        )
    for name, tensor in tree.items():
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise RetakeError(f"{file}: {name} is sparse or quantized, plain tensors are read: save it as one")
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            raise RetakeError(f"{file}: {name} claims to be {tuple(tensor.shape)}, the file holds fewer values")
    return dict(tree)


def _ours(tree: Any, file: str | Path) -> dict[str, Any] | None:
    """Return the tree of a checkpoint of ours, its weights and best weights checked as `_by_name`; None for another's."""
    if not (isinstance(tree, dict) and isinstance(tree.get("kind"), str) and "weights" in tree):
        return None
    best = tree.get("best")
    return {**tree, "weights": _by_name(tree["weights"], file), "best": best and _by_name(best, file)}


def load_saved(file: str | Path) -> dict[str, Any]:
    """Return a published file as {"state_dict": its tensors by name}, with the "epoch" after which it was saved where it says so.

    Raises RetakeError as `load_file`.
    """
    tree: Any = {} if Path(file).suffix == ".safetensors" else load_tree(file)
    return {"state_dict": load_file(file)} | {key: value for key, value in tree.items() if key == "epoch"}


def _safetensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file: a length, JSON with each one's type, shape and place, then their bytes."""
    import torch

    if not file.is_file():
        raise RetakeError(f"no checkpoint {file}: check the name")
    kinds = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
             "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool}  # fmt: skip
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    body = bytearray(data[8 + length :])
    tensors = {}
    try:
        head = json.loads(data[8 : 8 + length])
        for name, about in head.items():
            if name != "__metadata__":
                start, end = about["data_offsets"]
                if not 0 <= start <= end <= len(body):
                    raise ValueError(f"{name} lies outside of the file")
                flat = torch.frombuffer(body[start:end], dtype=kinds[about["dtype"]]) if end > start else torch.empty(0)
                tensors[name] = flat.reshape(about["shape"])
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError, RecursionError) as error:
        raise RetakeError(f"{file} is no safetensors file, or damaged: {_first(str(error))}") from None
    return tensors


def load_tree(file: str | Path) -> dict[str, Any]:
    """Return what a checkpoint holds, tensors on the CPU; raises RetakeError as `load_file`."""
    import torch

    file = Path(file)
    if not file.is_file():
        again = f", or make it with `snakemake {file}`" if file.parts[:2] == ("data", "checkpoints") else ""
        raise RetakeError(f"no checkpoint {file}: check the name{again}")
    try:
        _whole(file)
    except RetakeError as error:
        raise RetakeError(f"{file} is no checkpoint, or damaged: {error}") from None
    with file.open("rb") as opened:
        start = opened.read(64)
    if not start or limits.instead(start):
        raise RetakeError(f"{file} is no checkpoint, or damaged: {limits.instead(start) or 'it is empty'}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old formats, which are read all the same
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        text = str(error)
        refused = re.search(r"GLOBAL (\S+)|unrecognized function (.+)", text)
        calls = (refused[1] or refused[2]) if refused else _calls(file)
        if calls:
            raise RetakeError(
                f"{file} was refused: loading it would run code ({calls}). Only tensors, numbers and text are read. If "
                "you trust it, save its state_dict with torch.save on the machine that made it, and give that file"
            ) from None
        raise RetakeError(f"{file} is no checkpoint, or damaged: {_first(text.split('error:')[-1])}") from None
    except DAMAGE as error:
        why = _first(str(error)) if isinstance(error, RuntimeError) else f"torch.load stops with {type(error).__name__}"
        raise RetakeError(f"{file} is no checkpoint, or truncated: {why}") from None


def params_of(file: str | Path) -> dict[str, Any]:
    """Return {params key: value} that made a checkpoint of ours; {} for a published one. Raises as `load_tree`."""
    tree: Any = {} if tensorflow.holds(file) or Path(file).suffix == ".safetensors" else load_tree(file)
    if not (isinstance(tree, dict) and isinstance(tree.get("params"), str)):
        return {}
    try:
        return dict(json.loads(tree["params"]))
    except (ValueError, TypeError, RecursionError) as error:
        raise RetakeError(
            f"{file} is no checkpoint of this project, or damaged: its params: {_first(str(error))}"
        ) from None


def origin_of(file: str | Path) -> dict[str, Any]:
    """Return the steps, commit and machine that made a checkpoint of ours; {} for a published one. Raises as `load_tree`."""
    tree: Any = {} if tensorflow.holds(file) or Path(file).suffix == ".safetensors" else load_tree(file)
    return {key: tree[key] for key in ("step", "commit", "machine") if isinstance(tree, dict) and key in tree}


def load_script(file: str | Path) -> dict[str, Tensor]:
    """Return the tensors by name of a TorchScript archive, on the CPU; its code is neither read nor run.

    Such a file is a program, and `torch.jit.load` takes it as one: weights_only does not reach it. Its members `data/*` are
    plain numbers, and `data.pkl` says which tensor they are, in a pickle of which only the few names that stand for
    tensors and lists are allowed here; the program's own classes become empty shells. Raises RetakeError as `load_file`.
    """
    file = Path(file)
    if not file.is_file():
        raise RetakeError(f"no weights {file}: check the name")
    try:
        _whole(file)
        with zipfile.ZipFile(file) as zipped:
            table = next((n for n in zipped.namelist() if n.endswith("/data.pkl")), None)
            if table is None or f"{table.removesuffix('data.pkl')}constants.pkl" not in zipped.namelist():
                raise RetakeError(f"{file} is no TorchScript archive")
            root = table.removesuffix("data.pkl")
            tree = _Scripted(io.BytesIO(zipped.read(table)), lambda key: zipped.read(f"{root}data/{key}")).load()
            return dict(_tensors(tree, ""))
    except pickle.UnpicklingError as error:
        raise RetakeError(f"{file} is refused: {error}") from None
    except (*DAMAGE, zipfile.BadZipFile) as error:
        raise RetakeError(f"{file} is no TorchScript archive, or truncated: {type(error).__name__} {error}") from None


class _Shell:
    """Stands in for an object of a TorchScript program: its attributes, nothing that runs."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


class _Scripted(pickle.Unpickler):
    """Reads `data.pkl` of a TorchScript archive; `data` gives the bytes of one of its storages."""

    def __init__(self, file: io.BytesIO, data: Any) -> None:
        super().__init__(file)
        self.data = data

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name of the pickle stands for."""
        from collections import OrderedDict

        import torch

        if module.startswith("__torch__"):
            return _Shell
        storages = {"FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
                    "LongStorage": torch.int64, "IntStorage": torch.int32, "BoolStorage": torch.bool,
                    "ByteStorage": torch.uint8, "BFloat16Storage": torch.bfloat16}  # fmt: skip
        known = {("torch", key): value for key, value in storages.items()} | {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
        }
        known |= {("torch.jit._pickle", f"build_{kind}list"): list for kind in ("int", "tensor", "double", "bool")}
        known[("torch.jit._pickle", "restore_type_tag")] = lambda value, _: value
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it would run code, {module}.{name}")
        return known[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """Return a storage as a flat tensor."""
        import torch

        _, dtype, key, _, count = pid
        return torch.frombuffer(bytearray(self.data(key)), dtype=dtype, count=count)


def _rebuilt(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Any:
    if math.prod(size) > len(storage):
        raise ValueError(f"a tensor claims to be {tuple(size)}, the file holds {len(storage)} values of it")
    return storage.as_strided(tuple(size), tuple(stride), offset).contiguous()


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a tree of shells by their dotted names."""
    import torch

    if isinstance(value, torch.Tensor):
        yield name, value
    parts = vars(value) if isinstance(value, _Shell) else value if isinstance(value, dict) else {}
    for key, part in parts.items():
        yield from _tensors(part, f"{name}.{key}" if name else str(key))


def _calls(file: Path) -> str:
    """Return the first function or class that a bare pickle names, "" where there is none; torch reads few of them."""
    strings: list[str] = []
    try:
        for code, argument, _ in pickletools.genops(file.read_bytes()):
            if code.name in ("GLOBAL", "INST"):
                return str(argument).replace(" ", ".")
            if code.name == "STACK_GLOBAL":
                return ".".join(strings[-2:])
            if isinstance(argument, str):
                strings.append(argument)
    except ValueError:  # no pickle, or not to its end
        pass
    return ""


def chosen(name: str, model: Model, checkpoint: Path | None) -> Path | None:
    """Return the weights of an entry for a command that was given `checkpoint` or none: those it imports are fetched.

    None for a model without weights. Raises RetakeError where the entry is trained and no checkpoint was given.
    """
    if not model.has_weights or checkpoint is not None:
        return checkpoint
    if isinstance(model.checkpoint, str):
        own = Path(model.checkpoint)
        return own if own.exists() else path(model.checkpoint)
    raise RetakeError(f"{name} needs --checkpoint: a file of data/checkpoints/{name}/, or a published one")


def load_model(model: Model, checkpoint: Path | None, device: str) -> tuple[Any, str]:
    """Return the model in evaluation mode with its weights, and the weights' digest ("" for a model without).

    `checkpoint`: ours or a published file. Raises RetakeError for a checkpoint of another network.
    """
    network = params.registry("models")[model.kind].build(model)
    weights_digest = ""
    if checkpoint is not None:
        best = getattr(model.predict, "weights", "last") == "best"
        fill(network, read(checkpoint, kind=model.kind, best=best), checkpoint)
        weights_digest = digest(network.state_dict())
    return network.to(device).eval(), weights_digest


def read(file: Path, *, kind: str | None = None, best: bool = False, check: bool = False) -> dict[str, Tensor]:
    """Return the weights in a checkpoint of ours, the last ones or the `best` where validation chose some, or in a published file.

    `check`: as `load_file`, which raises the same; `kind`: of the model that one of ours must be of, or RetakeError is raised.
    """
    foreign = tensorflow.holds(file) or file.suffix == ".safetensors"
    ours = None if foreign else _ours(load_tree(file), file)
    if ours is None:
        return load_file(file, check=check)
    if kind is not None and ours["kind"] != kind:
        raise RetakeError(f"{file} is a checkpoint of {ours['kind']}, not of {kind}")
    return (best and ours["best"]) or ours["weights"]


def fill(network: Any, state: dict[str, Any], file: object) -> None:
    """Load tensors by name (or, by part, what `load_saved` returns) into a network; a word that stands before each name is dropped.

    Raises RetakeError with the `file` that they are of: another network's, integers in place of floats, NaN or infinity.
    """
    own = network.state_dict() if hasattr(network, "state_dict") else {}
    bare = {name.partition(".")[2]: value for name, value in state.items()}
    if (
        len({name.partition(".")[0] for name in state}) == 1
        and bare.keys() & own.keys()
        and not state.keys() & own.keys()
    ):
        state = bare
    for name in state.keys() & own.keys():
        if own[name].is_floating_point() and not state[name].is_floating_point():
            raise RetakeError(
                f"{file} has {name} as {state[name].dtype}, not as floats: it holds no weights of this network"
            )
    try:
        network.load_published(state)
    except RetakeError as error:
        raise RetakeError(f"{file}: {error}") from None
    _check_finite(network.state_dict(), file)


def starting(source: str, *, best: bool = False) -> dict[str, Tensor]:
    """Return the weights that a training starts from: the last ones of a checkpoint of ours, or a published file's.

    `source`: a file, or a row of workflow/weights.csv; `best`: the best weights of ours, where validation chose some. Raises
    RetakeError as `load_file`, Missing as `path`.
    """
    own = Path(source).suffix == ".pt" or Path(source).exists() or tensorflow.holds(source)
    file = Path(source) if own else path(source)
    return read(file, best=best)


def save(file: str | Path, tree: dict[str, Any]) -> None:
    """Write a checkpoint atomically: the same content gives the same bytes.

    `tree`: dicts, lists, tuples, numbers, text, None and tensors. Raises TypeError for anything else: it could not be
    loaded with weights_only.
    """
    import torch

    buffer = io.BytesIO()
    torch.save(_plain(tree, set()), buffer)
    write_bytes(file, buffer.getvalue())


def _plain(value: Any, seen: set[int]) -> Any:
    """Return a copy whose pickle depends on the content alone, not on which of its parts are one object."""
    import torch

    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu().contiguous()
        if tensor.untyped_storage().nbytes() != tensor.nbytes or tensor.data_ptr() in seen:
            tensor = tensor.clone()
        seen.add(tensor.data_ptr())
        return tensor
    if isinstance(value, dict):
        return {_plain(key, seen): _plain(item, seen) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_plain(item, seen) for item in value])
    if isinstance(value, str):
        return sys.intern(str(value))
    if value is None or type(value) in (bool, int, float, bytes):
        return value
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def digest(state: dict[str, Tensor]) -> str:
    """Return the SHA-256 of weights: of names in order, dtypes, shapes and values."""
    import torch

    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _check_finite(state: dict[str, Tensor], file: object) -> None:
    """Raise RetakeError for weights that are NaN or infinite: what they make may look like a picture."""
    import torch

    bad = [name for name, tensor in state.items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
    if bad:
        raise RetakeError(
            f"{file} has NaN or infinity in {len(bad)} of {len(state)} tensors, the first is {bad[0]}: take another"
        )


def _whole(file: Path) -> None:
    """Refuse a damaged file of torch's zip format: each of its members has a CRC-32."""
    with file.open("rb") as start:
        zipped = start.read(4) in archives.ZIP_MAGIC
    if zipped:
        archives.check(file)


def _first(text: str) -> str:
    """Return the first sentence of what torch says."""
    return re.split(r"\n|\. ", text.strip())[0]
