"""Towers: a picture and a text, each read by itself, as vectors that are near if they belong
together.

    u = unit(A pool(images(picture)))    v = unit(B pool(texts(tokens)))    logits = exp(t) v u^T

Radford et al., 2021, section 2.3, https://arxiv.org/abs/2103.00020. Vectors of a collection are
formed once; to search it then costs one product. Ours differs: each tower is any architecture.

Axes: B batch, T texts, I pictures, N tokens, S channels, Y and X sides, W width of the vectors.
"""

from typing import Any

from torch import Tensor, nn

from subquad.model import Model
from subquad.model import build as build_model
from subquad.nn.contrast import Temperature
from subquad.pair import complete_encoder

__all__ = ["Towers", "build"]


class Towers(nn.Module):
    """Two models whose heads give vectors of one width, and how sharply these are told apart."""

    def __init__(self, images: Model, texts: Model) -> None:
        super().__init__()
        self.images, self.texts = images, texts
        self.temperature = Temperature()

    def see(self, pictures: Tensor) -> Tensor:
        """Unit vectors (I, W) of pictures (I, S, Y, X)."""
        return self.images(pictures)[0]

    def read(
        self, tokens: Tensor, *, valid: Tensor | None = None, mark: Tensor | None = None
    ) -> Tensor:
        """Unit vectors (T, W) of tokens (T, N); valid, mark as in `Model.forward`."""
        return self.texts(tokens, valid=valid, mark=mark)[0]

    def forward(
        self,
        pictures: Tensor,
        tokens: Tensor,
        *,
        valid: Tensor | None = None,
        mark: Tensor | None = None,
    ) -> Tensor:
        """Logits (T, I): how well each text goes with each picture."""
        return self.temperature(self.read(tokens, valid=valid, mark=mark) @ self.see(pictures).T)


def build(
    arch: str,
    model: dict[str, Any],
    *,
    encoder: dict[str, Any],
    vocab_size: int,
    stem: dict[str, Any] | None = None,
    head: dict[str, Any] | None = None,
) -> Towers:
    """Freshly initialised towers from plain fields, as they stand in config.json.

    The tower of texts is described as in `subquad.model.build`, with a head of kind "vector"; that
    of pictures by `encoder`, as in `subquad.pair.build`. Its head has the same width, and takes the
    mean of all patches. ValueError names what does not fit.
    """
    first, head = complete_encoder(encoder), head or {"kind": "vector"}
    if head["kind"] != "vector":
        raise ValueError(
            f"towers end in heads of kind 'vector', not {head['kind']!r}: give head="
            "{'kind': 'vector', 'width': 64}"
        )
    images = build_model(**first, head={**head, "pool": "mean"}, vocab_size=vocab_size, tie=False)
    if not getattr(images.stem, "whole", False):
        raise ValueError(
            f"a stem of kind {first['stem']['kind']!r} reads no pictures; give the encoder stem="
            "{'kind': 'patches', 'image_size': 224, 'patch': 16}"
        )
    texts = build_model(arch, model, vocab_size=vocab_size, stem=stem, head=head, tie=False)
    return Towers(images, texts)
