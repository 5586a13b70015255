"""params.yaml and the papers' files as one tree of plain values, each with where it comes from.

`workflow/papers/*.yaml` hold the papers' recipes, `params.yaml` what the user adds or changes, overrides come from a command
line. They are merged in this order: mappings merge, lists and values replace. Then `like: other_entry` takes over the other
entry, in the same way: the entry's own values stand over it.

This module reads YAML and knows no key but `like`; `pipeline/params.py` says which keys there are.
"""

from __future__ import annotations

import collections
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import RetakeError, near
from pipeline.sources import limits

FILE = Path("params.yaml")
PAPERS = Path("workflow/papers")
SECTIONS = ("datasets", "models", "protocols", "profiles", "experiments")  # of entries by name, which may say `like`
OVERRIDE = "override"
DEEPEST = 100
MERGE = "tag:yaml.org,2002:merge"  # of the key <<
MOST = 1_000_000  # values of a file, each alias written out; all papers together have 3,000
FASTEST: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML has its C part

Keys = tuple[str, ...]


@dataclass(frozen=True)
class Leaf:
    """A value that is no mapping, and the file (or `like`, or override) that gave it."""

    value: Any
    source: str


@dataclass
class Recipes:
    """`values`: plain nested mappings. `sources`: where each leaf of them comes from, by its keys."""

    values: dict[str, Any]
    sources: dict[Keys, str]

    def source(self, keys: Keys) -> str:
        """Return the file that gave the value at `keys`, or the nearest one around it that a file gave; "" where none did."""
        for length in range(len(keys), 0, -1):
            inside = [s for k, s in self.sources.items() if k[:length] == keys[:length]]
            if inside:
                return inside[0]
        return ""


def read(overrides: dict[str, Any] | None = None) -> Recipes:
    """Return what the files and `overrides` say, `like` resolved.

    Raises RetakeError for a file that is no mapping of sections in YAML, for a name that two papers' files give, and
    for a `like` that names nothing or leads back to its entry.
    """
    tree: dict[str, Any] = {}
    for file in limits.unhidden(PAPERS, "*.yaml"):
        paper = load(file)
        _refuse_doubles(tree, paper, file)
        tree = _merged(tree, _leaves(paper, str(file)))
    tree = _merged(tree, _leaves(load(FILE), str(FILE)))
    tree = _merged(tree, _leaves(overrides or {}, OVERRIDE))
    for section in SECTIONS:
        if isinstance(tree.get(section), dict):
            tree[section] = _alike(section, tree[section])
    return Recipes(_values(tree), dict(_sources(tree, ())))


def digest() -> str:
    """Return a hash of the files that `read` reads: whether a generated file is behind them is cheap to say."""
    total = hashlib.sha256()
    for file in [*limits.unhidden(PAPERS, "*.yaml"), FILE]:
        total.update(f"{file}\0".encode() + file.read_bytes() + b"\0")
    return total.hexdigest()[:16]


class _Loader(FASTEST):
    """YAML in which a key may stand once in a mapping, and values lie in each other no deeper than `DEEPEST`."""

    depth = 0

    def descend_resolver(self, node: Any, index: Any) -> None:
        """Count a step inwards; the parser's C part would end the process where its stack ends."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise yaml.YAMLError(f"it is nested more than {DEEPEST} deep")
        super().descend_resolver(node, index)

    def ascend_resolver(self) -> None:
        """Count a step outwards."""
        self.depth -= 1
        super().ascend_resolver()

    def flatten_mapping(self, node: Any) -> None:
        """Take in what `<<` names; raises yaml.YAMLError for one that takes in others again and again."""
        super().flatten_mapping(node)
        if len(node.value) > MOST:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: its << make more than {MOST} keys")

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Return the mapping; raises yaml.YAMLError with the line of a second key of the same name."""
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if isinstance(key, str) and key in seen:
                raise yaml.YAMLError(
                    f"line {line}: {key!r} stands here and in line {seen[key]} already: keep one of them"
                )
            if isinstance(key, str):
                seen[key] = line
        return super().construct_mapping(node, deep)


