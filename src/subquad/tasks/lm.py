"""Language modelling: predict each next token of documents: text, pixels, proteins, music.

What the documents are made of, their vocabulary and the metric are the data's own, by its Kind (see
`subquad.data.readers`); a text's is bits per byte, whatever its tokens are.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.utils.data import Dataset

from subquad.data.corpus import Corpus, Windows, tokenise, words_of
from subquad.data.crops import Crops
from subquad.data.documents import PARTS, Documents, Kind
from subquad.data.lanes import Lanes
from subquad.data.readers import KINDS, open_documents
from subquad.data.text import Text
from subquad.data.vocabulary import Bytes, Subwords, Vocabulary, vocabulary
from subquad.hf import SubquadForCausalLM
from subquad.model import init_memory
from subquad.nn.state import ModelState
from subquad.tasks import causal, sampling
from subquad.tasks.lm_config import LanguageModelConfig, Scoring
from subquad.tasks.scoring import gzip_bits, nats, protocol
from subquad.tasks.task import Result, Share, Task

__all__ = ["LanguageModel", "LanguageModelConfig"]


class LanguageModel(Task):
    """The task `lm`."""

    name = "lm"
    Config = LanguageModelConfig
    Scoring = Scoring
    metric = Text.metric
    greater_is_better = False
    model_class: ClassVar[Any] = SubquadForCausalLM

    def __init__(
        self,
        config: LanguageModelConfig,
        words: Vocabulary | None = None,
        kind: Kind | None = None,
    ) -> None:
        self.config, self.words = config, words
        self.kind = Text() if kind is None else kind
        self._again = kind is not None  # data must then be of this kind
        self.metric = self.kind.metric
        self.documents: Documents | None = None

    # --- data ---------------------------------------------------------------------------------

    def prepare(self, data: str | None) -> None:
        found = self._open(data)
        self.documents, self.kind, self.metric = found, found.kind, found.kind.metric
        train, valid = found.take("train"), found.take("valid")
        if self.words is None:
            self.words = words_of(train, self.config.tokenizer)
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

    def _open(self, data: str | None) -> Documents:
        return open_documents(data, self.config.order, self.kind if self._again else None)

    def data_key(self, data: str | None) -> str:
        """What `data_facts` calls the key of this data, now."""
        return self._open(data).key

    def train_set(self, count: int, seed: int) -> Dataset:
        context, length = self.config.context, self.kind.length
        # documents of one length that fit begin their windows, so that places mean something
        starts = self.corpus.starts(context) if length and length <= context else None
        return Crops(Windows(self.corpus, context, count, seed, starts), seed)

    def memory_of(self, model: Any) -> Callable[[int], ModelState] | None:
        return partial(init_memory, model.model.backbone) if _carries(model) else None

    def lanes(self, count: int, seed: int, lanes: int) -> Dataset:
        return Lanes(self.corpus, self.config.context, count, seed, lanes)

    @property
    def tokens_per_item(self) -> int:
        return self.config.context

    @property
    def data_facts(self) -> dict[str, Any]:
        """What a run remembers of its data."""
        assert self.documents is not None
        parts = {part: self.documents.take(part).nbytes for part in PARTS}
        return {"source": self.documents.source, self.kind.unit: parts, "key": self.documents.key}

    # --- model --------------------------------------------------------------------------------

    def build(self, arch: str, fields: dict[str, Any]) -> SubquadForCausalLM:
        assert self.words is not None
        c = self.config
        words, tables = self.words, c.tables
        return causal.build(
            arch, fields, words, position=c.position, length=c.context, tables=tables
        )

    def loss(self, model: nn.Module, batch: dict[str, Tensor], label_smoothing: float) -> Tensor:
        return causal.loss(model, batch, label_smoothing, shortest=self.config.min_context)

    # --- evaluation ---------------------------------------------------------------------------

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
        if isinstance(found.kind, Text):
            result.numbers["gzip_bits_per_byte"] = gzip_bits(found.pieces()) / found.nbytes
        return result

    def score(
        self,
        model: Any,
        documents: Documents,
        corpus: Corpus,
        *,
        context: int | None = None,
        stride: int | None = None,
        carry: bool | None = None,
        share: Share | None = None,
        report: Callable[[int, int], None] = lambda scored, of: None,
    ) -> Result:
        """The numbers of tokenised documents, and how they were measured.

        Default: windows as long as in training with half of that as stride; or carried states, for
        an architecture whose Config says so by `carry`, as one that is trained so does.
        """
        if carry is None:
            carry = _carries(model) and context is None and stride is None
        if carry and stride is not None:
            raise ValueError(f"stride {stride} is for windows, and a carried state has none")
        context = self.config.context if context is None else context
        if context < 1:
            raise ValueError(f"context is {context}; a window has at least 1 token")
        stride = max(1, context // 2) if stride is None else stride
        if not 0 < stride <= context:
            raise ValueError(f"stride {stride} does not fit context {context}: 1 to {context}")
        advance, tokens = None if carry else stride, int((corpus.end - corpus.start).sum())
        found = nats(
            *(model.model, corpus, context, advance),
            share=share or Share(),
            tick=lambda scored: report(scored, tokens),
        )
        kind = documents.kind
        unit = "tokens" if isinstance(self.words, Subwords) else kind.unit
        said = protocol(context, advance, unit)
        members = kind.member if len(documents) == 1 else f"{kind.member}s"
        what = f"{documents.nbytes:,} {kind.unit} in {len(documents):,} {members}"
        numbers = kind.measure(found, tokens, documents)
        return Result(numbers, f"{what} of {documents.source}; {said}")

    # --- use ----------------------------------------------------------------------------------

    def generate(
        self, model: Any, prompt: str | bytes = "", max_new_tokens: int = 200, **how: Any
    ) -> str:
        """As `sampling.generate`; what is not UTF-8 comes out as U+FFFD."""
        out = sampling.generate(
            model, self.words, _raw(prompt), max_new_tokens=max_new_tokens, **how
        )
        return out.decode(errors="replace")

    def compose(self, model: Any, prompt: str | bytes, out: Path | None, **how: Any) -> str:
        """As `sampling.compose`."""
        return sampling.compose(model, self.words, self.kind, _raw(prompt), out, **how)

    def predict(self, model: Any, text: str | bytes, top: int = 5) -> dict[str, Any]:
        """As `sampling.score`."""
        return sampling.score(model, self.words, self.kind, _raw(text), top)

    def stream(self, model: Any, items: Iterable[int | bytes | str]) -> Iterator[Tensor]:
        """As `sampling.stream`."""
        return sampling.stream(model, self.words, items)

    def save(self, folder: Path) -> dict[str, Any]:
        assert self.words is not None
        self.words.save(folder)
        words = "subwords" if isinstance(self.words, Subwords) else self.words.name
        kind = {"name": self.kind.name, **self.kind.save(folder)}
        return {"config": asdict(self.config), "vocabulary": words, "kind": kind}

    @classmethod
    def load(cls, folder: Path, facts: dict[str, Any]) -> "LanguageModel":
        config = LanguageModelConfig(**facts["config"])
        about = dict(facts.get("kind", {"name": Text.name}))
        kind = KINDS[about.pop("name")].load(folder, about)
        words = kind.words
        if words is None:
            own = facts["vocabulary"] == Bytes.name
            words = vocabulary(Bytes.name if own else str(folder / "tokenizer.json"))
        return cls(config, words, kind)


def _carries(model: Any) -> bool:
    """Is it trained by reading on?"""
    return bool(getattr(model.config.backbone, "carry", False))


def _raw(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
