"""The head of BERT's kind for hidden words: a map, a nonlinearity and a norm before the words.

    logits = E norm(f(W x + b)) + c

Devlin et al., 2019, https://arxiv.org/abs/1810.04805; RoBERTa and Longformer have the same.

Axes: B batch, N tokens, C model width, V vocabulary.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subquad.nn.choices import choose

__all__ = ["ACTIVATIONS", "Transform"]

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "tanh": torch.tanh,
}


class Transform(nn.Module):
    """Features (B, N, C) to features (B, N, C): a map, a nonlinearity by name, and a norm if given.

    ValueError with the nearest name for a nonlinearity that is not known.
    """

    def __init__(self, dim: int, activation: str, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.activation = choose("activation", activation, ACTIVATIONS)
        self.dense = nn.Linear(dim, dim)
        self.norm = nn.Identity() if norm is None else norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.activation(self.dense(x)))
