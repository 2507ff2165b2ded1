"""Perceiver AR copies what lies far outside its latents, and takes a step over 131,072 positions.

    python benchmarks/reproduce/perceiver_ar_copy.py [--length 1024]  # train, score, table
    python benchmarks/reproduce/perceiver_ar_copy.py --step 131072    # a step of the paper's model

The paper's copy task (arXiv 2202.07765, section 4.1; released code): random symbols, then the same
backwards. Paper: 131,072 positions, 1,024 latents, 6 layers of width 1,024, 25,000 steps of batch
4,096: 100 %. Ours: 256 positions or more, the latents a quarter of them, 16 symbols, one layer of
width 64 after the cross-attention with one head, 102,784 parameters, sinusoidal positions as in the
released code. Three choices make it quick: weights begin at a standard deviation of
1 / sqrt(width), not 0.02; symbols enter at 3 / sqrt(width), so that positions are the louder part;
embedding and head are not tied.

Scored on 1,000 unseen palindromes: every answer right, the right ones before them given (which
is what greedy generation gives as long as it is right), and 50 of them generated through the
streaming state from the first half alone. Each with half, as many, and twice as many latents as in
training. Resumable: a run folder and a JSON per length and seed.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import write

import subquad as sq
from subquad.data.puzzles import Puzzles
from subquad.hf import SubquadForCausalLM
from subquad.model import build
from subquad.nn.init import initialise
from subquad.nn.losses import IGNORED
from subquad.tasks.synthetic import Synthetic, SyntheticConfig
from subquad.train.config import TrainConfig
from subquad.train.fit import fit

HERE = Path(__file__).resolve().parents[1]
SYMBOLS, WIDTH = 16, 64
FIELDS = {
    "dim": WIDTH,
    "num_layers": 1,
    "num_heads": 4,
    "cross_heads": 1,
    "ffn_dim": 4 * WIDTH,
    "position": "none",
    "dropout": 0.0,
}
TRAIN = {"batch": 16, "lr": 4e-3, "weight_decay": 0.0, "warmup": 0.1, "reports": 6}


class Palindromes(Synthetic):
    """The task `synthetic`, its model begun wider and untied, the best by whole palindromes."""

    metric = "exact_match"

    def build(self, arch: str, fields: dict[str, Any]) -> SubquadForCausalLM:
        config = super().build(arch, fields).config
        config.tie_word_embeddings = False
        config.stem = {**config.stem, "scale": 3.0}
        model = SubquadForCausalLM(config)
        initialise(model.model, WIDTH**-0.5)
        return model


def learn(seed: int, length: int, steps: int, folder: Path) -> dict[str, Any]:
    """Train one seed, or go on with it; what its run folder says."""
    task = Palindromes(SyntheticConfig("copy", length, SYMBOLS, valid_count=512))
    config = TrainConfig(steps=steps, seed=seed, **TRAIN)
    fields = {**FIELDS, "latents": length // 4}
    return fit(task, "perceiver_ar", fields, config, folder, resume=folder.exists())


@torch.no_grad()
def score(folder: Path, latents: int, count: int, seed: int) -> dict[str, float]:
    """Exact matches of unseen palindromes, and the loss in nats of an answer."""
    run = sq.load(folder, latents=latents)
    items = run.task.items("test", count, seed)
    exact = nats = answers = 0.0
    start = time.perf_counter()
    for first in range(0, count, 20):
        rows = [items[i] for i in range(first, min(first + 20, count))]
        ids, goal = (torch.stack([row[k] for row in rows]) for k in ("input_ids", "targets"))
        logits, asked = run.model(input_ids=ids).logits, goal != IGNORED
        exact += float(((logits.argmax(-1) == goal) | ~asked).all(1).sum())
        nats += float(F.cross_entropy(logits[asked], goal[asked], reduction="sum"))
        answers += float(asked.sum())
    seconds = time.perf_counter() - start
    return {"exact match": exact / count, "nats": nats / answers, "seconds": round(seconds, 1)}


@torch.no_grad()
def generated(folder: Path, count: int, seed: int) -> float:
    """The share of palindromes whose second half comes out of generate(), a token at a time."""
    run = sq.load(folder)
    items = run.task.items("test", count, seed)
    words = torch.stack([torch.from_numpy(items.sequence(i)[0]) for i in range(count)])
    half = words.shape[1] // 2
    begin = torch.full((count, 1), items.words.boundary)
    prompt = torch.cat((begin, words[:, :half]), 1)
    out = run.model.generate(prompt, max_new_tokens=half, do_sample=False, eos_token_id=None)
    return float((out[:, half + 1 :] == words[:, half:]).all(1).float().mean())


def palindromes(args: argparse.Namespace) -> None:
    length = args.length
    for seed in range(args.seeds):
        name = f"{length}-seed-{seed}"
        path, folder = args.out / f"{name}.json", args.runs / name
        if path.exists():
            continue
        facts = learn(seed, length, args.steps, folder)
        by_latents = {
            str(latents): score(folder, latents, args.count, seed)
            for latents in (length // 8, length // 4, length // 2)
        }
        found = {
            "seed": seed,
            "positions": length,
            "outside the latents": 0.75,
            "symbols": SYMBOLS,
            "parameters": facts["parameters"],
            "fields": FIELDS,
            "train": {"steps": facts["steps"], **TRAIN},
            "seconds of training": facts["seconds"],
            "palindromes": args.count,
            "by latents": by_latents,
            "generated exactly, of 50": generated(folder, 50, seed),
        }
        write(path, found)
        print(f"wrote {path}", flush=True)


def one_step(length: int) -> dict[str, Any]:
    """One training step of the paper's copy model; 256 symbols and 3 more, Adam 3e-4."""
    torch.manual_seed(0)
    preset = vars(sq.ARCHS["perceiver_ar"].PRESETS["copy-131072"])
    began = time.perf_counter()
    model = build("perceiver_ar", preset, vocab_size=259, stem={"position": "sinusoidal"}).train()
    adam = torch.optim.Adam(model.parameters(), 3e-4)
    row = Puzzles("copy", length, 256, count=1, seed=0, part="train")[0]
    ids, goal = row["input_ids"][None], row["targets"][None]
    built = time.perf_counter()
    y, _ = model(ids)
    loss = F.cross_entropy(y.flatten(0, 1), goal[:, -y.shape[1] :].flatten())
    forward = time.perf_counter()
    loss.backward()
    backward = time.perf_counter()
    adam.step()
    done = time.perf_counter()
    finite = all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    return {
        "positions": length,
        "latents": y.shape[1],
        "parameters": sum(p.numel() for p in model.parameters()),
        "dtype": str(y.dtype).removeprefix("torch."),
        "loss": loss.item(),
        "gradients are finite": finite,
        "seconds": {
            "forward": round(forward - built, 1),
            "backward": round(backward - forward, 1),
            "optimizer": round(done - backward, 1),
            "step": round(done - built, 1),
            "building": round(built - began, 1),
        },
        "peak resident GiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def table(folder: Path) -> str:
    """What exists, as Markdown."""
    import json

    lines = ["| positions | seed | latents | exact match | nats of an answer | generated |"]
    lines.append("|---|---|---|---|---|---|")
    for path in sorted(folder.glob("*-seed-*.json")):
        found = json.loads(path.read_text())
        for latents, row in found["by latents"].items():
            trained = 4 * int(latents) == found["positions"]
            made = found["generated exactly, of 50"] if trained else ""
            cells = f"{row['exact match']:.4f} | {row['nats']:.2e} | {made}"
            lines.append(f"| {found['positions']} | {found['seed']} | {latents} | {cells} |")
    return "\n".join(lines if len(lines) > 2 else [*lines, "| missing |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "perceiver_ar_copy")
    parser.add_argument("--runs", type=Path, default=Path("runs") / "perceiver_ar_copy")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--length", type=int, default=256, help="positions, a multiple of 8")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--count", type=int, default=1000, help="unseen palindromes")
    parser.add_argument("--step", type=int, metavar="N", help="only one step over N positions")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.step:
        found = one_step(args.step)
        write(args.out / f"step-{args.step}.json", found)
        print(found)
        return
    palindromes(args)
    print(table(args.out))


if __name__ == "__main__":
    main()
