"""Contrast: what belongs together is nearer than all else in a batch.

    s(i, j) = exp(t) u_i . v_j                            u, v: unit vectors, t learned
    loss = (H(P, softmax over j of s) + H(P', softmax over i of s)) / 2
    P(i, j) = 1 / |same(i)| if j is the same as i, else 0

Radford et al., 2021 (CLIP), section 2.3, https://arxiv.org/abs/2103.00020; several rows that are
the same share the target, as in Khosla et al., 2020, equation 2, https://arxiv.org/abs/2004.11362.
Time O(B^2 W), memory O(B^2). Ours differs: rows that are the same are never told apart, where CLIP
takes every other row of a batch for a wrong one.

Axes: B batch, N tokens, W width of the vectors.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subquad.ops.partial import wide

__all__ = ["Temperature", "alike", "contrastive_loss", "equal"]


class Temperature(nn.Module):
    """A learned factor exp(t) of similarities, from 1 / 0.07 to at most 100.

    t itself is kept below ln 100 after each step of training (`after_step`).
    """

    START = math.log(1 / 0.07)
    MOST = math.log(100)

    def __init__(self) -> None:
        super().__init__()
        # by this name it has no weight decay
        self.bias = nn.Parameter(torch.tensor(self.START))

    def forward(self, similarity: Tensor) -> Tensor:
        """Logits of similarities, in at least float32."""
        t = self.bias.to(wide(self.bias.dtype)).clamp(max=self.MOST)
        return similarity.to(wide(similarity.dtype)) * t.exp()

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Come back to where the factor is 100, so that there is a gradient again."""
        self.bias.clamp_(max=self.MOST)


def alike(tokens: Tensor, valid: Tensor | None = None) -> Tensor:
    """Which rows of tokens (B, N) are the same, (B, B) bool; valid (B, N), padding on the right."""
    if valid is not None:
        tokens = tokens.masked_fill(~valid, -1)
    return (tokens[:, None] == tokens[None]).all(-1)


def equal(rows: Tensor) -> Tensor:
    """Which of rows (B, ...) are equal, (B, B) bool; they are sorted, so no pair is compared."""
    which = torch.unique(rows.flatten(1), dim=0, return_inverse=True)[1]
    return which[:, None] == which


def contrastive_loss(logits: Tensor, same: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """The mean loss in nats, both ways, of logits (B, B); same (B, B) bool, symmetric.

    ValueError for shapes that do not agree.
    """
    if logits.shape != same.shape or logits.shape[0] != logits.shape[1]:
        raise ValueError(
            f"logits are {tuple(logits.shape)} and same {tuple(same.shape)}; both are (rows, rows) "
            "of one batch"
        )
    wanted = same.to(logits.dtype) / same.sum(1, keepdim=True)
    there, back = (
        F.cross_entropy(s, wanted, label_smoothing=label_smoothing) for s in (logits, logits.T)
    )
    return (there + back) / 2
