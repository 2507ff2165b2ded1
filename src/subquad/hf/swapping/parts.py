"""What takes the place of softmax over all keys inside a pretrained model.

A replacement is a value, as it stands in JSON; `build` makes the part that an attention module of
so many heads carries. A part gets queries, keys and values as the module made them.

Axes: B batch, N queries, M keys, H heads, G key heads, D head width.
"""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from subquad.nn.choices import choose
from subquad.nn.features import EluFeatures, FeatureMap, PositiveRandomFeatures, ReLUFeatures
from subquad.nn.learned import LearnedFeatures
from subquad.ops.attend import attend
from subquad.ops.linear import Sum, accumulate, kernel_attention
from subquad.ops.lowering import parse, without
from subquad.ops.pattern import Coords, Pattern
from subquad.ops.patterns import Causal, Full, Marked, Window

__all__ = ["Call", "Exact", "Features", "Looks", "Replacement"]


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


@dataclass(frozen=True)
class Replacement:
    """Base of what can stand in for attention. ValueError for fields that cannot be."""

    #: its name on the command line and on disk
    kind: ClassVar[str]

    def build(self, num_heads: int, head_dim: int, index: int) -> nn.Module:
        """The part of attention layer `index`."""
        raise NotImplementedError(f"{type(self).__name__} must define build")

    def kept(self) -> int | None:
        """How many of the last keys a stream keeps; 0: sums in place of keys; None: all keys."""
        return None

    def to_json(self) -> dict[str, Any]:
        """Its kind and fields."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class Exact(Replacement):
    """The model's own attention: all keys, or the window it was trained with."""

    kind: ClassVar[str] = "exact"

    def build(self, num_heads: int, head_dim: int, index: int) -> nn.Module:
        return Looking(Full(), first=False, own=True)


@dataclass(frozen=True)
class Looks(Replacement):
    """Attention over a pattern, as its text: `Window(256, 256)`. In a model that looks back it is
    cut to the past. first: the first real token of each row is global (seen by all, sees all).
    """

    pattern: str
    first: bool = False
    kind: ClassVar[str] = "looks"

    def __post_init__(self) -> None:
        pattern = parse(self.pattern)
        if without(pattern, labels=False, marks=False) != pattern:
            raise ValueError(
                f"{self.pattern} asks for labels or marks, which a swapped model does not have; "
                "first=True makes the first token of each row global"
            )

    def build(self, num_heads: int, head_dim: int, index: int) -> nn.Module:
        return Looking(parse(self.pattern), first=self.first)

    def kept(self) -> int | None:
        pattern = parse(self.pattern)
        if self.first or not isinstance(pattern, Window):
            return None
        return 1 + pattern.reach()[0]


@dataclass(frozen=True)
class Features(Replacement):
    """Kernel features: 'favor' (positive random features), 'relu', 'elu' or 'learned'.

    num_features: of favor and relu, for each head.  seed: each layer draws its own from it.
    """

    map: str = "favor"
    num_features: int = 256
    seed: int = 0
    kind: ClassVar[str] = "features"

    def __post_init__(self) -> None:
        choose("feature map", self.map, MAPS)
        if self.num_features < 1:
            raise ValueError(f"num_features is {self.num_features}; there must be at least 1")

    def build(self, num_heads: int, head_dim: int, index: int) -> nn.Module:
        return Summing(MAPS[self.map](self, num_heads, head_dim, index))

    def kept(self) -> int | None:
        return 0


MAPS: dict[str, Any] = {
    "favor": lambda f, heads, width, i: PositiveRandomFeatures(
        width, f.num_features, seed=f.seed + 1_000_003 * i
    ),
    "relu": lambda f, heads, width, i: ReLUFeatures(
        width, f.num_features, seed=f.seed + 1_000_003 * i
    ),
    "elu": lambda f, heads, width, i: EluFeatures(),
    "learned": lambda f, heads, width, i: LearnedFeatures(heads, width),
}


class Looking(nn.Module):
    """Attention over a pattern; `own`: within the window that the model itself asks for."""

    def __init__(self, pattern: Pattern, *, first: bool, own: bool = False) -> None:
        super().__init__()
        self.pattern = pattern | Marked() if first else pattern
        self.first, self.own = first, own

    def forward(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> tuple[Tensor, None]:
        """out (B, H, N, D) of q (B, H, N, D) at the end of k and v (B, G, M, D), and no sums."""
        pattern = self.pattern
        if self.own and call.window is not None:
            # transformers counts the token itself in a causal window, and not in one of two sides
            behind = call.window - 1 if call.causal else call.window
            pattern = Window(behind, 0 if call.causal else call.window)
        if call.causal:
            pattern = Causal() if isinstance(pattern, Full) else Causal() & pattern
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
