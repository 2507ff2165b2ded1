"""Honest cost: counted FLOPs and measured peak memory at N and 2N grow as the engines declare."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from peak import peak
from subquad.ops.attend import attend
from subquad.ops.band import band
from subquad.ops.columns import columns
from subquad.ops.drawn import drawn
from subquad.ops.gather import gather
from subquad.ops.marked import marked
from subquad.ops.partial import Distance, Scoring, Where
from subquad.ops.pattern import Coords, Pattern
from subquad.ops.patterns import (
    Blocks,
    Causal,
    Chunks,
    Columns,
    Full,
    LogSteps,
    Marked,
    RandomBlocks,
    SameLabel,
    Strided,
    Window,
)
from subquad.ops.shifts import shifts

pytestmark = [pytest.mark.no_poison, pytest.mark.usefixtures("one_thread")]

H, D = 2, 16


def inputs(n: int, m: int | None = None, dv: int = D) -> list[Tensor]:
    m = m or n
    return [torch.randn(1, H, x, w, requires_grad=True) for x, w in ((n, D), (m, D), (m, dv))]


def place(n: int, m: int | None = None) -> Where:
    m = m or n
    pos = torch.arange(m).view(1, 1, m)
    at = Coords(pos, pos // 1000, pos < 5)
    return Where(at.each(lambda t: t[..., m - n :]), at)


def counted(run: Callable[[], Tensor]) -> tuple[int, int]:
    """FLOPs of the forward, and of both passes."""
    with FlopCounterMode(display=False) as forward:
        out = run()
    with FlopCounterMode(display=False) as backward:
        out.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


def plain(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, rel: Tensor | None) -> Tensor:
    """The same mathematics pair by pair: one row of a product for every allowed pair."""
    i, j = allowed.nonzero(as_tuple=True)
    outs = []
    for h in range(q.shape[1]):
        s = torch.bmm(q[0, h, i, None], k[0, h, j, :, None])
        if rel is not None:
            s = s + torch.bmm(rel[0, h, i, None], torch.ones_like(k[0, h, j, :, None]).clone())
        outs.append(torch.bmm(s, v[0, h, j, None]))
    return torch.stack(outs)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize(("n", "m"), [(50, 50), (20, 50)])
@pytest.mark.parametrize(
    ("engine", "pattern"),
    [
        (band, Window(7, 2)),
        (band, Window(5, 0, 3)),
        (band, Causal() & (Strided(4) - Window(9))),
        (band, Full()),
        (band, Causal()),
        (shifts, LogSteps(2)),
        (shifts, Causal() & LogSteps(3, 16)),
        (gather, LogSteps()),
        (columns, Columns(6, 2)),
        (columns, Causal() & (Columns(9, 2, 1) - Blocks(9))),
        (drawn, RandomBlocks(4, 3)),
        (drawn, Causal() & (RandomBlocks(3, 2, 8) - Blocks(9))),
    ],
)
def test_flops_are_those_of_the_allowed_pairs(engine, pattern: Pattern, n, m, relative: bool):
    q, k, v = inputs(n, m, dv=5)
    rel = torch.randn_like(q).requires_grad_() if relative else None
    distance = Distance(rel, torch.randn(H, 9, D), None, 4) if relative else None
    where = place(n, m)
    forward, backward = counted(lambda: engine(q, k, v, pattern, where, Scoring(0.3, distance)).out)
    allowed = where.allowed(pattern)[0, 0]
    once, twice = counted(lambda: plain(q, k, v, allowed, rel))
    assert forward == once
    # ours forms the scores again, and the table has a gradient that `plain` has no table for
    again = 2 * H * int(allowed.sum()) * D
    assert backward == twice + again * (3 if relative else 1)


ENGINES = [
    (band, Window(64, 64), 2.0),
    (band, Window(16, 0, 8), 2.0),
    (band, Causal() & Strided(256), 4.0),
    (band, Causal(), 4.0),
    (shifts, LogSteps(), 2.0 * 13 / 12),
    (gather, LogSteps(), 2.0 * 13 / 12),
    (marked, Marked(), 2.0),
    (columns, Causal() & (Columns(64, 8) - Blocks(64)), 4.0),
    (drawn, RandomBlocks(64, 3), 2.0),
]


@pytest.mark.parametrize(("engine", "pattern", "factor"), ENGINES)
def test_flops_grow_as_declared(engine, pattern: Pattern, factor: float):
    counts = []
    for n in (2048, 4096):
        args = inputs(n)
        counts.append(
            sum(counted(lambda a=args, n=n: engine(*a, pattern, place(n), Scoring(1.0)).out))
        )
    assert 0.93 * factor <= counts[1] / counts[0] <= 1.05 * factor


def test_peak_sees_what_is_freed_again():
    def run() -> None:
        torch.empty(1 << 20).sum()
        torch.empty(1 << 20).sum()

    assert 4 << 20 <= peak(run) < 5 << 20


@pytest.mark.parametrize(
    ("engine", "pattern"),
    [
        *((engine, pattern) for engine, pattern, _ in ENGINES if engine is not band),
        (band, Window(64, 64)),
        (band, Causal() & (Strided(64) - Window(64))),
        (band, SameLabel() & Causal()),
        (attend, Window(64, 64) | Marked()),
        (attend, Causal() & (Window(64) | Strided(128))),
        (attend, Causal() & (Blocks(64) | Columns(64, 8))),
        (attend, Chunks(64, 1, 1) | RandomBlocks(64, 3) | Marked()),
    ],
)
def test_memory_grows_no_faster_than_the_length(engine, pattern: Pattern):
    """Tiles have a fixed size, so what is left of twice the length is at most twice the memory."""

    def run(n: int) -> int:
        args, where = inputs(n), place(n)

        def both() -> None:
            if engine is attend:
                out = attend(*args, pattern, where=(where.q, where.k))
            else:
                out = engine(*args, pattern, where, Scoring(0.25)).out
            torch.autograd.grad(out.sum(), args)

        both()
        return peak(both)

    n = 2048
    small, large = run(n), run(2 * n)
    longer = 13 / 12 if pattern == LogSteps() else 1.0  # one more key for every query
    assert large <= 2.1 * longer * small
    # the matrix of one head alone would take N x N floats
    assert large < 0.5 * 4 * (2 * n) ** 2 * H


def test_shifts_never_hold_the_listed_keys():
    """At most 4 x (N, H, K) floats beyond inputs, output and gradients."""
    n, heads, width = 16384, 4, 64
    args = [torch.randn(1, heads, n, width, requires_grad=True) for _ in range(3)]
    where = place(n)

    def run() -> None:
        out = shifts(*args, LogSteps(), where, Scoring(0.1)).out
        torch.autograd.grad(out.sum(), args)

    columns = 15
    results = 4 * 4 * heads * n * width  # out and three gradients
    grad_of_sum = 4 * heads * n * width
    assert peak(run) - results - grad_of_sum < 4 * 4 * n * heads * columns
