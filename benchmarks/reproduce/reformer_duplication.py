"""Reformer's duplication task 0w0w: trained with some rounds of hashing, evaluated with others.

    python benchmarks/reproduce/reformer_duplication.py --seeds 2
    python benchmarks/reproduce/reformer_duplication.py --length 512 --window 4 --batch 8 \\
        --arms full LSH-4 --out benchmarks/results/reformer_duplication_255

The paper's table 2 (https://arxiv.org/abs/2001.04451): |w| = 511, 127 symbols, one layer, dim = ffn
= 256, 4 heads, 150,000 steps. Shrunk here: |w| = 63 (255 in the second form, whose rounds see less
of the sequence), a few hundred steps. The numbers are the share of right symbols in the second w,
the right ones before them given. Resumable: one JSON per arm and seed; the table is made from those
that exist.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import subquad as sq

RESULTS = Path(__file__).parents[1] / "results" / "reformer_duplication"

#: rounds in training; None is attention to everything
ARMS: dict[str, int | None] = {"full": None, "LSH-4": 4, "LSH-2": 2, "LSH-1": 1}
EVALUATED: dict[str, int | None] = {"full": None, "LSH-8": 8, "LSH-4": 4, "LSH-2": 2, "LSH-1": 1}
#: per cent, the paper's table 2
PAPER = {
    "full": [100, 94.8, 92.5, 76.9, 52.5],
    "LSH-4": [0.8, 100, 99.9, 99.4, 91.9],
    "LSH-2": [0.8, 100, 99.9, 98.1, 86.8],
    "LSH-1": [0.8, 99.9, 99.6, 94.8, 77.9],
}


def learn(rounds: int | None, seed: int, args: argparse.Namespace) -> dict:
    """Train one arm by the command line; its accuracies under every number of rounds."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        fields = {"layers": "[lsh]", "num_layers": 1, "dim": 256, "ffn_dim": 256, "num_heads": 4}
        fields |= {"rounds": "null" if rounds is None else rounds, "buckets": "[8]"}
        fields |= {"window": args.window, "dropout": 0, "wiring": "pre", "seed": seed}
        task = {"kind": "duplication", "length": args.length, "symbols": 127, "position": "learned"}
        train = {"steps": args.steps, "batch": args.batch, "lr": "2e-3", "reports": 4, "seed": seed}
        train |= {"schedule": "constant_with_warmup"}
        command = [sys.executable, "-m", "subquad.cli", "train", "synthetic", "--arch", "reformer"]
        for group, given in (("arch", fields), ("task", task), ("train", train)):
            command += [f"--{group}.{name}={value}" for name, value in given.items()]
        begun = time.monotonic()
        subprocess.run([*command, "--out", str(out)], check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - begun
        run = sq.load(out)
        return {
            "command": " ".join(["python", *command[1:]]),
            "seconds": round(seconds, 1),
            "steps": args.steps,
            "length": args.length,
            "window": args.window,
            "batch": args.batch,
            "torch": torch.__version__,
            "accuracy": {name: score(run, r) for name, r in EVALUATED.items()},
        }


def score(run, rounds: int | None) -> dict:
    """Accuracies on 500 unseen sequences with so many rounds in every layer."""
    for module in run.model.modules():
        if isinstance(module, sq.nn.HashedAttention):
            module.set_rounds(rounds)
    return run.task.evaluate_on(run.model, None, run.facts["data"], count=500).numbers


def table(folder: Path) -> str:
    """Ours (the mean over seeds, and the range) beside the paper's, missing arms by name."""
    lines = [f"| trained \\ evaluated | n | {' | '.join(EVALUATED)} |"]
    lines.append("|---" * (2 + len(EVALUATED)) + "|")
    for arm in ARMS:
        runs = [json.loads(p.read_text()) for p in sorted(folder.glob(f"{arm}-seed*.json"))]
        cells = []
        for name in EVALUATED:
            found = [100 * r["accuracy"][name]["token_accuracy"] for r in runs]
            spread = f" ({min(found):.1f} to {max(found):.1f})" if len(found) > 1 else ""
            cells.append(f"{sum(found) / len(found):.1f}{spread}" if found else "missing")
        lines.append(f"| {arm} | {len(runs)} | {' | '.join(cells)} |")
        lines.append(f"| {arm}, paper | | {' | '.join(str(x) for x in PAPER[arm])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=128, help="2 (|w| + 1)")
    parser.add_argument("--window", type=int, default=16, help="keys of a round")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in range(args.seeds):
        for arm in args.arms:
            path = args.out / f"{arm}-seed{seed}.json"
            if not path.exists():
                path.write_text(json.dumps(learn(ARMS[arm], seed, args), indent=2) + "\n")
                print(f"wrote {path.name}", flush=True)
    text = table(args.out)
    (args.out / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
