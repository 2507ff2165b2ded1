"""Measures training steps of whole language models beside the dense one, and memory over depth.

    python benchmarks/bench_models.py --out benchmarks/results/models.json

6 layers, dim 512, 8 heads, ffn 2048, random bytes, one row, float32, no dropout. A step is forward,
loss over all positions that the model gives, backward, AdamW. Every causal architecture of ours
that costs less than the square of the length takes turns with the dense transformer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from measure import interleaved, main_of, peak

from subquad.bench.parties import architectures
from subquad.bench.party import Size

DENSE = "transformer"
SIZE = Size()
#: as they come, some layers or heads of these look everywhere
SQUARE = ("hybrid", "lite_transformer")


def step_of(name: str, n: int, size: Size) -> Callable[[], object]:
    """A training step of an architecture on one row of n tokens."""
    made = architectures(causal=True)[name].make(size, n)
    model = made.module.train()
    adam = torch.optim.AdamW(model.parameters(), 1e-4)
    ids = torch.randint(0, size.words, (1, n))

    def step() -> None:
        logits = made.call(ids)
        goals = ids[:, -logits.shape[1] :].roll(-1, 1)
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), goals.flatten()).backward()
        adam.step()
        adam.zero_grad()

    return step


def steps(n: int, reps: int, size: Size = SIZE) -> dict:
    """Seconds of a step of all, and how many times faster than the dense one each is."""
    names = [name for name in architectures(causal=True) if name not in SQUARE]
    runs = {name: step_of(name, n, size) for name in names}
    result: dict = {"n": n, "size": vars(size)}
    for kind, seconds in interleaved(runs, dict.fromkeys(runs, reps)).items():
        times = {name: seconds[DENSE] / seconds[name] for name in runs if name != DENSE}
        result[kind] = {"seconds": seconds, "times faster than the dense one": times}
    return result


def depth(n: int, size: Size = SIZE) -> dict:
    """Bytes of a Reformer's step beyond weights, at its depth and at twice that."""
    held = {}
    for layers in (size.layers, 2 * size.layers):
        step = step_of("reformer", n, replace(size, layers=layers))
        step()  # the moments of Adam are there from then on
        weights = _weights(n, replace(size, layers=layers))
        held[layers] = peak(step) - weights  # gradients are as large as weights
    low, high = held.values()
    return {"n": n, "bytes": held, "growth": high / low}


def _weights(n: int, size: Size) -> int:
    made = architectures(causal=True)["reformer"].make(size, n)
    return sum(p.nbytes for p in made.module.parameters())


def report(reps: int, slow_reps: int) -> dict:
    """All that is measured here."""
    return {"steps": steps(16_384, slow_reps), "depth": depth(16_384)}


if __name__ == "__main__":
    main_of(report, __doc__, __file__)
