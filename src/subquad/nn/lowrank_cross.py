"""Low-rank cross-attention: softmax attention over slots, each a learned blend of a whole memory.

    y = W_o softmax(q (E k)^T / sqrt(D)) (F v)      k and v from the memory; E and F (S, longest)

After Wang et al., Linformer, https://arxiv.org/abs/2006.04768. O((N + M) S) time, O(N + S) memory:
the state holds S slots, whatever was read. Tokens of the memory are counted without its padding,
on whichever side that stands.

Axes: B batch, N queries, M memory tokens, H heads, S slots, C model width.
"""

import torch
from torch import Tensor

from subquad.nn.context import Context, take
from subquad.nn.cross import CrossAttention
from subquad.nn.lowrank import Projection
from subquad.nn.mixer import split_heads
from subquad.nn.position import PositionError

__all__ = ["LowRankCrossAttention"]


class LowRankCrossAttention(CrossAttention):
    """Cross-attention over slots: `project_keys` is E and `project_values` is F, perhaps the same.

    PositionError for a memory of more tokens than they are learned for. ValueError if the heads do
    not divide the width, or if E and F have unequal ranks.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        project_keys: Projection,
        project_values: Projection,
        *,
        memory_dim: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(dim, num_heads, memory_dim=memory_dim, bias=bias, dropout=dropout)
        if project_keys.rank != project_values.rank:
            raise ValueError(
                f"keys are projected to {project_keys.rank} slots and values to "
                f"{project_values.rank}; the ranks must agree"
            )
        self.project_keys, self.project_values = project_keys, project_values

    def memory(self, context: Context) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values of the slots, (B, H, S, D) each, all of them real."""
        memory, valid = context.clean_memory(), context.memory_valid
        if valid is not None:
            order = _real_first(valid)
            memory, valid = take(memory, order), take(valid, order)
        longest = min(self.project_keys.max_len, self.project_values.max_len)
        if memory.shape[1] > longest:
            count = memory.shape[1] if valid is None else int(valid.sum(1).max())
            if count > longest:
                raise PositionError(
                    f"a memory of {count} tokens, but projections over positions are learned up to "
                    f"max_len = {longest}; cut the source or build with a larger max_len"
                )
            memory, valid = memory[:, :longest], None if valid is None else valid[:, :longest]
        k, v = self.key(memory), self.value(memory)
        if valid is not None:
            # a bias would stand in the padding
            k, v = (t.masked_fill(~valid.unsqueeze(-1), 0.0) for t in (k, v))
        k, v = split_heads(k, self.num_heads), split_heads(v, self.num_heads)
        return self.project_keys(k), self.project_values(v), None

    def matrix(self, x: Tensor, context: Context, rows: Tensor | None = None) -> Tensor:
        """`weights` F, one column for each token of the memory: (B, H, N, M), of either sign, 0 for
        padding.

        What multiplies the values before they are projected: the picture of this mixer.
        """
        memory, valid = context.clean_memory(), context.memory_valid
        count = min(memory.shape[1], self.project_values.max_len)
        blend = memory.new_zeros(memory.shape[0], 1, self.project_values.rank, memory.shape[1])
        blend[..., :count] = self.project_values.weight[:, :count]
        if valid is not None:
            back = _real_first(valid).argsort(dim=1)[:, None, None].expand_as(blend)
            blend = blend.gather(-1, back) * valid[:, None, None]
        return self.weights(x, context, rows) @ blend

    def token_values(self, x: Tensor, context: Context) -> Tensor:
        """What `matrix` is multiplied with: v (B, H, M, D), zeros for padding."""
        v, valid = self.value(context.clean_memory()), context.memory_valid
        return split_heads(
            v if valid is None else v.masked_fill(~valid.unsqueeze(-1), 0.0), self.num_heads
        )


def _real_first(valid: Tensor) -> Tensor:
    """The slots (B, M) of a memory, those of real tokens before those of padding."""
    return (~valid).to(torch.int8).argsort(dim=1, stable=True)
