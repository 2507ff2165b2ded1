"""Spoken digits: recordings of one word each, recognised as text.

    python benchmarks/reproduce/spoken_digits.py --data fsdd_8k.npz --minutes 15

The Free Spoken Digit Dataset (https://github.com/Jakobovski/free-spoken-digit-dataset): 3,000
recordings of six people, 8 kHz, 22 minutes in all; takes 0 to 4 of everyone are the test part, as
the corpus has it, so its voices are known, and a twentieth of the others is the validation part.
`subquad train asr` writes what is said, by word pieces that are whole words here, since a quick
"three" has fewer outputs than letters; a transcript counts if it is exactly right. Small: dim 64, 4
layers, so many minutes for each arm. The test part is scored once, with the weights that validated
best.

Resumable: a run folder and a JSON per arm and seed; the table is made from those that exist.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import arms_of, budget, each, subquad, trained

FIELDS = {"dim": 64, "num_layers": 4, "num_heads": 4, "ffn_dim": 256, "dropout": 0.1}
#: words of the task and of training
HOW = [
    *("--task.tokenizer", "bpe:100", "--task.channels", "32"),
    *("--train.batch", "32", "--train.lr", "3e-3", "--train.warmup", "0.1", "--train.reports", "8"),
]
#: words that follow `subquad train asr`
ARMS = {
    "conformer": ["--arch", "conformer", "--arch.kernel", "7"],
    "performer": ["--arch", "performer", "--arch.features", "64"],
}


def learn(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Train one arm, or go on with it, and score it; what is known of it then."""
    folder = args.runs / f"{arm}-{args.minutes:g}-{seed}"
    words = ["asr", *ARMS[arm], "--data", str(args.data), *HOW]
    words += [word for name, value in FIELDS.items() for word in (f"--arch.{name}", str(value))]
    words += [*budget(args), "--train.seed", str(seed)]
    told = trained(folder, *words)
    subquad("eval", str(folder))
    scored = json.loads((folder / "evaluations.jsonl").read_text().splitlines()[-1])
    kept = ("parameters", "steps", "tokens", "seconds", "numbers", "command")
    return {"arm": arm, "seed": seed, **{k: told[k] for k in kept}, "test": scored}


COLUMNS = {
    "test accuracy, %": each(lambda run: f"{100 * run['test']['exact']:.2f}"),
    "minutes": each(lambda run: f"{run['seconds'] / 60:.0f}"),
    "frames a second": each(lambda run: f"{run['tokens'] / run['seconds']:,.0f}"),
    "parameters": lambda found: f"{found[0]['parameters']:,}",
}

if __name__ == "__main__":
    arms_of(learn, list(ARMS), COLUMNS, doc=__doc__, file=__file__, minutes=15, data="fsdd_8k.npz")
