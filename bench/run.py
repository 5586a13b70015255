"""Run every benchmark and write bench/results.md: `make bench`, or `python -m bench.run NAME ...` for some.

Each benchmark runs in a process of its own; ratios are against the named baseline, interleaved in that process, with equal
thread counts on both sides.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from bench.common import LEFT_OUT, Row

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"


def main() -> None:
    every = sorted(p.stem.removeprefix("bench_") for p in HERE.glob("bench_*.py"))
    chosen = sys.argv[1:] or every
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    failed = []
    for name in chosen:
        print(f"bench {name}", flush=True)
        code = f"import json, bench.bench_{name} as b; from dataclasses import asdict; print('ROWS' + json.dumps([asdict(r) for r in b.run()]))"
        # as the Snakefile sets them for its jobs, for both sides
        allocator = {"MALLOC_MMAP_THRESHOLD_": str(1 << 31), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **allocator}
        )
        if done.returncode == LEFT_OUT:
            print(f"benchmark {name} is left out: {done.stderr.strip()}")
            continue
        if done.returncode:
            failed.append(f"benchmark {name} failed:\n{done.stderr}")
            continue
        kept[name] = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("ROWS"))[4:])
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    write(kept)
    if failed:
        sys.exit("\n".join(failed))


def write(results: dict[str, list[dict]]) -> None:
    lines = [
        "# Benchmarks",
        "",
        f"Written by `make bench` on {cpu()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}.",
        "Ratios are ours against the named baseline, interleaved in one process, thread counts equal on both sides.",
        "",
        "| what | baseline | ratio | goal | reached | detail |",
        "|---|---|---|---|---|---|",
    ]
    for name in sorted(results):
        for row in (Row(**r) for r in results[name]):
            sign = "≤" if row.at_most else "≥"
            lines.append(
                f"| {row.name} | {row.baseline} | {row.ratio:.3g} | {sign} {row.goal:g} | {'yes' if row.reached else '**no**'} | {row.detail} |"
            )
    (HERE / "results.md").write_text("\n".join(lines) + "\n\n" + (HERE / "tried.md").read_text())
    print((HERE / "results.md").read_text())


def cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
