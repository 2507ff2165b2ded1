"""The one command: every measurement with its peers, three runs, and whether each target held.

    make bench            or: python benchmarks/run.py --runs 3 --reps 5
    python benchmarks/run.py --quick --runs 1 --reps 1 --out FOLDER      does everything run?

Each section runs in a fresh process, once with glibc's own settings and once with an allocator that
keeps what it freed (no mmap, no trimming): peers that fill large temporaries gain most from that.
Further runs have glibc's own settings. Some 20 minutes a run on two cores.
Writes benchmarks/results/speed-DATE/SETTING/SECTION-N.json, skips what is there already, and
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
from dataclasses import dataclass
from pathlib import Path

import bench_decode
import bench_hashing
import bench_kernel
import bench_models
import bench_patterns
import bench_start
import bench_window
import torch
from measure import write
from targets import TARGETS

from subquad.bench.party import Size

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Scale:
    """How often each call is timed, and how long rows are: quick ones show that all runs, and
    their numbers say nothing.
    """

    reps: int
    quick: bool

    def __call__(self, n: int) -> int:
        """The length that stands for n."""
        return max(512, n // 32) if self.quick else n  # Longformer's takes whole windows

    @property
    def slow(self) -> int:
        """Repetitions of what takes seconds."""
        return max(1, self.reps // 5)

    @property
    def size(self) -> Size:
        """Of whole models."""
        return Size(32, 2, 1, 32, 20) if self.quick else bench_models.SIZE

    @property
    def lengths(self) -> list[int]:
        """For growth."""
        return [self(16_384 << i) for i in range(4)]


SECTIONS: dict[str, Callable[[Scale], object]] = {
    "kernel": lambda s: bench_kernel.against_peers(s(4096), s.reps, s.slow),
    "kernel-2048": lambda s: bench_kernel.against_peers(s(2048), s.reps, 0),
    "kernel-3072": lambda s: bench_kernel.against_peers(s(3072), s.reps, 0),
    "kernel-memory": lambda s: bench_kernel.memory(s(65_536)),
    "kernel-growth": lambda s: bench_kernel.growth(s.lengths, min(5, s.reps)),
    "kernel-both-ways": lambda s: bench_kernel.bidirectional(s(16_384), s.reps, s.slow),
    "bfloat16": lambda s: bench_kernel.low_precision(s(16_384), s.reps),
    "window-4096": lambda s: bench_window.against_longformer(s(4096), s.reps),
    "window-16384": lambda s: bench_window.against_longformer(s(16_384), s.reps),
    "window-growth": lambda s: bench_window.growth(s.lengths, min(5, s.reps)),
    "window-causal": lambda s: bench_patterns.against_local(s(16_384), s.reps),
    "window-1024": lambda s: bench_patterns.against_dense("window", s(1024), s.reps, s.reps),
    "logsparse": lambda s: bench_patterns.against_masked(s(16_384), s.reps, s.slow),
    "logsparse-half": lambda s: bench_patterns.held_at(s(8192)),
    "strided": lambda s: bench_patterns.against_dense("strided", s(16_384), s.reps, s.slow),
    "fixed": lambda s: bench_patterns.against_dense("fixed", s(16_384), s.reps, s.slow),
    "hashing": lambda s: bench_hashing.against_reformer(s(16_384), s.reps, s.slow),
    "hashing-growth": lambda s: bench_hashing.growth([s(32_768), s(65_536)], min(5, s.reps)),
    "models": lambda s: bench_models.steps(s(16_384), s.slow, s.size),
    "models-depth": lambda s: bench_models.depth(s(16_384), s.size),
    "decode": lambda s: bench_decode.growth([s(2048), s(16_384)], 4 * s.reps, s.size),
    "start": lambda s: bench_start.start(min(5, s.reps)),
}

#: what the C library reads at the start of a process
ALLOCATORS = {
    "glibc": {},
    "keeping": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 35)},
}


def table(folder: Path) -> str:
    """Targets against all runs that exist, as Markdown."""
    lines = ["| measured | target | glibc's own settings | keeping allocator | holds |"]
    lines.append("|---|---|---|---|---|")
    for what, sign, bound, value in TARGETS:
        found = {name: _values(folder / name, value) for name in ALLOCATORS}
        own = found["glibc"]
        held = bool(own) and all(x >= bound if sign == ">=" else x <= bound for x in own)
        shown = [", ".join(f"{x:.3g}" for x in each) or "missing" for each in found.values()]
        verdict = ("yes" if held else "NO") if own else "not measured"
        lines.append(f"| {what} | {sign} {bound} | {' | '.join(shown)} | {verdict} |")
    return "\n".join([*lines, *_missing(folder)])


def _missing(folder: Path) -> list[str]:
    """What is not installed, and so was not measured."""
    found = [json.loads(path.read_text())["found"] for path in sorted(folder.glob("*/*.json"))]
    names = sorted({one["missing"] for one in found if "missing" in one})
    return ["", f"Not here, so not measured: {', '.join(names)}."] if names else []


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
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=list(SECTIONS), choices=SECTIONS)
    parser.add_argument("--allocators", nargs="*", default=list(ALLOCATORS), choices=ALLOCATORS)
    today = datetime.datetime.now(datetime.UTC).date()
    parser.add_argument("--out", type=Path, default=RESULTS / f"speed-{today}")
    parser.add_argument("--quick", action="store_true", help="short rows: does everything run?")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.section:
        write(args.out, {"found": SECTIONS[args.section](Scale(args.reps, args.quick))})
        return
    for run in range(1, args.runs + 1):
        for allocator in args.allocators if run == 1 else args.allocators[:1]:
            for section in args.only:
                path = args.out / allocator / f"{section}-{run}.json"
                if path.exists():
                    continue
                command = [sys.executable, __file__, "--section", section, "--out", str(path)]
                command += ["--reps", str(args.reps), "--threads", str(args.threads)]
                command += ["--quick"] if args.quick else []
                subprocess.run(command, check=True, env={**os.environ, **ALLOCATORS[allocator]})
                print(f"wrote {path}", flush=True)
    found = table(args.out)
    (args.out / "targets.md").write_text(found + "\n")
    print(found)


if __name__ == "__main__":
    main()
