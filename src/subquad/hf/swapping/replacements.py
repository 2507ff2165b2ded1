"""What takes the place of softmax over all keys inside a pretrained model.

A replacement is a value, as it stands in JSON; `build` makes the part (`parts`) that an attention
module of so many heads carries.
"""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from torch import nn

from subquad.hf.swapping.parts import Looking, Summing
from subquad.nn.choices import choose
from subquad.nn.features import EluFeatures, PositiveRandomFeatures, ReLUFeatures
from subquad.nn.learned import LearnedFeatures
from subquad.ops.lowering import parse, without
from subquad.ops.patterns import Full, Window

__all__ = ["MAPS", "Exact", "Features", "Looks", "Replacement"]


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
