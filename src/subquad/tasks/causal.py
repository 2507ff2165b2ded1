"""The model of every task that predicts tokens from those before them, and its loss."""

import math
from typing import Any

from torch import Tensor, nn

from subquad.archs import configure
from subquad.data.vocabulary import Vocabulary
from subquad.hf import SubquadConfig, SubquadForCausalLM

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


def loss(model: nn.Module, batch: dict[str, Tensor], label_smoothing: float) -> Tensor:
    """The mean over the targets of a batch that are scored, and that the model has outputs for."""
    # batches hold arguments of the model's forward, which a wrapper for data parallelism needs
    return model(**batch, label_smoothing=label_smoothing).loss
