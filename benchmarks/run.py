"""The one command: every measurement with its peers, three runs, and whether each target held.

    make bench            or: python benchmarks/run.py --runs 3 --reps 15

Writes benchmarks/results/foundation-DATE/run-N.json, skips runs that exist already, and prints
the table of targets: a target holds only if it holds in every run.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Callable
from pathlib import Path

import bench_kernel
import bench_window
import torch
from measure import write

RESULTS = Path(__file__).parent / "results"


def one_run(reps: int) -> dict:
    """Everything that has a target, once."""
    lengths = [16_384, 32_768, 65_536, 131_072]
    return {
        "kernel": bench_kernel.against_peers(4096, reps, reps),
        "kernel_crossover": [bench_kernel.against_peers(n, reps, 0) for n in (2048, 3072)],
        "kernel_memory": bench_kernel.memory(65_536),
        "kernel_growth": bench_kernel.growth(lengths, 5),
        "window": [bench_window.against_longformer(n, reps) for n in (4096, 16_384)],
        "window_growth": bench_window.growth(lengths, 5),
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
        lambda r: r["kernel_crossover"][1]["median"][faster("exact", "forward")],
    ),
    (
        "random features, N=2048, forward: times exact causal attention (aim)",
        ">=",
        1,
        lambda r: r["kernel_crossover"][0]["median"][faster("exact", "forward")],
    ),
    (
        "random features, N=65,536, forward: extra memory, MB",
        "<=",
        64,
        lambda r: r["kernel_memory"][0]["extra_mb"],
    ),
    (
        "random features, 16k to 128k: time when N doubles, worst",
        "<=",
        2.15,
        lambda r: max(r["kernel_growth"]["ratios of median"].values()),
    ),
    *(
        (
            f"window 256+256, N={n}, {mode}: times Longformer's self-attention",
            ">=",
            bound,
            lambda r, i=i, mode=mode: r["window"][i]["median"][faster("longformer", mode)],
        )
        for i, n in enumerate((4096, 16_384))
        for mode, bound in (("forward", 3), ("forward+backward", 4))
    ),
    (
        "window 256+256, 16k to 128k: time when N doubles, worst",
        "<=",
        2.15,
        lambda r: max(r["window_growth"]["ratios of median"].values()),
    ),
]


def table(runs: list[dict]) -> str:
    """Targets against all runs, as Markdown."""
    lines = ["| measured | target | runs | holds |", "|---|---|---|---|"]
    for what, sign, bound, value in TARGETS:
        found = [value(run) for run in runs]
        held = all(x >= bound if sign == ">=" else x <= bound for x in found)
        shown = ", ".join(f"{x:.3g}" for x in found)
        lines.append(f"| {what} | {sign} {bound} | {shown} | {'yes' if held else 'NO'} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--reps", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    today = datetime.datetime.now(datetime.UTC).date()
    parser.add_argument("--out", type=Path, default=RESULTS / f"foundation-{today}")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    paths = [args.out / f"run-{i + 1}.json" for i in range(args.runs)]
    for path in paths:
        if not path.exists():
            write(path, one_run(args.reps))
            print(f"wrote {path}", flush=True)
    found = table([json.loads(path.read_text()) for path in paths])
    (args.out / "targets.md").write_text(found + "\n")
    print(found)


if __name__ == "__main__":
    main()
