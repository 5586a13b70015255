"""What a stage's code is: the files that its roots import, hashed without what changes no result.

Hashed is the syntax tree: comments, docstrings and layout do not count. Nor do the fields of params classes: a changed
default arrives as a changed param, where it is used, and a changed explanation changes nothing. Both engines and the
training's saved states take a stage's identity from here.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from pathlib import Path

PACKAGE = "pipeline"

# Imported by stages, but no part of what they make: values arrive as params; planning, messages and mirroring change no output.
SCAFFOLD = {f"{PACKAGE}/{name}.py" for name in ("compute", "errors", "identity", "params", "plan", "recipes", "registry", "tracking")}  # fmt: skip
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
            files[file], imported = _read(file, Path(file).stat().st_mtime_ns)
            queue += imported
            if file.endswith("__init__.py"):
                for pattern in LISTS:
                    for path in sorted(Path(file).parent.glob(pattern)):
                        files[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return dict(sorted(files.items()))


@functools.cache
def digest(roots: tuple[str, ...]) -> str:
    """Return one hash of `digests(roots)`, 16 hexadecimal digits."""
    return hashlib.sha256(repr(list(digests(roots).items())).encode()).hexdigest()[:16]


def _with_parents(name: str) -> list[str]:
    """Return a module's dotted name after those of the packages it lies in: importing it runs theirs."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(2, len(parts) + 1)] if parts[0] == PACKAGE else []


@functools.lru_cache(maxsize=None)
def _read(file: str, modified: int) -> tuple[str, tuple[str, ...]]:
    """Return the digest of a source file and the dotted names that it imports, of modules or of what is in them."""
    tree = ast.parse(Path(file).read_text(encoding="utf-8"), file)
    imported: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imported += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    text = ast.dump(_Bare().visit(tree))
    return hashlib.sha256(text.encode()).hexdigest(), tuple(n for n in imported if n.split(".")[0] == PACKAGE)


class _Bare(ast.NodeTransformer):
    """Takes out docstrings and the fields of params classes."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Visit what is below, then drop from this node's body what does not count."""
        super().generic_visit(node)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            node.body = [line for i, line in enumerate(node.body) if not (i == 0 and _is_text(line)) and not _is_field(line)]
        return node


def _is_text(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)


def _is_field(line: ast.stmt) -> bool:
    """Whether a line of a class declares a key of params: `name: type = Field(...)`."""
    call = line.value if isinstance(line, ast.AnnAssign) else None
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Field"
