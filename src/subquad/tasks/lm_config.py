"""How a language model is trained and scored, as typed fields: --task.FIELD, and flags of eval."""

from dataclasses import dataclass, field
from typing import Any

from subquad.tasks.encoder import ngram_tables

__all__ = ["LanguageModelConfig", "Scoring"]


@dataclass(frozen=True)
class LanguageModelConfig:
    """Fields of the task `lm`.

    Args:
        context: tokens of a training window, and of a window of evaluation.
        tokenizer: 'bytes'; 'bpe:N', learnt from the training part; a tokenizer.json; a hub id.
        valid_bytes: bytes (tokens, of other data than text) of the validation part that are scored
            at each report.
        position: absolute positions added to the embedding: none, sinusoidal, learned, axial
            (on a grid with a place for each token of the context), or auto (sinusoidal for
            architectures that have no positions of their own).
        min_context: training windows are cut to a random length from this to context, one for each
            batch; default: for architectures that train on their last positions alone (those with
            `latents`) so many, so that early positions are trained too; context for all others.
        order: how pictures are read: raster (channel last), channels (one after another), or a
            file with a permutation of their dims in raster order.
        cutoffs: numbers of words where clusters of an adaptive input and softmax begin, as in
            [20000,40000]; words must be numbered by falling frequency; none: one plain table.
        div_val: by how much vectors get narrower from each cluster to the next.
        ngrams: sizes of n-grams of tokens whose vectors, found by hashing, are added to those of
            tokens, as in [3,4,5]; default: none.
        ngram_rows: rows of the table of each size.
    """

    context: int = 512
    tokenizer: str = "bytes"
    valid_bytes: int = 65_536
    position: str = "auto"
    min_context: int | None = None
    order: str = "raster"
    cutoffs: tuple[int, ...] = ()
    div_val: int = 1
    ngrams: tuple[int, ...] = ()
    ngram_rows: int = 20_000

    def __post_init__(self) -> None:
        if self.context < 1 or self.valid_bytes < 1:
            raise ValueError(
                f"context {self.context} and valid_bytes {self.valid_bytes} must be positive"
            )
        if self.ngrams and self.cutoffs:
            raise ValueError(
                f"ngrams {list(self.ngrams)} and cutoffs {list(self.cutoffs)} exclude each other: "
                "n-grams are for small vocabularies, clusters for large ones"
            )
        if self.min_context is not None and not 1 <= self.min_context <= self.context:
            raise ValueError(
                f"min_context {self.min_context} does not fit context {self.context}: "
                f"1 to {self.context}"
            )

    @property
    def tables(self) -> dict[str, Any]:
        """How the stem divides the vocabulary."""
        return ngram_tables(self.ngrams, self.ngram_rows) or self.head

    @property
    def head(self) -> dict[str, Any]:
        """How the softmax divides the vocabulary."""
        if not self.cutoffs:
            return {"kind": "tokens"}
        return {"kind": "adaptive", "cutoffs": list(self.cutoffs), "div_val": self.div_val}


@dataclass(frozen=True)
class Scoring:
    """How `subquad eval` scores a language model.

    Args:
        part: train, valid, test or all; default: test of the run's own data, all of other data.
        limit: score only so many bytes (tokens, of other data than text), spread over the part.
        context: tokens of a window; default: as in training.
        stride: each token is scored once with context - stride to context tokens of past; default:
            half the context.
        carry: carry the state through each document instead.
    """

    part: str | None = None
    limit: int | None = field(default=None, metadata={"flag": "max-bytes"})
    context: int | None = None
    stride: int | None = None
    carry: bool | None = None
