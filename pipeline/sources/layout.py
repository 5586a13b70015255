"""Clips from the names of an archive's members: how the modules in `datasets/` say what a published layout is.

    of_clip = frames(archives, "JPEGImages/480p/(?P<clip>[^/]+)", f"(?P<frame>[0-9]{{5}}){JPG}", "JPEGImages/…/00000.jpg")
    clips(listed(of_clip, lines(text(archives, "val.txt")), "val.txt"))

Only names are read, but for the sizes of low- and high-resolution pairs.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from pipeline.errors import RetakeError, log
from pipeline.sources.archives import Clip, Member, names, read
from pipeline.sources.images import image_size

T = TypeVar("T")
Found = dict[str, list[tuple[int, Member]]]

PNG, JPG, AVI = (rf"\.(?i:{suffix})" for suffix in ("png", "jpe?g", "avi"))  # in either case
SHOWN = 20  # names or problems that a message lists


def members(
    archives: Iterable[Path], folder: str, file: str, example: str
) -> Iterator[tuple[Path, re.Match[str], bool]]:
    """Yield (archive, match, whether it is a file) of each member that has the published path.

    `folder`, `file`: regular expressions of the path's two parts. Folders may lie above them, or none; hidden files are
    not looked at. A folder that matches `folder` and has no such file is there too. `example`: the path of a first
    file, for messages. Raises RetakeError for an archive without a single such file.
    """
    above = "(?:.*/)?"
    path = re.compile(f"{above}{folder}/{file}" if folder else f"{above}{file}", re.ASCII | re.DOTALL)
    place = re.compile(f"{above}{folder}/", re.ASCII | re.DOTALL)
    for archive in archives:
        count, folders, others, full = 0, [], [], set()
        for name in names(archive):
            if "/." in name or "__MACOSX/" in name or name.startswith("."):
                continue
            if name.endswith("/"):
                folders += [name] if folder and place.fullmatch(name) else []
            elif match := path.fullmatch(name):
                yield archive, match, True
                count += 1
                full.add(name.rpartition("/")[0])
            else:
                others.append(name)
        if not count:
            raise RetakeError(f"{archive}: no {example} or any other such file; {_holds(others)}")
        for inner in list(full):
            full.update(inner[: end.start()] for end in re.finditer("/", inner))
        for match in (place.fullmatch(name) for name in folders if name.rstrip("/") not in full):
            if match:
                yield archive, match, False
        if others:
            log.info("%s: %d files are used, %d others are not (%r)", archive, count, len(others), others[0])


def _holds(others: list[str]) -> str:
    """Say what an archive holds instead, and what to do."""
    if len(others) == 1 and re.search(r"\.(zip|tar|tgz|gz|rar|7z)$", others[0], re.IGNORECASE):
        return f"it holds another archive, {others[0]!r}: put that one there in its place"
    shown = ", ".join(map(repr, others[:3]))
    what = f"it holds {len(others)} other files ({shown}, …)" if others else "it holds no files"
    return f"{what}. It is another archive, or not the publisher's: move it away to have it downloaded again"


def frames(
    archives: Iterable[Path],
    folder: str,
    file: str,
    example: str,
    *,
    name: Callable[[re.Match[str]], str] = lambda match: match["clip"],
    numbers: range | None = None,
) -> Found:
    """Return clip -> [(frame number, member)], clips by name, frames by number.

    The groups of `folder` and `file` (see `members`): `frame`, whose digits together are the number, and those that
    `name` makes a clip's name of. A folder with the group `clip` and without frames is an empty clip. `numbers`: the
    frames that every clip has. Raises RetakeError for two members that are the same frame, and clips without just those
    `numbers`.
    """
    numbered: Found = {}
    problems = []
    for archive, match, is_file in members(archives, folder, file, example):
        if is_file:
            number = int("".join(re.findall("[0-9]", match["frame"])))
            numbered.setdefault(name(match), []).append((number, Member(archive, match[0])))
        elif "(?P<clip>" in folder:
            numbered.setdefault(match["clip"], [])
    for clip, listed in numbered.items():
        listed.sort(key=lambda frame: (frame[0], frame[1].name))
        for (number, first), (other, second) in itertools.pairwise(listed):
            if number == other:
                where = first.archive
                problems.append(f"{where}: {first.name!r} and {second.name!r} are both frame {number} of {clip!r}")
        present = [number for number, _ in listed]
        if numbers is not None and present and present != list(numbers):
            expected = f"{numbers[0]} to {numbers[-1]}"
            problems.append(f"{listed[0][1].archive}: clip {clip!r} has frames {spans(present)}, not {expected}")
    _raise(problems)
    return dict(sorted(numbered.items()))


def videos(archives: Iterable[Path], file: str, example: str) -> dict[str, Member]:
    """Return clip -> its video, by name; the group `clip` of `file` is the clip's name.

    Raises RetakeError for two videos that are the same clip.
    """
    named: dict[str, Member] = {}
    problems = []
    for archive, match, _ in members(archives, "", file, example):
        member = Member(archive, match[0])
        other = named.setdefault(match["clip"], member)
        if other is not member:
            problems.append(f"{archive}: {other.name!r} and {member.name!r} are both clip {match['clip']!r}")
    _raise(problems)
    return dict(sorted(named.items()))


def clips(of_clip: Found) -> list[Clip]:
    """Return the clips that `frames` found."""
    return [Clip(name, frames) for name, frames in of_clip.items()]


def text(archives: Iterable[Path], path: str) -> str:
    """Return the text file of the archives whose path ends in `path`, in UTF-8.

    Raises RetakeError where none has it.
    """
    searched = list(archives)
    for archive in searched:
        for name in names(archive):
            if name == path or name.endswith(f"/{path}"):
                try:
                    return read(Member(archive, name)).decode("utf-8-sig")
                except UnicodeDecodeError as error:
                    raise RetakeError(f"{archive}: {name!r} is not text in UTF-8: {error}") from None
    raise RetakeError(f"no {path} in {', '.join(map(str, searched)) or 'the archives, none of which is there'}")


def lines(text: str) -> list[str]:
    """Return the lines of a list that are not empty, without the blanks around them."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def listed(clips: dict[str, T], names: Sequence[str], source: str) -> dict[str, T]:
    """Return what a list names, in its order; what is not there is said in the log (the table says "partial").

    Raises RetakeError when nothing that it names is there.
    """
    kept = {name: clips[name] for name in names if name in clips}
    missing = [name for name in dict.fromkeys(names) if name not in clips]
    if clips and missing:
        shown = ", ".join(map(repr, missing[:SHOWN])) + (", …" if len(missing) > SHOWN else "")
        text = f"{len(missing)} of the {len(set(names))} clips that {source} names are not in the archives: {shown}"
        if not kept:
            raise RetakeError(f"{text}. The archives have {', '.join(map(repr, list(clips)[:3]))}, …: they are others")
        log.warning("%s", text)
    return kept


