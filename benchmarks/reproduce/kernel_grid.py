"""Kernels 1, 3, 6 and 9, and LogSparse against full attention, at equal length and equal memory.

    python benchmarks/reproduce/kernel_grid.py --steps 1500 --seeds 3

Li et al., 2019, https://arxiv.org/abs/1907.00235, tables 2 and 3: longer kernels are better by up
to 9 % on traffic and by nothing on electricity; full attention is a little better at equal length,
and worse at equal memory. The set is subquad's generated one (60 series of six weeks, with a day
and a week), a day ahead, or with --data M4-Hourly, two days ahead. `sparse` and `full` read the
same context; `full-memory` is full attention that reads as much as has no more pairs of query and
key than `sparse` has, which is the paper's measure (an engine that keeps no matrix has no such
limit).

Small: dim 32, 2 layers, 4 heads, ffn 64, no dropout, context 336, local 8, float32, Gaussian,
batches of 16 windows, the same steps for every arm. Resumable: a JSON per arm and seed. The table
says n, median and range, and for each comparison how many seeds have the paper's direction:
"resolved" if the ranges of R0.5 are apart, of at least 3.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from forecasting import budget, found_in, learn, lines_of, write

from subquad import LogSteps

CONTEXT, LOCAL = 336, 8
KERNELS = (1, 3, 6, 9)
FIELDS = {"dim": 32, "num_layers": 2, "num_heads": 4, "ffn_dim": 64, "dropout": 0.0}
FIELDS["local"] = LOCAL
KINDS = ("sparse", "full", "full-memory")
ARMS = {f"{kind}-kernel{k}": (kind, k) for kind in KINDS for k in KERNELS}
NUMBERS = ("r50", "r90", "crps", "mase")
#: the paper's directions: the better arm, and the worse
DIRECTIONS = [
    ("sparse-kernel9", "sparse-kernel1"),
    ("full-kernel9", "full-kernel1"),
    *((f"sparse-kernel{k}", f"full-memory-kernel{k}") for k in KERNELS),
    *((f"full-kernel{k}", f"sparse-kernel{k}") for k in KERNELS),
]


def shorter(horizon: int) -> int:
    """The longest context of full attention with no more pairs than the steps have at CONTEXT."""
    length = CONTEXT + horizon
    pairs = sum(length - d for d in LogSteps(LOCAL).offsets(length - 1) or ())
    full = max(n for n in range(length) if n * (n + 1) // 2 <= pairs)
    return full - horizon


def one(arm: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate one arm by the command line."""
    kind, kernel = ARMS[arm]
    horizon = 24 if args.data is None else 48
    context = shorter(horizon) if kind == "full-memory" else CONTEXT
    own = {"kernel": kernel, "pattern": "steps" if kind == "sparse" else "full"}
    flags = ["--horizon", str(horizon), "--freq", "H", "--task.context", str(context)]
    if args.data is not None:
        names = [args.data / "timeseries" / f"M4-Hourly-{p}.csv.xz" for p in ("train", "test")]
        flags += ["--data", ",".join(map(str, names)), "--task.weights", "scale"]
    flags += ["--train.batch", "16", "--train.lr", "2e-3", "--train.seed", str(seed)]
    flags += budget(args.steps, None)
    score = ["--samples", "100", *(["--windows", str(args.windows)] if args.windows else [])]
    hidden = {} if args.data is None else {str(args.data): "DATA"}
    found = learn("logsparse", FIELDS | own, flags, score, hidden)
    return {"arm": arm, "seed": seed, "kernel": kernel, "context": context, **found}


def table(folder: Path) -> str:
    """What exists, as Markdown; an arm without a run is named as missing."""
    head = "| arm | n | " + " | ".join(NUMBERS) + " | steps | s of training | forecasts | |"
    lines = [head, "|---" * (len(NUMBERS) + 6) + "|"]
    lines += lines_of(folder, {arm: arm for arm in ARMS}, NUMBERS)
    lines += ["", "| the paper says | seeds | R0.5 lower | R0.9 lower | |", "|---" * 5 + "|"]
    for better, worse in DIRECTIONS:
        by = [{run["seed"]: run for run in found_in(folder, arm)} for arm in (better, worse)]
        both = sorted(by[0].keys() & by[1].keys())
        lower = [sum(by[0][s][n] < by[1][s][n] for s in both) for n in ("r50", "r90")]
        said = verdict(*([one[s]["r50"] for s in both] for one in by))
        cells = [f"{better} below {worse}", len(both), *lower, said]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def verdict(better: list[float], worse: list[float]) -> str:
    """What the seeds of two arms say of a direction of the paper: nothing where ranges overlap."""
    if not better:
        return "missing"
    if len(better) < 3 or (max(better) >= min(worse) and max(worse) >= min(better)):
        return "not resolved"
    return "resolved: " + ("as the paper" if max(better) < min(worse) else "the other way")


def main() -> None:
    results = Path(__file__).resolve().parents[1] / "results"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, default=None, help="the folder of real data: M4-Hourly"
    )
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--windows", type=int, default=None, help="score only so many forecasts")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    out = args.out or results / ("kernel_grid" if args.data is None else "kernel_grid_m4")
    out.mkdir(parents=True, exist_ok=True)
    for seed in range(args.seeds):
        for arm in args.arms:
            path = out / f"{arm}-seed{seed}.json"
            if not path.exists():
                write(path, one(arm, seed, args))
    text = table(out)
    (out / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
