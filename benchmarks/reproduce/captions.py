"""Captions of scenes: is a colour named right on a shape that never had it in training?

    python benchmarks/reproduce/captions.py --seeds 2

Made-up scenes of one to three things (`subquad.data.scenes`): a tenth of all pairs of a colour and
a name never stands in the 20,000 pictures of the training part. A patch encoder and a decoder, dim
128, 3 and 2 layers, 4 heads, ffn 512, patches of 16 x 16, batch 64, trained from scratch by the
command line. Scored on the test part, written greedily: captions that are right to the last letter,
apart for scenes with a held-out pair and without one. Resumable: a run folder and a JSON per arm
and seed; the table says what is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import subquad as sq
from subquad.data.examples import Examples
from subquad.data.scenes import held_out
from subquad.tasks.caption import scenes
from subquad.tasks.task import Share

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import trained, write

RESULTS = Path(__file__).resolve().parents[1] / "results" / "captions"

#: the mixer that the encoder's layers use
ARMS = {"full": {"mixer": "full"}, "linear": {"mixer": "linear"}}


def learn(arm: str, seed: int, steps: int, folder: Path) -> dict:
    """Train one arm, or go on with it, and score it; what is known of it then."""
    words = ["--arch.dim", "128", "--arch.encoder_layers", "3", "--arch.decoder_layers", "2"]
    words += ["--arch.num_heads", "4", "--arch.ffn_dim", "512", "--arch.dropout", "0"]
    words += ["--task.patch", "16", "--arch.encoder", "vit"]
    words += ["--arch.encoder_fields", json.dumps(ARMS[arm])]
    words += ["--train.batch", "64", "--train.lr", "1e-3", "--train.steps", str(steps)]
    words += ["--train.seed", str(seed), "--train.reports", "6"]
    told = trained(folder, "caption", *words)
    kept = ("parameters", "steps", "seconds", "command")
    return {"arm": arm, "seed": seed, **{k: told[k] for k in kept}, "test": score(folder)}


def score(folder: Path) -> dict:
    """Numbers of the test part: scenes with a held-out pair, and those without."""
    run, rows = sq.load(folder), scenes().rows["test"]
    parts: dict[str, list] = {"held out": [], "taught": []}
    for row in (rows[i] for i in range(len(rows))):
        new = any(held_out(thing.colour, thing.name) for thing in row["objects"])
        parts["held out" if new else "taught"].append(row)
    return {
        name: run.task.score(
            run.model, Examples({"test": some}, f"scenes, {name}", name), "test", None, Share()
        ).numbers
        for name, some in parts.items()
    }


def table(folder: Path) -> str:
    """What exists, as Markdown; what does not, by name."""
    lines = [
        "| encoder | n | exact, %, held-out pairs | exact, %, taught pairs | steps | minutes |"
    ]
    lines.append("|---|---|---|---|---|---|")
    for arm in ARMS:
        found = [json.loads(p.read_text()) for p in sorted(folder.glob(f"{arm}-*.json"))]
        if not found:
            lines.append(f"| {arm} | 0 | missing | | | |")
            continue
        exact = [
            ", ".join(f"{100 * r['test'][part]['exact_match']:.1f}" for r in found)
            for part in ("held out", "taught")
        ]
        steps = ", ".join(f"{r['steps']:,}" for r in found)
        minutes = ", ".join(f"{r['seconds'] / 60:.0f}" for r in found)
        lines.append(f"| {arm} | {len(found)} | {' | '.join(exact)} | {steps} | {minutes} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arms", nargs="+", default=["full"], choices=ARMS)
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs") / "captions")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    for seed in range(args.seeds):
        for arm in args.arms:
            path = args.out / f"{arm}-{seed}.json"
            if not path.exists():
                write(path, learn(arm, seed, args.steps, args.runs / f"{arm}-{seed}"))
                print(f"wrote {path}", flush=True)
    text = table(args.out)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
