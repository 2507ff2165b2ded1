"""Blocks that a pattern touches, and the masks of the flex engine that are made of them."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention.flex_attention import create_block_mask
from torch.utils._python_dispatch import TorchDispatchMode

from any_pattern import ANY
from subquad.ops import flex as engine
from subquad.ops import plan as planning
from subquad.ops.flex import block_mask, flex, takes
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
    Segments,
    Strided,
    Window,
)
from subquad.ops.touching import Ends, ends, touches

SIZE = 16


def coords(n: int, m: int, gap: int = 1, batch: int = 1) -> tuple[Coords, Coords]:
    """Coordinates of n queries at the last of m keys, whose positions leave gaps below `gap`."""
    steps = torch.randint(1, gap + 1, (batch, 1, m))
    pos = steps.cumsum(-1) - 1
    k = Coords(pos, pos // 13, torch.rand(batch, 1, m) < 0.05)
    return k.each(lambda t: t[..., m - n :]), k


def blocks(pattern: Pattern, q: Coords, k: Coords) -> tuple[torch.Tensor, ...]:
    """Touched blocks, by their ends; then by asking every pair: some, every, some, every."""
    at = (Ends(*(c.queries() for c in ends(q, SIZE))), Ends(*(c.keys() for c in ends(k, SIZE))))
    found = touches(pattern, *at)
    pairs = pattern.allowed(q.queries(), k.keys())
    n, m = q.pos.shape[-1], k.pos.shape[-1]
    pairs = pairs.expand(q.pos.shape[0], 1, n, m)
    exact = []
    for lacking, ask in ((False, torch.any), (True, torch.all)):
        full = torch.nn.functional.pad(pairs, (0, -m % SIZE, 0, -n % SIZE), value=lacking)
        full = full.unflatten(-1, (-1, SIZE)).unflatten(-3, (-1, SIZE))
        exact.append(ask(ask(full, -1), -2))
    return (*(t.expand_as(exact[0]) for t in found), *exact)


@settings(max_examples=150)
@given(ANY, st.sampled_from([(37, 50), (64, 64), (1, 5), (16, 33)]), st.integers(1, 3))
def test_no_block_is_missed(pattern: Pattern, sizes: tuple[int, int], gap: int):
    some, every, some_exact, every_exact = blocks(pattern, *coords(*sizes, gap, batch=2))
    assert not (some_exact & ~some).any()
    assert not (every & ~every_exact).any()


EXACT = [
    *(Full(), Causal(), Window(7), Window(30, 11), Window(3, -1), Window(0, 0, 9), Strided(7)),
    *(LogSteps(), LogSteps(5), Blocks(5), Blocks(64), Chunks(6, 1), Chunks(16, 0, 1)),
    *(Columns(8, 2, 1), SameLabel(), Marked(), SameLabel() & Causal(), Window(9) | Marked()),
    Causal() & (Window(10) | Strided(16)),
]


@pytest.mark.parametrize("pattern", EXACT, ids=str)
def test_where_positions_run_on_the_blocks_are_exact(pattern: Pattern):
    for n, m in ((37, 50), (64, 64), (70, 130)):
        some, every, some_exact, every_exact = blocks(pattern, *coords(n, m))
        assert torch.equal(some, some_exact)
        assert torch.equal(every, every_exact)


MASKS = [
    *(Full(), Causal(), Window(200, 100), Window(200, 0, 4) | Marked(), Blocks(100) - Window(3)),
    *(SameLabel() & Causal(), Segments(150, 60), RandomBlocks(64, 2), LogSteps(8, restart=300)),
]


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("pattern", MASKS, ids=str)
def test_a_mask_visits_what_torch_would(pattern: Pattern, padded: bool):
    n, m = 300, 450
    q, k = coords(n, m, batch=2)
    where = Where(q, k, torch.rand(2, m) < 0.9 if padded else None)
    if padded:
        where.valid[0, 100:] = False
    mine = block_mask(pattern, where)
    right = create_block_mask(engine._allowed(pattern, where), 2, 1, n, m, device="cpu")
    assert mine.seq_lengths == right.seq_lengths
    visited, needed = (t.to_dense().expand(2, 1, -1, -1).bool() for t in (mine, right))
    assert not (needed & ~visited).any()
    full, allowed = ((_full(t)).expand(2, 1, -1, -1) for t in (mine, right))
    assert not (full & ~allowed).any()


def _full(mask) -> torch.Tensor:
    """Blocks in which no pair is asked."""
    number, order = mask.full_kv_num_blocks, mask.full_kv_indices
    listed = torch.arange(order.shape[-1]) < number.unsqueeze(-1)
    return torch.zeros(order.shape, dtype=torch.bool).scatter(-1, order.long(), listed)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numel = max(self.numel, result.numel())
        return result


def test_a_mask_asks_no_pair():
    n = 1 << 14
    q, k = coords(n, n)
    with Largest() as seen:
        block_mask(Causal() & (Window(256) | Marked()), Where(q, k))
    assert seen.numel <= 2 * max(n, (n // engine.BLOCK + 1) ** 2)


def test_a_mask_is_kept_while_coordinates_stay():
    q, k = coords(140, 140)
    valid = torch.ones(1, 140, dtype=torch.bool)
    first = engine._kept(Window(9), Where(q, k, valid))
    again = Coords(k.pos[:], k.label[:], k.mark[:])  # other objects, the same memory
    assert engine._kept(Window(9), Where(again, again, valid)) is first
    assert engine._kept(Window(8), Where(q, k, valid)) is not first
    assert engine._kept(Window(9), Where(q, k, valid.clone())) is not first
    assert engine._kept(Window(9), Where(q, k)) is not first
    valid[0, 3] = False
    assert engine._kept(Window(9), Where(q, k, valid)) is not first
    for i in range(engine.KEPT + 5):
        engine._kept(Window(i), Where(q, k))
    assert len(engine._masks) == engine.KEPT


@pytest.mark.slow
@pytest.mark.no_poison
@pytest.mark.parametrize(
    "lengths",
    [[(300, 300), (140, 140), (777, 777), (1000, 1000)], [(300, 450), (140, 260), (129, 777)]],
    ids=["itself", "longer past"],
)
def test_one_graph_serves_all_lengths(monkeypatch, lengths: list[tuple[int, int]]):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    with monkeypatch.context() as patch:
        patch.setattr(engine.torch, "compile", partial(torch.compile, backend=backend))
        compiled = engine._run.__wrapped__(True)
    torch._dynamo.reset()
    for n, m in lengths:
        q, k, v = torch.randn(2, 2, n, 16), torch.randn(2, 2, m, 16), torch.randn(2, 2, m, 16)
        at, seen = coords(n, m, batch=2)
        where = Where(seen if n == m else at, seen, torch.rand(2, m) < 0.8)
        outs = []
        for run in (compiled, engine.flex_attention):
            monkeypatch.setattr(engine, "_run", lambda gpu, run=run: run)
            outs.append(flex(q, k, v, Window(64) | Marked(), where, Scoring(0.25)).out)
        assert torch.allclose(*outs, atol=1e-5)
    assert len(graphs) == 1
    torch._dynamo.reset()


@pytest.mark.parametrize("there", [True, False], ids=["triton", "no triton"])
def test_on_a_gpu_the_whole_pattern_is_one_kernel(monkeypatch, there: bool):
    monkeypatch.setattr(planning, "find_spec", lambda name: object() if there else None)
    bias, span = torch.zeros(1, 9), torch.ones(1, 4, 2000)
    with FakeTensorMode(allow_non_fake_inputs=True):
        q = torch.empty(1, 4, 2000, 64, device="cuda")
        pos = torch.empty(1, 1, 2000, dtype=torch.int64, device="cuda")
        where = Where(Coords(pos), Coords(pos))

        def engines(pattern: Pattern, q: torch.Tensor, scoring: Scoring) -> set:
            return {part.engine for part in planning.plan(q, q, pattern, where, scoring)}

        wanted = {flex} if there else {planning.band}
        assert engines(Window(64), q, Scoring(1.0)) == wanted
        assert engines(Window(64), q, Scoring(1.0, Distance(None, None, bias, 0))) == wanted
        assert engines(Window(64), q.double(), Scoring(1.0)) == {planning.band}
        assert engines(Window(64), q, Scoring(1.0, dropout=0.1)) == {planning.band}
        far = Distance(None, None, None, 0, span)
        assert engines(Window(64), q, Scoring(1.0, far)) == {planning.band}
        drawn = engines(RandomBlocks(64, 2) | Window(64), q, Scoring(1.0))
        assert flex not in drawn
    assert not takes(torch.empty(1, 1, 9, 8), Scoring(1.0))
