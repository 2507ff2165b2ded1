"""Moving average: a token takes the mean of what came before, the nearer the more.

After Ma et al., 2022, https://arxiv.org/abs/2209.10655
    y_i = sum over j <= i of g^(i - j) v_j / sum over j <= i of g^(i - j),  g = exp(-rate) of a head
Time O(N), memory O(N).  Streams exactly, in a state of constant size.
Ours differs: the mean is normalised; distances count real tokens, so padding changes nothing.
"""

from dataclasses import dataclass

import torch
from torch import nn

from subquad.nn.choices import stack
from subquad.nn.mixer import Mixer, check_state, merge_heads, split_heads
from subquad.nn.state import register


@register
@dataclass(frozen=True)
class Mean:
    """Sums of values and of weights (B, H, D + 1), as they stand at position `last` (B,)."""

    total: torch.Tensor
    last: torch.Tensor


def wide(x):
    """The dtype of sums over x: float32, or float64."""
    return torch.promote_types(x.dtype, torch.float32)


class MovingAverage(Mixer):
    """Weights fall by distance alone; each head learns how fast."""

    streams = True

    def __init__(self, dim, num_heads):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        self.rate = nn.Parameter(torch.linspace(-4.0, 0.0, num_heads))
        self.value, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def decay(self, q, k, valid=None):
        """g^(q - k) for positions (B, N), (B, M), 0 for later and absent keys: (B, H, N, M)."""
        steps = (q[:, :, None] - k[:, None])[:, None]
        gone = steps < 0 if valid is None else (steps < 0) | ~valid[:, None, None]
        rate = nn.functional.softplus(self.rate.to(wide(self.rate)))
        return (-rate[:, None, None] * steps).masked_fill(gone, -torch.inf).exp()

    def forward(self, x, context, state=None):
        if state is not None:
            check_state(self, state, Mean)
        v, pos = self.values(x, context), context.pos.expand(len(x), -1)
        both = torch.cat((v, torch.ones_like(v[..., :1])), -1).to(wide(v))
        valid = torch.ones_like(pos, dtype=torch.bool) if context.valid is None else context.valid
        at, sums = state or self.init_state(len(x)), [both[:, :, :0]]
        for p, some, piece in zip(
            pos.split(64, 1), valid.split(64, 1), both.split(64, 2), strict=True
        ):
            sums.append(
                self.decay(p, p, some) @ piece
                + self.decay(p, at.last[:, None]) * at.total[:, :, None]
            )
            end = (
                p.masked_fill(~some, -1).amax(1).maximum(at.last)[:, None]
                if p.numel()
                else at.last[:, None]
            )
            kept = (
                self.decay(end, p, some) @ piece
                + self.decay(end, at.last[:, None]) * at.total[:, :, None]
            )
            at = Mean(kept[:, :, 0], end[:, 0])
        found, weight = torch.cat(sums, 2).split((self.head_dim, 1), -1)
        return self.output(
            found / weight.masked_fill(weight == 0, 1.0)
        ), None if state is None else at

    def weights(self, x, context, rows=None):
        pos = context.pos.expand(len(x), -1)
        w = self.decay(pos if rows is None else pos[:, rows], pos, context.valid)
        return w / w.sum(-1, keepdim=True).clamp_min(torch.finfo(w.dtype).tiny)

    def values(self, x, context):
        return split_heads(self.value(context.clean(x)), self.num_heads)

    def output(self, mixed):
        return self.out(merge_heads(mixed).to(self.out.weight.dtype))

    def init_state(self, batch):
        like = self.value.weight
        total = like.new_zeros(batch, self.num_heads, self.head_dim + 1, dtype=wide(like))
        return Mean(total, torch.zeros(batch, dtype=torch.int64, device=like.device))


@dataclass(frozen=True)
class Config:
    """The sizes of a stack of moving averages."""

    dim: int = 512
    num_layers: int = 6
    num_heads: int = 8
    ffn_dim: int = 2048
    causal: bool = True


PRESETS = {"base": Config(), "tiny": Config(dim=32, num_layers=2, num_heads=4, ffn_dim=64)}


def build(config):
    """The features-to-features stack of this configuration."""
    c = config
    mixers = [MovingAverage(c.dim, c.num_heads) for _ in range(c.num_layers)]
    return stack(mixers, c.dim, c.ffn_dim, causal=c.causal)
