"""How an engine that loops becomes one torch operator that recomputes in its own backward.

A `Call` holds the arguments of one run; an engine subclasses it with `forward` and `backward`, and
`operator` registers the two as custom ops: one node to compile and export whatever happens inside.

    delta_i = do_i . out_i - dlse_i        so that ds = p * (do v^T - delta)

Axes: B batch, N queries, M keys, H heads, K listed keys, D head width, S rows of a table.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from subquad.ops.flops import register
from subquad.ops.lowering import parse
from subquad.ops.partial import EMPTY, Partial, Scoring, Where, wide
from subquad.ops.pattern import Coords, Pattern

__all__ = ["Call", "Operator", "continuous", "empty_output", "operator"]

#: (q, k, v, text of the pattern or "", where, scoring, listed, numbers) -> Partial
Operator = Callable[..., Partial]

_TENSORS = (
    "Tensor q, Tensor k, Tensor v, Tensor q_where, Tensor k_where, Tensor? valid, Tensor? seed, "
    "Tensor? rel_query, Tensor? rel_table, Tensor? rel_bias, Tensor? listed"
)
_NUMBERS = "str pattern, int[] numbers, float scale, float dropout, SymInt zero"
_SPAN = "Tensor? span=None, float ramp=1.0"
_COUNT = 11  # tensors among the arguments before the numbers
_END = _COUNT + 5  # where the span stands
_RELATIVE = slice(7, 10)


@dataclass
class Call:
    """The arguments of one run of an engine's op; gradients are those of q, k, v, `rel_*` and span.

    `q_where` (3, B or 1, H or 1, N) and `k_where` hold position, label and mark; `listed` is the
    engine's own: key slots (B or 1, H or 1, N, K), or the rows it works on.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    q_where: Tensor
    k_where: Tensor
    valid: Tensor | None
    seed: Tensor | None
    rel_query: Tensor | None
    rel_table: Tensor | None
    rel_bias: Tensor | None
    listed: Tensor | None
    text: str
    numbers: list[int]
    scale: float
    dropout: float
    zero: int
    span: Tensor | None = None
    ramp: float = 1.0

    #: does the engine take a span for each query? If so `backward` gives its gradient last
    spans: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """For engines that prepare something."""

    @property
    def pattern(self) -> Pattern | None:
        """The pattern whose text came along, or None for ''."""
        return _parsed(self.text) if self.text else None

    @property
    def wide(self) -> torch.dtype:
        """The dtype of scores, sums and the log-sum-exp."""
        return wide(self.q.dtype)

    def forward(self) -> tuple[Tensor, Tensor]:
        """out (B, H, N, Dv) and lse (B, H, N)."""
        raise NotImplementedError

    def backward(self, grad: Tensor, lse: Tensor, delta: Tensor) -> list[Tensor | None]:
        """Gradients of q, k, v, rel_query, rel_table, rel_bias (and span), in any float dtype."""
        raise NotImplementedError

    def empty_result(self) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp of queries that look at nothing."""
        out = empty_output(self.q, self.v).zero_()
        return out, torch.full(self.q.shape[:3], EMPTY, dtype=self.wide, device=self.q.device)

    def sums(self, t: Tensor) -> Tensor:
        """Zeros laid out like `t`, wide enough to add up in."""
        return torch.zeros_like(t, dtype=self.wide)


def operator(name: str, loop: type[Call]) -> Operator:
    """Register `subquad::name` and its backward; `loop` does the work."""
    schema = f"({_TENSORS}, {_NUMBERS}, {_SPAN}) -> (Tensor, Tensor)"

    @torch.library.custom_op(f"subquad::{name}", mutates_args=(), schema=schema)
    def op(*args):
        with torch.no_grad(), torch.autocast(args[0].device.type, enabled=False):
            return loop(*args).forward()

    @op.register_fake
    def _(q, k, v, *_):
        return empty_output(q, v), q.new_empty(q.shape[:3], dtype=wide(q.dtype))

    op_backward = _backward_operator(name, loop)

    def setup(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs[:_COUNT], inputs[_END], *output)
        ctx.numbers, ctx.ramp = inputs[_COUNT:_END], inputs[-1]

    def differentiate(ctx, grad_out: Tensor, grad_lse: Tensor):
        *inputs, span, out, lse = ctx.saved_tensors
        ctx.maybe_clear_saved_tensors()
        delta = (grad_out.to(lse.dtype) * out.to(lse.dtype)).sum(-1) - grad_lse
        del out  # as large as the values, and not needed again
        grads = op_backward(grad_out, lse, delta, *inputs, *ctx.numbers, span, ctx.ramp)
        given = (*inputs[_RELATIVE], span)
        *rel, end = (None if t is None else g for g, t in zip(grads[3:], given, strict=True))
        return (*grads[:3], *[None] * 4, *rel, None, *[None] * len(ctx.numbers), end, None)

    op.register_autograd(differentiate, setup_context=setup)
    register(name)
    return _caller(op, name, loop)


def _backward_operator(name: str, loop: type[Call]) -> Callable[..., tuple[Tensor, ...]]:
    results = ", ".join(["Tensor"] * 7)
    given = f"Tensor grad, Tensor lse, Tensor delta, {_TENSORS}, {_NUMBERS}, {_SPAN}"
    schema = f"({given}) -> ({results})"

    @torch.library.custom_op(f"subquad::{name}_backward", mutates_args=(), schema=schema)
    def op(grad, lse, delta, *args):
        with torch.no_grad(), torch.autocast(args[0].device.type, enabled=False):
            grads = loop(*args).backward(grad, lse, delta)
            grads = grads if loop.spans else [*grads, None]
            return tuple(_result(g, t, lse) for g, t in zip(grads, _inputs(args), strict=True))

    @op.register_fake
    def _(grad, lse, delta, *args):
        return tuple(lse.new_empty(0) if t is None else torch.empty_like(t) for t in _inputs(args))

    return op


def _caller(op: Callable[..., tuple[Tensor, Tensor]], name: str, loop: type[Call]) -> Operator:
    """The op as engines call it."""

    def run(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        text: str,
        where: Where,
        scoring: Scoring,
        listed: Tensor | None = None,
        numbers: tuple[int, ...] = (),
    ) -> Partial:
        d = scoring.distance
        relative = (d.query, d.table, d.bias, d.zero) if d else (None, None, None, 0)
        end = (d.span, float(d.ramp)) if d else (None, 1.0)
        if end[0] is not None and not loop.spans:
            raise ValueError(f"the {name} engine takes no span by query; use the band engine")
        seed = scoring.seed if scoring.dropout > 0 else None
        rate = scoring.dropout if seed is not None else 0.0
        return Partial(
            *op(
                *(q, k, v, _pack(where.q), _pack(where.k), where.valid, seed, *relative[:3]),
                *(listed, text, list(numbers), float(scoring.scale), float(rate), relative[3]),
                *end,
            )
        )

    return run


def continuous(q_pos: Tensor, k_pos: Tensor) -> bool:
    """Do positions run on by one, the last query standing at the last key?"""
    if q_pos.shape[-1] == 0 or k_pos.shape[-1] == 0:
        return True
    steps = (k_pos.diff() == 1).all() & (q_pos.diff() == 1).all()
    return bool(steps & (q_pos[..., -1] == k_pos[..., -1]).all())


def empty_output(q: Tensor, v: Tensor) -> Tensor:
    """A fresh (B, H, N, Dv) laid out (B, N, H, Dv), as the projection after it wants it."""
    b, h, n, _ = q.shape
    return v.new_empty(b, n, h, v.shape[-1]).transpose(1, 2)


def _pack(c: Coords) -> Tensor:
    """Coordinates as one tensor: position, label, mark, (3, B or 1, H or 1, N)."""
    label = torch.zeros_like(c.pos) if c.label is None else c.label
    mark = torch.zeros_like(c.pos) if c.mark is None else c.mark.to(c.pos.dtype)
    return torch.stack(torch.broadcast_tensors(c.pos, label, mark))


def _inputs(args: tuple) -> list[Tensor | None]:
    return [*args[:3], *args[_RELATIVE], args[_END] if len(args) > _END else None]


def _result(grad: Tensor | None, like: Tensor | None, lse: Tensor) -> Tensor:
    """A gradient as the op returns it: dtype and layout of its input; an empty one for None."""
    if grad is None or like is None:
        return lse.new_zeros(0)
    grad = grad.to(like.dtype)
    # heads of a projection lie side by side: so the projection's backward need not copy
    if grad.stride() == torch.empty_like(like, device="meta").stride():
        return grad
    return torch.empty_like(like).copy_(grad)


@lru_cache(maxsize=256)
def _parsed(text: str) -> Pattern:
    return parse(text)
