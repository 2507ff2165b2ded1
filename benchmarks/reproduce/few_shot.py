"""Does Reptile learn to learn? 5-way 5-shot on classes never trained on, against plain fine-tuning.

    python benchmarks/reproduce/few_shot.py --steps 2000 --seeds 3

Pictures of one glyph each, 144 classes "colour name", of which 29 are held out by their hash. Both
arms train the same ViT on the others: `reptile` by episodes, `plain` as an ordinary classifier,
on as many rows. Both then adapt alike to the same episodes of held-out classes; fresh weights stand
beside them. Resumable: a run folder and a JSON per arm and seed; the table says what is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import subquad, trained, write

from subquad.data.documents import PARTS
from subquad.data.episodes import held_out
from subquad.data.shapes import coloured_shapes

ARMS = ("reptile", "plain")
WAYS, SHOTS = 5, 5
INNER_STEPS, INNER_BATCH, EPISODES_A_STEP = 8, 10, 4
MODEL = ["--arch", "vit", "--arch.dim", "64", "--arch.num_layers", "3", "--arch.num_heads", "4"]
MODEL += ["--arch.ffn_dim", "256", "--arch.dropout", "0.0", "--task.dropout", "0.0"]


def write_pictures(folder: Path) -> dict[str, Path]:
    """All pictures, and those of the classes that are not held out, each as one file."""
    paths = {name: folder / f"{name}.npz" for name in ("all", "trained")}
    if all(path.exists() for path in paths.values()):
        return paths  # a run goes on with the very files that it was begun with
    folder.mkdir(parents=True, exist_ok=True)
    found = coloured_shapes()
    rows = [(row, number) for number, part in enumerate(PARTS) for row in found.rows[part]]
    held = {*held_out((row["label"] for row, _ in rows), WAYS)}
    for name, path in paths.items():
        some = [(row, n) for row, n in rows if name == "all" or row["label"] not in held]
        labels = sorted({row["label"] for row, _ in some})
        number = {label: i for i, label in enumerate(labels)}
        np.savez(
            path,
            images=np.stack([row["image"] for row, _ in some]),
            label=np.array([number[row["label"]] for row, _ in some]),
            classes=np.array(labels),
            split=np.array([n for _, n in some]),
        )
    return paths


def learn(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Train one arm, or go on with it, and score it; what is known of it then."""
    meta = ["--meta", f"{WAYS},{SHOTS}", "--meta.inner_lr", str(args.inner_lr)]
    meta += ["--meta.adapt_steps", str(args.adapt_steps)]
    # as many rows for both
    batch = {"reptile": EPISODES_A_STEP, "plain": EPISODES_A_STEP * INNER_STEPS * INNER_BATCH}
    own = [*meta, "--meta.inner_steps", str(INNER_STEPS)] if arm == "reptile" else []
    own += ["--meta.inner_batch", str(INNER_BATCH)] if arm == "reptile" else []
    data = write_pictures(args.runs)
    words = ["--data", str(data["all" if arm == "reptile" else "trained"])]
    words += [*MODEL, *own, "--train.batch", str(batch[arm]), "--train.steps", str(args.steps)]
    words += ["--train.seed", str(seed), "--train.reports", "4"]
    folder = args.runs / f"{arm}-{args.steps}-{seed}"
    told = trained(folder, "image", *words)
    score = [*meta, "--meta.episodes", str(args.episodes)]
    subquad("eval", str(folder), "--data", str(data["all"]), *score)
    found = json.loads((folder / "evaluations.jsonl").read_text().splitlines()[-1])
    asked = {"inner_lr": args.inner_lr, "adapt_steps": args.adapt_steps, "batch": batch[arm]}
    about = {"arm": arm, "seed": seed, "steps": args.steps, "seconds of training": told["seconds"]}
    return {**about, **asked, **found}


def main() -> None:
    results = Path(__file__).resolve().parents[1] / "results" / "few_shot"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--inner-lr", type=float, default=1e-3)
    parser.add_argument("--adapt-steps", type=int, default=20)
    parser.add_argument("--runs", type=Path, default=Path("runs") / "few_shot")
    parser.add_argument("--episodes", type=int, default=400, help="that are scored at the end")
    parser.add_argument("--out", type=Path, default=results)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in range(args.seeds):
        for arm in ARMS:
            path = args.out / f"{arm}-{seed}.json"
            if path.exists():
                continue
            found = learn(arm, seed, args)
            write(path, found)
            print(f"wrote {path}", flush=True)
    print(table(args.out))


def table(folder: Path) -> str:
    """What exists, as Markdown; an arm without a run is named as missing."""
    lines = ["| arm | seeds | accuracy, 5-way 5-shot | fresh weights | chance |"]
    lines.append("|---|---|---|---|---|")
    for arm in ARMS:
        runs = [json.loads(p.read_text()) for p in sorted(folder.glob(f"{arm}-*.json"))]
        if not runs:
            lines.append(f"| {arm} | 0 | missing | | |")
            continue
        ours = ", ".join(f"{r['accuracy']:.3f} ± {r['interval']:.3f}" for r in runs)
        fresh = ", ".join(f"{r['accuracy_of_fresh_weights']:.3f}" for r in runs)
        lines.append(f"| {arm} | {len(runs)} | {ours} | {fresh} | {runs[0]['chance']:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
