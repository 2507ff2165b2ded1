"""The model of every task that predicts tokens from those before them, and its loss."""

from typing import Any

import torch
from torch import Tensor, nn

from subquad.data.vocabulary import Vocabulary
from subquad.hf import SubquadConfig, SubquadForCausalLM
from subquad.nn.losses import IGNORED
from subquad.tasks.encoder import described

__all__ = ["build", "loss"]


def build(
    arch: str,
    fields: dict[str, Any],
    words: Vocabulary,
    *,
    stem: dict[str, Any],
    head: dict[str, Any] | None = None,
) -> SubquadForCausalLM:
    """A fresh model over a vocabulary; a head of its own kind has the tables of the stem."""
    return SubquadForCausalLM(
        SubquadConfig(arch=arch, model=fields, stem=stem, head=head, **described(words))
    )


def loss(
    model: nn.Module,
    batch: dict[str, Tensor],
    label_smoothing: float,
    *,
    shortest: int | None = None,
) -> Tensor:
    """The mean over the targets of a batch that are scored, and that the model has outputs for.

    shortest: tokens of the shortest crop. None: so many that the first target is the first output
    of a model that trains on its last `latents` alone; and no crop for other models.
    """
    # batches hold arguments of the model's forward, which a wrapper for data parallelism needs
    batch = dict(batch)
    share = batch.pop("crop", None)
    if share is not None:
        batch = _crop(batch, float(share[0]), shortest, _latents(model))
    return model(**batch, label_smoothing=label_smoothing).loss


def _latents(model: Any) -> int | None:
    return getattr(getattr(model, "module", model).config.backbone, "latents", None)


def _crop(
    batch: dict[str, Tensor], share: float, shortest: int | None, latents: int | None
) -> dict[str, Tensor]:
    """The batch without its end, so that every target is among the last `latents` as often.

    The end is drawn from a range that is longer by `latents` - 1 on both sides, and then moved
    inside: otherwise the first and the last targets would hardly ever count.
    """
    scored = batch["targets"] != IGNORED
    whole = scored.shape[1]
    if shortest is None:
        first = int(scored.any(0).to(torch.int8).argmax())
        shortest = whole if latents is None else first + latents
    shortest, more = min(whole, shortest), (latents or 1) - 1
    end = shortest - more + int(share * (whole - shortest + 2 * more + 1))
    length = max(shortest, min(end, whole))
    return {name: t[:, :length] for name, t in batch.items()}
