"""The operators as torch sees them: opcheck, gradcheck, compile, autocast, reproducible dropout."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from subquad.ops.attend import attend
from subquad.ops.band import band
from subquad.ops.columns import columns
from subquad.ops.dense import dense
from subquad.ops.drawn import drawn
from subquad.ops.gather import gather
from subquad.ops.marked import marked, rows
from subquad.ops.partial import Distance, Scoring, Where, merge
from subquad.ops.pattern import Coords, Pattern, PerHead
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

pytestmark = pytest.mark.usefixtures("one_thread")

OPS = {
    "band": (torch.ops.subquad.band.default, "Window(3, 2)", [3, 2, 1]),
    "band over strides": (torch.ops.subquad.band.default, "", [4, 0, 3]),
    "shifts": (torch.ops.subquad.shifts.default, "LogSteps()", [0]),
    "gather": (torch.ops.subquad.gather.default, "LogSteps()", [1]),
    "marked": (torch.ops.subquad.marked.default, "Marked()", []),
    "drawn": (torch.ops.subquad.drawn.default, "RandomBlocks(2, 2)", [2, 2, 0]),
    "columns": (torch.ops.subquad.columns.default, "(Causal() & Columns(3, 1))", [3, 1, 0]),
    "rows": (torch.ops.subquad.rows.default, "Causal()", []),
}


def place(n: int, m: int, batch: int = 1) -> Where:
    pos = torch.arange(m).view(1, 1, m).expand(batch, 1, m)
    mark = torch.zeros(batch, 1, m, dtype=torch.bool)
    mark[..., [1, m - 2]] = True
    k = Coords(pos, pos // 9, mark)
    return Where(k.each(lambda t: t[..., m - n :]), k)


@pytest.mark.parametrize("distances", [False, True])
@pytest.mark.parametrize("name", OPS)
def test_opcheck(name: str, distances: bool):
    """Schema, fake kernel, autograd and tracing with symbolic shapes agree with the real thing."""
    op, text, numbers = OPS[name]
    n, m = 7, 9
    q, k, v, r = (torch.randn(2, 2, x, w) for x, w in ((n, 4), (m, 4), (m, 3), (n, 4)))
    table, bias = torch.randn(2, 8, 4), torch.randn(1, 8)
    real = [t.requires_grad_() for t in (q, k, v, r, table, bias)]
    where = place(n, m, 2)
    packed = [torch.stack((c.pos, c.label, c.mark.long())) for c in (where.q, where.k)]
    listed = where.q.mark if name == "rows" else None
    seed = torch.tensor(3) if distances else None
    rel = real[3:] if distances else [None] * 3
    valid = torch.ones(2, m, dtype=torch.bool)
    numbers = (text, numbers, 0.5, 0.25 if distances else 0.0, 4)
    ends = (torch.rand(2, 2, n) * 5).requires_grad_() if distances else None
    args = (*real[:3], *packed, valid, seed, *rel, listed, *numbers)
    torch.library.opcheck(op, (*args, ends, 2.5) if distances else args)


@pytest.mark.parametrize(
    ("engine", "pattern"),
    [
        (band, Window(2, 1)),
        (band, Causal() & Strided(2)),
        (shifts, LogSteps()),
        (gather, LogSteps()),
        (marked, Marked()),
        (columns, Causal() & Columns(3, 2)),
        (drawn, RandomBlocks(2, 2)),
    ],
)
def test_gradcheck_of_output_and_log_sum_exp(engine, pattern: Pattern):
    n, m = 4, 6
    where = place(n, m)
    shapes = [(1, 2, n, 3), (1, 2, m, 3), (1, 2, m, 2), (1, 2, n, 3), (2, 5, 3), (1, 5)]
    real = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    real.append((torch.rand(1, 2, n).double() * 3 + 0.1).requires_grad_())

    def run(q, k, v, r, table, bias, ends):
        distance = Distance(r, table, bias, 2, ends, 2.75)
        scoring = Scoring(0.5, distance, 0.3, torch.tensor(1))
        return tuple(engine(q, k, v, pattern, where, scoring))

    assert torch.autograd.gradcheck(run, real)


COMPILED = [
    Causal() & (Window(8) | LogSteps() | Marked()),
    SameLabel() & Causal(),
    Causal() & (Blocks(8) | Columns(8, 2)),
    Chunks(16, 1, 1) | RandomBlocks(16, 2) | Marked(),
    PerHead((1, Window(4) | Strided(64)), (1, Full())),
]


@pytest.mark.no_poison
@pytest.mark.parametrize("pattern", COMPILED)
def test_compiles_to_one_graph_for_many_lengths(pattern: Pattern):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    def run(q, k, v, mark):
        pos = torch.arange(q.shape[2]).view(1, 1, -1)
        at = Coords(pos, pos // 50, mark)
        return attend(q, k, v, pattern, where=(at, at))

    compiled = torch.compile(run, backend=counter, fullgraph=True, dynamic=True)
    counts = []
    for n in (300, 333):
        real = [torch.randn(2, 2, n, 8, requires_grad=True) for _ in range(3)]
        mark = torch.rand(2, 1, n) < n / 10_000  # another number of marks each time
        outs = [f(*real, mark) for f in (compiled, run)]
        grads = [torch.autograd.grad(out.square().sum(), real) for out in outs]
        for a, b in zip((outs[0], *grads[0]), (outs[1], *grads[1]), strict=True):
            assert torch.allclose(a, b, atol=1e-5)
        counts.append(counter.frame_count)
    assert counts[0] == counts[1]


@pytest.mark.parametrize("pattern", [Window(30, 30) | Marked(), Causal() & LogSteps()])
def test_autocast_takes_the_low_dtype_and_keeps_gradients_wide(pattern: Pattern):
    where = place(300, 300)
    real = [torch.randn(1, 2, 300, 8, requires_grad=True) for _ in range(3)]
    with torch.autocast("cpu", torch.bfloat16):
        out = attend(*real, pattern, where=(where.q, where.k))
    assert out.dtype == torch.bfloat16
    grads = torch.autograd.grad(out.float().square().sum(), real)
    exact = attend(*real, pattern, where=(where.q, where.k))
    wanted = torch.autograd.grad(exact.square().sum(), real)
    for a, b in zip((out, *grads), (exact, *wanted), strict=True):
        assert (a - b).norm() <= 0.02 * b.norm()
    assert {g.dtype for g in grads} == {torch.float32}


def test_dropout_is_a_function_of_its_seed():
    q = torch.randn(1, 2, 64, 8)

    def run(seed: int) -> torch.Tensor:
        return attend(q, q, q, Causal(), dropout=0.4, seed=torch.tensor(seed))

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    mean = torch.stack([run(i) for i in range(60)]).mean(0)
    exact = attend(q, q, q, Causal())
    assert (mean - exact).norm() < 0.2 * exact.norm()


def test_merged_parts_equal_the_whole():
    where = place(50, 50)
    q = torch.randn(1, 2, 50, 8, dtype=torch.float64)
    parts = [Window(3), Causal() - Window(3), Full() - Causal()]
    whole = merge([dense(q, q, q, p, where, Scoring(0.3)) for p in parts])
    expected = dense(q, q, q, Full(), where, Scoring(0.3))
    assert (whole.out - expected.out).abs().max() < 1e-12
    assert (whole.lse - expected.lse).abs().max() < 1e-12


def test_rows_run_under_compile():
    torch._dynamo.reset()
    where = place(40, 40)
    q = torch.randn(1, 2, 40, 8)

    def run(q):
        return rows(q, q, q, where.q.mark, Full(), where, Scoring(0.3)).out

    out = torch.compile(run, backend="eager", fullgraph=True)(q)
    assert torch.equal(out, run(q))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((1, 2, 5, 4), (1, 2, 5, 3), (1, 2, 5, 3)), "queries are 4 wide and keys 3"),
        (((1, 2, 5, 4), (1, 2, 4, 4), (1, 2, 4, 4)), "5 queries and 4 keys"),
        (((1, 3, 5, 4), (1, 2, 5, 4), (1, 2, 5, 4)), "divide those of the queries"),
        (((1, 2, 5, 4), (1, 2, 5, 4), (1, 2, 6, 4)), "must agree but for the width"),
        (((2, 5, 4), (2, 5, 4), (2, 5, 4)), "must be (batch, heads, length, width)"),
    ],
)
def test_attend_names_shapes_that_do_not_fit(shapes, message: str):
    with pytest.raises(ValueError) as error:
        attend(*(torch.zeros(s) for s in shapes), Full())
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("coords", "message"),
    [
        ((torch.arange(4).view(1, 1, 4), None), "the queries a pos of shape (1, 1, 4); it must"),
        ((torch.arange(5), None), "pos of shape (5,); it must be (2 or 1, 3 or 1, 5)"),
        ((torch.arange(5).expand(2, 2, 5), None), "pos of shape (2, 2, 5)"),
        ((torch.arange(5).expand(1, 1, 5), torch.zeros(4, 1, 5)), "label of shape (4, 1, 5)"),
    ],
)
def test_attend_names_coordinates_that_do_not_fit(coords, message: str):
    q = torch.zeros(2, 3, 5, 4)
    with pytest.raises(ValueError) as error:
        attend(q, q, q, Full(), where=(Coords(*coords), Coords(torch.arange(5).view(1, 1, 5))))
    assert message in str(error.value)
    with pytest.raises(ValueError, match="the keys a "):
        attend(q, q, q, Full(), where=(Coords(torch.arange(5).view(1, 1, 5)), Coords(*coords)))


def test_attend_names_a_wrong_valid():
    q = torch.zeros(1, 2, 5, 4)
    with pytest.raises(ValueError, match=r"bool of shape \(1, 5\).*float32 of shape \(1, 4\)"):
        attend(q, q, q, Full(), valid=torch.ones(1, 4))
