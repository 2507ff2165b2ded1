"""The flex engine on a GPU against the dense one: outputs, log-sum-exp and gradients."""

from __future__ import annotations

import pytest
import torch

from subquad.ops.attend import attend
from subquad.ops.dense import dense
from subquad.ops.flex import flex
from subquad.ops.partial import EMPTY, Distance, Scoring, Where
from subquad.ops.pattern import Coords, Pattern
from subquad.ops.patterns import (
    Blocks,
    Causal,
    Chunks,
    Full,
    LogSteps,
    Marked,
    SameLabel,
    Strided,
    Window,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.no_poison,
    # the compilers speak of precision and of the device
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning"),
]

PATTERNS = [
    Full(),
    Causal(),
    Window(100, 50, 2) | Marked(),
    Causal() & (Window(64) | Strided(64)),
    SameLabel() & Causal(),
    Blocks(100) - Window(3),
    Chunks(128, 1),
    LogSteps(8),
]


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_equals_dense(pattern: Pattern, biased: bool):
    n, m = 300, 333
    shapes = [(2, 4, n, 64), (2, 4, m, 64), (2, 4, m, 64)]
    real = [torch.randn(s, device="cuda", requires_grad=True) for s in shapes]
    pos = torch.arange(m, device="cuda").view(1, 1, m)
    mark = torch.rand(2, 1, m, device="cuda") < 0.02
    k = Coords(pos, pos // 100, mark)
    valid = torch.rand(2, m, device="cuda") < 0.9
    where = Where(k.each(lambda t: t[..., m - n :]), k, valid)
    bias = torch.randn(4, 200, device="cuda")
    scoring = Scoring(0.125, Distance(None, None, bias, 90) if biased else None)
    wide = [t.detach().double().requires_grad_() for t in real]
    exact = dense(*wide, pattern, where, scoring)
    found = flex(*real, pattern, where, scoring)
    some = exact.lse > EMPTY / 2
    assert ((found.lse > EMPTY / 2) == some).all()
    grads = torch.randn_like(exact.out), torch.randn_like(exact.lse) * some
    a = torch.autograd.grad((exact.out, exact.lse), wide, grads)
    b = torch.autograd.grad((found.out, found.lse), real, tuple(g.float() for g in grads))
    for x, y in zip(
        (exact.out, exact.lse * some, *a), (found.out, found.lse * some, *b), strict=True
    ):
        # products may run in TF32, whose numbers have 11 bits
        assert (x - y).norm() <= 2e-3 * x.norm()


def test_attend_takes_it_and_compiles_once_for_all_lengths():
    pattern = Window(100) | Marked()
    stance = torch._dynamo.utils.counters
    torch._dynamo.reset()
    counts = []
    for n in (700, 1500, 999, 3000):
        q, k, v = (torch.randn(1, 4, n, 64, device="cuda", requires_grad=True) for _ in range(3))
        pos = torch.arange(n, device="cuda").view(1, 1, n)
        at = Coords(pos, None, pos % 300 == 0)
        out = attend(q, k, v, pattern, where=(at, at))
        grads = torch.autograd.grad(out.sum(), (q, k, v))
        wide = [t.detach().double().requires_grad_() for t in (q, k, v)]
        exact = dense(*wide, pattern, Where(at, at), Scoring(0.125)).out
        right = torch.autograd.grad(exact.sum(), wide)
        for x, y in zip((exact, *right), (out, *grads), strict=True):
            assert (x - y).norm() <= 2e-3 * x.norm()
        counts.append(stance["stats"]["unique_graphs"])
    assert counts[0] == counts[-1]
