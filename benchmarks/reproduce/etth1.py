"""ETTh1, 24, 168 and 720 hours ahead: MSE and MAE on z-scores, beside ETS and seasonal naive.

    python benchmarks/reproduce/etth1.py --data DATA --steps 4000 --seeds 3

DATA holds timeseries/ETTh1.csv.xz: 7 variables, rows 8640/2880/2880 of train, valid and test, each
variable in units of its training part. A variable is a series by itself. Forecasts begin `stride`
hours apart (by default the horizon; the papers' is 1, which takes so much longer). Small: dim 64,
2 layers, 8 heads, ffn 128, context 168, float32, Gaussian, the same steps for every arm; mean and
median of 100 paths. Resumable: a JSON per horizon, arm and seed; the table is made from those that
exist and says what is missing. The papers' numbers beside it are of Zhou et al., 2021 (Informer),
table 2, multivariate, as remembered, not read there again: they show the scale.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HORIZONS = (24, 168, 720)
FIELDS = {"dim": 64, "num_layers": 2, "num_heads": 8, "ffn_dim": 128, "dropout": 0.1}
#: name -> architecture and its own fields
ARMS = {
    "logsparse": ("logsparse", {}),
    "transformer": ("transformer", {}),
    "local": ("local", {"window": 48}),
}
BESIDE = ("seasonal_naive", "ets")
#: MSE and MAE by horizon
PAPER = {
    "Informer": {24: (0.577, 0.549), 168: (0.931, 0.752), 720: (1.215, 0.896)},
    "LogTrans": {24: (0.686, 0.604), 168: (1.002, 0.846), 720: (1.397, 1.291)},
}
NUMBERS = ("mse", "mae", "r50", "crps", "mase")


def learn(horizon: int, arm: str, seed: int, root: Path, args: argparse.Namespace) -> dict:
    """Train and evaluate one arm by the command line; what it scored, and what stands beside."""
    arch, own = ARMS[arm]
    flags = [x for name, value in (FIELDS | own).items() for x in (f"--arch.{name}", str(value))]
    steps = args.steps
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = ["train", "forecast", "--arch", arch, *flags, "--out", str(out)]
        command += ["--data", str(root / "timeseries" / "ETTh1.csv.xz"), "--horizon", str(horizon)]
        command += ["--task.split", "[8640,2880,2880]", "--task.scaling", "standard"]
        command += ["--train.steps", str(steps), "--train.seed", str(seed), "--train.batch", "16"]
        command += ["--train.lr", "1e-3", "--train.reports", str(min(20, steps))]
        score = ["eval", str(out), "--samples", str(args.samples)]
        score += ["--stride", str(args.stride or horizon)]
        score += [] if args.windows is None else ["--windows", str(args.windows)]
        for words in (command, score):
            run = [sys.executable, "-m", "subquad.cli", *words]
            subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
        found = json.loads((out / "evaluations.jsonl").read_text().splitlines()[-1])
        facts = json.loads((out / "run.json").read_text())
    del found["seconds"]  # the steps are what is equal, not the time
    about = {"machine": platform.machine(), "versions": facts["versions"]}
    words = "subquad " + " ".join(command).replace(str(root), "DATA").replace(str(out), "RUN")
    what = {"horizon": horizon, "arm": arm, "seed": seed, "steps": steps}
    return {**what, **found, **about, "command": words}


def table(folder: Path) -> str:
    """What exists, as Markdown; an arm without a run is named as missing."""
    lines = ["| hours | arm | n | " + " | ".join(NUMBERS) + " | steps | forecasts |"]
    lines.append("|---" * (len(NUMBERS) + 5) + "|")
    for horizon in HORIZONS:
        beside: dict[str, dict] = {}
        for arm in ARMS:
            names = sorted(folder.glob(f"{horizon}-{arm}-seed*.json"))
            runs = [json.loads(path.read_text()) for path in names]
            if not runs:
                lines.append(f"| {horizon} | {arm} | 0 | missing" + " |" * (len(NUMBERS) + 2))
                continue
            beside |= {name: runs[0]["beside"][name] for name in BESIDE}
            cells = [spread([run[name] for run in runs]) for name in NUMBERS]
            cells += [
                ", ".join(map(str, sorted({r[k] for r in runs}))) for k in ("steps", "forecasts")
            ]
            lines.append(f"| {horizon} | {arm} | {len(runs)} | " + " | ".join(cells) + " |")
        for name, numbers in beside.items():
            cells = [f"{numbers[key]:.4f}" for key in NUMBERS]
            lines.append(f"| {horizon} | {name} | 1 | " + " | ".join(cells) + " | | |")
        for name, numbers in PAPER.items():
            mse, mae = numbers[horizon]
            empty = " |" * len(NUMBERS)
            lines.append(f"| {horizon} | {name} (published) | | {mse:.3f} | {mae:.3f} |{empty}")
    return "\n".join(lines)


def spread(found: list[float]) -> str:
    """The median, and the smallest and largest if there are several."""
    middle = f"{statistics.median(found):.4f}"
    return middle if len(found) == 1 else f"{middle} ({min(found):.4f} to {max(found):.4f})"


def main() -> None:
    results = Path(__file__).resolve().parents[1] / "results" / "etth1"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of real data")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--horizons", type=int, nargs="+", default=list(HORIZONS))
    parser.add_argument("--stride", type=int, default=None, help="hours between two forecasts")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--windows", type=int, default=None, help="score only so many forecasts")
    parser.add_argument("--out", type=Path, default=results)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    arms = [(h, a, s) for s in range(args.seeds) for h in args.horizons for a in args.arms]
    for horizon, arm, seed in arms:
        path = args.out / f"{horizon}-{arm}-seed{seed}.json"
        if not path.exists():
            found = learn(horizon, arm, seed, args.data, args)
            path.write_text(json.dumps(found, indent=2) + "\n")
            print(f"wrote {path.name}", flush=True)
    text = table(args.out)
    (args.out / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
