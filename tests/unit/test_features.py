"""Feature maps against the closed forms of the paper, and the kernel mixers' own habits."""

from __future__ import annotations

import math

import pytest
import torch

from subquad.nn.context import Context
from subquad.nn.features import (
    EluFeatures,
    PositiveRandomFeatures,
    ReLUFeatures,
    hyperbolic,
    independent,
    orthogonal,
    regularised,
)
from subquad.nn.kernel import KernelAttention, KernelCrossAttention
from subquad.nn.position import ALiBi, Rotary
from subquad.ops.linear import kernel_attention

DRAWS = 40_000


def pair(width, norm):
    """Two vectors of a length."""
    x, y = torch.randn(2, width, dtype=torch.float64)
    return norm * x / x.norm(), norm * y / y.norm()


def estimates(x, y, num_features, rows):
    """phi(x).phi(y) of many independent draws (DRAWS,), cut from one large map.

    Blocks of orthogonal rows are independent, so each draw takes whole blocks and cuts the last.
    """
    width = x.shape[0]
    taken = -(-num_features // width) * width
    feature_map = PositiveRandomFeatures(width, taken * DRAWS, rows=rows).double()
    a, b = feature_map(torch.stack((x, y)), is_query=True)
    return (a * b * a.numel()).view(DRAWS, taken)[:, :num_features].mean(1)


def closed_form(x, y, num_features):
    """The mean squared error of independent positive features (lemma 2 of the paper)."""
    both = (x + y).square().sum()
    return both.exp() * (2 * x @ y).exp() * (1 - (-both).exp()) / num_features


def test_mean_and_error_of_independent_features():
    x, y = pair(6, 0.5)
    got, kernel = estimates(x, y, 16, independent), (x @ y).exp()
    error = (got - kernel).square()
    # five standard errors of the sample
    assert abs(got.mean() - kernel) < 5 * got.std() / math.sqrt(DRAWS)
    assert abs(error.mean() - closed_form(x, y, 16)) < 5 * error.std() / math.sqrt(DRAWS)


def test_error_of_hyperbolic_features():
    x, y = pair(6, 0.5)

    def pairs(count, width, generator):
        half = independent(count // 2, width, generator)
        return torch.stack((half, -half), 1).flatten(0, 1)

    error = (estimates(x, y, 36, pairs) - (x @ y).exp()).square()
    both = (x + y).square().sum()
    # half (1 - e^-|x+y|^2) of the error of 18 rows: less than 36 rows would give
    want = 0.5 * (1 - (-both).exp()) * closed_form(x, y, 18)
    assert abs(error.mean() - want) < 5 * error.std() / math.sqrt(DRAWS)
    assert want < closed_form(x, y, 36)


def test_hyperbolic_features_are_both_exponentials():
    feature_map = PositiveRandomFeatures(5, 8, rows=hyperbolic, seed=3).double()
    rows = feature_map.projection[:4]
    x = torch.randn(7, 5, dtype=torch.float64)
    u, shift = x @ rows.T, x.square().sum(-1, keepdim=True) / 2
    want = torch.cat((u, -u), -1).sub(shift).exp() / math.sqrt(2) / math.sqrt(4)
    assert torch.allclose(feature_map(x, is_query=False), want, rtol=1e-12)
    with pytest.raises(ValueError, match="7 is odd, take 8"):
        PositiveRandomFeatures(5, 7, rows=hyperbolic)


@pytest.mark.parametrize("num_features", [8, 20])
def test_orthogonal_rows_are_better(num_features):
    x, y = pair(8, 0.5)
    kernel = (x @ y).exp()
    plain, better = (
        (estimates(x, y, num_features, rows) - kernel).square()
        for rows in (independent, orthogonal)
    )
    noise = math.sqrt((plain.var() + better.var()) / DRAWS)
    assert better.mean() < plain.mean() - 5 * noise
    if num_features == 8:  # the gain that theorem 2 promises to one block
        base = kernel - (-(x.square().sum() + y.square().sum()) / 2).exp()
        gain = 2 * (num_features - 1) / (num_features * (8 + 2)) * base.square()
        assert plain.mean() - better.mean() > gain - 5 * noise


def test_orthogonal_and_regularised_rows():
    for rows in (orthogonal, regularised):
        w = rows(20, 8, torch.Generator().manual_seed(1))
        for block in w.split(8):
            gram = block @ block.T
            assert torch.allclose(gram, gram.diagonal().diag(), atol=1e-10)
    assert torch.allclose(w.norm(dim=1), torch.full((20,), math.sqrt(8), dtype=w.dtype))


def test_regularised_kernel_is_below_softmax():
    x, y = pair(4, 1.0)
    got = estimates(x, y, 64, regularised)
    assert got.mean() < (x @ y).exp() + 5 * got.std() / math.sqrt(DRAWS)


@pytest.mark.parametrize("make", [PositiveRandomFeatures, ReLUFeatures])
def test_seeds(make):
    a, b, c = make(8, 20, seed=1), make(8, 20, seed=1), make(8, 20, seed=2)
    assert torch.equal(a.projection, b.projection)
    assert not torch.equal(a.projection, c.projection)
    assert list(a.state_dict()) == ["projection"]
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a.redraw(2)
    assert torch.equal(a.projection, c.projection)
    assert torch.equal(torch.get_rng_state(), before)  # nobody else's randomness is spent


def test_built_on_meta():
    with torch.device("meta"):
        built = PositiveRandomFeatures(8, 20, seed=4)
    assert built.projection.is_meta
    real = built.to_empty(device="cpu")
    real.reset()
    assert torch.equal(real.projection, PositiveRandomFeatures(8, 20, seed=4).projection)


def test_logarithms():
    x = 3 * torch.randn(9, 8, dtype=torch.float64)
    for feature_map in (PositiveRandomFeatures(8, 20), ReLUFeatures(8, 20), EluFeatures()):
        got = feature_map(x, is_query=True)
        assert (got >= 0).all()
        assert torch.allclose(feature_map.log(x).exp(), got, rtol=1e-12)
    assert torch.allclose(EluFeatures()(x, False), torch.nn.functional.elu(x) + 1, rtol=1e-12)


MAPS = {
    "random": lambda d: PositiveRandomFeatures(d, 20, seed=1),
    "relu": lambda d: ReLUFeatures(d, 12),
    "elu": lambda d: EluFeatures(),
    "own": lambda d: lambda x, is_query: torch.nn.functional.softplus(x),
}


@pytest.mark.parametrize("kind", MAPS)
def test_lowered_map_is_the_map(kind):
    # evaluated inside the loop or outside: the same numbers
    q, k, v = torch.randn(3, 1, 2, 130, 6, dtype=torch.float64)
    feature_map = MAPS[kind](6)
    scale = 6**-0.25 if kind in ("random", "relu") else 1.0

    def outside(x, is_query):
        return feature_map(x * scale, is_query)

    for causal in (True, False):
        got, _ = kernel_attention(q, k, v, feature_map, causal=causal)
        want, _ = kernel_attention(q, k, v, outside, causal=causal)
        assert torch.allclose(got, want, rtol=1e-10, atol=1e-12)


def mixer(kind, **kwargs):
    return KernelAttention(24, 4, MAPS[kind](6), **kwargs).double()


def content(n):
    """x (2, n, 24) with NaN where the second row is padding."""
    x = torch.randn(2, n, 24, dtype=torch.float64)
    valid = torch.arange(n) < torch.tensor([[n], [2 * n // 3]])
    return x.masked_fill(~valid[..., None], math.nan), Context.of(x, valid)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "whole"])
@pytest.mark.parametrize("kind", MAPS)
def test_weights_law(kind, causal):
    attention = mixer(kind, causal=causal, num_kv_heads=2, position=Rotary(6))
    x, context = content(130)
    y, state = attention(x, context)
    weights = attention.weights(x, context)
    assert state is None
    assert weights.shape == (2, 4, 130, 130)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 4, 130, dtype=weights.dtype))
    want = attention.output(weights @ attention.values(x, context))
    assert torch.allclose(y, want, rtol=1e-10, atol=1e-12)
    rows = torch.tensor([0, 7, 129])
    assert torch.allclose(attention.weights(x, context, rows), weights[:, :, rows], rtol=1e-12)
    parameters = list(attention.parameters())
    for a, b in zip(
        torch.autograd.grad(y.sin().sum(), parameters),
        torch.autograd.grad(want.sin().sum(), parameters),
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", MAPS)
def test_mixer_streams(kind):
    attention = mixer(kind, causal=True, num_kv_heads=2, position=Rotary(6))
    x, _ = content(130)
    x = x[:1].expand(2, -1, -1)
    want, _ = attention(x, Context.of(x))
    state, parts = attention.init_state(2), []
    for a, b in ((0, 1), (1, 1), (1, 100), (100, 130)):
        piece = x[:, a:b]
        y, state = attention(piece, Context.of(piece, start=torch.tensor([a, a])), state)
        parts.append(y)
    assert torch.allclose(torch.cat(parts, 1), want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", MAPS)
def test_cross_attention(kind):
    attention = KernelCrossAttention(24, 4, MAPS[kind](6), memory_dim=10).double()
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    valid = torch.tensor([[True] * 9, [True] * 5 + [False] * 4])
    memory = torch.randn(2, 9, 10, dtype=torch.float64).masked_fill(~valid[..., None], math.nan)
    context = Context(torch.arange(7)[None], memory=memory, memory_valid=valid)
    y, state = attention(x, context)
    assert state is None
    want = attention.output(attention.weights(x, context) @ attention.values(x, context))
    assert torch.allclose(y, want, rtol=1e-10, atol=1e-12)
    first, state = attention(x[:, :3], context, attention.init_state(2))
    rest, _ = attention(x[:, 3:], Context(torch.arange(3, 7)[None]), state)  # the memory is gone
    assert torch.allclose(torch.cat((first, rest), 1), y, rtol=1e-10, atol=1e-12)


def test_errors():
    with pytest.raises(ValueError, match="ALiBi adds to scores"):
        KernelAttention(24, 4, EluFeatures(), position=ALiBi(4))
    with pytest.raises(ValueError, match="5 heads do not divide 24"):
        KernelAttention(24, 5, EluFeatures())
    with pytest.raises(ValueError, match="causal=False looks ahead"):
        KernelAttention(24, 4, EluFeatures()).init_state(2)
    with pytest.raises(ValueError, match="-2 features of rows of width 8; both must be at least 1"):
        PositiveRandomFeatures(8, -2)
