"""Dynamic convolution: the taps of every token are its own, shared by the channels of a head.

    y_n,h = sum_t w_n,h,t x_(n + t - left),h      over the taps t = 0 .. left + right

Wu et al., Pay Less Attention with Lightweight and Dynamic Convolutions,
https://arxiv.org/abs/1901.10430. Time O(N K C), memory O(N (C + H K)): T = K tokens at a time are a
product of a band of T x (T + K - 1) weights with the T + K - 1 tokens under it, so that 2 K - 1
products stand for K and no tensor (N, K, C) is made. What lies before the first token is zero, or
what a stream has kept of it.

Axes: B batch, N tokens, H heads, K taps, C channels, P tokens kept from before, T tokens of a tile.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.ops.conv import Taps

__all__ = ["dynamic"]


def dynamic(x: Tensor, weight: Tensor, taps: Taps, past: Tensor | None = None) -> Tensor:
    """The convolution of x (B, N, C) by weight (B, N, H, K): (B, N, C).

    past (B, left, C): the tokens before x, by default zeros. ValueError for taps by chunks, for
    another number of taps, or if the heads do not divide the channels.
    """
    batch, tokens, width = x.shape
    heads, kernel = weight.shape[2:]
    if kernel != taps.kernel or taps.chunk is not None:
        raise ValueError(f"weights of {kernel} taps do not go with {taps}, {taps.kernel} taps")
    if heads < 1 or width % heads:
        raise ValueError(f"{heads} heads do not divide {width}; choose a divisor of {width}")
    if tokens == 0:
        return x
    if torch.compiler.is_compiling():
        # one graph for every length from a kernel on: with a last tile that is never full, there
        # is always something to fill up
        tile, count = kernel, tokens // kernel + 1
    else:
        tile = min(kernel, tokens)
        count = -(-tokens // tile)
    more = count * tile - tokens
    before = x.new_zeros(batch, taps.left, width) if past is None else past.to(x.dtype)
    row = F.pad(torch.cat((before, x), 1), (0, 0, 0, taps.right + more))
    # (B, tiles, H, D, T + K - 1): neighbours overlap
    under = row.unflatten(2, (heads, -1)).unfold(1, tile + kernel - 1, tile)
    own = F.pad(weight.to(x.dtype), (0, 0, 0, 0, 0, more)).unflatten(1, (count, tile))
    y = _slant(own.transpose(2, 3)) @ under.mT
    return y.transpose(2, 3).flatten(3).flatten(1, 2)[:, :tokens]


def _slant(w: Tensor) -> Tensor:
    """Rows w (..., T, K) as a band (..., T, T + K - 1): row i begins at column i."""
    tile, kernel = w.shape[-2:]
    # one more column than the band has: read on by one less, each row slips by one to the right
    flat = F.pad(w, (0, tile)).flatten(-2)
    return flat[..., : tile * (tile + kernel - 1)].unflatten(-1, (tile, tile + kernel - 1))
