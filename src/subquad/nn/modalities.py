"""Modalities: inputs of several kinds in one row, so that one model reads text, image and sound.

    x = [stem_1(input_1) + kind_1; stem_2(input_2) + kind_2; ..]        one after the other

The papers pad channels with a learned vector per kind; added after a linear map it says as much.

Jaegle et al., 2021, Perceiver IO, https://arxiv.org/abs/2107.14795, section 4.3.

Axes: B batch, N tokens of all kinds, C model width.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from subquad.nn.context import Context
from subquad.nn.patches import comes_whole

__all__ = ["ModalityStem"]


class ModalityStem(nn.Module):
    """A tensor by name for each of `stems`, to features (B, N, C) in the order of `stems`.

    Each kind comes whole, without padding: positions are those within its kind, in its stem.
    """

    def __init__(self, stems: Mapping[str, nn.Module], dim: int) -> None:
        super().__init__()
        self.stems = nn.ModuleDict(stems)
        self.kinds = nn.Embedding(len(stems), dim)

    def forward(
        self, inputs: Mapping[str, Tensor], valid: Tensor | None = None, start: Tensor | None = None
    ) -> tuple[Tensor, Context]:
        """Features and context. ValueError unless there is an input for each stem, by its name."""
        comes_whole(valid, start)
        given = sorted(inputs) if isinstance(inputs, Mapping) else type(inputs).__name__
        if given != sorted(self.stems):
            raise ValueError(f"inputs are {given}; give a tensor for each of {list(self.stems)}")
        x = torch.cat(
            [
                stem(inputs[name])[0] + kind
                for (name, stem), kind in zip(self.stems.items(), self.kinds.weight, strict=True)
            ],
            1,
        )
        return x, Context.of(x)
