"""Stems: from a raw batch to features and a context.

Axes: B batch, N tokens, C model width, V vocabulary.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from subquad.nn.adaptive import Tables
from subquad.nn.arrays import ArrayStemConfig
from subquad.nn.axial import Axial
from subquad.nn.choices import NORMS, choose, fill
from subquad.nn.context import Context
from subquad.nn.frames import FrameStemConfig
from subquad.nn.modalities import ModalityStem
from subquad.nn.patches import PatchStemConfig
from subquad.nn.position import Learned, Sinusoidal
from subquad.nn.series import SeriesStemConfig

__all__ = [
    "STEMS",
    "AdaptiveStemConfig",
    "ModalityStemConfig",
    "TokenStem",
    "TokenStemConfig",
]


class TokenStem(nn.Module):
    """Token numbers (B, N) to features (B, N, C): an embedding, and positions and a norm if given.

    `embedding` is an `nn.Embedding`, or a `Tables` of adaptive input. Features (B, N, C) that come
    embedded already take the rest of the way.
    """

    def __init__(
        self,
        embedding: nn.Module,
        *,
        position: nn.Module | None = None,
        norm: nn.Module | None = None,
        scale: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.position = position
        self.norm = nn.Identity() if norm is None else norm
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, tokens: Tensor, valid: Tensor | None = None, start: Tensor | None = None
    ) -> tuple[Tensor, Context]:
        """Features and context; rows begin at position `start` (B,), default 0."""
        context = Context.of(tokens, valid, start)
        x = tokens if tokens.is_floating_point() else self.embedding(tokens) * self.scale
        if self.position is not None:
            x = x + self.position(context.pos, valid).to(x.dtype)
        return context.clean(self.dropout(self.norm(x))), context


@dataclass(frozen=True)
class TokenStemConfig:
    """Fields of a token stem. `position`: absolute ones, "none", "sinusoidal", "learned", "axial".

    `max_len` is for learned ones; `axial_shape` and `axial_dims` as in `subquad.nn.Axial`, by
    default the grid of Reformer's release for 65,536 tokens. `norm`: of the sum, "none", "layer",
    "rms".
    """

    position: str = "none"
    max_len: int = 1024
    axial_shape: tuple[int, ...] = (128, 512)
    axial_dims: tuple[int, ...] = ()
    norm: str = "none"
    scale: float = 1.0
    dropout: float = 0.0

    def build(self, dim: int, vocab_size: int) -> TokenStem:
        """The stem of a model of this width."""
        make = choose(
            "stem position",
            self.position,
            {
                "none": lambda: None,
                "sinusoidal": lambda: Sinusoidal(dim),
                "learned": lambda: Learned(dim, self.max_len),
                "axial": lambda: Axial(dim, self.axial_shape, self.axial_dims),
            },
        )
        norm = choose("stem norm", self.norm, {"none": lambda width: None, **NORMS})
        return TokenStem(
            self.embedding(dim, vocab_size),
            position=make(),
            norm=norm(dim),
            scale=self.scale,
            dropout=self.dropout,
        )

    def embedding(self, dim: int, vocab_size: int) -> nn.Module:
        """From token numbers to vectors."""
        return nn.Embedding(vocab_size, dim)


@dataclass(frozen=True)
class AdaptiveStemConfig(TokenStemConfig):
    """A token stem whose rarer words have narrower vectors: fields as `subquad.nn.Tables`."""

    cutoffs: tuple[int, ...] = ()
    div_val: int = 1

    def embedding(self, dim: int, vocab_size: int) -> nn.Module:
        """From token numbers to vectors, by clusters."""
        return Tables(vocab_size, dim, cutoffs=self.cutoffs, div_val=self.div_val)


@dataclass(frozen=True)
class ModalityStemConfig:
    """`stems`: by name, the fields of a stem for each kind of input, its "kind" among them."""

    stems: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        # every default is written out, so that a later one cannot change what is on disk
        full = {name: self._whole(given) for name, given in self.stems.items()}
        object.__setattr__(self, "stems", full)

    def build(self, dim: int, vocab_size: int) -> ModalityStem:
        """The stem of a model of this width. ValueError if it reads nothing."""
        if not self.stems:
            raise ValueError('stems is empty; name at least one, as {"image": {"kind": "patches"}}')
        parts = {name: self._of(given) for name, given in self.stems.items()}
        made = {name: part.build(dim, vocab_size) for name, part in parts.items()}
        return ModalityStem(made, dim)

    @staticmethod
    def _of(given: dict[str, Any]) -> Any:
        fields = dict(given)
        return fill("stem", choose("stem", fields.pop("kind", "tokens"), STEMS), fields)

    def _whole(self, given: dict[str, Any]) -> dict[str, Any]:
        fields = asdict(self._of(given))
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}
        return {"kind": given.get("kind", "tokens"), **plain}


STEMS = {
    "tokens": TokenStemConfig,
    "adaptive": AdaptiveStemConfig,
    "patches": PatchStemConfig,
    "fourier": ArrayStemConfig,
    "modalities": ModalityStemConfig,
    "frames": FrameStemConfig,
    "series": SeriesStemConfig,
}
