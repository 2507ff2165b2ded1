"""A RoBERTa, small and trained here on rows of 128, extended to 4,096 tokens.

    python benchmarks/reproduce/swap_masked.py --minutes 2

Words are bytes of the embedded text (source files of the Python standard library). A masked
language model of width 96, 3 layers and 4 heads, its positions begun as sinusoids, is trained for
--minutes (of the processor) at 128 tokens; its positions are repeated to 4,096. Arms: `exact` keeps
its attention, `window` looks at 32 tokens to each side and the first one, `learned` has kernel
features. Each recovers for half as long at 4,096 tokens. Measured: nats per hidden byte of
held-out text at 128 and at 4,096 tokens, before recovery and after. Resumable: one JSON per arm and
seed; the table says what is missing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
import transformers as hf

import subquad.hf
from subquad.hf.swapping import Exact, Features, Looks, extend_positions
from subquad.train.goals import HiddenToken
from subquad.train.recover import Recovery

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import arms_of, each
from small_models import WORDS, byte_tokens, scratch, spent

SHORT, LONG = 128, 4096
ARMS: dict[str, Any] = {
    "exact": Exact(),
    "window": Looks("Window(32, 32)", first=True),
    "learned": Features("learned"),
}


def make() -> Any:
    """The model, with places for SHORT tokens."""
    config = hf.RobertaConfig(
        vocab_size=WORDS,
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=384,
        max_position_embeddings=SHORT + 3,
        pad_token_id=2,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.05,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    made = hf.RobertaForMaskedLM(config)
    places = made.roberta.embeddings.position_embeddings.weight
    # neighbours are found from the start: with random places and small weights, bytes stay at the
    # loss of their own counts for longer than there is time
    at = torch.arange(len(places))[:, None] * 1000.0 ** -(torch.arange(48) / 48)
    with torch.no_grad():
        places.copy_(0.3 * torch.cat((at.sin(), at.cos()), 1))
    return made


def learn(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Train or read the original, extend, swap, measure, recover, measure."""
    tokens = byte_tokens(ends=True)
    goals = [HiddenToken(tokens, None, n, rows=r, seed=seed) for n, r in ((SHORT, 64), (LONG, 8))]

    def measured() -> dict[str, float]:
        return {str(goal.context): goal.measure(model) for goal in goals}

    how = {"batch": 32, "lr": 2e-2, "seed": seed}
    model, facts = scratch(args.runs / f"roberta-{seed}", make, goals[0], args.minutes, **how)
    facts[str(SHORT)] = goals[0].measure(model)
    found: dict[str, Any] = {"arm": arm, "seed": seed, "original": facts}
    found["positions"] = extend_positions(model, LONG)
    subquad.hf.swap(model, ARMS[arm])
    found["swapped"] = measured()
    learns = arm == "learned"  # only its parts have weights that can imitate
    how = Recovery(steps=1_000_000 * learns, tune_steps=1_000_000, batch=2, lr=1e-2, seed=seed)
    model, found["recovery"] = spent(args.minutes / 2, model, goals[1], how)
    found["recovered"] = measured()
    return found


def _at(when: str, length: int) -> Any:
    return each(lambda run: f"{run[when][str(length)]:.3f}")


COLUMNS = {
    f"trained, at {SHORT}": _at("original", SHORT),
    f"swapped, at {SHORT}": _at("swapped", SHORT),
    f"swapped, at {LONG:,}": _at("swapped", LONG),
    f"recovered, at {SHORT}": _at("recovered", SHORT),
    f"recovered, at {LONG:,}": _at("recovered", LONG),
    "steps of training": each(lambda run: f"{run['original']['steps']:,}"),
    "of recovery": each(lambda run: f"{run['recovery']['tune_steps']:,}"),
}

if __name__ == "__main__":
    arms_of(learn, list(ARMS), COLUMNS, doc=__doc__, file=__file__, minutes=2, data=None)
