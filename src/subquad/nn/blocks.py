"""Blocks: residual wiring around mixers and a feed-forward part.

    x, state = block(x, context, state)        state: one entry per mixer, or None

A block takes its mixers in order: one for an encoder, self and cross for a decoder with a memory.

Axes: B batch, N tokens, C model width.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from subquad.nn.context import Context
from subquad.nn.mixer import Mixer
from subquad.nn.mlp import at_least_one, by_chunks
from subquad.ops.later import together

__all__ = ["Block", "PostNorm", "PreNorm"]


class Block(nn.Module):
    """What all wirings share: the parts, a norm for each, dropout, and the states of the mixers.

    `chunk`: how many positions the feed-forward part takes at a time; None for all.
    """

    def __init__(
        self,
        dim: int,
        mixers: Sequence[Mixer],
        mlp: nn.Module,
        *,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        dropout: float = 0.0,
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        self.chunk = None if chunk is None else at_least_one(chunk)
        self.mixers = nn.ModuleList(mixers)
        self.mlp = mlp
        self.norms = nn.ModuleList(norm(dim) for _ in range(len(mixers) + 1))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Context, state: Any = None) -> tuple[Tensor, Any]:
        """x (B, N, C) after this block, and the states of its mixers if it streams."""
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def feed(self, x: Tensor) -> Tensor:
        """The feed-forward part of x (B, N, C), already normalised."""
        return by_chunks(self.mlp, x, self.chunk)

    @property
    def streams(self) -> bool:
        """Can it be fed piece by piece, wherever it is cut?"""
        return self.step == 1

    @property
    def step(self) -> int | None:
        """How many tokens must come together; None if it cannot be fed piece by piece."""
        return together(*(mixer.step for mixer in self.mixers if isinstance(mixer, Mixer)))

    def init_state(self, batch: int) -> tuple:
        """The states of its mixers before the first token. ValueError if one cannot stream."""
        return tuple(m.init_state(batch) for m in self.mixers if isinstance(m, Mixer))

    def init_memory(self, batch: int) -> tuple:
        """What its mixers carry from segment to segment in training."""
        return tuple(m.init_memory(batch) for m in self.mixers if isinstance(m, Mixer))


class PreNorm(Block):
    """Norm inside the residual branch: x + f(norm(x))."""

    def forward(self, x: Tensor, context: Context, state: Any = None) -> tuple[Tensor, Any]:
        after = []
        for i, mixer in enumerate(self.mixers):
            y, kept = mixer(self.norms[i](x), context, None if state is None else state[i])
            x = x + self.dropout(y)
            after.append(kept)
        x = x + self.dropout(self.feed(self.norms[-1](x)))
        return x, None if state is None else tuple(after)


class PostNorm(Block):
    """Norm after the residual sum: norm(x + f(x)), as in the first Transformer."""

    def forward(self, x: Tensor, context: Context, state: Any = None) -> tuple[Tensor, Any]:
        after = []
        for i, mixer in enumerate(self.mixers):
            y, kept = mixer(x, context, None if state is None else state[i])
            x = self.norms[i](x + self.dropout(y))
            after.append(kept)
        x = self.norms[-1](x + self.dropout(self.feed(x)))
        return x, None if state is None else tuple(after)
