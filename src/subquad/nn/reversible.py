"""Reversible wiring: two streams that feed each other, so that inputs follow from outputs.

    y1 = x1 + mix(norm x2)        y2 = x2 + mlp(norm y1)
    x2 = y2 - mlp(norm y1)        x1 = y1 - mix(norm x2)

Gomez et al., 2017, https://arxiv.org/abs/1707.04585; Kitaev et al., 2020 (Reformer), section 3,
https://arxiv.org/abs/2001.04451. Backward forms each half's input anew from its output: activations
take the memory of one half, whatever the depth, for the time of one more forward pass.

Ours differs: streams are kept in at least float32, whatever the parts run in, because subtracting
undoes a sum only as well as the sum was kept. What cannot be recomputed is remembered instead: the
state of the random generators (dropout), and the labels of mixers that hash, since a restored input
differs in its last bits and could fall into another bucket.

Axes: B batch, N tokens, C width of a stream.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from subquad.nn.blocks import Block
from subquad.nn.context import Context
from subquad.nn.mixer import Mixer
from subquad.nn.mlp import by_chunks
from subquad.nn.restore import Half, restoring
from subquad.nn.stacks import Decoder, Encoder, Stack
from subquad.ops.partial import wide

__all__ = [
    "MeanReversibleDecoder",
    "MeanReversibleEncoder",
    "Reversible",
    "ReversibleDecoder",
    "ReversibleEncoder",
]


class Reversible(Block):
    """Two streams side by side on the channels, (B, N, 2 C), each fed by the other.

    By itself it keeps activations as any block does; a ReversibleEncoder or ReversibleDecoder
    forgets them. ValueError unless there is exactly one mixer.
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
        if len(mixers) != 1:
            raise ValueError(
                f"a reversible block has 1 mixer, not {len(mixers)}: each stream feeds the other "
                "once; put further mixers into blocks of their own"
            )
        super().__init__(dim, mixers, mlp, norm=norm, dropout=dropout, chunk=chunk)

    def forward(self, x: Tensor, context: Context, state: Any = None) -> tuple[Tensor, Any]:
        """Both streams (B, N, 2 C) after this block, and the state of its mixer if it streams."""
        one, two = x.chunk(2, -1)
        y, kept = self.mix(two, context, None if state is None else state[0])
        one = one + y
        two = two + self.think(one)
        return torch.cat((one, two), -1), None if state is None else (kept,)

    def mix(
        self, x: Tensor, context: Context, state: Any = None, **labels: Tensor
    ) -> tuple[Tensor, Any]:
        """What the second stream (B, N, C) gives to the first."""
        y, kept = self.mixers[0](self._normed(0, x), context, state, **labels)
        return self.dropout(y), kept

    def think(self, x: Tensor) -> Tensor:
        """What the first stream (B, N, C) gives to the second."""
        return by_chunks(self._think, x, self.chunk)

    def _think(self, x: Tensor) -> Tensor:
        return self.dropout(self.mlp(self._normed(1, x)))

    def halves(self, context: Context) -> tuple[Half, Half]:
        """The two functions of a stream that this block adds to the other."""
        mixer = self.mixers[0]
        assert isinstance(mixer, Mixer)

        def mix(x: Tensor, labels: Tensor | None) -> Tensor:
            return self.mix(x, context, **({} if labels is None else {"labels": labels}))[0]

        def decide(x: Tensor) -> Tensor | None:
            return mixer.hash(self._normed(0, x), context)

        def think(x: Tensor, _: Tensor | None) -> Tensor:
            return self._think(x)

        return (
            Half(mix, _trained(self.norms[0], mixer), decide),
            Half(think, _trained(self.norms[1], self.mlp), size=self.chunk),
        )

    def _normed(self, which: int, x: Tensor) -> Tensor:
        """A stream as the parts take it: normalised, in the dtype of their weights."""
        norm = self.norms[which]
        return norm(x.to(next(norm.parameters()).dtype))


class _TwoStreams(Stack):
    """A stack of Reversible blocks: both streams start as x and end side by side, (B, N, 2 C).

    Whole inputs train in memory that does not grow with depth (labels of mixers that hash apart);
    `gradient_checkpointing` has nothing left to forget. Where a state comes in, and in a compiled
    graph, gradients go through the plain wiring, whose activations are kept; a compiled graph
    forgets those inside blocks with `gradient_checkpointing`.
    """

    #: how many streams wide the features are
    spans = 2

    def __init__(self, blocks: Sequence[Block], dim: int, norm: nn.Module | None = None) -> None:
        super().__init__(blocks, dim, norm)
        for i, block in enumerate(blocks):
            if not isinstance(block, Reversible):
                raise ValueError(
                    f"block {i} of two streams must be a Reversible, not a {type(block).__name__}"
                )
        self.out_dim = self.spans * dim

    def join(self, both: Tensor) -> Tensor:
        """What the two streams (B, N, 2 C) are to whatever follows: both, side by side."""
        return both

    def row(self, x: Tensor, context: Context, state: tuple | None) -> tuple[Tensor, tuple | None]:
        if state is None and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            both = x.to(wide(x.dtype))
            rows = [block.halves(context) for block in self.blocks if isinstance(block, Reversible)]
            halves = [half for pair in rows for half in pair]
            return self.join(torch.cat(restoring(halves, both), -1)).to(x.dtype), None
        return self.plain(x, context, state)

    def plain(
        self, x: Tensor, context: Context, state: tuple | None
    ) -> tuple[Tensor, tuple | None]:
        """The same as `row`, every activation kept: gradients reach what stands inside blocks."""
        both = x.to(wide(x.dtype))
        y, after = super().row(torch.cat((both, both), -1), context, state)
        return self.join(y).to(x.dtype), after


class ReversibleEncoder(_TwoStreams, Encoder):
    """An Encoder of Reversible blocks; features are 2 C wide."""


class ReversibleDecoder(_TwoStreams, Decoder):
    """A Decoder of Reversible blocks; features are 2 C wide."""


class _Mean(_TwoStreams):
    """Two streams of which the mean goes on, (B, N, C), as reformer-pytorch has it."""

    spans = 1

    def join(self, both: Tensor) -> Tensor:
        return both.unflatten(-1, (2, -1)).mean(-2)


class MeanReversibleEncoder(_Mean, ReversibleEncoder):
    """A ReversibleEncoder whose features are the mean of both streams, C wide."""


class MeanReversibleDecoder(_Mean, ReversibleDecoder):
    """A ReversibleDecoder whose features are the mean of both streams, C wide."""


def _trained(*modules: nn.Module) -> tuple[nn.Parameter, ...]:
    """Their parameters that learn, each once."""
    every = (p for module in modules for p in module.parameters())
    return tuple(dict.fromkeys(p for p in every if p.requires_grad))
