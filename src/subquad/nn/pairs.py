"""Pairs: any decoder made to read a memory, such as what an encoder gives out.

    x + self(norm x),  then  x + cross(norm x; memory),  then  x + mlp(norm x)      (or post-norm)

Vaswani et al., 2017, section 3.1, https://arxiv.org/abs/1706.03762. The cost is the decoder's own
and that of `cross` (O(N M) for softmax). Streams as the decoder does: the state of a block is
(self, cross), and cross is written once, at the first call.

Axes: B batch, N tokens, M memory tokens, C model width.
"""

from collections.abc import Callable
from copy import deepcopy

from subquad.nn.blocks import PostNorm, PreNorm
from subquad.nn.mixer import Mixer
from subquad.nn.stacks import Decoder, Stack

__all__ = ["attending"]


def attending(stack: Stack, cross: Callable[[], Mixer]) -> Decoder:
    """The same stack, its blocks with a mixer of `cross()` after their own, and a norm for it.

    `stack` is freshly built: it is changed, and drawn anew by whoever initialises the model.
    ValueError by name for a stack that looks ahead, or whose wiring cannot hand on a memory.
    """
    if not isinstance(stack, Decoder):
        raise ValueError(
            f"{_article(stack)} looks ahead, and what reads a memory must not: take causal=True"
        )
    if type(stack) is not Decoder:
        raise ValueError(f"{_article(stack)} {_REFUSED}")
    for block in stack.blocks:
        if not isinstance(block, PreNorm | PostNorm):
            raise ValueError(f"{_article(block)} block {_REFUSED}")
        # of the block's own kind; what stands in it is drawn anew
        block.norms.insert(len(block.mixers), deepcopy(block.norms[0]))
        block.mixers.append(cross())
    return stack


_REFUSED = (
    "cannot read a memory; a plain Decoder of PreNorm or PostNorm blocks can: take another wiring "
    "or architecture"
)


def _article(part: object) -> str:
    name = type(part).__name__
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"
