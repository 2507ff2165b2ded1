"""M4-Hourly, two days ahead: R0.5 and R0.9 of LogSparse and others, beside DeepAR, ETS and naive.

    python benchmarks/reproduce/m4_hourly.py --data DATA --minutes 15 --seeds 3 \
        --deepar DEEPAR/bin/python

DATA holds timeseries/M4-Hourly-train.csv.xz and M4-Hourly-test.csv.xz (414 series, 48 hours of
test). Small: dim 64, 3 layers, 8 heads, ffn 256, no dropout, context 168, float32, Gaussian,
batches of 8 windows, all alike, each by the mean and deviation of its context, and beside each hour
the values of 48 and 168 hours before it. Two arms do as the paper may, without those: windows by
1 + mean |value|, and so that large series come more often ("weighed"). Every arm trains as many
minutes (or --steps, DeepAR excepted), the weights are chosen by the loss on the 48 hours before the
test, and all 414 forecasts are scored by 100 paths.

DeepAR is GluonTS's, in an environment of its own (deepar-requirements.txt, deepar.py): the same
split, minutes and threads; its paths are scored by the same code. Without --deepar it is missing.
Resumable: a JSON per arm and seed; the table is made from those that exist and says what is
missing. Beside it stand the paper's numbers (Li et al., 2019, table 4), of longer training and of
their own windows: they show the scale.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from forecasting import budget, learn, lines_of, threads, write
from torch import Tensor

from subquad.data.frequency import Frequency
from subquad.data.rows import spread
from subquad.data.series import divided
from subquad.data.series_files import open_series
from subquad.data.series_sheet import Columns
from subquad.data.series_units import units
from subquad.tasks.backtest import backtest, origins_of

HORIZON, CONTEXT, SEASON = 48, 168, 24
FIELDS = {"dim": 64, "num_layers": 3, "num_heads": 8, "ffn_dim": 256, "dropout": 0.0}
LEVEL = ["--task.lags", "[48,168]"]
MEAN = ["--task.scaling", "mean"]
#: name -> architecture, its own fields, and flags
ARMS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "logsparse": ("logsparse", {}, LEVEL),
    "logsparse, mean": ("logsparse", {}, MEAN),
    "logsparse, weighed": ("logsparse", {}, [*MEAN, "--task.weights", "scale"]),
    "full, kernel 9": ("logsparse", {"pattern": "full"}, LEVEL),
    "transformer": ("transformer", {}, LEVEL),
}
DEEPAR = "deepar"
#: R0.5 and R0.9: Li et al., 2019, table 4
PAPER = {"logsparse": "0.067/0.025", DEEPAR: "0.090/0.030"}
NUMBERS = ("r50", "r90", "crps", "mase", "smape")


def files_of(root: Path) -> list[Path]:
    """What trains, and what tests."""
    return [root / "timeseries" / f"M4-Hourly-{part}.csv.xz" for part in ("train", "test")]


def ours(arm: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate one arm by the command line."""
    arch, own, flags = ARMS[arm]
    flags = ["--data", ",".join(map(str, files_of(args.data))), *flags, "--freq", "H"]
    flags += ["--horizon", str(HORIZON), "--task.context", str(CONTEXT), "--train.batch", "8"]
    flags += ["--train.lr", str(args.lr), "--train.seed", str(seed)]
    flags += budget(args.steps, args.minutes)
    score = ["--samples", str(args.samples)]
    score += [] if args.windows is None else ["--windows", str(args.windows)]
    return learn(arch, FIELDS | own, flags, score, {str(args.data): "DATA"})


def deepar(seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train GluonTS's DeepAR by its own interpreter, and score its paths as ours are."""
    if args.minutes is None:
        raise ValueError("DeepAR stops by the clock: give --minutes, not --steps")
    script = Path(__file__).with_name("deepar.py")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "paths.npz"
        given = {"horizon": HORIZON, "context": CONTEXT, "minutes": args.minutes}
        given |= {"samples": args.samples, "seed": seed, "threads": threads()}
        words = [x for name, value in given.items() for x in (f"--{name}", str(value))]
        train = str(files_of(args.data)[0])
        subprocess.run(
            [args.deepar, str(script), *words, "--train", train, "--out", str(out)], check=True
        )
        with np.load(out) as kept:
            samples, names = torch.from_numpy(kept["samples"]).double(), kept["names"].tolist()
            facts = json.loads(str(kept["facts"]))
    command = " ".join(["deepar.py", *words, "--train", train.replace(str(args.data), "DATA")])
    return {**facts, **scored(samples, names, args), "threads": threads(), "command": command}


def scored(samples: Tensor, names: Sequence[str], args: argparse.Namespace) -> dict[str, Any]:
    """Numbers of paths (S, series, horizon) after the training file, and what stands beside."""
    data = ",".join(map(str, files_of(args.data)))
    series, held = open_series(data, Columns(), Frequency.of("H"))
    series, parts = divided(series, HORIZON, held)
    windows = origins_of(series, parts, HORIZON, HORIZON, None, "test")
    some = [windows[i] for i in spread(len(windows), args.windows or len(windows))]
    place = {name: i for i, name in enumerate(names)}

    def draw(group: Sequence[tuple[int, int]], number: int) -> Tensor:
        return samples[:, [place[series.names[i]] for i, _ in group]]

    unit = units(series, parts.train, "standard")[1]
    rows = backtest(draw, series, some, HORIZON, SEASON, unit, lambda done, of: None)
    beside = rows.numbers
    return {**beside.pop("ours"), "forecasts": len(some), "beside": beside}


def table(folder: Path) -> str:
    """What exists, as Markdown; an arm without a run is named as missing."""
    head = "| arm | n | " + " | ".join(NUMBERS) + " | steps | s of training | forecasts | paper |"
    names = {arm: slug(arm) for arm in (*ARMS, DEEPAR)}
    return "\n".join(
        [head, "|---" * (len(NUMBERS) + 6) + "|", *lines_of(folder, names, NUMBERS, PAPER)]
    )


def slug(arm: str) -> str:
    """A name for files."""
    return arm.replace(", ", "-").replace(" ", "")


def main() -> None:
    results = Path(__file__).resolve().parents[1] / "results" / "m4_hourly"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of real data")
    parser.add_argument("--minutes", type=float, default=None, help="of training, each arm")
    parser.add_argument("--steps", type=int, default=None, help="of training, instead of minutes")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    every = [*ARMS, DEEPAR]
    parser.add_argument("--arms", nargs="+", default=every, choices=every)
    parser.add_argument("--deepar", default=None, help="the Python that has GluonTS")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--windows", type=int, default=None, help="score only so many forecasts")
    parser.add_argument("--out", type=Path, default=results)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for arm in args.arms:
            path = args.out / f"{slug(arm)}-seed{seed}.json"
            if path.exists() or (arm == DEEPAR and args.deepar is None):
                continue
            found = deepar(seed, args) if arm == DEEPAR else ours(arm, seed, args)
            write(path, {"arm": arm, "seed": seed, "minutes": args.minutes, **found})
    text = table(args.out)
    (args.out / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
