"""Kernel attention against the plain quadratic sum, and the laws it must keep."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

from subquad.ops.linear import Sum, accumulate, kernel_attention, read
from subquad.ops.linear_causal import kernel_causal, kernel_causal_grad
from subquad.ops.linear_chunk import CHUNK, FLOOR
from subquad.ops.linear_read import kernel_read, kernel_read_grad
from subquad.ops.linear_sum import kernel_sum, kernel_sum_grad

KINDS = ("exp", "relu", "elu", "none")
D, E, F = 59, 7, 11


class Map:
    """A feature map of a kind; the projection is the caller's, so that it can have a gradient."""

    def __init__(self, kind, rows=None):
        self.kind, self.rows = kind, rows

    def lower(self):
        return self.kind, self.rows

    def __call__(self, x, is_query):
        return x.square()


def phi(kind, x, rows):
    """The features by their definition."""
    if rows is not None:
        x = x * x.shape[-1] ** -0.25
    if kind == "exp":
        return torch.exp(x @ rows.T - x.square().sum(-1, keepdim=True) / 2)
    if kind == "relu":
        return torch.relu(x @ rows.T) + 1e-3
    return torch.nn.functional.elu(x) + 1 if kind == "elu" else x.square()


def oracle(q, k, v, kind, rows=None, causal=True, valid=None):
    """The quadratic sum; keys that are not valid are left out, empty rows are zeros."""
    if valid is not None:
        k, v = (t.masked_fill(~valid[:, None, :, None], 0) for t in (k, v))
    k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
    scores = phi(kind, q, rows) @ phi(kind, k, rows).mT
    allowed = torch.ones(scores.shape[-2:], dtype=torch.bool)
    allowed = allowed.tril() if causal else allowed
    if valid is not None:
        allowed = allowed & valid[:, None, None]
    scores = scores * allowed
    total = scores.sum(-1, keepdim=True)
    return (scores / total.masked_fill(total == 0, 1)) @ v


def inputs(n, *, m=None, batch=2, heads=4, key_heads=2, kind="exp", dtype=torch.float64):
    m = n if m is None else m
    q = torch.randn(batch, heads, n, D, dtype=dtype)
    k = torch.randn(batch, key_heads, m, D, dtype=dtype)
    v = torch.randn(batch, key_heads, m, E, dtype=dtype)
    rows = torch.randn(F, D, dtype=dtype) if kind in ("exp", "relu") else None
    return q, k, v, rows


def leaves(*tensors):
    return [None if t is None else t.detach().clone().requires_grad_() for t in tensors]


def padded(k, v, valid):
    """What stands in padding must not matter, NaN least of all."""
    gone = ~valid[:, None, :, None]
    return k.masked_fill(gone, math.nan), v.masked_fill(gone, math.nan)


def assert_near(got, want, tolerance=1e-10):
    scale = max(1.0, want.abs().max().item()) if want.numel() else 1.0
    assert (got - want).abs().max().item() <= tolerance * scale if want.numel() else True
    assert got.shape == want.shape


@pytest.mark.parametrize("padding", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("n", [0, 1, 2, 63, 65, 127])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "whole"])
@pytest.mark.parametrize("kind", KINDS)
def test_output_and_gradients(kind, causal, n, padding):
    q, k, v, rows = inputs(n, kind=kind)
    valid = torch.rand(2, n) < 0.6 if padding else None
    if padding and n:
        valid[0, 0] = False  # the first query sees nothing
    want_in = leaves(q, k, v, rows)
    want = oracle(*want_in[:3], kind, want_in[3], causal, valid)
    weight = torch.randn_like(want)
    (want * weight).sum().backward()
    got_in = leaves(q, *(padded(k, v, valid) if padding else (k, v)), rows)
    feature_map = Map(kind, got_in[3])
    got, state = kernel_attention(*got_in[:3], feature_map, causal=causal, valid=valid)
    (got * weight).sum().backward()
    assert_near(got, want)
    assert state.kv.shape == (2, 2, {"exp": F, "relu": F}.get(kind, D), E + 1)
    for mine, right in zip(got_in, want_in, strict=True):
        if right is not None:
            assert_near(mine.grad, torch.zeros_like(mine) if right.grad is None else right.grad)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "whole"])
