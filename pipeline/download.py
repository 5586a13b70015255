"""Get a split's archives, verified: rows of workflow/sources.csv in, `data/raw/<dataset>/<split>.json` out.

    python -m pipeline.download --dataset kitti --split test
    python -m pipeline.download --list               # every dataset: size, licence, login, what is here
    python -m pipeline.download --check kitti        # an entry or kind: verifies what is here again, fetches nothing

Archives lie in `data/raw/<kind>/<file>`, downloaded or put there by hand, and are verified alike; they are never
changed. What an archive unpacks to may lie there in its place, as a folder (or a link to one) with the archive's name
without suffix. The manifest names them with bytes and SHA-256, and those that are missing (`archives: present`).
"""

from __future__ import annotations

import argparse
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from pipeline import fetch, params, plan
from pipeline.atomic import claim
from pipeline.errors import RetakeError, log, near, progress, run
from pipeline.params import Params
from pipeline.sources import archives, tars
from pipeline.sources.verified import Check, Fact, known, unpacked
from pipeline.store import sealed

PARALLEL = 4
CHECKS: dict[str, Check] = {".zip": archives.check, ".tar": tars.check}


def main() -> None:
    """Parse the command line and get, list or check archives."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", help="entry of `datasets` in params.yaml")
    parser.add_argument("--split", help="split of that dataset")
    parser.add_argument(
        "--list", action="store_true", help="show every dataset's size, licence and login, and what is here"
    )
    parser.add_argument("--check", metavar="DATASET", help="verify what is here of one dataset again, without fetching")
    args = parser.parse_args()
    if args.list:
        print(listing())
    elif args.check:
        check(params.load(), args.check)
    elif args.dataset and args.split:
        download(params.load(), args.dataset, args.split)
    else:
        parser.error("give --dataset and --split, or --list, or --check")


def download(p: Params, dataset: str, split: str) -> None:
    """Make the manifest of one split. Raises RetakeError that lists every archive that is wrong or cannot be had."""
    entry, module = _entry(p, dataset)
    if split not in module.SPLITS:
        raise RetakeError(f"dataset {dataset} has no split {split!r}{near(split, module.SPLITS)}")
    path = plan.path("download", dataset=dataset, split=split)
    claim(path, work=repr(entry))
    folder = fetch.RAW / entry.kind
    names = module.archives(entry, split)
    if made := module.generate is not None:
        module.generate(entry, split, folder)
    facts, absent, wrong = gather(
        fetch.rows_of(entry.kind, names, made), folder, fetching=entry.archives == "all", record=not made
    )
    problems: list[str] = _wrong(wrong) if wrong else []
    if absent and (entry.archives == "all" or not facts):
        problems += _missing(dataset, folder, absent, len(names), entry.archives)
    if problems:
        raise RetakeError(
            "\n".join([f"{dataset} {split}: {len(facts)} of {len(names)} archives are there and right", *problems])
        )
    missing = [source.file for source, _ in absent]
    present = [vars(fact) for fact in facts]
    manifest = {"dataset": dataset, "split": split, "archives": present, "missing": missing}
    sealed.write(path, manifest)
    size = fetch.human(sum(fact.bytes for fact in facts))
    log.info("%s %s: %d of %d archives, %s", dataset, split, len(facts), len(names), size)
    if absent:
        log.info("missing: %s. When more are there, delete %s, run again", " ".join(missing), path)


Absent = list[tuple[fetch.Source, str]]  # and the reason


def gather(
    sources: list[fetch.Source], folder: Path, *, fetching: bool, record: bool = True, fresh: bool = False
) -> tuple[list[Fact], Absent, list[str]]:
    """Return the verified archives in `folder`, those that are not there, and what is wrong, in the order of `sources`.

    `fetching`: download what is not there, four at a time. `record`, `fresh`: as `verified.known`.
    """
    stop, offline = threading.Event(), threading.Event()

    def one(source: fetch.Source, moved: Callable[[int], None]) -> Fact:
        path, digest = archives.place(folder / source.file), None
        whole = CHECKS.get(path.suffix)
        if not path.exists():
            if not fetching or not source.urls:
                raise fetch.Failed(f"{source.file} ({source.size})", False)
            try:
                # Where one archive found nothing to connect to, the others need not wait for it in turn.
                patient = not offline.is_set()
                digest = fetch.fetch(source, path, check=whole, patient=patient, moved=moved, stop=stop)
            except fetch.Failed as error:
                if error.unreachable:
                    offline.set()
                raise
        size, sha256 = (source.bytes, source.sha256) if path.name == source.file else (None, "")  # of parts, joined
        if path.is_dir():
            fact = unpacked(path)
        else:
            fact = known(fetch.RAW, path, size, sha256, whole, digest=digest, fresh=fresh, record=record)
        moved(fact.bytes)
        return fact

    total = sum(source.bytes or 0 for source in sources) or None
    with progress(total=total, unit="B", unit_scale=True, desc="archives") as bar, ThreadPoolExecutor(PARALLEL) as pool:
        jobs = [pool.submit(one, source, _position(bar)) for source in sources]
        try:
            for job in as_completed(jobs):
                error = job.exception()
                if error and not isinstance(error, RetakeError):
                    raise error
        except BaseException:  # a full disk, or Ctrl-C: the others end after their next piece, which stays
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    facts, absent, wrong = [], [], []
    for source, job in zip(sources, jobs, strict=True):
        error = job.exception()
        if isinstance(error, fetch.Failed):
            absent.append((source, str(error)))
        elif error:
            wrong.append(str(error))
        else:
            facts.append(job.result())
    return list(dict.fromkeys(facts)), absent, wrong  # one folder may stand for all parts of an archive


def _position(bar: Any) -> Callable[[int], None]:
    """Return a function that hears how many bytes of one file are there."""
    last = 0

    def moved(now: int) -> None:
        nonlocal last
        bar.update(now - last)
        last = now

    return moved


def _entry(p: Params, dataset: str) -> tuple[Any, Any]:
    if dataset not in p.datasets:
        raise RetakeError(f"unknown dataset {dataset!r}{near(dataset, p.datasets)}")
    entry = p.datasets[dataset]
    return entry, params.registry("datasets")[entry.kind]


def _wrong(reasons: list[str]) -> list[str]:
    return [
        f"wrong ({len(reasons)}), left as they are:",
        *(f"  {reason}" for reason in reasons),
        "Put the publisher's files there, or move these away to have them downloaded, then run the same command again.",
        f"(An archive that you packed yourself: empty `bytes` and `sha256` of its row in {fetch.SOURCES}.)",
    ]


def _missing(dataset: str, folder: Path, absent: Absent, count: int, setting: str) -> list[str]:
    """Say which archives are missing, where they come from, where they belong, and how it goes on without them."""
    lines = [f"missing ({len(absent)}):", *(f"  {reason}" for _, reason in absent)]
    lines += [f"Get them from {page}" for page in sorted({source.login for source, _ in absent if source.login})]
    lines += [f"{source.file}: {source.note}" for source, _ in absent if source.note and not source.urls]
    lines.append(f"Put them into {folder} under these names and run the same command again: they are verified there.")
    if setting == "all":
        present = count - len(absent)
        lines.append(
            f"Or set datasets.{dataset}.archives to present in params.yaml: nothing is downloaded, the run goes on "
            f"with those that are there (now {present} of {count}), and the table says so."
        )
    return lines


def listing() -> str:
    """Return the table of every dataset: archives and bytes, what is here, who gets it, licence, login."""
    groups: dict[tuple[str, str], list[fetch.Source]] = {}
    rows = fetch.sources(fetch.SOURCES)
    for row in rows:
        groups.setdefault((row.name, "machine" if row.urls else "hand"), []).append(row)
    table = [("dataset", "archives", "size", "here", "by", "licence", "login")]
    for (name, by), some in sorted(groups.items()):
        here = [row for row in some if archives.place(fetch.RAW / name / row.file).exists()]
        size = _size(some)
        table.append(
            (
                name,
                str(len(some)),
                size,
                f"{len(here)} of {len(some)}",
                by,
                "; ".join(sorted({row.licence for row in some})),
                "; ".join(sorted({row.login for row in some if row.login})) or "no",
            )
        )
    for name, module in params.registry("datasets").items():
        if module.generate is not None:
            table.append((name, "-", "-", "-", "code", module.LICENCE, "no"))
    by_hand = [f"{row.file}: {row.note}" for row in rows if row.note and not row.urls]
    widths = [max(len(cells[i]) for cells in table) for i in range(len(table[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(cells, widths, strict=True)).rstrip() for cells in table]
    return "\n".join(lines + by_hand)


def _size(rows: list[fetch.Source]) -> str:
    """Return the bytes of archives; where only a rounded figure is published, in the note, with "about"."""
    rounded = [re.search(r"([0-9.]+) GB", row.note) for row in rows]
    sizes = [row.bytes or (float(gb[1]) * 1e9 if gb else None) for row, gb in zip(rows, rounded, strict=True)]
    known = [size for size in sizes if size]
    if len(known) < len(rows):
        return "not published"
    return ("" if all(row.bytes for row in rows) else "about ") + fetch.human(sum(known))


def check(p: Params, dataset: str) -> None:
    """Verify every archive that is here of an entry, or of all entries of a kind, whatever was remembered.

    Raises RetakeError if one is wrong. Of folders in an archive's place the files are counted, not read.
    """
    registry = params.registry("datasets")
    entries = [e for name, e in p.datasets.items() if dataset in (name, e.kind)] or [_entry(p, dataset)[0]]
    kind, module = entries[0].kind, registry[entries[0].kind]
    names = list(dict.fromkeys(n for e in entries for split in module.SPLITS for n in module.archives(e, split)))
    rows, folder = fetch.rows_of(kind, names, module.generate is not None), fetch.RAW / kind
    facts, absent, wrong = gather(rows, folder, fetching=False, record=False, fresh=True)
    for fact in facts:
        if (folder / fact.file).is_dir():
            print(f"folder   {fact.file}  {fetch.human(fact.bytes)}, read as it is: there is no checksum of its files")
        else:
            print(f"right    {fact.file}  {fact.sha256}")
    for source, _ in absent:
        print(f"missing  {source.file}")
    if wrong:
        raise RetakeError(
            "\n".join([f"{dataset}: {len(facts)} of {len(names)} archives are there and right", *_wrong(wrong)])
        )


if __name__ == "__main__":
    run(main, "download")
