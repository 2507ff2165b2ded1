"""Tasks over whole documents: text, pixels, proteins, music, cut into windows of tokens.

What the documents are made of, their vocabulary and the metric are the data's own, by its Kind (see
`subquad.data.readers`).
"""

from abc import abstractmethod
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from subquad.data.corpus import Corpus, tokenise, words_of
from subquad.data.documents import PARTS, Documents, Kind
from subquad.data.readers import KINDS, open_documents
from subquad.data.text import Text
from subquad.data.vocabulary import Bytes, Subwords, Vocabulary, vocabulary
from subquad.hf import SubquadConfig
from subquad.tasks.encoder import words_in
from subquad.tasks.scoring import gzip_bits
from subquad.tasks.task import Result, Share, Task

__all__ = ["DocumentTask"]


class DocumentTask(Task):
    """A task over documents. Its `config` has `context`, `tokenizer`, `order` and `valid_bytes`."""

    def __init__(
        self,
        config: Any,
        words: Vocabulary | None = None,
        kind: Kind | None = None,
    ) -> None:
        self.config, self.words = config, words
        self.kind = Text() if kind is None else kind
        self._again = kind is not None  # data must then be of this kind
        self.documents: Documents | None = None
        #: that of what it begins from, if anything
        self.stem: dict[str, Any] | None = None

    def prepare(self, data: str | None) -> None:
        found = self._open(data)
        self.documents, self.kind = found, found.kind
        train, valid = found.take("train"), found.take("valid")
        own = found.kind.words
        if self.words is None or own is not None:
            self.words = self._begun_with(self._words(train))
        self.corpus = tokenise(train, self.words, keep=True)
        need = self.config.context + 1
        if not valid.nbytes:
            raise ValueError(
                f"{data or found.source} has no {self.kind.unit} to validate on; give more data, "
                "or beside what is called train and test something called valid"
            )
        if len(self.corpus) < need:
            raise ValueError(
                f"{data or found.source}: the training part has {len(self.corpus):,} tokens and "
                f"one window needs {need:,}; give more data or a smaller --task.context"
            )
        self.valid_text = valid.head(self.config.valid_bytes)
        self.valid = tokenise(self.valid_text, self.words, keep=False)

    def begin(self, folder: Path) -> None:
        self.words = words_in(folder)
        self.stem = SubquadConfig.from_pretrained(folder, local_files_only=True).stem

    def _begun_with(self, own: Vocabulary) -> Vocabulary:
        """This vocabulary. ValueError if what training begins with has another."""
        if self.words is not None and self.words.size != own.size:
            raise ValueError(
                f"the weights to begin with know {self.words.size} tokens, and these documents "
                f"have {own.size}, the {own.name}"
            )
        return own

    def _words(self, train: Documents) -> Vocabulary:
        return words_of(train, self.config.tokenizer)

    def _open(self, data: str | None) -> Documents:
        return open_documents(data, self.config.order, self.kind if self._again else None)

    def data_key(self, data: str | None) -> str:
        return self._open(data).key

    @property
    def tokens_per_item(self) -> int:
        return self.config.context

    @property
    def data_facts(self) -> dict[str, Any]:
        """What a run remembers of its data."""
        assert self.documents is not None
        parts = {part: self.documents.take(part).nbytes for part in PARTS}
        return {"source": self.documents.source, self.kind.unit: parts, "key": self.documents.key}

    # --- evaluation ---------------------------------------------------------------------------

    @abstractmethod
    def score(
        self,
        model: Any,
        documents: Documents,
        corpus: Corpus,
        *,
        share: Share | None = None,
        **how: Any,
    ) -> Result:
        """The numbers of tokenised documents, and how they were measured."""

    def validate(self, model: nn.Module, share: Share) -> Result:
        return self.score(model, self.valid_text, self.valid, share=share)

    def evaluate_on(
        self,
        model: nn.Module,
        data: str | None,
        trained_on: dict[str, Any],
        *,
        part: str | None = None,
        limit: int | None = None,
        **how: Any,
    ) -> Result:
        """The metric on a part of data, of text with gzip's beside it; `how` as in `score`.

        Without data, the run's own; without a part, `test` of the run's own data, all of others.
        """
        assert self.words is not None
        found = self._open(trained_on["path"] if data is None else data)
        own = found.key == trained_on["key"]
        if data is None and not own:
            raise ValueError(
                f"{found.source} is not what this run was trained on: it has moved, or its size or "
                "time has changed, so no part of it is known to be unseen; name what to score with "
                "--data"
            )
        found = found.take(part or ("test" if data is None or own else "all"))
        found = found if limit is None else found.head(limit)
        if not found.nbytes:
            raise ValueError(f"{found.source} has no {found.kind.unit} to score in this part")
        result = self.score(model, found, tokenise(found, self.words, keep=False), **how)
        if self.metric == Text.metric and isinstance(found.kind, Text):
            result.numbers["gzip_bits_per_byte"] = gzip_bits(found.pieces()) / found.nbytes
        return result

    # --- the run folder -----------------------------------------------------------------------

    def save(self, folder: Path) -> dict[str, Any]:
        assert self.words is not None
        self.words.save(folder)
        words = "subwords" if isinstance(self.words, Subwords) else self.words.name
        kind = {"name": self.kind.name, **self.kind.save(folder)}
        told = {"config": asdict(self.config), "vocabulary": words, "kind": kind}
        return told if self.stem is None else {**told, "stem": self.stem}

    @classmethod
    def load(cls, folder: Path, facts: dict[str, Any]) -> "DocumentTask":
        config = cls.Config(**facts["config"])
        about = dict(facts.get("kind", {"name": Text.name}))
        kind = KINDS[about.pop("name")].load(folder, about)
        words = kind.words
        if words is None:
            own = facts["vocabulary"] == Bytes.name
            words = vocabulary(Bytes.name if own else str(folder / "tokenizer.json"))
        made = cls(config, words, kind)
        made.stem = facts.get("stem")
        return made
