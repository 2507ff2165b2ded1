"""The parts that a swapped attention module carries, and how one of its calls is made.

A part gets queries, keys and values as the module made them.

Axes: B batch, N queries, M keys, H heads, G key heads, D head width.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from subquad.nn.attention import softmax_matrix
from subquad.nn.features import FeatureMap
from subquad.nn.kernel import kernel_matrix
from subquad.nn.learned import LearnedFeatures
from subquad.ops.attend import attend
from subquad.ops.linear import Sum, accumulate, kernel_attention
from subquad.ops.partial import Where
from subquad.ops.pattern import Coords, Pattern
from subquad.ops.patterns import Causal, Full, Marked, Window

__all__ = ["Call", "Looking", "Summing"]


class Call(NamedTuple):
    """How one call is made: the factor of scores, the model's own rule, which of the keys (B, M)
    are real, the rate at which weights are dropped, the sums of earlier calls, if kept, and how
    many of the earliest keys are no longer there.
    """

    scale: float
    causal: bool
    window: int | None
    valid: Tensor | None
    dropout: float = 0.0
    state: Sum | None = None
    gone: int = 0

    def check(self, behind: int | None, there: int) -> None:
        """ValueError if keys are gone that a query would look at: those up to `behind` before it
        (None: all), of which `there` are kept.
        """
        if self.gone and (behind is None or there < behind):
            raise ValueError(
                f"the cache has dropped {self.gone} keys that swapped attention still looks at: it "
                "was made for the attention before the swap; pass no past_key_values to "
                "generate(), or those of subquad.hf.swapping.new_cache(model)"
            )


class Looking(nn.Module):
    """Attention over a pattern; `own`: within the window that the model itself asks for."""

    def __init__(self, pattern: Pattern, *, first: bool, own: bool = False) -> None:
        super().__init__()
        self.pattern = pattern | Marked() if first else pattern
        self.first, self.own = first, own

    def forward(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> tuple[Tensor, None]:
        """out (B, H, N, D) of q (B, H, N, D) at the end of k and v (B, G, M, D), and no sums."""
        pattern = self.looks(call)
        call.check(pattern.reach()[0], k.shape[2] - q.shape[2])
        out = attend(
            q,
            k,
            v,
            pattern,
            valid=call.valid,
            where=self.where(q, k, call.valid),
            scale=call.scale,
            dropout=call.dropout,
        )
        return out, None

    def weights(self, q: Tensor, k: Tensor, call: Call, rows: Tensor) -> Tensor:
        """Rows (R,) of the matrix that forward multiplies by: (B, H, R, M)."""
        found = self.where(q, k, call.valid)
        if found is None:
            keys = Coords(torch.arange(k.shape[2], device=k.device)[None, None])
            found = keys.each(lambda t: t[..., t.shape[-1] - q.shape[2] :]), keys
        where = Where(found[0].each(lambda t: t[..., rows]), found[1], call.valid)
        return softmax_matrix(q[:, :, rows], k, self.looks(call), where, call.scale, None)

    def looks(self, call: Call) -> Pattern:
        """The pattern of a call, cut to the past where it is causal."""
        pattern = self.pattern
        if self.own and call.window is not None:
            # transformers counts the token itself in a causal window, and not in one of two sides
            behind = call.window - 1 if call.causal else call.window
            pattern = Window(behind, 0 if call.causal else call.window)
        if call.causal:
            pattern = Causal() if isinstance(pattern, Full) else Causal() & pattern
        return pattern

    def where(self, q: Tensor, k: Tensor, valid: Tensor | None) -> tuple[Coords, Coords] | None:
        """Positions counted from the first real key, which is marked; None: slots will do."""
        padded = valid is not None and not bool(valid[:, 0].all())
        relative = isinstance(self.pattern, Full | Window)
        if not self.first and (relative or not padded):
            return None
        slots, n = torch.arange(k.shape[2], device=k.device)[None], q.shape[2]
        if padded:
            assert valid is not None
            slots = slots - valid.int().argmax(1, keepdim=True)
        pos, mark = slots[:, None], (slots == 0)[:, None] if self.first else None
        keys = Coords(pos, mark=mark)
        return keys.each(lambda t: t[..., t.shape[-1] - n :]), keys


class Summing(nn.Module):
    """Kernel attention: weights phi(q).phi(k), normalised."""

    def __init__(self, feature_map: FeatureMap) -> None:
        super().__init__()
        self.feature_map = feature_map

    def forward(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> tuple[Tensor, Sum]:
        """out (B, H, N, D) of q (B, H, N, D) at the end of k and v (B, G, M, D), and the sums."""
        call.check(None, 0)
        scale: float | None = call.scale
        if self.feature_map.lower()[1] is None:
            q, k, scale = q * call.scale**0.5, k * call.scale**0.5, None
        if isinstance(self.feature_map, LearnedFeatures):  # a map for each head of queries
            k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
        how = {"scale": scale}
        if not call.causal:
            return kernel_attention(
                q, k, v, self.feature_map, causal=False, valid=call.valid, **how
            )
        state, before, valid = call.state, k.shape[2] - q.shape[2], call.valid
        if before:
            early = None if valid is None else valid[:, :before]
            state = accumulate(
                k[:, :, :before],
                v[:, :, :before],
                self.feature_map,
                valid=early,
                state=state,
                **how,
            )
        late = None if valid is None else valid[:, before:]
        return kernel_attention(
            q, k[:, :, before:], v[:, :, before:], self.feature_map, valid=late, state=state, **how
        )

    def weights(self, q: Tensor, k: Tensor, call: Call, rows: Tensor) -> Tensor:
        """Rows (R,) of the matrix that forward multiplies by: (B, H, R, M)."""
        # the features of a drawn map scale what they see by the width, and here the model says how
        drawn = self.feature_map.lower()[1] is not None
        share = call.scale**0.5 * (q.shape[-1] ** 0.25 if drawn else 1.0)
        at = torch.arange(k.shape[2], device=k.device)
        later = at > rows[:, None] + k.shape[2] - q.shape[2]
        absent = later if call.causal else torch.zeros_like(later)
        absent = absent if call.valid is None else absent | ~call.valid[:, None, None]
        k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
        return kernel_matrix(q[:, :, rows] * share, k * share, self.feature_map, absent)
