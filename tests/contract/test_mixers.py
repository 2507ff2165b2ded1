"""The laws, over every mixer: weights, streaming, causality, padding, any length, numbers."""

import copy

import pytest
import torch

from catalog import DIM, HEADS, MIXERS, STEPS, STREAMING, context, cuts, inputs, mixer
from subquad.nn import ConvAttention
from subquad.nn.state import nbytes, select

LENGTHS = [1, 2, 63, 65, 127]


def product(m, x, at):
    return m.output(m.weights(x, at) @ m.values(x, at))


@pytest.mark.parametrize("marks", [None, [0, 5]], ids=["plain", "marked"])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", MIXERS)
def test_forward_is_weights_times_values(name, length, marks):
    m = mixer(name)
    x = inputs(2, length).requires_grad_()
    at = context(x, [length, max(1, length - 3)], marks)
    grad = torch.randn(2, length, DIM, dtype=torch.float64) * at.valid[..., None]
    found = []
    for y in (m(x, at)[0], product(m, x, at)):
        y = y * at.valid[..., None]
        found.append(
            [y, *torch.autograd.grad((y * grad).sum(), [x, *m.parameters()], allow_unused=True)]
        )
    none = torch.zeros((), dtype=torch.float64)
    for pair in zip(*found, strict=True):
        fast, slow = torch.broadcast_tensors(*(none if t is None else t for t in pair))
        torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", MIXERS)
def test_rows_of_weights(name):
    m = mixer(name)
    x = inputs(2, 40)
    at = context(x, [40, 33], [0])
    rows = torch.tensor([0, 7, 32])
    torch.testing.assert_close(
        m.weights(x, at, rows), m.weights(x, at)[:, :, rows], rtol=0, atol=1e-12
    )
    w = m.weights(x, at)
    assert w.shape[:2] == (2, HEADS)
    assert w.shape[3] == len(m.columns(x, at))
    assert (w >= 0).all()


@pytest.mark.parametrize("name", STEPS)
def test_streamed_equals_whole(name):
    m, step = mixer(name), STEPS[name]
    x = inputs(2, 50)
    whole = m(x, context(x))[0]
    for cut in cuts(50 // step):
        state, parts, start = m.init_state(2), [], 0
        # only the last piece may be less than a step
        for size in (*(step * steps for steps in cut), 50 % step):
            part = x[:, start : start + size]
            at = context(part)
            at = type(at)(at.pos + start)
            y, state = m(part, at, state)
            parts.append(y)
            start += size
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", STREAMING)
def test_selecting_a_state_is_reindexing_the_batch(name):
    m = mixer(name)
    x = inputs(3, 30)
    index = torch.tensor([2, 0, 0, 1])
    at, rest = context(x[:, :21]), type(context(x))(torch.arange(21, 30)[None])
    _, state = m(x[:, :21], at, m.init_state(3))
    picked, _ = m(x[index, 21:], rest, select(state, index))
    whole, _ = m(x[:, 21:], rest, state)
    torch.testing.assert_close(picked, whole[index], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", STEPS)
def test_state_does_not_outgrow_its_reach(name):
    m = mixer(name)
    pattern = getattr(m, "pattern", None)
    behind = None if pattern is None else pattern.reach()[0]
    sizes = {}
    for length in (48, 96):  # whole segments, which keep alike
        _, state = m(inputs(1, length), context(inputs(1, length)), m.init_state(1))
        sizes[length] = nbytes(state)
    if hasattr(m, "limit"):  # states that drop tokens once there are more than so many a head
        one = nbytes(m(inputs(1, 1), context(inputs(1, 1)), m.init_state(1))[1])
        assert max(sizes.values()) <= one * (m.limit or 96)
        return
    bounded = pattern is None or behind is not None
    assert sizes[48] == sizes[96] if bounded else sizes[96] <= 2 * sizes[48]


@pytest.mark.parametrize("name", STEPS)
def test_the_future_changes_nothing_bit_for_bit(name):
    m, step = mixer(name, torch.float32), STEPS[name]
    x = inputs(2, 65, torch.float32)
    before = m(x, context(x))[0]
    for cut in (step, 30 // step * step, 64 // step * step):
        changed = x.clone()
        changed[:, cut:] = 1000 * torch.randn_like(changed[:, cut:])
        after = m(changed, context(x))[0]
        assert torch.equal(after[:, :cut], before[:, :cut])
        assert torch.isfinite(after).all()


@pytest.mark.parametrize("name", MIXERS)
def test_gradient_is_zero_where_the_pattern_forbids(name):
    m = mixer(name)
    x = inputs(1, 20).requires_grad_()
    at = context(x, None, [0])
    weights = m.weights(x, at)[0].sum(0)
    columns = m.columns(x, at)
    one = columns >= 0  # the others blend all tokens
    sums = torch.zeros(20, 20, dtype=torch.float64)
    sums.index_add_(1, columns[one], weights[:, one].detach())
    reached = (sums > 0) | (weights[:, ~one] > 0).any(1, keepdim=True)
    # queries and keys that a convolution makes know the tokens before them as well
    taps = m.kernel if isinstance(m, ConvAttention) else 1
    read = reached | torch.eye(20, dtype=torch.bool)
    read = torch.nn.functional.pad(read, (0, taps - 1)).unfold(1, taps, 1).any(-1)
    y = m(x, at)[0]
    for i in (0, 9, 19):
        grad = torch.autograd.grad(y[0, i].sum(), x, retain_graph=True)[0][0].abs().sum(-1)
        forbidden = ~read[i]
        assert (grad[forbidden] == 0).all()
        assert (grad[reached[i]] > 0).all()


@pytest.mark.parametrize("name", MIXERS)
def test_batched_equals_alone_with_nan_padding(name):
    m = mixer(name)
    lengths = [37, 20, 1]
    x = inputs(3, 37)
    at = context(x, lengths, [0])
    dirty = x.masked_fill(~at.valid[..., None], torch.nan).requires_grad_()
    y = m(dirty, at)[0]
    for b, n in enumerate(lengths):
        alone = m(x[b : b + 1, :n], context(x[b : b + 1, :n], None, [0]))[0]
        torch.testing.assert_close(y[b : b + 1, :n], alone, rtol=1e-10, atol=1e-10)
    kept = torch.where(at.valid[..., None], y, 0.0)
    grads = torch.autograd.grad(kept.sum(), list(m.parameters()), allow_unused=True)
    assert all(g is None or torch.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("name", MIXERS)
def test_no_tokens_and_no_rows(name):
    m = mixer(name)
    for batch, length in ((2, 0), (0, 5)):
        x = inputs(batch, length)
        y, state = m(x, context(x))
        assert y.shape == x.shape
        assert state is None


@pytest.mark.parametrize("name", MIXERS)
def test_bfloat16_errs_at_most_twice_as_much_as_plain_pytorch(name):
    m = mixer(name)
    x = inputs(2, 65)
    at = context(x, None, [0])
    exact = m(x, at)[0]
    low = copy.deepcopy(m).to(torch.bfloat16)
    mixed = low.weights(x.bfloat16(), at).bfloat16() @ low.values(x.bfloat16(), at)
    plain = (low.output(mixed).double() - exact).abs()
    ours = (low(x.bfloat16(), at)[0].double() - exact).abs()
    assert ours.max() <= 2 * plain.max()
    assert ours.mean() <= 2 * plain.mean()