@pytest.mark.parametrize(
    ("n", "batch", "heads", "key_heads"),
    [(1025, 1, 2, 1), (200, 3, 6, 3), (33, 1, 12, 12), (33, 2, 40, 20)],
    ids=["long", "wide", "twelve", "forty"],
)
def test_several_blocks(n, batch, heads, key_heads, causal):
    # many chunks with an odd rest; several blocks of lanes, some of a part of the heads
    q, k, v, rows = inputs(n, batch=batch, heads=heads, key_heads=key_heads)
    want_in, got_in = leaves(q, k, v, rows), leaves(q, k, v, rows)
    want = oracle(*want_in[:3], "exp", want_in[3], causal)
    got, _ = kernel_attention(*got_in[:3], Map("exp", got_in[3]), causal=causal)
    weight = torch.randn_like(want)
    torch.autograd.backward([want, got], [weight, weight])
    assert_near(got, want)
    for mine, right in zip(got_in, want_in, strict=True):
        assert_near(mine.grad, right.grad)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "whole"])
def test_one_key_head_for_many(causal):
    q, k, v, rows = inputs(70, batch=1, heads=20, key_heads=1)
    got, _ = kernel_attention(q, k, v, Map("exp", rows), causal=causal)
    assert_near(got, oracle(q, k, v, "exp", rows, causal))


def test_cross_lengths():
    q, k, v, rows = inputs(65, m=300)
    got, _ = kernel_attention(q, k, v, Map("exp", rows), causal=False)
    assert_near(got, oracle(q, k, v, "exp", rows, causal=False))


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "whole"])
def test_strides(causal):
    q, k, v, rows = inputs(130)
    want, _ = kernel_attention(q, k, v, Map("exp", rows), causal=causal)
    by_token = [t.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for t in (q, k, v)]
    got, _ = kernel_attention(*by_token, Map("exp", rows), causal=causal)
    assert torch.equal(got, want)
    assert got.transpose(1, 2).is_contiguous()  # merging heads copies nothing
    got.sum().backward()
    assert by_token[0].grad.transpose(1, 2).is_contiguous()
    spread = k[:, :1].expand(2, 4, 130, D)
    got, _ = kernel_attention(q, spread, v[:, :1].expand(2, 4, 130, E), Map("exp", rows))
    assert_near(got, oracle(q, spread, v[:, :1].expand(2, 4, 130, E), "exp", rows))


