"""Handwritten digits, pixel by pixel: bits per dim of causal models, and pictures that they draw.

    python benchmarks/reproduce/mnist_pixels.py --data mnist10k.npz --minutes 15

Katharopoulos et al., 2020, table 1 (https://arxiv.org/abs/2006.16236), on all of MNIST, 8 layers
and 250 epochs: softmax 0.621, linear 0.644 bits per dim. Here 10,000 pictures, 28 x 28 in raster
order as 784 tokens, and a small model for so many minutes, float32, from the command line. The
test part is scored once, with the weights that validated best; samples are drawn into
OUT/ARM-SEED.png. Resumable: a run folder and a JSON per arm and seed; the table says what is
missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import arms_of, each, subquad, trained

#: words that follow `subquad train lm`
ARMS = {
    "local": ["--arch", "local", "--arch.window", "112"],
    "linear_transformer": ["--arch", "linear_transformer"],
    "transformer": ["--arch", "transformer"],
}
FIELDS = {"dim": 128, "num_layers": 4, "num_heads": 4, "ffn_dim": 512, "dropout": 0}


def learn(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Train one arm, or go on with it, score it and let it draw; what is known of it then."""
    folder = args.runs / f"{arm}-{args.minutes:g}-{seed}"
    words = ["lm", *ARMS[arm], "--data", str(args.data)]
    words += [word for name, value in FIELDS.items() for word in (f"--arch.{name}", str(value))]
    words += ["--task.context", "784", "--train.batch", "8", "--train.lr", "2e-3"]
    words += ["--train.minutes", str(args.minutes), "--train.seed", str(seed)]
    words += ["--train.reports", "4"]
    told = trained(folder, *words)
    subquad("eval", str(folder))
    args.out.mkdir(parents=True, exist_ok=True)
    drawn = args.out / f"{arm}-{seed}.png"
    subquad("generate", str(folder), "--out", str(drawn), "--count", "16")
    scored = json.loads((folder / "evaluations.jsonl").read_text().splitlines()[-1])
    kept = ("parameters", "steps", "tokens", "seconds")
    return {"arm": arm, "seed": seed, **{k: told[k] for k in kept}, "test": scored}


COLUMNS = {
    "bits per dim, test": each(lambda run: f"{run['test']['bits_per_dim']:.3f}"),
    "minutes": each(lambda run: f"{run['seconds'] / 60:.0f}"),
    "pixels seen": lambda found: f"{found[0]['tokens']:,}",
    "parameters": lambda found: f"{found[0]['parameters']:,}",
}

if __name__ == "__main__":
    arms_of(learn, list(ARMS), COLUMNS, doc=__doc__, file=__file__, minutes=15, data="mnist10k.npz")
