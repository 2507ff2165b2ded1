"""Proteins and chorales: perplexity per residue and NLL per frame, Performer and two others.

    python benchmarks/reproduce/sequences.py --data DATA --steps 500

DATA holds bio/ecoli_k12_UP000000625.fasta.xz (split 80/10/10 by a hash of the accession) and
music/jsb_chorales_16th.npz (its own split). Small: dim 64, 3 layers, 4 heads, ffn 256, context 256,
batch 8, float32, the same steps for every architecture; scored on the whole test part, documents
apart. Beside them stands the unigram model: the frequencies of the training part, one added to
each. Resumable: a JSON per data, architecture and seed; the table is made from those that exist and
says what is missing. The Performer paper's TrEMBL numbers are of another corpus and of models of 36
layers: they are printed to see the scale, not to be compared.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

DATA = {
    "ecoli": ("bio/ecoli_k12_UP000000625.fasta.xz", "perplexity"),
    "jsb": ("music/jsb_chorales_16th.npz", "nll_per_frame"),
}
FIELDS = {"dim": 64, "num_layers": 3, "num_heads": 4, "ffn_dim": 256, "dropout": 0.1}
#: name -> architecture and its own fields; the paper's Performer for proteins has ReLU features
ARMS = {
    "transformer": ("transformer", {}),
    "performer": ("performer", {"features": 64}),
    "performer_relu": ("performer", {"features": 64, "kernel": "relu"}),
    "local": ("local", {"window": 64}),
}
#: perplexity on TrEMBL, causal: Choromanski et al., 2021, table 2
PAPER = {"unigram": 17.80, "transformer": 9.37, "performer_relu": 9.17}


def learn(data: str, arm: str, seed: int, root: Path, steps: int) -> dict:
    """Train and evaluate one architecture by the command line; what it scored."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        arch, own = ARMS[arm]
        fields = {**FIELDS, **own}
        flags = [part for name, value in fields.items() for part in (f"--arch.{name}", str(value))]
        command = ["train", "lm", "--arch", arch, *flags, "--out", str(out)]
        command += ["--data", str(root / DATA[data][0]), "--task.context", "256"]
        command += ["--task.valid_bytes", "16384", "--train.batch", "8", "--train.lr", "3e-3"]
        command += ["--train.steps", str(steps), "--train.seed", str(seed), "--train.reports", "4"]
        run = [sys.executable, "-m", "subquad.cli"]
        subprocess.run([*run, *command], check=True, stdout=subprocess.DEVNULL)
        subprocess.run([*run, "eval", str(out)], check=True, stdout=subprocess.DEVNULL)
        score = json.loads((out / "evaluations.jsonl").read_text().splitlines()[-1])
        facts = json.loads((out / "run.json").read_text())
        del score["seconds"]  # the steps are what is equal, not the time
    spent = {"steps": steps, "tokens trained": facts["tokens"]}
    about = {"machine": platform.machine(), "versions": facts["versions"]}
    words = shown(command, root, out)
    return {"data": data, "arm": arm, "seed": seed, **spent, **score, **about, "command": words}


def shown(command: list[str], root: Path, out: Path) -> str:
    """The command, without the places of this machine."""
    text = "subquad " + " ".join(command)
    return text.replace(str(root), "DATA").replace(str(out), "RUN")


def unigram(data: str, root: Path) -> dict:
    """The test part under the frequencies of the training part, one added to each."""
    import numpy as np

    from subquad.data.readers import open_documents

    documents = open_documents(str(root / DATA[data][0]))
    train, test = (
        np.bincount(
            np.frombuffer(b"".join(documents.take(part).documents()), np.uint8),
            minlength=documents.kind.words.count,
        )
        for part in ("train", "test")
    )
    nats = -(test * np.log((train + 1) / (train + 1).sum())).sum()
    numbers = documents.kind.measure(float(nats), int(test.sum()), documents.take("test"))
    return {"data": data, "arm": "unigram", "seed": 0, "steps": 0, **numbers}


def table(folder: Path) -> str:
    """What exists, as Markdown; an arm without a run is named as missing."""
    lines = ["| data | model | metric | n | median | smallest to largest | steps | paper, TrEMBL |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for data, (_, metric) in DATA.items():
        for arm in ("unigram", *ARMS):
            runs = [json.loads(p.read_text()) for p in sorted(folder.glob(f"{data}-{arm}-*.json"))]
            paper = PAPER.get(arm, "") if metric == "perplexity" else ""
            start = f"| {data} | {arm} | {metric.replace('_', ' ')} | {len(runs)} "
            if not runs:
                lines.append(f"{start}| missing | | | {paper} |")
                continue
            found = sorted(run[metric] for run in runs)
            steps = ", ".join(map(str, sorted({run["steps"] for run in runs})))
            middle = (found[len(found) // 2] + found[(len(found) - 1) // 2]) / 2
            spread = f"{found[0]:.3f} to {found[-1]:.3f}"
            lines.append(f"{start}| {middle:.3f} | {spread} | {steps} | {paper} |")
    return "\n".join(lines)


def main() -> None:
    results = Path(__file__).parents[1] / "results" / "sequences"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of real data")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=results)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    arms = [(data, "unigram", 0) for data in DATA]
    arms += [(d, a, seed) for seed in range(args.seeds) for d in DATA for a in ARMS]
    for data, arm, seed in arms:
        path = args.out / f"{data}-{arm}-{seed}.json"
        if path.exists():
            continue
        base = arm == "unigram"
        found = unigram(data, args.data) if base else learn(data, arm, seed, args.data, args.steps)
        assert math.isfinite(found[DATA[data][1]])
        path.write_text(json.dumps(found, indent=2) + "\n")
        print(f"wrote {path}", flush=True)
    text = table(args.out)
    (args.out / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
