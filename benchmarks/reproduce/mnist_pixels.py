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
from measure import subquad, trained, write

RESULTS = Path(__file__).resolve().parents[1] / "results" / "mnist_pixels"

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


def table(folder: Path) -> str:
    """What exists, as Markdown; what does not, by name."""
    lines = ["| arm | n | bits per dim, test | minutes | pixels seen | parameters |"]
    lines.append("|---|---|---|---|---|---|")
    for arm in ARMS:
        found = [json.loads(p.read_text()) for p in sorted(folder.glob(f"{arm}-[0-9]*.json"))]
        if not found:
            lines.append(f"| {arm} | 0 | missing | | | |")
            continue
        bits = ", ".join(f"{r['test']['bits_per_dim']:.3f}" for r in found)
        minutes = ", ".join(f"{r['seconds'] / 60:.0f}" for r in found)
        seen, size = found[0]["tokens"], found[0]["parameters"]
        lines.append(f"| {arm} | {len(found)} | {bits} | {minutes} | {seen:,} | {size:,} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="mnist10k.npz")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--minutes", type=float, default=15, help="of training, for each arm")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs") / "mnist_pixels")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    for seed in range(args.seeds):
        for arm in args.arms:
            path = args.out / f"{arm}-{seed}.json"
            if not path.exists():
                write(path, learn(arm, seed, args))
                print(f"wrote {path}", flush=True)
    text = table(args.out)
    (args.out / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
