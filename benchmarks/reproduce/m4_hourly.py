"""M4-Hourly, two days ahead: R0.5 and R0.9 of LogSparse and others, beside ETS and seasonal naive.

    python benchmarks/reproduce/m4_hourly.py --data DATA --steps 4000 --seeds 5

DATA holds timeseries/M4-Hourly-train.csv.xz and M4-Hourly-test.csv.xz (414 series, 48 hours of
test). Small: dim 64, 3 layers, 8 heads, ffn 256, context 168, float32, Gaussian, the same steps for
every arm; the run is chosen by the loss on the 48 hours before the test, and scored by 200 paths.
Resumable: a JSON per arm and seed; the table is made from those that exist and says what is
missing. Beside it stand the paper's numbers (Li et al., 2019, table 4), of longer training and of
their own windows: they show the scale.
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

FIELDS = {"dim": 64, "num_layers": 3, "num_heads": 8, "ffn_dim": 256, "dropout": 0.1}
#: name -> architecture and its own fields
ARMS = {
    "logsparse": ("logsparse", {}),
    "logsparse, kernel 1": ("logsparse", {"kernel": 1}),
    "full, kernel 9": ("logsparse", {"pattern": "full"}),
    "transformer": ("transformer", {}),
    "local": ("local", {"window": 24}),
}
BESIDE = ("seasonal_naive", "ets")
#: R0.5 and R0.9: Li et al., 2019, table 4
PAPER = {"logsparse": (0.067, 0.025), "DeepAR": (0.090, 0.030)}
NUMBERS = ("r50", "r90", "crps", "mase", "smape")


def learn(arm: str, seed: int, root: Path, steps: int, samples: int, windows: int | None) -> dict:
    """Train and evaluate one arm by the command line; what it scored, and what stands beside."""
    files = [root / "timeseries" / f"M4-Hourly-{part}.csv.xz" for part in ("train", "test")]
    arch, own = ARMS[arm]
    flags = [x for name, value in (FIELDS | own).items() for x in (f"--arch.{name}", str(value))]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = ["train", "forecast", "--arch", arch, *flags, "--out", str(out)]
        command += ["--data", ",".join(map(str, files)), "--horizon", "48", "--freq", "H"]
        command += ["--train.steps", str(steps), "--train.seed", str(seed), "--train.batch", "32"]
        command += ["--train.lr", "1e-3", "--train.reports", str(min(20, steps))]
        score = ["eval", str(out), "--samples", str(samples)]
        score += [] if windows is None else ["--windows", str(windows)]
        for words in (command, score):
            run = [sys.executable, "-m", "subquad.cli", *words]
            subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
        found = json.loads((out / "evaluations.jsonl").read_text().splitlines()[-1])
        facts = json.loads((out / "run.json").read_text())
    del found["seconds"]  # the steps are what is equal, not the time
    about = {"machine": platform.machine(), "versions": facts["versions"]}
    words = "subquad " + " ".join(command).replace(str(root), "DATA").replace(str(out), "RUN")
    return {"arm": arm, "seed": seed, "steps": steps, **found, **about, "command": words}


def table(folder: Path) -> str:
    """What exists, as Markdown; an arm without a run is named as missing."""
    lines = ["| arm | n | " + " | ".join(NUMBERS) + " | steps | forecasts | paper R0.5/R0.9 |"]
    lines.append("|---" * (len(NUMBERS) + 5) + "|")
    beside: dict[str, dict] = {}
    for arm in ARMS:
        runs = [json.loads(p.read_text()) for p in sorted(folder.glob(f"{slug(arm)}-seed*.json"))]
        beside |= {name: runs[0]["beside"][name] for name in BESIDE if runs}
        paper = "/".join(f"{x:.3f}" for x in PAPER.get(arm, ()))
        if not runs:
            lines.append(f"| {arm} | 0 | missing" + " | " * (len(NUMBERS) + 2) + f"{paper} |")
            continue
        cells = [spread([run[name] for run in runs]) for name in NUMBERS]
        same = [", ".join(map(str, sorted({r[k] for r in runs}))) for k in ("steps", "forecasts")]
        lines.append(f"| {arm} | {len(runs)} | " + " | ".join([*cells, *same, paper]) + " |")
    for name, numbers in beside.items():
        cells = [f"{numbers[key]:.4f}" for key in NUMBERS]
        lines.append(f"| {name} | 1 | " + " | ".join(cells) + " | | | |")
    others = {name: numbers for name, numbers in PAPER.items() if name not in ARMS}
    for name, (median, high) in others.items():
        lines.append(
            f"| {name} (paper) |" + " |" * (len(NUMBERS) + 3) + f" {median:.3f}/{high:.3f} |"
        )
    return "\n".join(lines)


def spread(found: list[float]) -> str:
    """The median, and the smallest and largest if there are several."""
    middle = f"{statistics.median(found):.4f}"
    return middle if len(found) == 1 else f"{middle} ({min(found):.4f} to {max(found):.4f})"


def slug(arm: str) -> str:
    """A name for files."""
    return arm.replace(", ", "-").replace(" ", "")


def main() -> None:
    results = Path(__file__).resolve().parents[1] / "results" / "m4_hourly"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of real data")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--windows", type=int, default=None, help="score only so many forecasts")
    parser.add_argument("--out", type=Path, default=results)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in range(args.seeds):
        for arm in args.arms:
            path = args.out / f"{slug(arm)}-seed{seed}.json"
            if not path.exists():
                found = learn(arm, seed, args.data, args.steps, args.samples, args.windows)
                path.write_text(json.dumps(found, indent=2) + "\n")
                print(f"wrote {path.name}", flush=True)
    text = table(args.out)
    (args.out / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
