"""The convolution module of the Conformer: what attention does not see of near neighbours.

    y = W2 swish(norm(conv(glu(W1 x))))      W1 to 2 C, conv depthwise over K taps

Gulati et al., 2020, https://arxiv.org/abs/2005.08100, section 2.2. Time O(N K C + N C^2), memory
O(N). It is no mixer, since swish stands after the sum over positions.
Ours differs: tokens that are padding are zero before the convolution and no part of the statistics
of a batch norm, so a row comes out as if it were alone. Streams where its taps do.

Axes: B batch, N tokens, K taps, C model width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subquad.nn.context import Context, take
from subquad.nn.mixer import check_state
from subquad.nn.state import register
from subquad.ops.conv import Taps, depthwise

__all__ = [
    "CausalConv",
    "ConvModule",
    "DepthwiseConv",
    "FrameNorm",
    "Tail",
    "TokenBatchNorm",
    "TokenNorm",
]


@register
@dataclass(frozen=True)
class Tail:
    """The last inputs of a convolution, x (B, M, C), zeros where there were fewer."""

    x: Tensor

    def follow(self, new: Tensor, valid: Tensor | None) -> "Tail":
        """The tail after the tokens `new` (B, N, C), of which `valid` (B, N) are real."""
        size, joined = self.x.shape[1], torch.cat((self.x, new), 1)
        if valid is None:
            return Tail(joined[:, joined.shape[1] - size :].contiguous())
        slots = torch.arange(size, device=new.device)
        return Tail(take(joined, valid.sum(1, keepdim=True) + slots))


class DepthwiseConv(nn.Module):
    """A convolution of every channel by itself, over the tokens that `taps` name."""

    def __init__(self, dim: int, taps: Taps) -> None:
        super().__init__()
        self.taps = taps
        self.weight = nn.Parameter(torch.empty(dim, taps.kernel))
        self.bias = nn.Parameter(torch.zeros(dim))
        nn.init.normal_(self.weight, std=taps.kernel**-0.5)

    def forward(self, x: Tensor, past: Tensor | None = None) -> Tensor:
        """(B, N, C), zero where there is no token, to (B, N, C); past (B, left, C) stands before
        x."""
        return depthwise(x, self.weight, self.bias, self.taps, past)


class CausalConv(nn.Module):
    """A convolution of all channels, over the token itself and the `kernel` - 1 before it."""

    def __init__(self, dim: int, width: int, kernel: int, *, bias: bool = True) -> None:
        super().__init__()
        if kernel < 1:
            raise ValueError(f"kernel is {kernel}; a convolution has at least 1 tap, the token")
        self.kernel = kernel
        self.weight = nn.Parameter(torch.empty(width, dim, kernel))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None
        nn.init.normal_(self.weight, std=(dim * kernel) ** -0.5)

    def forward(self, x: Tensor, past: Tensor | None = None) -> Tensor:
        """(B, N, C), zero where there is no token, to (B, N, W); past (B, kernel - 1, C) stands
        before x, by default zeros."""
        if x.shape[1] == 0:
            return F.linear(x, self.weight[..., -1], self.bias)
        row = F.pad(x, (0, 0, self.kernel - 1, 0)) if past is None else torch.cat((past, x), 1)
        return F.conv1d(row.mT, self.weight, self.bias).mT


class TokenBatchNorm(nn.BatchNorm1d):
    """Batch norm over real tokens: in training their mean and variance, else the running ones.

    A single token has no variance, so it too is normalised by the running statistics. Where
    activations are forgotten and formed again, these statistics move twice in a step.
    """

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B, N, C) to (B, N, C); zeros where there is no token."""
        if valid is None or not self.training:
            return self._norm(x.flatten(0, 1)).view_as(x)
        y = torch.zeros_like(x)
        y[valid] = self._norm(x[valid]).to(y.dtype)
        return y

    def _norm(self, tokens: Tensor) -> Tensor:
        """Tokens (N, C), all real."""
        if self.training and len(tokens) < 2:
            known = self.running_mean, self.running_var, self.weight, self.bias
            return F.batch_norm(tokens, *known, training=False, eps=self.eps)
        return super().forward(tokens)


class TokenNorm(nn.LayerNorm):
    """Layer norm, by the call of a norm over real tokens."""

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        return super().forward(x)


#: width -> a norm that is told which tokens are real
FrameNorm = Callable[[int], nn.Module]


class ConvModule(nn.Module):
    """A gate, a depthwise convolution over `taps`, a norm and swish between two linear maps.

    norm: of what the convolution gives, told which tokens are real.
    """

    def __init__(self, dim: int, taps: Taps, *, norm: FrameNorm = TokenBatchNorm) -> None:
        super().__init__()
        self.up = nn.Linear(dim, 2 * dim)
        self.conv = DepthwiseConv(dim, taps)
        self.norm = norm(dim)
        self.down = nn.Linear(dim, dim)

    def forward(
        self, x: Tensor, context: Context, state: Tail | None = None
    ) -> tuple[Tensor, Tail | None]:
        """y (B, N, C) of x, normalised; with a state, x follows what the state has seen.

        ValueError for packed documents, which a convolution would mix.
        """
        if context.label is not None:
            raise ValueError(
                "a convolution does not keep packed documents apart: give each document a row of "
                "its own"
            )
        # after the first map, whose bias would stand in the padding
        x = context.clean(F.glu(self.up(context.clean(x)), -1))
        if state is not None:
            check_state(self, state, Tail)
        y = self.conv(x, None if state is None else state.x)
        y = self.down(F.silu(self.norm(y, context.valid)))
        return y, None if state is None else state.follow(x, context.valid)

    @property
    def step(self) -> int | None:
        """How many tokens of a stream must come together; None if it cannot stream."""
        return self.conv.taps.step

    def init_state(self, batch: int) -> Tail:
        """The state before the first token. ValueError if it cannot stream."""
        if self.step is None:
            raise ValueError(f"a convolution over {self.conv.taps} looks ahead: it cannot stream")
        weight = self.conv.weight
        return Tail(weight.new_zeros(batch, self.conv.taps.left, len(weight)))
