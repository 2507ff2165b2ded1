"""Lightweight and dynamic convolution: mixers whose weights depend on distance alone.

    v = enter(x);   y = W_o sum_t softmax_t(kernel) v_(n + t - left)      a kernel for each head
    lightweight: the kernels are parameters (H, K);   dynamic: kernel_n = W_k v_n for each token

Wu et al., Pay Less Attention with Lightweight and Dynamic Convolutions,
https://arxiv.org/abs/1901.10430. Time O(N K C + N C^2), memory O(N (C + H K)). A token near an end
has fewer taps, and the weights of those it has are not raised to a sum of 1: what is cut off or not
yet read then changes nothing else. Streams exactly where no tap lies ahead, by its last inputs.

Axes: B batch, N tokens, M keys, H heads, K taps, R rows asked for, D head width, C model width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subquad.nn.attention import divide
from subquad.nn.context import Context
from subquad.nn.conv import Tail
from subquad.nn.mixer import Mixer, check_state, merge_heads, split_heads
from subquad.ops.conv import Taps, depthwise
from subquad.ops.dynamic import dynamic

__all__ = ["DynamicConv", "GatedLinear", "Kernels", "LightConv"]


class GatedLinear(nn.Module):
    """A linear map with a gate (GLU): y = (W x) * sigmoid(V x)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        return F.glu(self.up(x), -1)


class Kernels(nn.Module):
    """The kernels of a lightweight convolution, before their softmax: weight (H, K)."""

    def __init__(self, num_heads: int, taps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_heads, taps))
        nn.init.normal_(self.weight, std=0.02)


class _Convolution(Mixer):
    """What both share: the maps before and after, the matrix by definition, the stream."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        taps: Taps,
        *,
        kernel: nn.Module,
        enter: nn.Module | None,
        dropout: float,
    ) -> None:
        super().__init__()
        if taps.chunk is not None:
            raise ValueError(f"{taps} look ahead by chunks; these kernels look equally far for all")
        self.num_heads, self.head_dim = num_heads, divide(dim, num_heads)
        self.taps, self.dropout = taps, dropout
        self.enter = nn.Linear(dim, dim) if enter is None else enter
        self.kernel = kernel
        self.out = nn.Linear(dim, dim)

    def forward(
        self, x: Tensor, context: Context, state: Tail | None = None
    ) -> tuple[Tensor, Tail | None]:
        """y (B, N, C) and, if a state came in, the state after these tokens.

        ValueError for packed documents, which a convolution would mix.
        """
        if context.label is not None:
            raise ValueError(
                "a convolution does not keep packed documents apart: give each document a row of "
                "its own"
            )
        if state is not None:
            check_state(self, state, Tail)
        v = self._entered(x, context)
        y = self.out(self.slide(v, self.taps_of(v), None if state is None else state.x))
        return y, None if state is None else state.follow(v, context.valid)

    def logits(self, v: Tensor) -> Tensor:
        """Kernels (B or 1, N or 1, H, K), before their softmax, for what has entered."""
        raise NotImplementedError(f"{type(self).__name__} must define logits")

    def slide(self, v: Tensor, weight: Tensor, past: Tensor | None) -> Tensor:
        """The convolution of v (B, N, C), after past (B, left, C), by weight (..., H, K)."""
        raise NotImplementedError(f"{type(self).__name__} must define slide")

    def taps_of(self, v: Tensor) -> Tensor:
        """Weights of the taps, their sum 1: (B or 1, N or 1, H, K); in training some dropped."""
        return F.dropout(self.logits(v).softmax(-1), self.dropout, self.training)

    def weights(self, x: Tensor, context: Context, rows: Tensor | None = None) -> Tensor:
        v = self._entered(x, context)
        slots = torch.arange(x.shape[1], device=x.device)
        rows = slots if rows is None else rows
        tap = slots - rows[:, None] + self.taps.left
        inside = (tap >= 0) & (tap < self.taps.kernel)
        own = self.taps_of(v).expand(x.shape[0], x.shape[1], -1, -1)[:, rows]
        index = tap.clamp(0, self.taps.kernel - 1)[None, :, None].expand(*own.shape[:3], -1)
        found = (own.gather(3, index) * inside[:, None]).transpose(1, 2)
        if context.valid is None:
            return found
        return found.masked_fill(~context.valid[:, None, None], 0.0)

    def values(self, x: Tensor, context: Context) -> Tensor:
        return split_heads(self._entered(x, context), self.num_heads)

    def output(self, mixed: Tensor) -> Tensor:
        return self.out(merge_heads(mixed))

    @property
    def streams(self) -> bool:
        return self.taps.right == 0

    def init_state(self, batch: int) -> Tail:
        if not self.streams:
            raise ValueError(f"a convolution over {self.taps} looks ahead: it cannot stream")
        weight = self.out.weight
        return Tail(weight.new_zeros(batch, self.taps.left, len(weight)))

    def _entered(self, x: Tensor, context: Context) -> Tensor:
        # after the first map too, whose bias would stand in the padding
        return context.clean(self.enter(context.clean(x)))


class LightConv(_Convolution):
    """Lightweight convolution over `taps`: a kernel for each head, the same for every token.

    enter: the map before it, `GatedLinear(dim)` in the paper, by default a plain one.  dropout: of
    taps (DropConnect).  ValueError if the heads do not divide the width, or for taps by chunks.
    """

    kernel: Kernels

    def __init__(
        self,
        dim: int,
        num_heads: int,
        taps: Taps,
        *,
        enter: nn.Module | None = None,
        dropout: float = 0.0,
    ) -> None:
        kernel = Kernels(num_heads, taps.kernel)
        super().__init__(dim, num_heads, taps, kernel=kernel, enter=enter, dropout=dropout)

    def logits(self, v: Tensor) -> Tensor:
        return self.kernel.weight[None, None]

    def slide(self, v: Tensor, weight: Tensor, past: Tensor | None) -> Tensor:
        by_channel = weight[0, 0].repeat_interleave(self.head_dim, 0)
        return depthwise(v, by_channel, None, self.taps, past)


class DynamicConv(_Convolution):
    """Dynamic convolution over `taps`: every token says by a linear map what its kernels are.

    enter, dropout: as in `LightConv`.  ValueError as there.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        taps: Taps,
        *,
        enter: nn.Module | None = None,
        dropout: float = 0.0,
    ) -> None:
        kernel = nn.Linear(dim, num_heads * taps.kernel, bias=False)
        super().__init__(dim, num_heads, taps, kernel=kernel, enter=enter, dropout=dropout)

    def logits(self, v: Tensor) -> Tensor:
        return self.kernel(v).unflatten(-1, (self.num_heads, -1))

    def slide(self, v: Tensor, weight: Tensor, past: Tensor | None) -> Tensor:
        return dynamic(v, weight, self.taps, past)
