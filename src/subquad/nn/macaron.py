"""Macaron: attention and convolution between two feed-forward parts that count half.

    x = x + 1/2 ffn(x);  x = x + mix(x);  x = x + conv(x);  y = norm(x + 1/2 ffn(x))

Every branch begins with a norm of its own. Gulati et al., 2020 (Conformer), section 2.4,
https://arxiv.org/abs/2005.08100; half steps after Lu et al., 2019, https://arxiv.org/abs/1906.02762.
What is left out (`before`, `conv`) leaves no trace; a single feed-forward part counts whole.

Axes: B batch, N tokens, C model width.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from subquad.nn.blocks import Block
from subquad.nn.context import Context
from subquad.nn.conv import ConvModule
from subquad.nn.mixer import Mixer
from subquad.nn.mlp import by_chunks
from subquad.ops.later import together

__all__ = ["Macaron"]


class Macaron(Block):
    """The Conformer's block around any mixers; `mlp` is the last feed-forward part.

    before: the first one.  conv: the convolution module, whose Tail is the last of the block's
    states.
    """

    def __init__(
        self,
        dim: int,
        mixers: Sequence[Mixer],
        mlp: nn.Module,
        *,
        before: nn.Module | None = None,
        conv: ConvModule | None = None,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        dropout: float = 0.0,
        chunk: int | None = None,
    ) -> None:
        super().__init__(dim, mixers, mlp, norm=norm, dropout=dropout, chunk=chunk)
        self.before, self.conv = before, conv
        self.norm_before = None if before is None else norm(dim)
        self.norm_conv = None if conv is None else norm(dim)
        self.norm_out = norm(dim)
        self.share = 1.0 if before is None else 0.5

    def forward(self, x: Tensor, context: Context, state: Any = None) -> tuple[Tensor, Any]:
        after = []
        if self.before is not None and self.norm_before is not None:
            y = by_chunks(self.before, self.norm_before(x), self.chunk)
            x = x + self.share * self.dropout(y)
        for i, mixer in enumerate(self.mixers):
            y, kept = mixer(self.norms[i](x), context, None if state is None else state[i])
            x = x + self.dropout(y)
            after.append(kept)
        if self.conv is not None and self.norm_conv is not None:
            y, kept = self.conv(self.norm_conv(x), context, None if state is None else state[-1])
            x = x + self.dropout(y)
            after.append(kept)
        x = x + self.share * self.dropout(self.feed(self.norms[-1](x)))
        return self.norm_out(x), None if state is None else tuple(after)

    @property
    def step(self) -> int | None:
        own = super().step
        return own if self.conv is None else together(own, self.conv.step)

    def init_state(self, batch: int) -> tuple:
        states = super().init_state(batch)
        return states if self.conv is None else (*states, self.conv.init_state(batch))

    def init_memory(self, batch: int) -> tuple:
        memories = super().init_memory(batch)
        return memories if self.conv is None else (*memories, self.conv.init_state(batch))
