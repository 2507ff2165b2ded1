"""LSH attention as one torch operator that recomputes in its own backward.

    delta_i = do_i . out_i - dlse_i        so that ds = p * (do v^T - delta)

Queries and keys are one tensor: keys are made unit vectors inside, tile by tile, and nothing of
their size is kept but the input.

Axes: B batch, H heads, N queries (the last tokens), M tokens, R rounds, D head width.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from subquad.ops.calls import empty_output
from subquad.ops.lsh_loop import At, Block
from subquad.ops.partial import wide

__all__ = ["Call", "lsh"]

#: tokens of a block of lanes: what is gathered from should stay in cache
TOKENS = 1 << 15

_ARGUMENTS = (
    "Tensor qk, Tensor v, Tensor labels, Tensor? seed, "
    "SymInt queries, SymInt behind, SymInt ahead, float dropout"
)
_COUNT = 4  # tensors among them


@dataclass
class Call:
    """The arguments of one run.

    qk (B, H, M, D); v (B, H, M, Dv); labels (B, H, R, M); the last `queries` tokens look at up to
    `behind` tokens of their bucket before them and `ahead` after them; `seed` makes the dropout.
    """

    qk: Tensor
    v: Tensor
    labels: Tensor
    seed: Tensor | None
    queries: int
    behind: int
    ahead: int
    dropout: float

    def forward(self) -> tuple[Tensor, Tensor]:
        """out (B, H, N, Dv) and lse (B, H, N)."""
        last = self.qk[:, :, self.qk.shape[2] - self.queries :]
        out = empty_output(last, self.v)
        lse = torch.empty(last.shape[:3], dtype=wide(self.qk.dtype), device=self.qk.device)
        for at in self._blocks():
            for whole, part in zip((out, lse), Block(self, at).forward(), strict=True):
                whole[at] = part.view(whole[at].shape)
        return out, lse

    def backward(self, grad: Tensor, lse: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of qk and v."""
        grads = torch.zeros_like(self.qk), torch.zeros_like(self.v)
        for at in self._blocks():
            parts = Block(self, at).backward(grad[at], lse[at], delta[at])
            for whole, part in zip(grads, parts, strict=True):
                whole[at] = part.view(whole[at].shape)
        return grads

    def _blocks(self) -> Iterator[At]:
        """Rows of the batch and heads that run together."""
        b, h, m, _ = self.qk.shape
        if self.queries == 0:
            return
        together = max(1, TOKENS // m)
        hs, bs = min(h, together), max(1, together // max(h, 1))
        for b0 in range(0, b, bs):
            for h0 in range(0, h, hs):
                yield slice(b0, b0 + bs), slice(h0, h0 + hs)


@torch.library.custom_op(
    "subquad::lsh", mutates_args=(), schema=f"({_ARGUMENTS}) -> (Tensor, Tensor)"
)
def lsh(*args):
    """out (B, H, N, Dv), lse (B, H, N); who finds nothing has its own value, and EMPTY."""
    with torch.no_grad(), torch.autocast(args[0].device.type, enabled=False):
        return Call(*args).forward()


@lsh.register_fake
def _(qk, v, labels, seed, queries, behind, ahead, dropout):
    last = qk.new_empty(*qk.shape[:2], queries, qk.shape[3])
    return empty_output(last, v), last.new_empty(last.shape[:3], dtype=wide(qk.dtype))


@torch.library.custom_op(
    "subquad::lsh_backward",
    mutates_args=(),
    schema=f"(Tensor grad, Tensor lse, Tensor delta, {_ARGUMENTS}) -> (Tensor, Tensor)",
)
def _lsh_backward(grad, lse, delta, *args):
    with torch.no_grad(), torch.autocast(args[0].device.type, enabled=False):
        return Call(*args).backward(grad, lse, delta)


@_lsh_backward.register_fake
def _(grad, lse, delta, qk, v, *_):
    return torch.empty_like(qk), torch.empty_like(v)


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:_COUNT], *output)
    ctx.numbers = inputs[_COUNT:]


def _differentiate(ctx, grad_out: Tensor, grad_lse: Tensor):
    *inputs, out, lse = ctx.saved_tensors
    ctx.maybe_clear_saved_tensors()
    delta = torch.linalg.vecdot(grad_out.to(lse.dtype), out.to(lse.dtype)) - grad_lse
    del out  # as large as the values, and not needed again
    dqk, dv = _lsh_backward(grad_out, lse, delta, *inputs, *ctx.numbers)
    return dqk, dv, *[None] * (len(inputs) - 2 + len(ctx.numbers))


lsh.register_autograd(_differentiate, setup_context=_save)


def _pairs(labels: torch.Size, queries: int, behind: int, ahead: int) -> int:
    """Pairs with a full window in every round: what short buckets take away is data."""
    slot = torch.arange(labels[3] - queries, labels[3])
    one = slot.clamp(max=behind).sum() + (labels[3] - 1 - slot).clamp(max=ahead).sum()
    return labels[0] * labels[1] * labels[2] * int(one)


@register_flop_formula(torch.ops.subquad.lsh)
def _forward_flops(qk, v, labels, seed, *numbers, out_shape=None, **_) -> int:
    return 2 * _pairs(labels, *numbers[:3]) * (qk[3] + v[3])


@register_flop_formula(torch.ops.subquad.lsh_backward)
def _backward_flops(grad, lse, delta, qk, v, labels, seed, *numbers, out_shape=None, **_) -> int:
    return 2 * _pairs(labels, *numbers[:3]) * (3 * qk[3] + 2 * v[3])
