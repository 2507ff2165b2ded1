"""Minutes to the dense model's final loss, at a context of 8,192 bytes: both curves.

    python benchmarks/reproduce/time_to_loss.py --data enwik8.xz --minutes 20 --seeds 2

The claim: with a Performer in a Transformer's place, the training of a large language model takes
40 % less time. Here every arm trains alike for as many minutes: dim 256, 4 layers, 4 heads, ffn
1024, rows of 8,192 bytes, one a batch, a rate that rises and stays, so that the loss at a minute is
what a run of that length would have reached. The answer is an arm's first report with a held-out
loss of at most the dense model's last one, of the same seed. Resumable: a run folder and a JSON for
each arm and seed; the table and curves.svg are made from those that exist. A direction is claimed
only where the ranges over seeds do not overlap.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import Column, arms_of, budget, each, trained

from subquad.viz.curves import Chart, Line, svg

HOW = [
    *("--arch.dim", "256", "--arch.num_layers", "4", "--arch.num_heads", "4"),
    *("--arch.ffn_dim", "1024", "--arch.dropout", "0", "--task.context", "8192"),
    *("--task.valid_bytes", "32768", "--train.batch", "1", "--train.reports", "12"),
    *("--train.schedule", "constant_with_warmup", "--train.lr", "1e-3"),
]
DENSE = "transformer"
#: name -> architecture and words that differ
ARMS = {
    DENSE: [DENSE],
    "performer": ["performer", "--arch.features", "128"],
    "local": ["local", "--arch.window", "256"],
}


def learn(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Train one arm, or go on with it: its held-out loss by minutes, and when it was as good as the
    dense model at its end. SystemExit if that is not known yet.
    """
    dense = args.out / f"{DENSE}-{seed}.json"
    if arm != DENSE and not dense.is_file():
        sys.exit(f"{arm} is held to the dense model's last loss: train {DENSE}, seed {seed}, first")
    long = f"{args.minutes:g}" if args.steps is None else f"{args.steps}_steps"
    folder = args.runs / f"{arm}-{long}-{seed}"
    words = ["lm", "--arch", *ARMS[arm], "--data", str(args.data), *HOW, *budget(args)]
    told = trained(folder, *words, "--train.seed", str(seed))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    score = "eval_nats_per_token"
    curve = [(row["seconds"] / 60, row[score]) for row in rows if score in row]
    if not curve:
        sys.exit(f"{folder} has no report in its metrics.jsonl")
    kept = ("parameters", "steps", "tokens", "seconds", "command")
    found = {"arm": arm, "seed": seed, **{k: told[k] for k in kept}, "minutes, loss": curve}
    whole, aim = (found if arm == DENSE else json.loads(dense.read_text()))["minutes, loss"][-1]
    first = next((at for at, loss in curve if loss <= aim), None)
    return {**found, "dense minutes": whole, "dense loss": aim, "minutes to it": first}


def reached(run: dict) -> str:
    """Minutes until the dense model's last loss, and their share of its minutes."""
    first = run["minutes to it"]
    return "not reached" if first is None else f"{first:.1f} ({first / run['dense minutes']:.0%})"


def draw(folder: Path) -> None:
    """The curves of the first seed of every arm that exists, as curves.svg."""
    runs = [json.loads(p.read_text()) for arm in ARMS for p in sorted(folder.glob(f"{arm}-*.json"))]
    lines = [
        Line(run["arm"], *zip(*run["minutes, loss"], strict=True))
        for run in runs
        if run["seed"] == 0
    ]
    chart = Chart("Held-out loss at a context of 8,192", "minutes", "nats per byte", lines)
    (folder / "curves.svg").write_text(svg(chart))


COLUMNS: dict[str, Column] = {
    "minutes to the dense model's last loss (share)": each(reached),
    "last loss": each(lambda run: f"{run['minutes, loss'][-1][1]:.3f}"),
    "minutes": each(lambda run: f"{run['seconds'] / 60:.0f}"),
    "bytes a second": each(lambda run: f"{run['tokens'] / run['seconds']:,.0f}"),
    "steps": each(lambda run: f"{run['steps']:,}"),
    "parameters": lambda found: f"{found[0]['parameters']:,}",
}

if __name__ == "__main__":
    folder = arms_of(
        learn,
        list(ARMS),
        COLUMNS,
        doc=__doc__,
        file=__file__,
        minutes=20,
        data="a file of text, plain or .xz",
    )
    draw(folder)
