"""Speech from scratch: the Conformer on 41 minutes of AN4, and what it loses without its parts.

    python benchmarks/reproduce/an4.py --data an4_16k_flac.tar --arms conformer --steps 15000
    python benchmarks/reproduce/an4.py --data an4_16k_flac.tar --minutes 20 --seeds 2 \\
        --out benchmarks/results/an4_parts

CMU AN4: spelled words, numbers and commands; 948 utterances to train, of which seven speakers are
held out for validation, and 130 of other speakers to test, as published. Small: dim 96, 4 layers, 4
heads, 32 channels in the stem, batch 8, characters, CTC, speed and SpecAugment as by default, so
many minutes, or steps, for each arm. Without the paper's relative positions the stem adds absolute
ones. Word pieces were tried with 6 layers and batch 16.
The test part is scored once, with the weights that validated best: by the likeliest letters, and
with beams and 8-grams of letters counted in the training transcripts, at the weight and bonus of
four that are best on the validation part. Published on LibriSpeech
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
from measure import Column, arms_of, budget, each, subquad, trained

#: words of the task, the sizes and training
HOW = [
    *("--task.channels", "32", "--arch.dim", "96", "--arch.num_layers", "4"),
    *("--arch.num_heads", "4", "--arch.ffn_dim", "384", "--arch.kernel", "15"),
    *("--arch.dropout", "0.1", "--train.batch", "8", "--train.lr", "2e-3"),
    *("--train.warmup", "0.1", "--train.reports", "8", "--task.ngram", "8"),
]
#: words of a search, and how much the language model and each token may count
LM = ["--lm", "ngram", "--beams", "16"]
RANKS = [
    ("--lm-weight", weight, "--bonus", bonus)
    for weight, bonus in (("0.3", "0.3"), ("0.5", "0.5"), ("0.8", "1"), ("1.2", "1.5"))
]
#: words that differ
ARMS = {
    "conformer": [],
    "no convolution": ["--arch.conv", "none"],
    "no relative positions": ["--arch.position", "none"],
    "single feed-forward": ["--arch.wiring", "single"],
    "word pieces": [
        *("--task.tokenizer", "unigram:100", "--arch.num_layers", "6", "--train.batch", "16"),
    ],
}


def learn(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Train one arm, or go on with it, and score it; what is known of it then."""
    long = f"{args.minutes:g}" if args.steps is None else f"{args.steps}_steps"
    folder = args.runs / f"{arm.replace(' ', '_')}-{long}-{seed}"
    words = ["asr", "--arch", "conformer", "--data", str(args.data), *HOW, *ARMS[arm]]
    words += [*budget(args), "--train.seed", str(seed)]
    told = trained(folder, *words)
    plain = scored(folder)
    tried = {how: scored(folder, "--part", "valid", *LM, *how) for how in RANKS}
    best = min(tried, key=lambda how: tried[how]["wer"])
    beams = {"how": " ".join(best), **scored(folder, *LM, *best)}
    kept = ("parameters", "steps", "tokens", "seconds", "numbers", "command")
    return {"arm": arm, "seed": seed, **{k: told[k] for k in kept}, "test": plain, "beams": beams}


def scored(folder: Path, *words: str) -> dict:
    """What `subquad eval` finds with these words."""
    subquad("eval", str(folder), *words)
    return json.loads((folder / "evaluations.jsonl").read_text().splitlines()[-1])


def rate(which: str, what: str) -> Column:
    """A rate with its interval, in percent."""

    def cell(run: dict) -> str:
        found, low, high = (100 * run[which][f"{what}{end}"] for end in ("", "_low", "_high"))
        return f"{found:.1f} ({low:.1f} to {high:.1f})"

    return each(cell)


COLUMNS = {
    "WER, %": rate("test", "wer"),
    "with n-grams": rate("beams", "wer"),
    "CER, %": rate("test", "cer"),
    "minutes": each(lambda run: f"{run['seconds'] / 60:.0f}"),
    "frames a second": each(lambda run: f"{run['tokens'] / run['seconds']:,.0f}"),
    "parameters": lambda found: f"{found[0]['parameters']:,}",
}

if __name__ == "__main__":
    arms_of(
        learn,
        list(ARMS),
        COLUMNS,
        doc=__doc__,
        file=__file__,
        minutes=20,
        data="an4_16k_flac.tar",
    )
