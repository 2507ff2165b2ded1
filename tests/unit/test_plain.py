"""Every operator equals its statement in plain torch, wherever a mixer calls it.

The mixers of the catalog call all operators; each call is run both ways.

Axes: B batch, N tokens.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from catalog import MIXERS, context, inputs, mixer
from subquad.nn.features import PositiveRandomFeatures
from subquad.ops.columns import columns
from subquad.ops.gather import gather_listed
from subquad.ops.linear import kernel_attention
from subquad.ops.marked import marked, rows
from subquad.ops.partial import Scoring, Where
from subquad.ops.pattern import Coords
from subquad.ops.patterns import Causal, Columns, Marked
from subquad.ops.plain import PLAIN

#: operators seen, so that none goes without a test
SEEN: set[str] = set()


class Both(TorchDispatchMode):
    """Runs an operator and what stands for it, and compares results and layout."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func in PLAIN:
            SEEN.add(func.name())
            plain = PLAIN[func](*args, **(kwargs or {}))
            assert len(plain) == len(out)
            for a, b in zip(plain, out, strict=True):
                assert a.dtype == b.dtype
                sizes = zip(a.shape, a.stride(), b.stride(), strict=True)
                assert all(x == y for size, x, y in sizes if size > 1)
                # sums of up to 130 terms in float64
                torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)
        return out


@pytest.mark.parametrize("length", [1, 63, 130])
@pytest.mark.parametrize("name", MIXERS)
def test_plain_equals_operator(name, length):
    x = inputs(2, length)
    c = context(x, [length, max(1, length - 5)], marks=[0, 7])
    with torch.no_grad(), Both():
        mixer(name)(x, c)


def engine_arguments(length):
    where = Where(
        Coords(torch.arange(length)[None, None]), Coords(torch.arange(length)[None, None])
    )
    q, k, v = (torch.randn(2, 3, length, 4, dtype=torch.float64) for _ in range(3))
    return q, k, v, where, Scoring(0.5)


def test_lists_and_rows():
    q, k, v, where, scoring = engine_arguments(40)
    keys = torch.stack([torch.randperm(40)[:5] for _ in range(40)])[None, None].clone()
    keys[..., 3:] = -1
    mark = torch.rand(2, 1, 40) < 0.2
    with torch.no_grad(), Both():
        gather_listed(q, k, v, keys, where, scoring)
        rows(q, k, v, mark, Causal(), where, scoring)
        told = where.q._replace(mark=mark)
        marked(q, k, v, Causal() & Marked(), Where(told, told), scoring)
        columns(q, k, v, Causal() & Columns(7, 2), where, scoring)
    assert {"subquad::gather", "subquad::rows", "subquad::marked", "subquad::columns"} <= SEEN


def test_sums_and_reads():
    q, k, v, _, _ = engine_arguments(70)
    phi = PositiveRandomFeatures(4, 8).double()
    valid = torch.rand(2, 70) < 0.7
    with torch.no_grad(), Both():
        kernel_attention(q, k, v, phi, causal=False, valid=valid)
    assert {"subquad::kernel_sum", "subquad::kernel_read"} <= SEEN


def test_every_operator_was_seen():
    for name in MIXERS:  # also where this file's tests were divided among processes
        x = inputs(1, 70)
        with torch.no_grad(), Both():
            mixer(name)(x, context(x, marks=[0, 7]))
    assert {op.name() for op in PLAIN} - SEEN <= {
        "subquad::gather",
        "subquad::rows",
        "subquad::marked",
        "subquad::columns",
    }


def test_every_forward_operator_has_a_statement():
    known = {op.name() for op in PLAIN}
    every = {
        name
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("subquad::") and not name.endswith(("_backward", "_grad"))
    }
    assert every == known
