"""How far a swapped layer is from what it replaced, on the inputs that the original gives it.

    error = |out - exact|^2 / |exact|^2         over the real tokens of a batch

Zhang et al., LoLCATs, 2024, https://arxiv.org/abs/2410.10254, section 3.1: attention transfer.

Axes: B batch, N queries, M keys, H heads, D head width.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from subquad.hf.swapping.attention import PART, attentions
from subquad.hf.swapping.model import plan_of
from subquad.hf.swapping.parts import Call
from subquad.hf.swapping.replacements import Exact

__all__ = ["Watched", "watching"]


class Watched(nn.Module):
    """A part beside exact attention: the exact output goes on, the error of the part is kept."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part, self.exact = part, Exact().build(0, 0, 0)
        self.error: Tensor | None = None

    def forward(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> tuple[Tensor, None]:
        """The exact output (B, H, N, D), and no sums."""
        plain = call._replace(dropout=0.0, state=None)
        wanted, _ = self.exact(q, k, v, plain)
        found, _ = self.part(q, k, v, plain)
        wanted, apart = wanted.detach(), (found - wanted.detach()).square()
        size = wanted.square()
        if call.valid is not None:
            gone = ~call.valid[:, None, -q.shape[2] :, None]
            apart, size = apart.masked_fill(gone, 0.0), size.masked_fill(gone, 0.0)
        self.error = apart.sum() / size.sum().clamp(min=torch.finfo(size.dtype).tiny)
        return wanted, None


@contextmanager
def watching(model: PreTrainedModel) -> Iterator[dict[str, Watched]]:
    """Within, the model computes as the original, and each swapped layer, by name, keeps the error
    of its part on the last batch.
    """
    plan, found = plan_of(model), {}
    for one in attentions(model):
        if one.name in plan and plan[one.name] != Exact():
            found[one.name] = Watched(getattr(one.module, PART))
            setattr(one.module, PART, found[one.name])
    try:
        yield found
    finally:
        for one in attentions(model):
            if one.name in found:
                setattr(one.module, PART, found[one.name].part)
