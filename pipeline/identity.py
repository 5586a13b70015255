"""What a stage's code is: the files that its roots import, hashed without what changes no result.

Hashed is the syntax tree: comments, docstrings and layout do not count. Nor do the fields of params classes: a changed
default arrives as a changed param, where it is used, and a changed explanation changes nothing. Both engines and the
training's saved states take a stage's identity from here.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.atomic import write_text
from pipeline.errors import RetakeError
from pipeline.sources import limits
from pipeline.store import sealed

PACKAGE = "pipeline"
MEMORY = Path("data/.content.json")
SYNTAX = Path(".snakemake/code.json")

# Imported by stages, but no part of what they make: values arrive as params; planning, messages and mirroring change no output.
SCAFFOLD = {f"{PACKAGE}/{name}.py" for name in ("compute", "errors", "identity", "params", "plan", "processes", "recipes", "registry", "tracking")}  # fmt: skip
LISTS = ("*.csv", "*.txt")  # in the folder of a package: lists that its code reads


def module_file(name: str) -> str | None:
    """Return the file of a module of this project, by its dotted name; None for other modules and for names inside one."""
    base = Path(*name.split("."))
    return next((str(f) for f in (base.with_suffix(".py"), base / "__init__.py") if f.is_file()), None)


def digests(roots: tuple[str, ...]) -> dict[str, str]:
    """Return {file: digest} of all files that the modules `roots` (dotted names) import, directly or not.

    Imports inside functions count. What code loads by name at run time (`registry`, `tasks.part`) must be among the roots.
    """
    files: dict[str, str] = {}
    queue = list(roots)
    while queue:
        name = queue.pop()
        for part in _with_parents(name):
            file = module_file(part)
            if file is None or file in files or file in SCAFFOLD:
                continue
            source = _read(file, Path(file).stat().st_mtime_ns)
            files[file] = source.digest
            queue += source.imports
            if file.endswith("__init__.py"):
                for pattern in LISTS:
                    for path in sorted(Path(file).parent.glob(pattern)):
                        files[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    _keep()
    return dict(sorted(files.items()))


@functools.cache
def digest(roots: tuple[str, ...]) -> str:
    """Return one hash of `digests(roots)`, 16 hexadecimal digits."""
    return hashlib.sha256(repr(list(digests(roots).items())).encode()).hexdigest()[:16]


def _with_parents(name: str) -> list[str]:
    """Return a module's dotted name after those of the packages it lies in: importing it runs theirs."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(2, len(parts) + 1)] if parts[0] == PACKAGE else []


class Source(NamedTuple):
    """What is known of a source file: its digest, the dotted names that it imports, the functions that it defines."""

    digest: str
    imports: tuple[str, ...]
    defines: frozenset[str]


@functools.cache
def _read(file: str, modified: int) -> Source:
    """Return what is known of a source file: read again only when its size, times or inode are others than the last time."""
    status = Path(file).stat()
    stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    known, name = _syntax(), str(Path(file).absolute())
    if name not in known or known[name][0] != stamp:
        known[name] = [stamp, *_parsed(file)]
        _new.append(name)
    _, code, imports, defines = known[name]
    return Source(code, tuple(imports), frozenset(defines))


def _parsed(file: str) -> tuple[str, list[str], list[str]]:
    try:
        tree = ast.parse(Path(file).read_text(encoding="utf-8"), file)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise RetakeError(f"{file}{f', line {line}' if line else ''}: this is no Python: {error}") from None
    imports: list[str] = []
    defines: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imports += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            defines.add(node.name)
    text = ast.dump(_Bare().visit(tree))
    own = [name for name in imports if name.split(".")[0] == PACKAGE]
    return hashlib.sha256(text.encode()).hexdigest(), own, sorted(defines)


@functools.cache
def _syntax() -> dict[str, list[Any]]:
    """Return {absolute path: [stamp, digest, imports, defines]} as the last process left it, if the same code and Python wrote it."""
    try:
        kept = sealed.read(SYNTAX)
    except (OSError, RetakeError):
        return {}
    return dict(kept["files"]) if kept.get("by") == _reader() else {}


@functools.cache
def _reader() -> str:
    return hashlib.sha256(sys.version.encode() + Path(__file__).read_bytes()).hexdigest()


_new: list[str] = []  # files that were parsed since the last `_keep`


def _keep() -> None:
    """Write what is known of source files for the next process, where Snakemake has its folder."""
    if _new and SYNTAX.parent.is_dir():
        with contextlib.suppress(OSError):  # a read-only tree: they are parsed again the next time
            sealed.write(SYNTAX, {"by": _reader(), "files": _syntax()})
    _new.clear()


class _Bare(ast.NodeTransformer):
    """Takes out docstrings and the fields of params classes."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Visit what is below, then drop from this node's body what does not count."""
        super().generic_visit(node)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            node.body = [
                line for i, line in enumerate(node.body) if not (i == 0 and _is_text(line)) and not _is_field(line)
            ]
        return node


def _is_text(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)


def _is_field(line: ast.stmt) -> bool:
    """Whether a line of a class declares a key of params: `name: type = Field(...)`."""
    call = line.value if isinstance(line, ast.AnnAssign) else None
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Field"


@functools.cache
def defined(module: str) -> set[str]:
    """Return the names of the functions and methods in a registry entry's files, found by syntax: nothing is imported."""
    folder = module.rpartition(".")[0].replace(".", "/")
    files = [file for file in digests((module,)) if file.startswith(f"{folder}/") and file.endswith(".py")]
    return {name for file in files for name in _read(file, Path(file).stat().st_mtime_ns).defines}


def content(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's file names and contents.

    A file is read again only when its size, times or inode are others than the last time: `data/.content.json` remembers.
    """
    if path.is_dir():
        parts = [(f.relative_to(path).as_posix(), content(f)) for f in sorted(path.rglob("*")) if f.is_file()]
        return hashlib.sha256(repr(parts).encode()).hexdigest()
    if not path.is_file():  # nothing, or a named pipe, which would be waited for
        return ""
    status = path.stat()
    stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    known = _remembered()
    name = str(path.absolute())
    if name not in known or known[name][0] != stamp:
        with path.open("rb") as file:
            known[name] = [stamp, hashlib.file_digest(file, "sha256").hexdigest()]
        with contextlib.suppress(OSError):  # a read-only tree: it is read again the next time
            write_text(MEMORY, json.dumps(known))
    return str(known[name][1])


def seen(path: Path) -> bool:
    """Return whether `content` has read a file in this very place before."""
    return str(path.absolute()) in _remembered()


@functools.cache
def _remembered() -> dict[str, list[Any]]:
    try:
        known = json.loads(limits.text(MEMORY))
    except (OSError, ValueError, RecursionError, RetakeError):
        return {}
    return {k: v for k, v in known.items() if isinstance(v, list) and len(v) == 2} if isinstance(known, dict) else {}
