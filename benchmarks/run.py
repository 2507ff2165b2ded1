"""The one command: every measurement with its peers, three runs, and whether each target held.

    make bench            or: python benchmarks/run.py --runs 3 --reps 15

Each section runs in a fresh process, once with glibc's own settings and once with an allocator that
keeps what it freed (no mmap, no trimming): peers that fill large temporaries gain most from that.
Writes benchmarks/results/foundation-DATE/SETTING/SECTION-N.json, skips what is there already, and
prints the targets: a target holds only if it holds in every run with glibc's own settings.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import bench_kernel
import bench_window
import torch
from measure import write

RESULTS = Path(__file__).parent / "results"

LENGTHS = [16_384, 32_768, 65_536, 131_072]

SECTIONS: dict[str, Callable[[int], object]] = {
    "kernel": lambda reps: bench_kernel.against_peers(4096, reps, reps),
    "kernel-2048": lambda reps: bench_kernel.against_peers(2048, reps, 0),
    "kernel-3072": lambda reps: bench_kernel.against_peers(3072, reps, 0),
    "kernel-memory": lambda reps: bench_kernel.memory(65_536),
    "kernel-growth": lambda reps: bench_kernel.growth(LENGTHS, min(5, reps)),
    "window-4096": lambda reps: bench_window.against_longformer(4096, reps),
    "window-16384": lambda reps: bench_window.against_longformer(16_384, reps),
    "window-growth": lambda reps: bench_window.growth(LENGTHS, min(5, reps)),
}

#: what the C library reads at the start of a process
ALLOCATORS = {
    "glibc": {},
    "keeping": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 35)},
}


def faster(peer: str, mode: str) -> str:
    return f"times faster than {peer}, {mode}"


#: what is measured, at least or at most, the bound, and where it stands in a run
TARGETS: list[tuple[str, str, float, Callable[[dict], float]]] = [
    (
        "random features, N=4096, forward: times performer-pytorch",
        ">=",
        40,
        lambda r: r["kernel"]["median"][faster("performer-pytorch", "forward")],
    ),
    (
        "random features, N=4096, forward+backward: times performer-pytorch",
        ">=",
        25,
        lambda r: r["kernel"]["median"][faster("performer-pytorch", "forward+backward")],
    ),
    (
        "random features, N=4096, forward: share of the matrix-product rate",
        ">=",
        0.45,
        lambda r: r["kernel"]["median"]["useful share of that, forward"],
    ),
    (
        "random features, N=3072, forward: times exact causal attention",
        ">=",
        1,
        lambda r: r["kernel-3072"]["median"][faster("exact", "forward")],
    ),
    (
        "random features, N=2048, forward: times exact causal attention (aim)",
        ">=",
        1,
        lambda r: r["kernel-2048"]["median"][faster("exact", "forward")],
    ),
    (
        "random features, N=65,536, forward: extra memory, MB",
        "<=",
        64,
        lambda r: r["kernel-memory"][0]["extra_mb"],
    ),
    (
        "random features, 16k to 128k: time when N doubles, worst",
        "<=",
        2.15,
        lambda r: max(r["kernel-growth"]["ratios of median"].values()),
    ),
    *(
        (
            f"window 256+256, N={n}, {mode}: times Longformer's self-attention",
            ">=",
            bound,
            lambda r, n=n, mode=mode: r[f"window-{n}"]["median"][faster("longformer", mode)],
        )
        for n in (4096, 16_384)
        for mode, bound in (("forward", 3), ("forward+backward", 4))
    ),
    (
        "window 256+256, 16k to 128k: time when N doubles, worst",
        "<=",
        2.15,
        lambda r: max(r["window-growth"]["ratios of median"].values()),
    ),
]


def table(folder: Path) -> str:
    """Targets against all runs that exist, as Markdown."""
    lines = ["| measured | target | glibc's own settings | keeping allocator | holds |"]
    lines.append("|---|---|---|---|---|")
    for what, sign, bound, value in TARGETS:
        found = {name: _values(folder / name, value) for name in ALLOCATORS}
        own = found["glibc"]
        held = bool(own) and all(x >= bound if sign == ">=" else x <= bound for x in own)
        shown = [", ".join(f"{x:.3g}" for x in each) or "missing" for each in found.values()]
        verdict = "yes" if held else "NO"
        lines.append(f"| {what} | {sign} {bound} | {' | '.join(shown)} | {verdict} |")
    return "\n".join(lines)


def _values(folder: Path, value: Callable[[dict], float]) -> list[float]:
    """What a target asks for, in every run that has its section."""
    found = []
    for run in range(1, 100):
        sections = {}
        for name in SECTIONS:
            path = folder / f"{name}-{run}.json"
            if path.exists():
                sections[name] = json.loads(path.read_text())["found"]
        try:
            found.append(value(sections))
        except KeyError:
            if not sections:
                return found
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--reps", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--allocators", nargs="*", default=list(ALLOCATORS), choices=ALLOCATORS)
    today = datetime.datetime.now(datetime.UTC).date()
    parser.add_argument("--out", type=Path, default=RESULTS / f"foundation-{today}")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.section:
        write(args.out, {"found": SECTIONS[args.section](args.reps)})
        return
    for run in range(1, args.runs + 1):
        for allocator in args.allocators:
            for section in SECTIONS:
                path = args.out / allocator / f"{section}-{run}.json"
                if path.exists():
                    continue
                command = [sys.executable, __file__, "--section", section, "--out", str(path)]
                command += ["--reps", str(args.reps), "--threads", str(args.threads)]
                subprocess.run(command, check=True, env={**os.environ, **ALLOCATORS[allocator]})
                print(f"wrote {path}", flush=True)
    found = table(args.out)
    (args.out / "targets.md").write_text(found + "\n")
    print(found)


if __name__ == "__main__":
    main()
