"""Classification: one label for a document.

A document is a mark, then its tokens, the first `context` of them together. The mark is the one
global token of patterns that have any (Longformer, section 5, https://arxiv.org/abs/2004.05150).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subquad.archs import configure
from subquad.data import stdlib
from subquad.data.examples import Examples
from subquad.data.forms import CLASSIFY
from subquad.data.tokenizer_files import Reading
from subquad.data.vocabulary import Bytes
from subquad.hf import SubquadConfig, SubquadForSequenceClassification
from subquad.nn.choices import choose
from subquad.nn.pooling import POOLS
from subquad.tasks.encoder import ngram_tables
from subquad.tasks.labels import Labels
from subquad.tasks.lra import beside, suite_rows, suite_sizes, suite_words
from subquad.tasks.one_label import OneLabelTask
from subquad.tasks.rows import Row
from subquad.tasks.texts import TextTask, arguments

__all__ = ["Classify", "ClassifyConfig"]


@dataclass(frozen=True)
class ClassifyConfig:
    """Fields of the task `classify`.

    Args:
        context: tokens of a document that are read, its mark among them; the rest is cut off.
        tokenizer: 'bytes'; 'bpe:N', learnt from the training part; a tokenizer.json; a hub id.
        position: absolute positions added to the embedding: none, sinusoidal, learned, axial, or
            auto (sinusoidal for architectures that have no positions of their own).
        pool: how a document becomes one vector: first, last, mean, max (of each channel), or auto
            (last for architectures that only look back, else mean).
        dropout: of that vector.
        valid_rows: rows of the validation part that are scored at each report.
        text: the column that holds the text; default: the usual names.
        label: the column that holds the label; default: the usual names.
        ngrams: sizes of n-grams of tokens whose vectors, found by hashing, are added to those of
            tokens, as in [3,4,5]; default: none.
        ngram_rows: rows of the table of each size.
        lra: a task of Long Range Arena in place of rows of text: listops, listops-short, text,
            image or pathfinder; --data is the folder of files that are not made here.
    """

    context: int = 1024
    tokenizer: str = "bytes"
    position: str = "auto"
    pool: str = "auto"
    dropout: float = 0.1
    valid_rows: int = 1000
    text: str | None = None
    label: str | None = None
    ngrams: tuple[int, ...] = ()
    ngram_rows: int = 20_000
    lra: str | None = None

    def __post_init__(self) -> None:
        if self.context < 2 or self.valid_rows < 1:
            raise ValueError(
                f"context {self.context} must be at least 2, and valid_rows {self.valid_rows} "
                "positive"
            )
        choose("pool", self.pool, {"auto": None, **POOLS})


class Classify(OneLabelTask, TextTask):
    """The task `classify`."""

    name = "classify"
    Config = ClassifyConfig
    form = CLASSIFY
    columns = ("text", "label")
    default = staticmethod(stdlib.classify)
    metric = "accuracy"
    greater_is_better = True
    looks_ahead = True
    model_class: ClassVar[Any] = SubquadForSequenceClassification

    # --- data ---------------------------------------------------------------------------------

    def open(self, data: str | None) -> Examples:
        if self.config.lra is None:
            return super().open(data)
        rows, suite = suite_rows(self.config.lra, data, self.config.context)
        self._words, self._labels = suite_words(self.config.lra), Labels(suite.labels)
        return rows

    def named(self, rows: Sequence[Row]) -> Labels:
        return Labels.among(row["label"] for row in rows)

    def inputs(self, row: Row) -> dict[str, Tensor]:
        ids = row["ids"] if "ids" in row else self.words.encode(row["text"].encode())
        ids = ids[: self.config.context - 1]
        return arguments([self.words.mark, *ids.tolist()], slice(0, 1))

    def targets(self, row: Row) -> dict[str, Tensor]:
        return {"labels": torch.tensor(self.labels.number(row["label"]))}

    def sizes(self, rows: Sequence[Row]) -> list[int]:
        if self.config.lra is not None:
            return suite_sizes(rows, self.config.context)
        return [min(len(row["text"]) + 1, self.config.context) for row in rows]

    def says(self, rows: Sequence[Row]) -> str:
        if self.config.lra is not None:
            return ""
        most, plain = self.config.context - 1, isinstance(self.words, Bytes)
        cut = sum(len(row["text"].encode()) > most for row in rows)
        unit = "bytes" if plain else "tokens"
        return f"the first {most:,} {unit} of each, {cut:,} may be longer" if cut else ""

    @property
    def reading(self) -> Reading:
        return Reading(self.config.context, mark=True)

    # --- model --------------------------------------------------------------------------------

    @property
    def tables(self) -> dict[str, Any] | None:
        return ngram_tables(self.config.ngrams, self.config.ngram_rows)

    def build(self, arch: str, fields: dict[str, Any]) -> SubquadForSequenceClassification:
        pool = self.config.pool
        if pool == "auto":
            pool = "last" if getattr(configure(arch, fields), "causal", False) else "mean"
        head = {"kind": "labels", "pool": pool, "dropout": self.config.dropout}
        return SubquadForSequenceClassification(
            SubquadConfig(**self.parts(arch, fields), head=head, **self.labels.config)
        )

    def loss(self, model: nn.Module, batch: dict[str, Tensor], label_smoothing: float) -> Tensor:
        batch = dict(batch)
        labels = batch.pop("labels")
        return F.cross_entropy(model(**batch).logits, labels, label_smoothing=label_smoothing)

    # --- answers ------------------------------------------------------------------------------

    def told(self, answer: dict[str, Any]) -> str:
        return f"{answer['label']}  {answer['probability']:.3f}"

    def published(self, archs: Sequence[str]) -> str:
        return "" if self.config.lra is None else beside(self.config.lra, archs)

    @classmethod
    def load(cls, folder: Path, facts: dict[str, Any]) -> "Classify":
        made = super().load(folder, facts)
        assert isinstance(made, Classify)
        if made.config.lra is not None:
            made._words = suite_words(made.config.lra)
        return made