@pytest.mark.parametrize("cuts", [(0, 1, 50, 96, 97, 200), (100,), (199, 200)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_stream_equals_whole(kind, cuts):
    q, k, v, rows = inputs(200, kind=kind)
    valid = torch.rand(2, 200) < 0.8
    k, v = padded(k, v, valid)
    whole_in, cut_in = leaves(q, k, v, rows), leaves(q, k, v, rows)
    want, end = kernel_attention(*whole_in[:3], Map(kind, whole_in[3]), valid=valid)
    state, parts, a = None, [], 0
    for b in (*cuts, 200):
        piece = (t[:, :, a:b] for t in cut_in[:3])
        out, state = kernel_attention(
            *piece, Map(kind, cut_in[3]), valid=valid[:, a:b], state=state
        )
        parts.append(out)
        a = b
    got = torch.cat(parts, 2)
    assert_near(got, want)
    assert torch.allclose(state.top, end.top, rtol=1e-12)
    assert_near(state.kv, end.kv)
    weight = torch.randn_like(want)
    torch.autograd.backward([want, got], [weight, weight])
    for mine, right in zip(cut_in, whole_in, strict=True):
        if right is not None:
            assert_near(mine.grad, right.grad)


@pytest.mark.parametrize("kind", KINDS)
def test_state_carries_gradients(kind):
    # all of the loss comes after the state; the keys before it must get what the whole gives
    q, k, v, rows = inputs(150, kind=kind)
    whole_in, cut_in = leaves(q, k, v, rows), leaves(q, k, v, rows)
    want = oracle(*whole_in[:3], kind, whole_in[3])[:, :, 100:]
    early = [t[:, :, :100] for t in cut_in[:3]]
    late = [t[:, :, 100:] for t in cut_in[:3]]
    # the state goes through both ways of making it
    state = accumulate(early[1][:, :, :40], early[2][:, :, :40], Map(kind, cut_in[3]))
    _, state = kernel_attention(*(t[:, :, 40:] for t in early), Map(kind, cut_in[3]), state=state)
    got, _ = kernel_attention(*late, Map(kind, cut_in[3]), state=state)
    weight = torch.randn_like(want)
    torch.autograd.backward([want, got], [weight, weight])
    assert_near(got, want)
    for mine, right in zip(cut_in, whole_in, strict=True):
        if right is not None:
            assert_near(mine.grad, right.grad)


def test_sum_in_parts():
    q, k, v, rows = inputs(20, m=600, heads=2)
    valid = torch.rand(2, 600) < 0.7
    feature_map = Map("exp", rows)
    state = None
    for a, b in ((0, 0), (0, 1), (1, 300), (300, 600)):
        piece = (k[:, :, a:b], v[:, :, a:b], feature_map)
        state = accumulate(*piece, valid=valid[:, a:b], state=state)
    got = read(q, state, feature_map)
    assert_near(got, oracle(q, k, v, "exp", rows, causal=False, valid=valid))
    rows_swapped = tree_map(lambda t: t[[1, 0]], state)
    assert isinstance(rows_swapped, Sum)
    assert torch.equal(read(q[[1, 0]], rows_swapped, feature_map), got[[1, 0]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_future_changes_nothing(kind, dtype):
    q, k, v, rows = inputs(300, kind=kind, dtype=dtype)
    before, _ = kernel_attention(q, k, v, Map(kind, rows))
    for cut in (1, 63, CHUNK, CHUNK + 1, 250):
        later = [t.clone() for t in (q, k, v)]
        for t in later:
            t[:, :, cut:] = 9 * torch.randn_like(t[:, :, cut:])
        after, _ = kernel_attention(*later, Map(kind, rows))
        assert torch.equal(after[:, :, :cut], before[:, :, :cut])


@pytest.mark.parametrize("n", [65, 200])
@pytest.mark.parametrize("factor", [1e3, 1e-3])
def test_one_long_key(n, factor):
    q, k, v, rows = inputs(n, dtype=torch.float32)
    before, _ = kernel_attention(q, k, v, Map("exp", rows))
    k = k.clone()
    k[:, :, -1] *= factor
    after, _ = kernel_attention(q, k, v, Map("exp", rows))
    assert torch.equal(after[:, :, :-1], before[:, :, :-1])
    assert after.isfinite().all()


def test_a_key_that_dwarfs_all_before():
    # its log-scale is 1,200 above the others: their factors are 0, nothing overflows
    rows = torch.eye(4) * 100
    q, v = torch.randn(1, 1, 130, 4), torch.randn(1, 1, 130, 3)
    k = torch.full((1, 1, 130, 4), -0.1)
    k[:, :, 64] = 30
    got_in = leaves(q, k, v)
    out, _ = kernel_attention(*got_in, Map("exp", rows), scale=1.0)
    out.sum().backward()
    assert out.isfinite().all()
    assert all(t.grad.isfinite().all() for t in got_in)
    assert torch.allclose(out[0, 0, 64:], v[0, 0, 64].expand(66, 3))


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "whole"])
def test_no_valid_key_gives_zeros(causal):
    q, k, v, rows = inputs(100)
    valid = torch.ones(2, 100, dtype=torch.bool)
    valid[1] = False
    got_in = leaves(q, *padded(k, v, valid), rows)
    out, state = kernel_attention(*got_in[:3], Map("exp", got_in[3]), causal=causal, valid=valid)
    out.sum().backward()
    assert torch.equal(out[1], torch.zeros_like(out[1]))
    assert torch.equal(state.kv[1], torch.zeros_like(state.kv[1]))
    assert (state.top[1] == FLOOR).all()
    assert all(t.grad.isfinite().all() for t in got_in)
    assert all(torch.equal(t.grad[1], torch.zeros_like(t.grad[1])) for t in got_in[:3])


def plain_features(x, rows):
    """Stabilised over features and positions, as everyone does in low precision."""
    x = x * x.shape[-1] ** -0.25
    u = x @ rows.T - x.square().sum(-1, keepdim=True) / 2
    return torch.exp(u - u.amax((-1, -2), keepdim=True))


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "whole"])
def test_bfloat16(causal):
    low = torch.bfloat16
    q, k, v, rows = (t.to(low) for t in inputs(400, heads=2))
    wide = [t.double().requires_grad_() for t in (q, k, v)]
    want = oracle(*wide, "exp", rows.double(), causal)
    peer = leaves(q, k, v)
    scores = plain_features(peer[0], rows) @ plain_features(peer[1], rows).mT
    scores = scores.tril() if causal else scores
    plain = (scores / scores.sum(-1, keepdim=True)) @ peer[2]
    mine = leaves(q, k, v)
    got, state = kernel_attention(*mine, Map("exp", rows), causal=causal)
    weight = torch.randn_like(want).to(low)
    torch.autograd.backward([want, plain, got], [weight.double(), weight, weight])
    assert got.dtype == low
    assert state.kv.dtype == state.top.dtype == torch.float32
    assert error(got, want) <= 2 * error(plain, want)
    for a, b, c in zip(mine, peer, wide, strict=True):
        assert a.grad.dtype == low
        assert error(a.grad, c.grad) <= 2 * error(b.grad, c.grad)


