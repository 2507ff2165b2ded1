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
from measure import arms_of, budget, each, subquad, trained

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
    "listops": [  # its root stands first, so the mark's own window, read alone, tells most of all
        *("--arch", "local", "--arch.dim", "64", "--arch.num_layers", "4"),
        *("--arch.num_heads", "4", "--arch.ffn_dim", "128", "--arch.window", "16"),
        *("--arch.dropout", "0", "--task.lra", "listops", "--task.context", "2000"),
        *("--task.position", "learned", "--task.pool", "first", "--train.batch", "8"),
    ],
    "listops-performer": [
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
    words += [*budget(args), "--train.seed", str(seed)]
    words += ["--train.reports", "6", "--task.valid_rows", "1000", "--train.lr", "2e-3"]
    told = trained(folder, *words)
    subquad("eval", str(folder), "--part", "test")
    scored = json.loads((folder / "evaluations.jsonl").read_text().splitlines()[-1])
    kept = ("parameters", "steps", "tokens", "seconds", "command")
    known = {"arm": arm, "seed": seed, **{k: told[k] for k in kept}}
    return {**known, "curve": curve(folder), "test": scored}


def curve(folder: Path) -> list[dict]:
    """Validation accuracy as training went."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    kept = ("step", "tokens", "seconds", "eval_accuracy")
    return [{k: line[k] for k in kept} for line in lines if "eval_accuracy" in line]


COLUMNS = {
    "test accuracy, %": each(lambda run: f"{100 * run['test']['accuracy']:.2f}"),
    "minutes": each(lambda run: f"{run['seconds'] / 60:.0f}"),
    "about tokens seen": lambda found: f"{found[0]['tokens']:,}",
    "parameters": lambda found: f"{found[0]['parameters']:,}",
}

if __name__ == "__main__":
    arms_of(learn, list(ARMS), COLUMNS, doc=__doc__, file=__file__, minutes=20, data="the folder")
