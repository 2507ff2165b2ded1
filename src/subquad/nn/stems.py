"""Stems: from a raw batch to features and a context.

Axes: B batch, N tokens, C model width, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from torch import nn

from subquad.nn.adaptive import Tables
from subquad.nn.arrays import ArrayStemConfig
from subquad.nn.axial import absolute
from subquad.nn.choices import choose, fill, normalise
from subquad.nn.ends import Ends
from subquad.nn.frames import FrameStemConfig
from subquad.nn.modalities import ModalityStem
from subquad.nn.ngrams import NGrams
from subquad.nn.patches import PatchStemConfig
from subquad.nn.pixels import PixelStemConfig
from subquad.nn.series import SeriesStemConfig
from subquad.nn.tokens import NGramStem, TokenStem
from subquad.nn.waves import WaveStemConfig

__all__ = [
    "STEMS",
    "AdaptiveStemConfig",
    "ModalityStemConfig",
    "NGramStem",
    "NGramStemConfig",
    "TokenStem",
    "TokenStemConfig",
]


@dataclass(frozen=True)
class TokenStemConfig:
    """Fields of a token stem. `position`: absolute ones, "none", "sinusoidal", "fairseq" (its
    sinusoids), "learned", "axial", "axial_sum" (one width, added).

    `max_len` is for learned ones; `axial_shape` and `axial_dims` as in `subquad.nn.Axial`, by
    default the grid of Reformer's release for 65,536 tokens. `norm`: of the sum, "none", "layer",
    "rms".  `types`: kinds of tokens that have a vector each; 0 for none.  `ends`: the size of the
    first and last block of a row, whose tokens are marked where no marks are given, and all of them
    up to `whole_up_to` tokens (`subquad.nn.Ends`); 0 for no marks.
    """

    position: str = "none"
    max_len: int = 1024
    axial_shape: tuple[int, ...] = (128, 512)
    axial_dims: tuple[int, ...] = ()
    norm: str = "none"
    scale: float = 1.0
    dropout: float = 0.0
    types: int = 0
    ends: int = 0
    whole_up_to: int = 0

    def build(self, dim: int, vocab_size: int) -> TokenStem:
        """The stem of a model of this width."""
        axial = self.axial_shape, self.axial_dims
        position = absolute(self.position, dim, max_len=self.max_len, axial=axial)
        norm = None if self.norm == "none" else normalise(self.norm)(dim)
        return self.kind(dim)(
            self.embedding(dim, vocab_size),
            position=position,
            norm=norm,
            scale=self.scale,
            dropout=self.dropout,
            **({"types": nn.Embedding(self.types, dim)} if self.types else {}),
            **({"ends": Ends(self.ends, self.whole_up_to)} if self.ends else {}),
        )

    def kind(self, dim: int) -> Callable[..., TokenStem]:
        """What is built of embedding, position and norm."""
        return TokenStem

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
class NGramStemConfig(TokenStemConfig):
    """A token stem with n-grams: `sizes` of n, and `rows` of the table of each."""

    sizes: tuple[int, ...] = (3, 4, 5)
    rows: int = 20_000

    def __post_init__(self) -> None:
        if self.types:
            raise ValueError(f"types = {self.types}: a stem of n-grams tells no kinds apart")
        if self.ends:
            raise ValueError(f"ends = {self.ends}: a stem of n-grams marks no tokens")

    def kind(self, dim: int) -> Callable[..., TokenStem]:
        """What is built of embedding, position and norm."""
        return partial(NGramStem, ngrams=NGrams(dim, sizes=self.sizes, rows=self.rows))


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
    "ngrams": NGramStemConfig,
    "patches": PatchStemConfig,
    "fourier": ArrayStemConfig,
    "pixels": PixelStemConfig,
    "modalities": ModalityStemConfig,
    "frames": FrameStemConfig,
    "series": SeriesStemConfig,
    "waves": WaveStemConfig,
}