def test_float16():
    # plain torch overflows here, so the bound is one rounding of the result
    q, k, v, rows = (t.half() for t in inputs(400, heads=2))
    want = oracle(*(t.double() for t in (q, k, v)), "exp", rows.double())
    got, _ = kernel_attention(q, k, v, Map("exp", rows))
    assert got.dtype == torch.float16
    assert error(got, want) <= torch.finfo(torch.float16).eps * want.abs().max()


def error(x, right):
    return (x.double() - right).abs().max().item()


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "whole"])
def test_float32_against_float64(causal):
    q, k, v, rows = inputs(1025, dtype=torch.float32)
    want, _ = kernel_attention(*(t.double() for t in (q, k, v)), Map("exp", rows), causal=causal)
    got, _ = kernel_attention(q, k, v, Map("exp", rows), causal=causal)
    scores = phi("exp", q, rows) @ phi("exp", k.repeat_interleave(2, 1), rows).mT
    scores = scores.tril() if causal else scores
    plain = (scores / scores.sum(-1, keepdim=True)) @ v.repeat_interleave(2, 1)
    assert error(got, want) <= 2 * (error(plain, want) + torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "whole"])
def test_autocast_changes_nothing(causal):
    q, k, v, rows = inputs(100, dtype=torch.float32)
    results = []
    for enabled in (False, True):
        mine = leaves(q, k, v)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            out, _ = kernel_attention(*mine, Map("exp", rows), causal=causal)
            out.sum().backward()
        results.append([out, *(t.grad for t in mine)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def op_arguments(n=100, kind="exp", valid=True):
    q, k, v, rows = inputs(n, kind=kind, dtype=torch.float32)
    known = torch.rand(2, n) < 0.8 if valid else None
    first = Sum.empty(2, 2, F if rows is not None else D, E, q)
    q, k, v, rows = leaves(q, k, v, rows)
    return q, k, v, known, rows, first.kv.requires_grad_(), first.top, kind, 0.3


@pytest.mark.no_poison
@pytest.mark.filterwarnings("ignore::UserWarning")  # of opcheck about its own tracing
@pytest.mark.parametrize("kind", ["exp", "elu"])
def test_operators(kind):
    q, k, v, valid, rows, kv, top, kind, scale = op_arguments(kind=kind)
    torch.library.opcheck(kernel_causal, (q, k, v, valid, rows, kv, top, kind, scale))
    torch.library.opcheck(kernel_sum, (k, v, None, rows, kv, top, kind, scale))
    torch.library.opcheck(kernel_read, (q, kv, rows, kind, scale))


@pytest.mark.no_poison
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "whole"])
def test_compiles_in_one_graph(causal):
    rows = torch.randn(F, D)

    def step(q, k, v, valid):
        out, state = kernel_attention(q, k, v, Map("exp", rows), causal=causal, valid=valid)
        return out * 2, state

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (65, 130, 7):
        q, k, v, _ = inputs(n, dtype=torch.float32)
        valid = torch.rand(2, n) < 0.8
        mine, plain = leaves(q, k, v), leaves(q, k, v)
        got, state = compiled(*mine, valid)
        want, _ = step(*plain, valid)
        got.sum().backward()
        want.sum().backward()
        assert torch.equal(got, want)
        assert isinstance(state, Sum)
        assert all(torch.equal(a.grad, b.grad) for a, b in zip(mine, plain, strict=True))


