"""Measures decoding for 32 streams at once: the time of a token, and the state, after any past.

    python benchmarks/bench_decode.py --out benchmarks/results/decode.json

6 layers, dim 512, 8 heads, ffn 2048, float32. The models whose state is bounded take turns at all
lengths; the dense transformer, whose state grows, is beside them where 32 of its states fit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from measure import interleaved, main_of

from subquad.bench.parties import architectures
from subquad.bench.party import Size
from subquad.model import Model
from subquad.nn.state import nbytes, select

STREAMS = 32
BOUNDED = ("performer", "linear_transformer", "local", "transformer_xl", "adaptive_span")
DENSE = "transformer"
SIZE = Size()
#: bytes of the states of 32 streams that a machine is trusted to hold
ROOM = 4 << 30


@torch.no_grad()
def step_of(name: str, n: int, size: Size) -> tuple[Callable[[], object], int]:
    """One token more of every stream after n tokens, and the bytes of the state of one."""
    model = architectures(causal=True)[name].make(size, n).module.eval()
    assert isinstance(model, Model)
    ids = torch.randint(0, size.words, (1, n))
    _, one = model(ids, state=model.init_state(1), last=1)
    every = select(one, torch.zeros(STREAMS, dtype=torch.long))
    last = ids[:, -1:].expand(STREAMS, 1)

    def step() -> object:
        with torch.no_grad():
            return model(last, state=every)[0]

    return step, nbytes(one)


def growth(lengths: list[int], reps: int, size: Size = SIZE) -> dict:
    """Seconds of a step after each length, and bytes of a stream's state; by how much both grow."""
    runs, held = {}, {}
    for n in lengths:
        keys = 2 * 4 * size.layers * size.dim * n * STREAMS
        for name in (*BOUNDED, *((DENSE,) if keys <= ROOM else ())):
            runs[f"{name} {n}"], held[f"{name} {n}"] = step_of(name, n, size)
    result: dict = {"streams": STREAMS, "size": vars(size), "state bytes": held}
    low, high = min(lengths), max(lengths)
    result["state growth"] = {b: held[f"{b} {high}"] / held[f"{b} {low}"] for b in BOUNDED}
    for kind, seconds in interleaved(runs, dict.fromkeys(runs, reps)).items():
        longer = {b: seconds[f"{b} {high}"] / seconds[f"{b} {low}"] for b in BOUNDED}
        result[kind] = {"seconds": seconds, "growth": longer}
    return result


def report(reps: int, slow_reps: int) -> dict:
    """All that is measured here."""
    return growth([1024, 4096, 16_384], reps)


if __name__ == "__main__":
    main_of(report, __doc__, __file__)
