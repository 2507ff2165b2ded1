"""Speech from scratch: the Conformer on 41 minutes of AN4, and what it loses without its parts.

    python benchmarks/reproduce/an4.py --data an4_16k_flac.tar --arms conformer --minutes 35
    python benchmarks/reproduce/an4.py --data an4_16k_flac.tar --minutes 20 --seeds 2 \\
        --out benchmarks/results/an4_parts

CMU AN4: spelled words, numbers and commands; 948 utterances to train, of which seven speakers are
held out for validation, and 130 of other speakers to test, as published. Small: dim 96, 6 layers, 4
heads, batch 16, characters, CTC, speed and SpecAugment as by default, so many minutes for each arm.
The test part is scored once, with the weights that validated best: by the likeliest letters, and
with beams and 5-grams of letters counted in the training transcripts. Published on LibriSpeech
(https://arxiv.org/abs/2005.08100, table 3, test-other): 4.3, without convolution 4.9, without
macaron 5.0, without relative positions 5.6 % WER.

Resumable: a run folder and a JSON per arm and seed; the table is made from those that exist. A
direction is claimed only where the ranges over seeds do not overlap.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import subquad, trained, write

RESULTS = Path(__file__).resolve().parents[1] / "results" / "an4"

FIELDS = {"dim": 96, "num_layers": 6, "num_heads": 4, "ffn_dim": 384, "kernel": 15, "dropout": 0.1}
#: fields of the Conformer that differ
ARMS = {
    "conformer": {},
    "no convolution": {"conv": "none"},
    "no relative positions": {"position": "none"},
    "single feed-forward": {"wiring": "single"},
}


def learn(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Train one arm, or go on with it, and score it; what is known of it then."""
    folder = args.runs / f"{arm.replace(' ', '_')}-{args.minutes:g}-{seed}"
    words = ["asr", "--arch", "conformer", "--data", str(args.data)]
    for name, value in (FIELDS | ARMS[arm]).items():
        words += [f"--arch.{name}", str(value)]
    words += ["--train.batch", "16", "--train.lr", "2e-3", "--train.minutes", str(args.minutes)]
    words += ["--train.seed", str(seed), "--train.reports", "8"]
    told = trained(folder, *words)
    subquad("eval", str(folder))
    subquad("eval", str(folder), "--lm", "ngram", "--beams", "16")
    lines = (folder / "evaluations.jsonl").read_text().splitlines()
    plain, beams = map(json.loads, lines[-2:])
    kept = ("parameters", "steps", "seconds", "numbers")
    return {"arm": arm, "seed": seed, **{k: told[k] for k in kept}, "test": plain, "beams": beams}


def table(folder: Path) -> str:
    """What exists, as Markdown; what does not, by name."""
    lines = ["| arm | n | WER, % | with 5-grams | CER, % | minutes | parameters |"]
    lines.append("|---|---|---|---|---|---|---|")
    for arm in ARMS:
        name = arm.replace(" ", "_")
        found = [json.loads(p.read_text()) for p in sorted(folder.glob(f"{name}-*.json"))]
        if not found:
            lines.append(f"| {arm} | 0 | missing | | | | |")
            continue
        cells = [
            ", ".join(f"{100 * r[which][what]:.1f}" for r in found)
            for which, what in (("test", "wer"), ("beams", "wer"), ("test", "cer"))
        ]
        minutes = ", ".join(f"{r['seconds'] / 60:.0f}" for r in found)
        size = f"{found[0]['parameters']:,}"
        lines.append(f"| {arm} | {len(found)} | {' | '.join(cells)} | {minutes} | {size} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="an4_16k_flac.tar")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--minutes", type=float, default=20, help="of training, for each arm")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs") / "an4")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    for seed in range(args.seeds):
        for arm in args.arms:
            path = args.out / f"{arm.replace(' ', '_')}-{seed}.json"
            if not path.exists():
                write(path, learn(arm, seed, args))
                print(f"wrote {path}", flush=True)
    text = table(args.out)
    (args.out / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
