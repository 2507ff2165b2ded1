"""Measures patterns beside what people use in their place: LogSparse, strided, fixed, windows.

    python benchmarks/bench_patterns.py --out benchmarks/results/patterns.json

B = 1, 8 heads of 64, float32, without projections. LogSparse runs beside torch's attention under a
mask of N x N; strided, fixed and windows beside torch's causal attention, which keeps no matrix;
the window also beside local-attention, whose exact window of 256 sees as many tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as nnf
from bench_kernel import exact, party
from measure import MODES, compared, held, main_of

import subquad as sq

PATTERNS = {
    "strided": sq.Causal() & (sq.Window(128) | sq.Strided(128)),
    "fixed": sq.Causal() & (sq.Blocks(128) | sq.Columns(128, 32)),
    "window": sq.Window(256),
}


def over(pattern: sq.ops.pattern.Pattern) -> Callable[..., torch.Tensor]:
    return lambda q, k, v: sq.attend(q, k, v, pattern)


def masked(pattern: sq.ops.pattern.Pattern, n: int) -> Callable[..., torch.Tensor]:
    """torch's attention, told by a matrix of booleans what may be seen."""
    at = torch.arange(n)
    allowed = pattern.allowed(sq.Coords(at[:, None]), sq.Coords(at[None]))
    return lambda q, k, v: nnf.scaled_dot_product_attention(q, k, v, attn_mask=allowed)


def local_attention() -> Callable[..., torch.Tensor]:
    from local_attention import LocalAttention

    # without a width it turns no queries, as ours does not
    return LocalAttention(window_size=256, causal=True, autopad=True, exact_windowsize=True)


def against_masked(n: int, reps: int, slow: int) -> dict:
    """LogSparse steps beside the same steps as a mask: time, and memory."""
    attends = {"ours": over(sq.LogSteps()), "masked": masked(sq.LogSteps(), n)}
    found = compared(n, attends, party, {"ours": reps, "masked": slow})
    return {**found, **held_at(n)}


def held_at(n: int) -> dict:
    """Peak bytes of LogSparse steps, also for each of the N log2 N keys of a head."""
    found = held(n, {"ours": over(sq.LogSteps())}, party)
    keys = n * (n.bit_length() - 1)
    per_key = {mode: found[f"ours {mode}"] / keys for mode in MODES}
    return {"peak bytes": found, "bytes per key": per_key}


def against_dense(name: str, n: int, reps: int, slow: int) -> dict:
    """One pattern beside torch's causal attention."""
    attends = {"ours": over(PATTERNS[name]), "exact": exact}
    return compared(n, attends, party, {"ours": reps, "exact": slow})


def against_local(n: int, reps: int) -> dict:
    """A causal window of 256 beside local-attention."""
    return compared(n, {"ours": over(PATTERNS["window"]), "local": local_attention()}, party, reps)


def report(reps: int, slow_reps: int) -> dict:
    """All that is measured here."""
    n = 16_384
    return {
        "logsparse": against_masked(n, reps, slow_reps),
        "strided": against_dense("strided", n, reps, slow_reps),
        "fixed": against_dense("fixed", n, reps, slow_reps),
        "window": against_local(n, reps),
        "window at 1,024": against_dense("window", 1024, reps, reps),
    }


if __name__ == "__main__":
    main_of(report, __doc__, __file__)
