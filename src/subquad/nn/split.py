"""Split: two mixers side by side, each on half of the channels.

    y = [first(x[: C / 2]), second(x[C / 2 :])]

Wu et al., Lite Transformer with Long-Short Range Attention, https://arxiv.org/abs/2004.11886: one
half attends to what is far, the other convolves what is near. It costs what the two cost at half
the width, and streams as they do; its state is theirs.

Axes: B batch, N queries, M keys, H heads, D head width, C model width.
"""

from typing import Any

import torch
from torch import Tensor

from subquad.nn.context import Context
from subquad.nn.mixer import Mixer, check_state
from subquad.ops.later import together

__all__ = ["Split"]


class Split(Mixer):
    """`first` mixes the first half of `dim` channels, `second` the rest; each `dim` / 2 wide.

    The heads of `weights` and `values` are those of the first, then those of the second. ValueError
    for a width without halves, or heads of unequal widths.
    """

    def __init__(self, dim: int, first: Mixer, second: Mixer) -> None:
        super().__init__()
        if dim % 2:
            raise ValueError(f"a width of {dim} has no halves; choose an even one")
        widths = [_width(half) for half in (first, second)]
        if widths[0] != widths[1]:
            raise ValueError(
                f"the heads of the halves are {widths[0]} and {widths[1]} wide; they must be equal"
            )
        self.width, self.first, self.second = dim // 2, first, second
        self.num_heads, self.head_dim = first.num_heads + second.num_heads, widths[0]

    def forward(
        self, x: Tensor, context: Context, state: tuple | None = None
    ) -> tuple[Tensor, tuple | None]:
        """y (B, N, C) and, if states of the halves came in, theirs after these tokens."""
        if state is not None:
            check_state(self, state, tuple)
        before = (None, None) if state is None else state
        a, b = self._halves(x)
        y, first = self.first(a, context, before[0])
        z, second = self.second(b, context, before[1])
        return torch.cat((y, z), -1), None if state is None else (first, second)

    def weights(self, x: Tensor, context: Context, rows: Tensor | None = None) -> Tensor:
        a, b = self._halves(x)
        both = self.first.weights(a, context, rows), self.second.weights(b, context, rows)
        return torch.cat(both, 1)

    def values(self, x: Tensor, context: Context) -> Tensor:
        a, b = self._halves(x)
        return torch.cat((self.first.values(a, context), self.second.values(b, context)), 1)

    def output(self, mixed: Tensor) -> Tensor:
        a, b = mixed.tensor_split((self.first.num_heads,), 1)
        return torch.cat((self.first.output(a), self.second.output(b)), -1)

    @property
    def streams(self) -> bool:
        return self.step == 1

    @property
    def step(self) -> int | None:
        return together(self.first.step, self.second.step)

    def init_state(self, batch: int) -> tuple[Any, Any]:
        return self.first.init_state(batch), self.second.init_state(batch)

    def init_memory(self, batch: int) -> tuple[Any, Any]:
        return self.first.init_memory(batch), self.second.init_memory(batch)

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[..., : self.width], x[..., self.width :]


def _width(mixer: Mixer) -> int:
    """How wide a value of one head is."""
    return getattr(mixer, "value_dim", mixer.head_dim)
