"""Long documents and lists, classified: IMDB by bytes and by subwords, ListOps short and long.

    python benchmarks/reproduce/long_range.py --data FOLDER [--arms bytes subwords] [--seeds 1]

FOLDER holds imdb.train.25000.jsonl.xz and imdb.test.25000.jsonl.xz; ListOps is made as it is
needed. Published, of Long Range Arena (https://arxiv.org/abs/2011.04006, table 1): Text (bytes,
4,000 at most) Transformer 64.27, Performer 65.40, Linear Transformer 65.90 %; ListOps (500 to 2,000
tokens) Transformer 36.37, Reformer 37.27 %. Longformer, pretrained, on whole reviews: 95.7 %
(https://arxiv.org/abs/2004.05150, table 7). Ours is trained from scratch, and small. Resumable: a
run folder and a JSON per arm and seed; the test part is scored once, with the weights that
validated best.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import subquad, trained, write

RESULTS = Path(__file__).resolve().parents[1] / "results" / "long_range"

#: words that follow `subquad train classify`
ARMS = {
    "bytes": [  # strings of 3 to 5 bytes have vectors too: bytes alone stay at chance for an hour
        *("--arch", "local", "--arch.dim", "64", "--arch.num_layers", "2"),
        *("--arch.num_heads", "4", "--arch.ffn_dim", "128", "--arch.window", "32"),
        *("--arch.dropout", "0", "--task.ngrams", "[3,4,5]", "--task.dropout", "0.3"),
        *("--task.lra", "text", "--task.context", "4001", "--train.batch", "16"),
        *("--train.weight_decay", "0.1"),
    ],
    "listops-short": [
        *("--arch", "transformer", "--arch.dim", "128", "--arch.num_layers", "4"),
        *("--arch.num_heads", "4", "--arch.ffn_dim", "256", "--arch.dropout", "0"),
        *("--task.lra", "listops-short", "--task.context", "200", "--train.batch", "32"),
    ],
    "listops": [
        *("--arch", "performer", "--arch.dim", "128", "--arch.num_layers", "4"),
        *("--arch.num_heads", "4", "--arch.ffn_dim", "256", "--arch.dropout", "0"),
        *("--arch.features", "64", "--task.lra", "listops", "--task.context", "2000"),
        *("--train.batch", "16"),
    ],
    "subwords": [
        *("--arch", "longformer", "--arch.dim", "128", "--arch.num_layers", "1"),
        *("--arch.num_heads", "4", "--arch.ffn_dim", "256", "--arch.windows", "[32]"),
        *("--arch.dropout", "0.1", "--task.tokenizer", "bpe:8000", "--task.context", "1024"),
        *("--task.dropout", "0.3", "--train.batch", "32", "--train.weight_decay", "0.1"),
    ],
}


def learn(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Train one arm, or go on with it, and score it; what is known of it then."""
    folder = args.runs / f"{arm}-{seed}"
    # as LRA the folder; as rows the two files of it
    files = ",".join(str(args.data / f"imdb.{part}.25000.jsonl.xz") for part in ("train", "test"))
    data = str(args.data) if "--task.lra" in ARMS[arm] else files
    words = ["classify", *ARMS[arm]]
    words += [] if "listops" in arm else ["--data", data]
    words += ["--train.minutes", str(args.minutes), "--train.seed", str(seed)]
    words += ["--train.reports", "6", "--task.valid_rows", "1000", "--train.lr", "2e-3"]
    told = trained(folder, *words)
    subquad("eval", str(folder), "--part", "test")
    scored = json.loads((folder / "evaluations.jsonl").read_text().splitlines()[-1])
    kept = ("parameters", "steps", "tokens", "seconds", "command")
    return {"arm": arm, "seed": seed, **{k: told[k] for k in kept}, "test": scored}


def table(folder: Path) -> str:
    """What exists, as Markdown; what does not, by name."""
    lines = ["| arm | n | test accuracy, % | minutes | about tokens seen | parameters |"]
    lines.append("|---|---|---|---|---|---|")
    for arm in ARMS:
        found = [json.loads(p.read_text()) for p in sorted(folder.glob(f"{arm}-[0-9]*.json"))]
        if not found:
            lines.append(f"| {arm} | 0 | missing | | | |")
            continue
        scores = ", ".join(f"{100 * r['test']['accuracy']:.2f}" for r in found)
        minutes = ", ".join(f"{r['seconds'] / 60:.0f}" for r in found)
        seen, size = found[0]["tokens"], found[0]["parameters"]
        lines.append(f"| {arm} | {len(found)} | {scores} | {minutes} | {seen:,} | {size:,} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--minutes", type=float, default=20, help="of training, for each arm")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs") / "long_range")
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