# Low- and high-resolution pairs


def in_order(of_clip: Found) -> Found:
    """Return clips with their frames numbered from 0; the published scripts pair by position, whatever the numbers.

    Raises RetakeError for a gap in the files' own numbers.
    """
    problems = []
    for clip, some in of_clip.items():
        for (number, _), (after, member) in itertools.pairwise(some):
            if after != number + 1:
                problems.append(f"{member.archive}: clip {clip!r}: {spans([*range(number + 1, after)])} missing")
    _raise(problems)
    return {clip: [(i, member) for i, (_, member) in enumerate(some)] for clip, some in of_clip.items()}


def check_pairs(low: Found, high: Found, scale: int) -> None:
    """Raise RetakeError unless clips in both have as many frames in both, and in `high` frames `scale` times as large.

    Sizes are those of the first frames; that a clip's frames have one size is seen when they are stored.
    """
    problems = []
    for clip in low.keys() & high.keys():
        if len(low[clip]) != len(high[clip]):
            problems.append(f"{clip}: {len(low[clip])} low-resolution frames, {len(high[clip])} high-resolution ones")
            continue
        (h, w), (height, width) = (_size(frames_of[0][1]) for frames_of in (low[clip], high[clip]))
        if (h * scale, w * scale) != (height, width):
            problems.append(
                f"{clip}: low resolution {w}x{h}, high resolution {width}x{height}, not {w * scale}x{h * scale}"
            )
    if problems:
        raise RetakeError(
            "\n".join(["these clips' archives do not belong together, get both again:", *sorted(problems)])
        )


def _size(member: Member) -> tuple[int, int]:
    try:
        return image_size(read(member))
    except ValueError as error:
        raise RetakeError(f"{member.archive}: {member.name!r} {error}") from None


def spans(numbers: list[int]) -> str:
    """Return numbers for people to read: "1 to 3, 7"."""
    starts = [n for n in numbers if n - 1 not in numbers]
    ends = [n for n in numbers if n + 1 not in numbers]
    return ", ".join(f"{a} to {b}" if b > a else str(a) for a, b in zip(starts, ends, strict=True))


def _raise(problems: list[str]) -> None:
    if problems:
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise RetakeError("\n".join(problems[:SHOWN] + more))
