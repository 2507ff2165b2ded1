"""ETTh1, 24, 168 and 720 hours ahead: MSE and MAE on z-scores, beside ETS and seasonal naive.

    python benchmarks/reproduce/etth1.py --data DATA --minutes 12 --seeds 2

DATA holds timeseries/ETTh1.csv.xz: 7 variables, rows 8640/2880/2880 of train, valid and test, each
variable in units of its training part. A variable is a series by itself, and knows nothing of the
others; each window is told in units of its context, with the values of a horizon and of a week
before beside each hour. Forecasts begin `stride` hours apart (by default the horizon; the papers'
is 1, which takes so much longer). Small: dim 64, 2 layers, 8 heads, ffn 128, dropout 0.1, context
168, float32, Gaussian, batches of 16 windows, as many minutes (or --steps) for every arm; mean and
median of paths, 100 of them or 25 of 720 steps. Resumable: a JSON per horizon, arm and seed; the
table is made from those that exist and says what is missing.

Published, read in the authors' repositories: Informer and LogTrans of Zhou et al., 2021
(https://arxiv.org/abs/2012.07436), table 2, multivariate, as the picture result_multivariate.png
of github.com/zhouhaoyi/Informer2020 has it; DLinear of Zeng et al., 2023
(https://arxiv.org/abs/2205.13504), LTSF-Benchmark.md of github.com/cure-lab/LTSF-Linear, which has
horizons 96, 192, 336 and 720 alone, and there gives Informer 1.181 and 0.865 at 720.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from forecasting import budget, learn, lines_of, write

HORIZONS = (24, 168, 720)
FIELDS = {"dim": 64, "num_layers": 2, "num_heads": 8, "ffn_dim": 128, "dropout": 0.1}
WEEK = 168
#: name -> architecture and its own fields
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "logsparse": ("logsparse", {}),
    "transformer": ("transformer", {}),
    "local": ("local", {"window": 48}),
}
#: MSE and MAE by horizon
PAPER = {
    "Informer": {24: (0.577, 0.549), 168: (0.931, 0.752), 720: (1.215, 0.896)},
    "LogTrans": {24: (0.686, 0.604), 168: (1.002, 0.846), 720: (1.397, 1.291)},
    "DLinear": {720: (0.472, 0.490)},
}
NUMBERS = ("mse", "mae", "r50", "crps", "mase")


def one(horizon: int, arm: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate one arm by the command line."""
    arch, own = ARMS[arm]
    flags = ["--data", str(args.data / "timeseries" / "ETTh1.csv.xz"), "--horizon", str(horizon)]
    lags = sorted({horizon, max(horizon, WEEK)})
    flags += ["--task.split", "[8640,2880,2880]"]
    flags += ["--task.lags", str(lags).replace(" ", "")]
    flags += ["--train.batch", "16", "--train.lr", "1e-3", "--train.seed", str(seed)]
    flags += [*budget(args.steps, args.minutes), "--task.valid_windows", "70"]
    samples = args.samples or (100 if horizon < 720 else 25)
    score = ["--samples", str(samples), "--stride", str(args.stride or horizon)]
    score += [] if args.windows is None else ["--windows", str(args.windows)]
    found = learn(arch, FIELDS | own, flags, score, {str(args.data): "DATA"})
    what = {"horizon": horizon, "arm": arm, "seed": seed, "minutes": args.minutes}
    return {**what, "samples": samples, **found}


def table(folder: Path) -> str:
    """What exists, as Markdown; an arm without a run is named as missing."""
    lines = []
    for horizon in HORIZONS:
        lines += [f"{horizon} hours", ""]
        head = "| arm | n | " + " | ".join(NUMBERS) + " | steps | s of training | forecasts | |"
        lines += [head, "|---" * (len(NUMBERS) + 6) + "|"]
        lines += lines_of(folder, {arm: f"{horizon}-{arm}" for arm in ARMS}, NUMBERS)
        for name, numbers in PAPER.items():
            known = numbers.get(horizon)
            cells = ["not published", ""] if known is None else [f"{x:.3f}" for x in known]
            empty = " |" * (len(NUMBERS) + 2)
            lines.append(f"| {name} (published) | | {' | '.join(cells)} |{empty}")
        lines.append("")
    return "\n".join(lines).rstrip()


def main() -> None:
    results = Path(__file__).resolve().parents[1] / "results" / "etth1"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of real data")
    parser.add_argument("--minutes", type=float, default=None, help="of training, each arm")
    parser.add_argument("--steps", type=int, default=None, help="of training, instead of minutes")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--horizons", type=int, nargs="+", default=list(HORIZONS))
    parser.add_argument("--stride", type=int, default=None, help="hours between two forecasts")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--samples", type=int, default=None)
    parser.add_argument("--windows", type=int, default=None, help="score only so many forecasts")
    parser.add_argument("--out", type=Path, default=results)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    arms = [(h, a, s) for s in range(args.seeds) for h in args.horizons for a in args.arms]
    for horizon, arm, seed in arms:
        path = args.out / f"{horizon}-{arm}-seed{seed}.json"
        if not path.exists():
            write(path, one(horizon, arm, seed, args))
    text = table(args.out)
    (args.out / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
