"""A party: something whose speed is measured, in a form that all of them share.

Axes: N tokens, C model width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subquad.nn.context import Context
from subquad.nn.mixer import Mixer, merge_heads, split_heads
from subquad.nn.state import nbytes

__all__ = ["Follow", "Made", "Party", "Size", "TorchAttention", "of_mixer", "of_torch"]

#: tokens at the start that patterns with marks take for global ones
MARKS = 16


@dataclass(frozen=True)
class Size:
    """Widths that all parties of a run have; `layers`, `ffn` and `words` are of whole models."""

    dim: int = 512
    heads: int = 8
    layers: int = 6
    ffn: int = 2048
    words: int = 256

    @property
    def width(self) -> int:
        """Of a head. ValueError if heads do not divide `dim`."""
        if self.dim % self.heads:
            raise ValueError(f"--dim {self.dim} is not a multiple of --heads {self.heads}")
        return self.dim // self.heads


#: after N tokens: what the next one takes, and the bytes of the state that it reads
Follow = Callable[[Tensor], tuple[Callable[[], object], int]]


@dataclass(frozen=True)
class Made:
    """A party at one size and length. `call` takes features (1, N, C), or words (1, N) if it
    `reads_words`; `follow` is None where nothing streams token by token.
    """

    module: nn.Module
    call: Callable[[Tensor], Tensor]
    follow: Follow | None = None
    reads_words: bool = False


@dataclass(frozen=True)
class Party:
    """`make` builds it for a size and a length; `causal` parties are compared with causal ones.

    whole: a model rather than one layer's mixing of positions.  beside: of a peer, what of ours it
    is the peer of.
    """

    name: str
    make: Callable[[Size, int], Made]
    causal: bool
    whole: bool = False
    beside: str | None = None


class TorchAttention(nn.Module):
    """What everything is measured against: four projections around torch's own
    scaled_dot_product_attention; a stream writes into a buffer of keys and values made beforehand.
    """

    def __init__(self, dim: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.enter, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """x (1, N, C) mixed: (1, N, C)."""
        q, k, v = (split_heads(t, self.heads) for t in self.enter(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(merge_heads(y))

    def follow(self, x: Tensor) -> tuple[Callable[[], object], int]:
        """One token after x (1, N, C)."""
        _, k, v = (split_heads(t, self.heads) for t in self.enter(x).chunk(3, -1))
        keys, values = (F.pad(t, (0, 0, 0, 1)) for t in (k, v))
        last = x[:, -1:]

        def step() -> Tensor:
            q, k, v = (split_heads(t, self.heads) for t in self.enter(last).chunk(3, -1))
            keys[:, :, -1:], values[:, :, -1:] = k, v
            return self.out(merge_heads(F.scaled_dot_product_attention(q, keys, values)))

        return step, keys.nbytes + values.nbytes


def of_torch(size: Size, causal: bool) -> Made:
    """torch's attention of a size."""
    module = TorchAttention(size.dim, size.heads, causal)
    return Made(module, module, module.follow if causal else None)


def of_mixer(mixer: Mixer, *, marks: bool) -> Made:
    """A mixer of ours; `marks`: the first tokens are global ones, as patterns with marks want."""

    def context(x: Tensor, start: int = 0) -> Context:
        pos = torch.arange(start, start + x.shape[1])[None]
        return Context(pos, mark=pos < MARKS if marks else None)

    def follow(x: Tensor) -> tuple[Callable[[], object], int]:
        state: Any = mixer.init_state(1)
        _, state = mixer(x, context(x), state)
        last = x[:, -1:]
        after = context(last, x.shape[1])
        return lambda: mixer(last, after, state)[0], nbytes(state)

    one_by_one = mixer.step == 1
    return Made(mixer, lambda x: mixer(x, context(x))[0], follow if one_by_one else None)
