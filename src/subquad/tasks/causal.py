"""The model of every task that predicts tokens from those before them, and its loss."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from subquad.archs import configure
from subquad.data.vocabulary import Vocabulary
from subquad.hf import SubquadConfig, SubquadForCausalLM
from subquad.nn.losses import IGNORED

__all__ = ["build", "loss"]


def build(
    arch: str,
    fields: dict[str, Any],
    words: Vocabulary,
    *,
    position: str,
    length: int,
    tables: dict[str, Any] | None = None,
) -> SubquadForCausalLM:
    """A fresh model over a vocabulary, with positions for `length` tokens.

    position: absolute positions added to the embedding: none, sinusoidal, learned, axial, or auto:
    sinusoidal for architectures that have no positions of their own.  tables: the kind of stem and
    head, and how they divide the vocabulary; by default one plain table.
    """
    tables = tables or {"kind": "tokens"}
    backbone = configure(arch, fields)
    if position == "auto":
        own = getattr(backbone, "position", "none") != "none"
        position = "none" if own else "sinusoidal"
    width = 2 ** math.ceil(math.log2(length) / 2)
    sizes = {
        "learned": {"max_len": length},
        "axial": {"axial_shape": [math.ceil(length / width), width]},
    }
    scale = getattr(backbone, "embedding_scale", 1.0)
    return SubquadForCausalLM(
        SubquadConfig(
            arch=arch,
            model=fields,
            stem={**tables, "position": position, "scale": scale, **sizes.get(position, {})},
            head=tables,
            vocab_size=words.size,
            bos_token_id=words.boundary,
            eos_token_id=words.boundary,
            pad_token_id=words.pad,
        )
    )


def loss(
    model: nn.Module,
    batch: dict[str, Tensor],
    label_smoothing: float,
    *,
    shortest: int | None = None,
) -> Tensor:
    """The mean over the targets of a batch that are scored, and that the model has outputs for.

    shortest: tokens of the shortest crop; None: so many that the first target can be the first
    output, for a model that trains on its last `latents` alone, and all for others.
    """
    # batches hold arguments of the model's forward, which a wrapper for data parallelism needs
    batch = dict(batch)
    share = batch.pop("crop", None)
    if share is not None:
        batch = _crop(batch, float(share[0]), shortest or _shortest(model, batch["targets"]))
    return model(**batch, label_smoothing=label_smoothing).loss


def _shortest(model: Any, targets: Tensor) -> int:
    config = getattr(model, "module", model).config
    latents = getattr(config.backbone, "latents", None)
    if latents is None:
        return targets.shape[1]
    scored = (targets != IGNORED).any(0)
    return int(scored.to(torch.int8).argmax()) + latents


def _crop(batch: dict[str, Tensor], share: float, shortest: int) -> dict[str, Tensor]:
    """The batch without its end: `shortest` tokens up to all of them, each length as likely."""
    whole = batch["targets"].shape[1]
    length = min(whole, shortest) + int(share * (max(0, whole - shortest) + 1))
    return {name: t[:, :length] for name, t in batch.items()}