class Products(TorchDispatchMode):
    """Counts 2abc for each matrix product; torch's own counter passes by those in place."""

    flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        first = {"mm": 0, "bmm": 0, "addmm_": 1, "baddbmm_": 1}
        place = first.get(func.overloadpacket.__name__)
        if place is not None:
            left, right = args[place : place + 2]
            self.flops += 2 * left.numel() * right.shape[-1]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("kind", "project"), [("exp", False), ("exp", True), ("elu", False)], ids=str
)
def test_flops_are_those_of_the_loops(kind, project):
    q, k, v, valid, rows, kv, top, kind, scale = (
        t.detach() if isinstance(t, torch.Tensor) else t for t in op_arguments(250, kind=kind)
    )
    forward = (q, k, v, valid, rows, kv, top, kind, scale)
    out, den, log, _, last = kernel_causal(*forward)
    total, denominator = kernel_read(q, kv, rows, kind, scale)
    back = (out, kv, q, k, v, valid, rows, kv, top, out, den, log, kind, scale, project)
    calls = [
        (kernel_causal, forward),
        (kernel_causal_grad, back),
        (kernel_sum, (k, v, valid, rows, kv, top, kind, scale)),
        (kernel_sum_grad, (kv, k, v, valid, rows, last, kind, scale, project)),
        (kernel_read, (q, kv, rows, kind, scale)),
        (kernel_read_grad, (total, q, kv, rows, total, denominator, kind, scale, project)),
    ]
    for op, arguments in calls:
        with Products() as inside:
            op._init_fn(*arguments)
        with FlopCounterMode(display=False) as counter:
            op(*arguments)
        assert counter.get_total_flops() == inside.flops > 0


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numel = max(self.numel, result.numel())
        return result


@pytest.mark.no_poison
def test_nothing_of_size_n_times_f():
    n, features = 1000, 300
    q, k, v = (torch.randn(1, 2, n, 16) for _ in range(3))
    rows, first = torch.randn(features, 16), Sum.empty(1, 2, features, 16, q)
    forward = (q, k, v, None, rows, first.kv, first.top, "exp", 0.25)
    out, den, log, kv, _ = kernel_causal(*forward)
    back = (out, kv, *forward[:7], out, den, log, "exp", 0.25, False)
    for op, arguments in ((kernel_causal, forward), (kernel_causal_grad, back)):
        with Largest() as seen:
            op._init_fn(*arguments)
        assert out.numel() <= seen.numel < 2 * max(out.numel(), 4 * CHUNK * features)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": (1, 2, 5, 8)}, "5 queries, 6 keys"),
        ({"q": (1, 3, 6, 8)}, r"\(1, 3, 6, 8\) and \(1, 2, 6, 8\)"),
        ({"q": (1, 2, 6, 9)}, r"\(1, 2, 6, 9\) and \(1, 2, 6, 8\)"),
        ({"v": (1, 2, 7, 4)}, r"\(1, 2, 6, 8\) and \(1, 2, 7, 4\)"),
        ({"valid": torch.ones(1, 5, dtype=torch.bool)}, r"\(1, 6\).*\(1, 5\)"),
        ({"valid": torch.ones(1, 6)}, "torch.float32"),
        ({"rows": (3, 7)}, "width 7, q and k have 8"),
        ({"state": Sum.empty(1, 2, 9, 4, torch.ones(1))}, r"\(1, 2, 9, 5\).*\(1, 2, 3, 5\)"),
    ],
    ids=["lengths", "heads", "width", "values", "valid", "type", "rows", "state"],
)
def test_errors_say_both_sizes(change, message):
    sizes = {"q": (1, 2, 6, 8), "k": (1, 2, 6, 8), "v": (1, 2, 6, 4), "rows": (3, 8)}
    sizes |= {name: size for name, size in change.items() if name in sizes}
    q, k, v, rows = (torch.randn(size) for size in sizes.values())
    with pytest.raises(ValueError, match=message):
        kernel_attention(
            q, k, v, Map("exp", rows), valid=change.get("valid"), state=change.get("state")
        )


def test_errors_of_maps():
    q, k, v, rows = inputs(5, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"scale=0.5 .*'elu'"):
        kernel_attention(q, k, v, Map("elu"), scale=0.5)
    square = torch.randn(q.shape[-1], q.shape[-1])
    with pytest.raises(ValueError, match=r"'elu' takes no projection"):
        kernel_attention(q, k, v, Map("elu", square))
    with pytest.raises(ValueError, match=r"'exp' needs a projection"):
        kernel_attention(q, k, v, Map("exp"))
    with pytest.raises(ValueError, match=r"'cosine'.*'exp'"):
        kernel_attention(q, k, v, Map("cosine", rows))
    with pytest.raises(ValueError, match=r"11 features cannot read \(2, 2, 59, 8\)"):
        read(q, accumulate(k, v, Map("elu")), Map("exp", rows))
