"""Tagging: one label for each token of a row, as words of a sentence have.

A row is a mark, then its tokens with spaces between. The label of a token stands at its last
element, where also a model that only looks back has seen all of it. Rows that do not fit the
context are read in pieces, in training the first alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subquad.data import stdlib
from subquad.data.forms import TAG
from subquad.data.tokenizer_files import Reading
from subquad.hf import SubquadConfig, SubquadForTokenClassification
from subquad.nn.losses import IGNORED
from subquad.tasks.labels import Labels
from subquad.tasks.rows import Row
from subquad.tasks.texts import TextTask, arguments

__all__ = ["Tag", "TagConfig"]

_SIDE_BY_SIDE = 16_384  # elements in one call


@dataclass(frozen=True)
class TagConfig:
    """Fields of the task `tag`.

    Args:
        context: elements of a row that are read at once, its mark among them.
        tokenizer: what a token is made of: 'bytes'; 'bpe:N', learnt from the training part; a
            tokenizer.json; a hub id.
        position: absolute positions added to the embedding: none, sinusoidal, learned, axial, or
            auto (sinusoidal for architectures that have no positions of their own).
        dropout: of the features that a label is told from.
        valid_rows: rows of the validation part that are scored at each report.
        tokens: the column that holds the tokens; default: the usual names.
        tags: the column that holds their labels; default: the usual names.
    """

    context: int = 512
    tokenizer: str = "bytes"
    position: str = "auto"
    dropout: float = 0.1
    valid_rows: int = 500
    tokens: str | None = None
    tags: str | None = None

    def __post_init__(self) -> None:
        if self.context < 2 or self.valid_rows < 1:
            raise ValueError(
                f"context {self.context} must be at least 2, and valid_rows {self.valid_rows} "
                "positive"
            )


class Tag(TextTask):
    """The task `tag`."""

    name = "tag"
    Config = TagConfig
    form = TAG
    columns = ("tokens", "tags")
    default = staticmethod(stdlib.tag)
    metric = "accuracy"
    greater_is_better = True
    looks_ahead = True
    reads = ("tokens",)
    model_class: ClassVar[Any] = SubquadForTokenClassification

    # --- data ---------------------------------------------------------------------------------

    def texts(self, rows: Sequence[Row]) -> Iterable[str]:
        return (" ".join(row["tokens"]) for row in rows)

    def named(self, rows: Sequence[Row]) -> Labels:
        return Labels.among(tag for row in rows for tag in row["tags"])

    def _pieces(self, tokens: Sequence[str]) -> Iterator[tuple[list[int], list[int], slice]]:
        """(ids, the place of each token's last element, which tokens) of pieces that fit.

        A token that does not fit even alone is read as far as it does.
        """
        most = self.config.context
        first, ends, ids = 0, list[int](), [self.words.mark]
        for number, token in enumerate(tokens):
            # a tokenizer may leave nothing of a token, which has a place all the same
            own = self.words.encode(f" {token}".encode()).tolist() or [self.words.hidden]
            if len(ids) + len(own) > most and ends:
                yield ids, ends, slice(first, number)
                ids, ends, first = [self.words.mark], [], number
            ids += own[: most - len(ids)]
            ends.append(len(ids) - 1)
        yield ids, ends, slice(first, len(tokens))

    def item(self, row: Row) -> dict[str, Tensor]:
        ids, ends, which = next(self._pieces(row["tokens"]))
        labels = torch.full((len(ids),), IGNORED)
        labels[torch.tensor(ends, dtype=torch.int64)] = self.labels.numbers(row["tags"][which])
        return arguments(ids) | {"labels": labels}

    def inputs(self, row: Row) -> dict[str, Tensor]:
        return {name: t for name, t in self.item(row).items() if name != "labels"}

    def targets(self, row: Row) -> dict[str, Tensor]:
        return {"labels": self.item(row)["labels"]}

    def remark(self, row: Row) -> str:
        most, tokens = self.config.context - 1, row["tokens"]
        cut = sum(len(self.words.encode(f" {token}".encode())) > most for token in tokens)
        return f"{cut:,} tokens are read as far as the first {most:,} elements of each" * bool(cut)

    def sizes(self, rows: Sequence[Row]) -> list[int]:
        most = self.config.context
        return [min(1 + sum(len(token) + 1 for token in row["tokens"]), most) for row in rows]

    def read(self, raw: str | Path | dict[str, Any]) -> Row:
        row = super().read(raw)
        tokens = row["tokens"]
        if isinstance(tokens, str):
            return {"tokens": tokens.split()}
        if not isinstance(tokens, list) or not all(isinstance(t, str) and t for t in tokens):
            raise ValueError(f"tokens are {tokens!r}; they must be a text, or a list of texts")
        return row

    @property
    def reading(self) -> Reading:
        return Reading(self.config.context, mark=True)

    # --- model --------------------------------------------------------------------------------

    def build(self, arch: str, fields: dict[str, Any]) -> SubquadForTokenClassification:
        head = {"kind": "tags", "dropout": self.config.dropout}
        return SubquadForTokenClassification(
            SubquadConfig(**self.parts(arch, fields), head=head, **self.labels.config)
        )

    def loss(self, model: nn.Module, batch: dict[str, Tensor], label_smoothing: float) -> Tensor:
        batch = dict(batch)
        labels = batch.pop("labels").flatten()
        logits = model(**batch).logits.flatten(0, 1)
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)

    # --- answers ------------------------------------------------------------------------------

    def answers(self, model: Any, rows: Sequence[Row]) -> list[list[str]]:
        pieces = [(r, *p) for r, row in enumerate(rows) for p in self._pieces(row["tokens"])]
        found: list[list[str]] = [[] for _ in rows]
        at, many = next(model.parameters()).device, max(1, _SIDE_BY_SIDE // self.config.context)
        for first in range(0, len(pieces), many):
            some = pieces[first : first + many]
            batch = self.collate([arguments(ids) for _, ids, _, _ in some])
            likely = model(**{k: t.to(at) for k, t in batch.items()}).logits.argmax(-1).tolist()
            for (row, _, ends, _), numbers in zip(some, likely, strict=True):
                found[row] += [self.labels.names[numbers[end]] for end in ends]
        return found

    def predict(self, model: Any, row: Row) -> dict[str, list[str]]:
        """The tokens of a row, and the tag of each."""
        return {"tokens": row["tokens"], "tags": super().predict(model, row)}

    def told(self, answer: dict[str, list[str]]) -> str:
        pairs = zip(answer["tokens"], answer["tags"], strict=True)
        return "  ".join(f"{token}/{tag}" for token, tag in pairs)

    @property
    def sums(self) -> int:
        return len(self.labels) ** 2

    def counted(self, answers: Sequence[Any], rows: Sequence[Row]) -> Tensor:
        true = (tag for row in rows for tag in row["tags"])
        return self.labels.counted(true, (tag for answer in answers for tag in answer))

    def measured(self, counts: Tensor) -> dict[str, float]:
        return {**self.labels.measured(counts), "tokens": int(counts.sum())}
