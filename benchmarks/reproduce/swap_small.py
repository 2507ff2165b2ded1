"""A GPT-2 and a Llama, small and trained here, before a swap, after it, and after recovery.

    python benchmarks/reproduce/swap_small.py --minutes 2

Words are bytes of the embedded text (source files of the Python standard library). Models of width
96, 3 layers and 4 heads are trained for --minutes (of the processor) at 128 tokens; then all layers
get random features, learned features or a window of 32, and recover for half as long at 128.
Measured: nats per byte of held-out text at 128 and at 1,024 tokens (GPT-2's positions repeated,
Llama's rotary ones go on); bytes per second, and bytes of state, of generation after 16,384. All
for the original too. Resumable: one JSON per arm and seed; the table says what is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers as hf

import subquad.hf
from subquad.hf.swapping import Features, Looks, extend_positions
from subquad.train.goals import NextToken
from subquad.train.recover import Recovery, layer_errors

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import arms_of, each
from small_models import WORDS, byte_tokens, scratch, spent

SHORT, LONG, FAR, NEW = 128, 1024, 16384, 32
WIDE = {"vocab_size": WORDS, "hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
ENDS = {"bos_token_id": 0, "eos_token_id": 1}
FAMILIES = {
    "gpt2": lambda: hf.GPT2LMHeadModel(
        hf.GPT2Config(vocab_size=WORDS, n_embd=96, n_layer=3, n_head=4, n_positions=SHORT, **ENDS)
    ),
    "llama": lambda: hf.LlamaForCausalLM(
        hf.LlamaConfig(
            **WIDE,
            **ENDS,
            intermediate_size=256,
            num_key_value_heads=2,
            max_position_embeddings=SHORT,
        )
    ),
}
MIXERS: dict[str, Any] = {
    "favor": Features("favor", 128),
    "learned": Features("learned"),
    "window": Looks("Window(32)"),
}
ARMS = [f"{family} {mixer}" for family in FAMILIES for mixer in MIXERS]


def measured(model: Any, goals: list[NextToken]) -> dict[str, float]:
    """Nats per byte at each length."""
    return {str(goal.context): goal.measure(model) for goal in goals}


@torch.no_grad()
def generation(model: Any, ids: torch.Tensor) -> dict[str, float]:
    """Bytes per processor second after a long prompt, and what is kept of it."""
    clock = Clock()
    out = model.generate(
        ids,
        max_new_tokens=1 + NEW,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=2,
        streamer=clock,
        return_dict_in_generate=True,
    )
    begun, first, *_, last = clock.times
    return {
        "seconds of the prompt": first - begun,
        "bytes per second": NEW / (last - first),
        "state": sum(map(_bytes, out.past_key_values.layers)),
    }


class Clock:
    """Processor time before the prompt and after each new byte, as generate() tells of them."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.times.append(time.process_time())

    def end(self) -> None:
        """Nothing is left to write."""


def _bytes(layer: Any) -> int:
    if hasattr(layer, "nbytes"):
        return int(layer.nbytes)
    return sum(t.numel() * t.element_size() for t in (layer.keys, layer.values))


def original(
    family: str, seed: int, args: argparse.Namespace, goals: list[NextToken]
) -> tuple[Any, dict]:
    """A trained model with places for all that is asked of it, and what it does as it is."""
    folder = args.runs / f"{family}-{seed}"
    model, facts = scratch(folder, FAMILIES[family], goals[0], args.minutes, lr=3e-2, seed=seed)
    extend_positions(model, FAR + 2 * NEW)
    told = folder / "original.json"
    if not told.exists():
        prompt = goals[1].valid.repeat(1, 2)[:, :FAR]
        told.write_text(json.dumps({**measured(model, goals), **generation(model, prompt)}))
    return model, {**facts, **json.loads(told.read_text())}


def learn(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Train or read the original, swap, measure, recover, measure."""
    family, mixer = arm.split()
    tokens = byte_tokens(ends=False)
    goals = [NextToken(tokens, None, n, rows=r, seed=seed) for n, r in ((SHORT, 64), (LONG, 16))]
    model, facts = original(family, seed, args, goals)
    found: dict[str, Any] = {"arm": arm, "seed": seed, "original": facts}
    subquad.hf.swap(model, MIXERS[mixer])
    found["swapped"] = {**measured(model, goals), "layer errors": layer_errors(model, goals[0])}
    learns = mixer == "learned"  # only its parts have weights that can imitate
    how = Recovery(steps=1_000_000 * learns, tune_steps=1_000_000, lr=1e-2, seed=seed)
    model, found["recovery"] = spent(args.minutes / 2, model, goals[0], how)
    prompt = goals[1].valid.repeat(1, 2)[:, :FAR]
    found["recovered"] = {
        **measured(model, goals),
        **generation(model, prompt),
        "layer errors": layer_errors(model, goals[0]),
    }
    return found


def _change(name: str, form: str) -> Any:
    """A column: before, swapped (where it was measured) and recovered."""

    def cell(run: dict) -> str:
        parts = (run[when].get(name) for when in ("original", "swapped", "recovered"))
        return " -> ".join(format(part, form) for part in parts if part is not None)

    return each(cell)


COLUMNS = {
    f"nats per byte at {SHORT}": _change(str(SHORT), ".3f"),
    f"at {LONG:,}": _change(str(LONG), ".3f"),
    f"bytes/s after {FAR:,}": _change("bytes per second", ".1f"),
    "bytes of state": _change("state", ",d"),
    "steps of training": each(lambda run: f"{run['original']['steps']:,}"),
    "of recovery": each(lambda run: f"{run['recovery']['tune_steps']:,}"),
}

if __name__ == "__main__":
    arms_of(learn, ARMS, COLUMNS, doc=__doc__, file=__file__, minutes=2, data=None)
