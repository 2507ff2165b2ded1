"""Read: causal cross-attention of some inputs to all inputs up to them, before a stack begins.

    z = x + attention(norm(x), norm(inputs));   y = z + mlp(norm(z))

Hawthorne et al., Perceiver AR, https://arxiv.org/abs/2202.07765. O(N M) time, O(N + M) memory.

Axes: B batch, N inputs that read, M inputs that are read, C model width.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from subquad.nn.attention import Attention
from subquad.nn.context import Context
from subquad.nn.past import Past, Seen

__all__ = ["Read"]


class Read(nn.Module):
    """Cross-attention from some inputs to all up to them; norms of its own for either side.

        z = x + attention(norm(x), norm(inputs));   z + mlp(norm(z))

    `drop_inputs` hides inputs at random in training, from all heads and queries of a row.
    """

    def __init__(
        self,
        dim: int,
        mixer: Attention,
        mlp: nn.Module,
        *,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        dropout: float = 0.0,
        drop_inputs: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0.0 <= drop_inputs < 1.0:
            raise ValueError(
                f"the rate of hidden inputs must be at least 0 and below 1, not {drop_inputs}"
            )
        self.mixer, self.mlp, self.drop_inputs = mixer, mlp, drop_inputs
        self.norms = nn.ModuleList(norm(dim) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def inputs(self, x: Tensor, context: Context, state: Past | None) -> tuple[Seen, Past | None]:
        """What may be read after x (B, N, C), and the state with these inputs."""
        seen, after = self.mixer.remember(context.clean(self.norms[1](x)), context, state)
        if after is not None:
            after = after.trim(None, ragged=context.valid is not None)
        if self.training and self.drop_inputs:
            left = torch.rand(seen.k.shape[0], seen.k.shape[2], device=x.device) >= self.drop_inputs
            seen = seen._replace(valid=left if seen.valid is None else left & seen.valid)
        return seen, after

    def forward(self, x: Tensor, context: Context, seen: Seen) -> Tensor:
        """z (B, N, C) of the inputs x, the last ones seen."""
        return self.output(x, context, self.product(x, context, seen))

    def product(self, x: Tensor, context: Context, seen: Seen) -> Tensor:
        """What the inputs x read of those seen: (B, H, N, D)."""
        return self.mixer.look(context.clean(self.norms[0](x)), context, seen)

    def output(self, x: Tensor, context: Context, found: Tensor) -> Tensor:
        """z (B, N, C) of the inputs x and what they read."""
        x = x + self.dropout(self.mixer.output(found))
        return context.clean(x + self.dropout(self.mlp(self.norms[2](x))))

    def weights(
        self, x: Tensor, context: Context, seen: Seen, rows: Tensor | None = None
    ) -> Tensor:
        """The matrix (B, H, N, M) by which the inputs x read those seen, or its rows (R,)."""
        return self.mixer.weights_of(context.clean(self.norms[0](x)), context, seen, rows)
