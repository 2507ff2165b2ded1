"""What tasks over rows of text share: a vocabulary, labels if there are any, and the run folder."""

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from subquad.data.tokenizer_files import Reading
from subquad.data.vocabulary import Vocabulary
from subquad.hf import SubquadConfig
from subquad.tasks.encoder import (
    described,
    kept_words,
    learn_words,
    load_words,
    token_stem,
    words_in,
)
from subquad.tasks.labels import Labels
from subquad.tasks.looks import Look, spelled
from subquad.tasks.rows import Row, RowTask

__all__ = ["TextTask", "arguments"]

_ANY = 1 << 40  # a context that holds whatever there is


class TextTask(RowTask):
    """A task over rows of text. Its `config` has `context`, `tokenizer` and `position`."""

    def __init__(
        self, config: Any, words: Vocabulary | None = None, labels: Labels | None = None
    ) -> None:
        self.config, self._words, self._labels = config, words, labels
        #: that of what training begins with, if with anything; of a pair its `ends_in`
        self._stem: dict[str, Any] | None = None

    def begin(self, folder: Path) -> None:
        self._words = words_in(folder)
        self._stem = SubquadConfig.from_pretrained(folder, local_files_only=True).stem

    def texts(self, rows: Sequence[Row]) -> Iterable[str]:
        """The texts that a vocabulary is learnt from."""
        return (row["text"] for row in rows)

    def named(self, rows: Sequence[Row]) -> Labels | None:
        """The labels of the training rows, if the task has any."""
        return None

    def learn(self, rows: Sequence[Row]) -> None:
        if self._labels is None:
            # a rare one may be in the validation part alone, and is scored there
            self._labels = self.named([*rows, *self.known.rows["valid"]])
        if self._words is None:
            self._words = learn_words(self.config.tokenizer, self.texts(rows))

    @property
    def words(self) -> Vocabulary:
        """The vocabulary, known once data is open."""
        assert self._words is not None
        return self._words

    @property
    def labels(self) -> Labels:
        """The labels, known once data is open."""
        assert self._labels is not None
        return self._labels

    @property
    def fill(self) -> dict[str, int]:  # type: ignore[override]
        return {**RowTask.fill, "input_ids": self.words.pad}

    @property
    def tables(self) -> dict[str, Any] | None:
        """The kind of stem, and what belongs to it; None: one plain table."""
        return None

    def parts(self, arch: str, fields: dict[str, Any]) -> dict[str, Any]:
        """What a model's configuration says of architecture, stem and vocabulary."""
        c = self.config
        stem = self._stem or token_stem(arch, fields, c.position, c.context, self.tables)
        return {"arch": arch, "model": fields, "stem": stem, **described(self.words)}

    @property
    def reading(self) -> Reading | None:
        """How texts are read, for transformers' tokenizers; None if the model is given none."""
        return None

    def _whole(self, row: Row) -> int:
        """How many tokens a row has, whatever is read of it."""
        wide = copy(self)
        wide.config = replace(self.config, context=_ANY)
        return len(wide.inputs(row)["input_ids"])

    def remark(self, row: Row) -> str:
        count, most = self._whole(row), self.config.context
        return f"the input has {count:,} tokens; the first {most:,} are read" * (count > most)

    def uncut(self, raw: Any) -> Row:
        """What `read` gives, all of it. ValueError if that is more than is read at once."""
        row, most = self.read(raw), self.config.context
        if (count := self._whole(row)) > most:
            raise ValueError(
                f"the input has {count:,} tokens and this run reads {most:,} at once; cut it"
            )
        return row

    def look(self, model: Any, raw: Any) -> Look:
        given = self.batch(model, [self.uncut(raw)])
        return Look(given, {"tokens": spelled(self.words, given["input_ids"][0].tolist())})

    def save(self, folder: Path) -> dict[str, Any]:
        words = kept_words(self.words, folder, self.reading)
        told = {"config": asdict(self.config), "vocabulary": words}
        if self._labels is not None:
            told["labels"] = self._labels.names
        return {**told, "stem": self._stem}

    @classmethod
    def load(cls, folder: Path, facts: dict[str, Any]) -> "TextTask":
        labels = Labels(facts["labels"]) if "labels" in facts else None
        words = load_words(facts["vocabulary"], folder)
        made = cls(cls.Config(**facts["config"]), words, labels)
        made._stem = facts["stem"]
        return made


def arguments(ids: Sequence[int], mark: slice | None = None) -> dict[str, Tensor]:
    """Arguments of a model's forward for tokens (N,), some of them marked."""
    tokens = torch.tensor(ids, dtype=torch.int64)
    given = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if mark is not None:
        given["global_attention_mask"] = marks = torch.zeros_like(tokens)
        marks[mark] = 1
    return given
