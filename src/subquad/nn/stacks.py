"""Stacks: blocks in a row, from features to features. What `archs.*.build` returns.

    y, state = stack(x, context, state)

An Encoder sees everything at once; a Decoder streams, a ChunkEncoder by chunks.

Axes: B batch, N tokens, C model width.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from subquad.nn.blocks import Block
from subquad.nn.context import Context
from subquad.nn.mixer import check_state
from subquad.ops.later import together

if TYPE_CHECKING:
    from subquad.nn.init import Init

__all__ = ["ChunkEncoder", "Decoder", "Encoder", "Stack"]


class Stack(nn.Module):
    """Blocks in a row, then a norm. `out_dim` is the width of what comes out.

    With `gradient_checkpointing` set, training forgets the activations inside blocks and forms
    them again in backward: less memory, about a third more time.
    """

    def __init__(self, blocks: Sequence[Block], dim: int, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.Identity() if norm is None else norm
        self.out_dim = dim
        self.gradient_checkpointing = False
        #: how many tokens must come together when it is fed piece by piece; None if it cannot be
        self.step: int | None = None
        #: how the weights of a model around this stack are drawn, if not as everywhere
        self.drawn: Init | None = None

    def forward(
        self, x: Tensor, context: Context, state: tuple | None = None
    ) -> tuple[Tensor, tuple | None]:
        """Features (B, N, out_dim), and the states of the blocks if a state came in.

        ValueError for the state of a stack of another kind or depth.
        """
        if state is not None:
            check_state(self, state, tuple)
            if len(state) != (depth := len(self.blocks)):
                raise ValueError(
                    f"the state is that of {len(state)} layers and this model has {depth}"
                )
        x, after = self.row(x, context, state)
        return self.norm(x), after

    def row(self, x: Tensor, context: Context, state: tuple | None) -> tuple[Tensor, tuple | None]:
        """x (B, N, C) after all blocks, and their states."""
        after: list[Any] = []
        for i, block in enumerate(self.blocks):
            kept = None if state is None else state[i]
            x, kept = self.recompute(block, x, context, kept)
            after.append(kept)
        return x, None if state is None else tuple(after)

    def recompute(self, part: nn.Module, *args: Any) -> Any:
        """part(*args), its activations forgotten if that is asked for."""
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(part, *args, use_reentrant=False)
        return part(*args)


class Encoder(Stack):
    """A stack that sees its whole input at once."""


class ChunkEncoder(Encoder):
    """A stack that is fed by chunks: `step` tokens at a time, or a multiple; a token sees its chunk
    to the end. Only the last piece of a row may be shorter.

    ValueError if one of its blocks looks farther ahead.
    """

    def __init__(self, blocks: Sequence[Block], dim: int, norm: nn.Module | None = None) -> None:
        super().__init__(blocks, dim, norm)
        found = together(*(block.step for block in blocks))
        if found is None:
            which = next(i for i, block in enumerate(blocks) if block.step is None)
            raise ValueError(f"block {which} looks farther ahead than a chunk; use an Encoder")
        self.step = found

    def forward(
        self, x: Tensor, context: Context, state: tuple | None = None
    ) -> tuple[Tensor, tuple | None]:
        if state is not None and self.step is not None and not torch.compiler.is_compiling():
            self._check_start(x, context, self.step)
        return super().forward(x, context, state)

    def init_state(self, batch: int) -> tuple:
        """The states of all blocks before the first token."""
        return tuple(b.init_state(batch) for b in self.blocks if isinstance(b, Block))

    def _check_start(self, x: Tensor, context: Context, step: int) -> None:
        start = context.pos[:, :1].expand(len(x), -1)
        if context.valid is not None:
            start = start.masked_fill(~context.valid[:, :1], 0)
        if (off := start % step).any():
            at = int(start[off > 0][0])
            raise ValueError(
                f"a row goes on after {at} tokens, which are not whole chunks of {step}: "
                f"feed multiples of {step} tokens; only the last piece of a row may be shorter"
            )


class Decoder(Stack):
    """A stack that can be fed piece by piece. ValueError if one of its blocks looks ahead."""

    def __init__(self, blocks: Sequence[Block], dim: int, norm: nn.Module | None = None) -> None:
        super().__init__(blocks, dim, norm)
        self.step = 1
        for i, block in enumerate(blocks):
            if not block.streams:
                raise ValueError(f"block {i} of a decoder looks ahead; use an Encoder")

    def init_state(self, batch: int) -> tuple:
        """The states of all blocks before the first token."""
        return tuple(b.init_state(batch) for b in self.blocks if isinstance(b, Block))

    def init_memory(self, batch: int) -> tuple:
        """What all blocks carry from segment to segment in training, as constants."""
        return tuple(b.init_memory(batch) for b in self.blocks if isinstance(b, Block))
