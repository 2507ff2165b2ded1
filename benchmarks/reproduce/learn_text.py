"""Does every architecture learn real text? One small budget for each, bits per byte at the end.

    python benchmarks/reproduce/learn_text.py --data enwik8.xz --steps 200

Small: dim 128, 4 layers, 4 heads, ffn 512, context 512, batch 8, bytes, float32. Resumable: a JSON
per architecture and seed; the table is made from those that exist, and says what is missing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ARCHS = ("transformer", "performer", "longformer", "local", "linear_transformer", "hybrid")
FIELDS = {"dim": 128, "num_layers": 4, "num_heads": 4, "ffn_dim": 512, "dropout": 0.0}
OWN = {
    "performer": {"features": 64},
    "longformer": {"windows": "[64]"},
    "local": {"window": 64},
    "hybrid": {"window": 64, "features": 64},
}


def learn(arch: str, seed: int, data: Path, steps: int) -> dict:
    """Train and evaluate one architecture by the command line; its metrics."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        fields = {**FIELDS, **OWN.get(arch, {})}
        flags = [part for name, value in fields.items() for part in (f"--arch.{name}", str(value))]
        command = [sys.executable, "-m", "subquad.cli", "train", "lm", "--arch", arch]
        command += ["--data", str(data), "--out", str(out), *flags, "--task.context", "512"]
        command += ["--train.batch", "8", "--train.lr", "2e-3", "--train.reports", "2"]
        command += ["--train.steps", str(steps), "--train.seed", str(seed)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        lines = [json.loads(x) for x in (out / "metrics.jsonl").read_text().splitlines()]
        evaluate = [sys.executable, "-m", "subquad.cli", "eval", str(out), "--max-bytes", "65536"]
        subprocess.run(evaluate, check=True, stdout=subprocess.DEVNULL)
        score = json.loads((out / "evaluations.jsonl").read_text().splitlines()[-1])
    return {
        "arch": arch,
        "seed": seed,
        "steps": steps,
        "bytes seen": steps * 8 * 512,
        "first loss, bits": next(x["loss"] for x in lines if "loss" in x) / 0.6931471805599453,
        **score,
    }


def main() -> None:
    results = Path(__file__).parents[1] / "results" / "learn_text"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=results)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in range(args.seeds):
        for arch in ARCHS:
            path = args.out / f"{arch}-{seed}.json"
            if path.exists():
                continue
            found = learn(arch, seed, args.data, args.steps)
            path.write_text(json.dumps(found, indent=2) + "\n")
            print(f"wrote {path}", flush=True)
    print(table(args.out))


def table(folder: Path) -> str:
    """What exists, as Markdown; an architecture without a run is named as missing."""
    lines = ["| architecture | seeds | bits per byte, held-out | gzip -9 | bytes seen |"]
    lines.append("|---|---|---|---|---|")
    for arch in ARCHS:
        runs = [json.loads(p.read_text()) for p in sorted(folder.glob(f"{arch}-*.json"))]
        if not runs:
            lines.append(f"| {arch} | 0 | missing | | |")
            continue
        bits = ", ".join(f"{r['bits_per_byte']:.3f}" for r in runs)
        gzip, seen = runs[0]["gzip_bits_per_byte"], runs[0]["bytes seen"]
        lines.append(f"| {arch} | {len(runs)} | {bits} | {gzip:.3f} | {seen:,} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
