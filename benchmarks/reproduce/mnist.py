"""Handwritten digits by ViT with different mixers: test accuracy after the same steps.

    python benchmarks/reproduce/mnist.py --data mnist10k.npz --seeds 3

10,000 pictures of MNIST, 28 x 28, split as the file says; patches of 4 x 4, so 49 tokens. Small:
dim 64, 4 layers, 4 heads, ffn 256, batch 64, float32, shifts of up to 2 pixels in training, the
mean of all patches, the same steps for every mixer; scored on the whole test part. Nothing is
chosen by the test part: the best weights are those of the validation part. Resumable: a JSON per
mixer and seed; the table is made from those that exist, and says what is missing.

49 tokens are too few for a mixer to be faster than full attention: what is compared is what they
learn.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

FIELDS = {"dim": 64, "num_layers": 4, "num_heads": 4, "ffn_dim": 256, "dropout": 0.0}
#: mixer -> its own fields; a window reaches one row of 7 patches up and down, and one patch more
MIXERS = {
    "full": {},
    "local": {"window": 8},
    "kernel": {"features": 32},
    "linear": {},
}


def learn(mixer: str, seed: int, data: Path, steps: int) -> dict:
    """Train and evaluate one mixer by the command line; what it scored."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        fields = {**FIELDS, "mixer": mixer, **MIXERS[mixer]}
        flags = [part for name, value in fields.items() for part in (f"--arch.{name}", str(value))]
        command = ["train", "image", "--arch", "vit", *flags, "--data", str(data)]
        command += ["--out", str(out), "--task.patch", "4", "--task.shift", "2"]
        command += ["--task.dropout", "0", "--train.batch", "64", "--train.lr", "2e-3"]
        command += ["--train.steps", str(steps), "--train.seed", str(seed), "--train.reports", "5"]
        run = [sys.executable, "-m", "subquad.cli"]
        subprocess.run([*run, *command], check=True, stdout=subprocess.DEVNULL)
        subprocess.run([*run, "eval", str(out)], check=True, stdout=subprocess.DEVNULL)
        score = json.loads((out / "evaluations.jsonl").read_text().splitlines()[-1])
        facts = json.loads((out / "run.json").read_text())
        del score["seconds"]  # the steps are what is equal, not the time
    spent = {"steps": steps, "parameters": facts["parameters"], "best step": facts["best_step"]}
    about = {"machine": platform.machine(), "versions": facts["versions"]}
    words = "subquad " + " ".join(command).replace(str(data), "DATA").replace(str(out), "RUN")
    return {"mixer": mixer, "seed": seed, **spent, **score, **about, "command": words}


def table(folder: Path) -> str:
    """What exists, as Markdown; a mixer without a run is named as missing."""
    lines = ["| mixer | n | median test accuracy | smallest to largest | parameters | steps |"]
    lines.append("|---|---|---|---|---|---|")
    for mixer in MIXERS:
        runs = [json.loads(p.read_text()) for p in sorted(folder.glob(f"{mixer}-*.json"))]
        if not runs:
            lines.append(f"| {mixer} | 0 | missing | | | |")
            continue
        found = [run["accuracy"] for run in runs]
        steps = ", ".join(map(str, sorted({run["steps"] for run in runs})))
        spread = f"{min(found):.4f} to {max(found):.4f}"
        lines.append(
            f"| {mixer} | {len(runs)} | {statistics.median(found):.4f} | {spread} "
            f"| {runs[0]['parameters']:,} | {steps} |"
        )
    return "\n".join(lines)


def main() -> None:
    results = Path(__file__).parents[1] / "results" / "mnist"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="mnist10k.npz")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--mixers", default=",".join(MIXERS), help="only some of them")
    parser.add_argument("--out", type=Path, default=results)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in range(args.seeds):
        for mixer in args.mixers.split(","):
            path = args.out / f"{mixer}-{seed}.json"
            if path.exists():
                continue
            found = learn(mixer, seed, args.data, args.steps)
            path.write_text(json.dumps(found, indent=2) + "\n")
            print(f"wrote {path}", flush=True)
    text = table(args.out)
    (args.out / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
