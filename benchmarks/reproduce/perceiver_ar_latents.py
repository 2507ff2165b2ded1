"""More latents at test time: more compute and less loss, with the same weights?

    python benchmarks/reproduce/perceiver_ar_latents.py --data enwik8.xz

Perceiver AR (arXiv 2202.07765, section 5.2) claims it of images. Here bytes of text: dim 128, 4
layers, 4 heads, ffn 512, context 1,024, trained with 256 latents and scored with 32 to 1,024 by the
command line (`subquad eval RUN --arch.latents L`), each byte once, in windows of 1,024 that advance
by 512. Positions have L / 2 + 1 to L latents, from the start of a window on as many as there are.
Resumable: a run folder and a JSON per seed; the table is made from those that exist.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import subquad, trained, write

HERE = Path(__file__).resolve().parents[1]
TRAINED, LATENTS = 256, (32, 64, 128, 256, 512, 1024)
FIELDS = {
    "dim": 128,
    "num_layers": 4,
    "num_heads": 4,
    "ffn_dim": 512,
    "latents": TRAINED,
    "dropout": 0.0,
}


def train(seed: int, data: Path, steps: int, folder: Path) -> None:
    """Train one seed, or go on with it."""
    words = ["lm", "--arch", "perceiver_ar", "--data", str(data)]
    for name, value in FIELDS.items():
        words += [f"--arch.{name}", str(value)]
    words += ["--task.context", "1024", "--task.valid_bytes", "16384", "--train.batch", "16"]
    words += ["--train.lr", "2e-3", "--train.steps", str(steps), "--train.seed", str(seed)]
    trained(folder, *words, "--train.reports", "3")


def score(folder: Path, latents: int, limit: int) -> dict:
    """Bits per byte with so many latents, and the seconds it took."""
    subquad("eval", str(folder), "--max-bytes", str(limit), "--arch.latents", str(latents))
    row = json.loads((folder / "evaluations.jsonl").read_text().splitlines()[-1])
    return {name: row[name] for name in ("bits_per_byte", "seconds", "bytes", "protocol")}


def table(folder: Path) -> str:
    """What exists, as Markdown."""
    lines = ["| seed | latents | bits per byte, held-out | seconds |", "|---|---|---|---|"]
    for path in sorted(folder.glob("seed-*.json")):
        found = json.loads(path.read_text())
        for latents, row in found["by latents"].items():
            name = f"{latents}, as trained" if int(latents) == TRAINED else latents
            bits = f"{row['bits_per_byte']:.4f}"
            lines.append(f"| {found['seed']} | {name} | {bits} | {row['seconds']} |")
    return "\n".join(lines if len(lines) > 2 else [*lines, "| missing |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "perceiver_ar_latents")
    parser.add_argument("--runs", type=Path, default=Path("runs") / "perceiver_ar_latents")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--limit", type=int, default=65_536, help="bytes to score")
    args = parser.parse_args()
    for seed in range(args.seeds):
        path, folder = args.out / f"seed-{seed}.json", args.runs / f"seed-{seed}"
        if path.exists():
            continue
        train(seed, args.data, args.steps, folder)
        by_latents = {str(latents): score(folder, latents, args.limit) for latents in LATENTS}
        write(path, {"seed": seed, "steps": args.steps, "fields": FIELDS, "by latents": by_latents})
    print(table(args.out))


if __name__ == "__main__":
    main()
