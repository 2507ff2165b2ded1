"""Losses that hold a few positions' logits at a time: never (N, V), forward or backward.

    loss = mean over scored positions i of -sum_w y_i(w) log softmax(project(x_i))(w)
    y_i = (1 - e) [w = target_i] + e / V        e: label smoothing

Reformer, section 3 ("the log-probabilities are computed in chunks as well"),
https://arxiv.org/abs/2001.04451. Time of one more projection than the plain loss, O(N C + chunk V)
memory.

Axes: B batch, N positions, C model width, V vocabulary.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from subquad.ops.partial import wide

__all__ = ["IGNORED", "chunked_cross_entropy", "token_loss"]

#: a target that is not scored
IGNORED = -100
#: `token_loss` forms no more logits than this at once: 64 MiB in float32
LOGITS = 1 << 24


def token_loss(
    features: Tensor,
    project: Callable[[Tensor], Tensor],
    targets: Tensor,
    *,
    vocab_size: int,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """`chunked_cross_entropy` in chunks that hold `LOGITS` logits; fewer make one chunk."""
    return chunked_cross_entropy(
        features,
        project,
        targets,
        chunk=max(1, LOGITS // vocab_size),
        label_smoothing=label_smoothing,
        reduction=reduction,
    )


def chunked_cross_entropy(
    features: Tensor,
    project: Callable[[Tensor], Tensor],
    targets: Tensor,
    *,
    chunk: int,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """The mean cross-entropy in nats of `project(features)`, `chunk` positions at a time.

    features (B, N, C), targets (B, N) int64, -100 where not scored. `project` goes from (n, C) to
    logits (n, V), each position by itself, and is run again in backward. Equal to
    `F.cross_entropy` over all logits, in at least float32: NaN too if nothing is scored.
    `reduction` "sum" adds instead.
    ValueError where shapes do not fit.
    """
    if targets.shape != features.shape[:-1]:
        raise ValueError(
            f"targets are {tuple(targets.shape)} and features {tuple(features.shape[:-1])}; "
            "each position needs one target"
        )
    if chunk < 1:
        raise ValueError(f"chunks need at least 1 position, not {chunk}")
    rows, wanted = features.flatten(0, -2), targets.flatten()

    def score(rows: Tensor, wanted: Tensor, reduction: str) -> Tensor:
        logits = project(rows)
        return F.cross_entropy(
            logits.to(wide(logits.dtype)),
            wanted,
            reduction=reduction,
            ignore_index=IGNORED,
            label_smoothing=label_smoothing,
        )

    if len(rows) <= chunk:
        return score(rows, wanted, reduction)
    parts = [
        checkpoint(score, some, goals, "sum", use_reentrant=False)
        for some, goals in zip(rows.split(chunk), wanted.split(chunk), strict=True)
    ]
    total = torch.stack(parts).sum()
    return total if reduction == "sum" else total / (wanted != IGNORED).sum()
