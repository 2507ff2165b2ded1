"""Depthwise convolution, its tail, the norms over real tokens, and the module around them."""

import pytest
import torch

from subquad.nn.context import Context
from subquad.nn.conv import ConvModule, TokenBatchNorm, TokenNorm
from subquad.ops.conv import Taps, depthwise

pytestmark = pytest.mark.usefixtures("one_thread")

TAPS = [
    Taps.around(32),
    Taps.around(5),
    Taps.behind(4),
    Taps.around(6, chunk=4),
    Taps.around(15, chunk=3),
    Taps(0, 3, chunk=1),
    Taps(2, 0, chunk=3),
]


def numbers(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def by_definition(x, weight, bias, taps, past=None):
    """Token by token and tap by tap."""
    before = x.new_zeros(len(x), taps.left, x.shape[2]) if past is None else past
    row, n = torch.cat((before, x), 1), x.shape[1]
    out = []
    for i in range(n):
        y = bias.expand(len(x), -1)
        end = n if taps.chunk is None else min(n, (i // taps.chunk + 1) * taps.chunk)
        for t in range(taps.kernel):
            at = i + t - taps.left
            if at <= i or at < end:
                y = y + weight[:, t] * row[:, at + taps.left]
        out.append(y)
    return torch.stack(out, 1) if out else x


@pytest.mark.parametrize("taps", TAPS, ids=str)
def test_the_sum_over_the_taps(taps):
    weight, bias = numbers(3, taps.kernel).requires_grad_(), numbers(3).requires_grad_()
    for n in (0, 1, 2, 13, 33):
        x, past = numbers(2, n, 3).requires_grad_(), numbers(2, taps.left, 3).requires_grad_()
        for before in (None, past):
            found = depthwise(x, weight, bias, taps, before)
            wanted = by_definition(x, weight, bias, taps, before)
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
            if n:
                given = [x, weight, bias, *([] if before is None else [before])]
                pull = numbers(*found.shape)
                grads = [torch.autograd.grad((y * pull).sum(), given) for y in (found, wanted)]
                torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)


def test_taps():
    assert (Taps.around(32).left, Taps.around(32).right) == (16, 15)
    assert (Taps.around(31).left, Taps.around(31).right) == (15, 15)
    assert [taps.step for taps in TAPS] == [None, None, 1, 4, 3, 1, 1]
    with pytest.raises(ValueError, match=r"Taps\(left=-1, right=0, chunk=None\) is no choice"):
        Taps.behind(0)


def test_batch_norm_sees_real_tokens_alone():
    valid = torch.arange(9) < torch.tensor([9, 4, 0])[:, None]
    x = numbers(3, 9, 5) * 3 + 2
    ours, theirs = TokenBatchNorm(5).double(), torch.nn.BatchNorm1d(5).double()
    for module in (ours, theirs):
        torch.nn.init.normal_(module.weight, generator=torch.Generator().manual_seed(1))
    hidden = x.masked_fill(~valid[..., None], torch.nan).requires_grad_()
    y, packed = ours(hidden, valid), theirs(x[valid])
    torch.testing.assert_close(y[valid], packed, rtol=1e-12, atol=1e-12)
    assert not y[~valid].any()
    for name, kept in theirs.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name), kept)
    y.square().sum().backward()
    assert torch.isfinite(hidden.grad).all()
    assert not hidden.grad[~valid].any()
    # every token real: the same function without `valid`
    torch.testing.assert_close(ours(x), ours(x, torch.ones_like(valid)), rtol=1e-12, atol=1e-12)


def test_batch_norm_of_a_single_token_takes_running_statistics():
    norm = TokenBatchNorm(4).double()
    norm.running_mean.fill_(3.0)
    y = norm(x := numbers(2, 3, 4), torch.tensor([[True, False, False], [False] * 3]))
    torch.testing.assert_close(y[0, 0], norm.eval()(x)[0, 0])
    assert norm.train()(x[:, :0]).shape == (2, 0, 4)
    assert norm.num_batches_tracked == 0


def module(taps, norm=TokenBatchNorm):
    torch.manual_seed(2)
    made = ConvModule(6, taps, norm=norm).double()
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return made


@pytest.mark.parametrize("norm", [TokenBatchNorm, TokenNorm])
@pytest.mark.parametrize("taps", TAPS, ids=str)
def test_batched_equals_alone(taps, norm):
    made, lengths = module(taps, norm).eval(), [21, 8, 1, 0]
    valid = torch.arange(21) < torch.tensor(lengths)[:, None]
    x = numbers(4, 21, 6)
    hidden = x.masked_fill(~valid[..., None], torch.nan).requires_grad_()
    y = made(hidden, Context.of(x, valid))[0]
    for row, n, given in zip(y, lengths, x, strict=True):
        alone = made(given[None, :n], Context.of(given[None, :n]))[0][0]
        torch.testing.assert_close(row[:n], alone, rtol=1e-12, atol=1e-12)
    y[valid].sum().backward()
    grads = [hidden.grad, *(p.grad for p in made.parameters())]
    assert all(torch.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("taps", [t for t in TAPS if t.step], ids=str)
def test_streamed_equals_whole(taps):
    made, x, step = module(taps).eval(), numbers(2, 31, 6), taps.step
    whole = made(x, Context.of(x))[0]
    for size in (step, 3 * step, 31):
        state, parts = made.init_state(2), []
        for part in x.split(size, 1):
            y, state = made(part, Context.of(part), state)
            parts.append(y)
            assert state.x.shape == (2, taps.left, 6)
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-12, atol=1e-12)


def test_what_it_refuses():
    with pytest.raises(ValueError, match="looks ahead: it cannot stream"):
        module(Taps.around(5)).init_state(1)
    x = numbers(1, 4, 6)
    label = Context(torch.arange(4)[None], label=torch.zeros(1, 1, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="does not keep packed documents apart"):
        module(Taps.behind(5))(x, label)
