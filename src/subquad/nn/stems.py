"""Stems: from a raw batch to features and a context.

Axes: B batch, N tokens, C model width, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from subquad.nn.adaptive import Tables
from subquad.nn.arrays import ArrayStemConfig
from subquad.nn.axial import absolute
from subquad.nn.choices import choose, fill, normalise
from subquad.nn.context import Context
from subquad.nn.frames import FrameStemConfig
from subquad.nn.modalities import ModalityStem
from subquad.nn.ngrams import HeldTokens, NGrams
from subquad.nn.patches import PatchStemConfig
from subquad.nn.pixels import PixelStemConfig
from subquad.nn.series import SeriesStemConfig
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


class TokenStem(nn.Module):
    """Token numbers (B, N) to features (B, N, C): an embedding, and positions and a norm if given.

    `embedding` is an `nn.Embedding`, or a `Tables` of adaptive input. Features (B, N, C) that come
    embedded already take the rest of the way. With `types`, a vector by the kind of each token is
    added (BERT's sentence A and B): numbers (B, N, 2) hold token and kind, and without a kind it is
    the first.
    """

    def __init__(
        self,
        embedding: nn.Module,
        *,
        position: nn.Module | None = None,
        norm: nn.Module | None = None,
        types: nn.Embedding | None = None,
        scale: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding, self.position, self.types = embedding, position, types
        self.norm = nn.Identity() if norm is None else norm
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, tokens: Tensor, valid: Tensor | None = None, start: Tensor | None = None
    ) -> tuple[Tensor, Context]:
        """Features and context; rows begin at position `start` (B,), default 0."""
        context, embedded = Context.of(tokens, valid, start), tokens.is_floating_point()
        kinds = None
        if self.types is not None and tokens.dim() == 3 and not embedded:
            tokens, kinds = tokens.unbind(-1)
        x = tokens if embedded else self.embedding(tokens) * self.scale
        if self.types is not None:
            x = x + (self.types.weight[0] if kinds is None else self.types(kinds))
        return self.finish(x, context, True)

    def finish(self, x: Tensor, context: Context, scaled: bool = False) -> tuple[Tensor, Context]:
        """Features of vectors x (B, N, C): scaled, unless they are, with positions and norm."""
        x = x if scaled else x * self.scale
        if self.position is not None:
            x = x + self.position(context.pos, context.valid).to(x.dtype)
        return context.clean(self.dropout(self.norm(x))), context


class NGramStem(TokenStem):
    """A token stem that adds vectors of the n-grams that end at each token, as
    `subquad.nn.NGrams`. In a stream it keeps the last few tokens.
    """

    def __init__(
        self,
        embedding: nn.Module,
        ngrams: NGrams,
        *,
        position: nn.Module | None = None,
        norm: nn.Module | None = None,
        scale: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(embedding, position=position, norm=norm, scale=scale, dropout=dropout)
        self.ngrams = ngrams

    def forward(
        self, tokens: Tensor, valid: Tensor | None = None, start: Tensor | None = None
    ) -> tuple[Tensor, Context]:
        """Features and context of whole rows. ValueError for pieces without a state."""
        if start is not None:
            raise ValueError(
                "a stream of n-grams needs the state of its stem: take one from Model.init_state"
            )
        x, context, _ = self.follow(tokens, valid, None, self.ngrams.begin(len(tokens)))
        return x, context

    def follow(
        self, tokens: Tensor, valid: Tensor | None, start: Tensor | None, held: HeldTokens
    ) -> tuple[Tensor, Context, HeldTokens]:
        """Features of tokens (B, N) that follow those held, and what is held then.

        ValueError for features in place of numbers.
        """
        if tokens.is_floating_point():
            raise ValueError(
                f"n-grams are made of token numbers, not of {tokens.dtype} features; pass "
                "input_ids, or build with stem={'kind': 'tokens'}"
            )
        found, held = self.ngrams(tokens, valid, held)
        x = (self.embedding(tokens) + found) / (1 + len(self.ngrams.sizes))
        return *self.finish(x, Context.of(tokens, valid, start)), held

    def init_state(self, batch: int, step: int) -> HeldTokens:
        """What is held before the first token; tokens come out as they come in."""
        return self.ngrams.begin(batch)


@dataclass(frozen=True)
class TokenStemConfig:
    """Fields of a token stem. `position`: absolute ones, "none", "sinusoidal", "fairseq" (its
    sinusoids), "learned", "axial", "axial_sum" (one width, added).

    `max_len` is for learned ones; `axial_shape` and `axial_dims` as in `subquad.nn.Axial`, by
    default the grid of Reformer's release for 65,536 tokens. `norm`: of the sum, "none", "layer",
    "rms".  `types`: kinds of tokens that have a vector each; 0 for none.
    """

    position: str = "none"
    max_len: int = 1024
    axial_shape: tuple[int, ...] = (128, 512)
    axial_dims: tuple[int, ...] = ()
    norm: str = "none"
    scale: float = 1.0
    dropout: float = 0.0
    types: int = 0

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