def load(file: str | Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds; raises RetakeError naming the file, and the line where YAML ends."""
    file = Path(file)
    try:
        text = limits.text(file)
        tree = json.loads(text, object_pairs_hook=_once) if file.suffix == ".json" else yaml.load(text, _Loader)
        _measure(tree, {})
    except FileNotFoundError:
        raise RetakeError(f"no {file} in {Path.cwd()}: run from the project's folder") from None
    except RecursionError:
        raise RetakeError(f"{file} is nested too deeply to be read") from None
    except (
        yaml.YAMLError,
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
    ) as error:  # of values that are not of their tag
        raise RetakeError(f"{file} is not {'JSON' if file.suffix == '.json' else 'YAML'}: {error}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise RetakeError(f"{file} must be a mapping of sections, not {type(tree).__name__}")
    return tree


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; raises ValueError for a key that stands in it twice."""
    twice = [key for key, count in collections.Counter(key for key, _ in pairs).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]!r} stands in one mapping twice: keep one of them")
    return dict(pairs)


def _measure(value: Any, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Return how many values a tree has and how deep they lie, where each alias is written out as the others read it.

    `known`: what was measured before, by id. Raises yaml.YAMLError beyond `MOST` and `DEEPEST`, and for a value that holds itself.
    """
    if not isinstance(value, dict | list | set):
        return 1, 0
    if id(value) not in known:
        known[id(value)] = MOST, DEEPEST  # while what is in it is measured: it may be itself
        parts = [_measure(part, known) for part in (value.values() if isinstance(value, dict) else value)]
        count, depth = 1 + sum(part[0] for part in parts), 1 + max((part[1] for part in parts), default=0)
        if count > MOST or depth > DEEPEST:
            raise yaml.YAMLError(f"its aliases (*name) make more than {MOST} values of it, or lie in themselves")
        known[id(value)] = count, depth
    return known[id(value)]


def _refuse_doubles(tree: dict[str, Any], paper: dict[str, Any], file: Path) -> None:
    for section, entries in paper.items():
        if section not in SECTIONS:
            raise RetakeError(f"{file}: {section} is no section of a paper{near(str(section), SECTIONS)}")
        for name in entries or {}:
            if name in tree.get(section, {}):
                other = next(source for _, source in _sources(tree[section][name], ()))
                raise RetakeError(f"{section}.{name} stands in {other} and in {file}: give one of them another name")


def _leaves(value: Any, source: str) -> Any:
    """Return the same nested mappings with a `Leaf` for each value that is none."""
    if isinstance(value, dict):
        return {str(key): _leaves(item, source) for key, item in value.items()}
    return Leaf(value, source)


def _merged(base: Any, over: Any) -> Any:
    """Return `over` on `base`: mappings merge key by key, all else replaces."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    return {**base, **{key: _merged(base[key], value) if key in base else value for key, value in over.items()}}


def _alike(section: str, entries: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of a section with what their `like` names put below them."""
    done: dict[str, Any] = {}

    def resolve(name: str, before: tuple[str, ...]) -> Any:
        if name in done:
            return done[name]
        entry = entries[name]
        if isinstance(entry, dict) and isinstance(entry.get("like"), Leaf):
            like, where = entry["like"], f"{entry['like'].source}: {section}.{name}.like"
            if not isinstance(like.value, str) or like.value not in entries:
                raise RetakeError(f"{where}: no entry {like.value!r} in {section}{near(str(like.value), entries)}")
            if like.value in (*before, name):
                chain = " -> ".join((*before, name, like.value))
                raise RetakeError(f"{where}: {chain} leads back to itself: take one `like` out")
            own = {key: value for key, value in entry.items() if key != "like"}
            base = _relabelled(resolve(like.value, (*before, name)), lambda source: _through(like.value, source))
            entry = _merged(base, own)
        done[name] = entry
        return entry

    return {name: resolve(name, ()) for name in entries}


def _through(name: str, source: str) -> str:
    """Return how a value that came by `like` is told; of a chain the last entry that has it as its own."""
    return source if source.startswith("like ") else f"like {name} ({source})"


def _relabelled(tree: Any, label: Callable[[str], str]) -> Any:
    if isinstance(tree, dict):
        return {key: _relabelled(value, label) for key, value in tree.items()}
    return Leaf(tree.value, label(tree.source))


def _values(tree: Any) -> Any:
    return {key: _values(value) for key, value in tree.items()} if isinstance(tree, dict) else tree.value


def _sources(tree: Any, keys: Keys) -> Iterator[tuple[Keys, str]]:
    if isinstance(tree, Leaf):
        yield keys, tree.source
        return
    for key, value in tree.items():
        yield from _sources(value, (*keys, key))
