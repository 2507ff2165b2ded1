"""Language modelling: predict each next token of documents: text, pixels, proteins, music.

What the documents are made of, their vocabulary and the metric are the data's own, by its Kind (see
`subquad.data.readers`); a text's is bits per byte, whatever its tokens are.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.utils.data import Dataset

from subquad.data.corpus import Corpus, Windows
from subquad.data.crops import Crops
from subquad.data.documents import Documents, Kind
from subquad.data.lanes import Lanes
from subquad.data.text import Text
from subquad.data.vocabulary import Subwords, Vocabulary
from subquad.hf import SubquadForCausalLM
from subquad.model import init_memory
from subquad.nn.state import ModelState
from subquad.tasks import causal, sampling
from subquad.tasks.documents import DocumentTask
from subquad.tasks.encoder import token_stem
from subquad.tasks.lm_config import LanguageModelConfig, Scoring
from subquad.tasks.looks import Look, spelled
from subquad.tasks.scoring import nats, protocol
from subquad.tasks.task import Result, Share

__all__ = ["LanguageModel", "LanguageModelConfig"]


class LanguageModel(DocumentTask):
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
        super().__init__(config, words, kind)
        self.metric = self.kind.metric

    # --- data ---------------------------------------------------------------------------------

    def prepare(self, data: str | None) -> None:
        super().prepare(data)
        self.metric = self.kind.metric

    def train_set(self, count: int, seed: int) -> Dataset:
        context, length = self.config.context, self.kind.length
        # documents of one length that fit begin their windows, so that places mean something
        starts = self.corpus.starts(context) if length and length <= context else None
        return Crops(Windows(self.corpus, context, count, seed, starts), seed)

    def memory_of(self, model: Any) -> Callable[[int], ModelState] | None:
        if not _carries(model):
            return None
        return partial(init_memory, model.model.backbone, stem=model.model.stem)

    def lanes(self, count: int, seed: int, lanes: int) -> Dataset:
        return Lanes(self.corpus, self.config.context, count, seed, lanes)

    # --- model --------------------------------------------------------------------------------

    def build(self, arch: str, fields: dict[str, Any]) -> SubquadForCausalLM:
        assert self.words is not None
        c, words = self.config, self.words
        stem = self.stem or token_stem(arch, fields, c.position, c.context, c.tables)
        return causal.build(arch, fields, words, stem=stem, head=c.head)

    def loss(self, model: nn.Module, batch: dict[str, Tensor], label_smoothing: float) -> Tensor:
        return causal.loss(model, batch, label_smoothing, shortest=self.config.min_context)

    # --- evaluation ---------------------------------------------------------------------------

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

    def compared(self, multiple: int, limit: int) -> dict[str, Any]:
        context = multiple * self.config.context
        how = {"context": context, "stride": max(1, context // 2), "carry": False}
        return {**how, "limit": limit}

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

    def look(self, model: Any, raw: Any) -> Look:
        ids = sampling.begin(self.words, _raw(self.read(raw))).to(model.device)
        return Look({"input_ids": ids}, {"tokens": spelled(self.words, ids[0].tolist())})

    def stream(self, model: Any, items: Iterable[int | bytes | str]) -> Iterator[Tensor]:
        """As `sampling.stream`."""
        return sampling.stream(model, self.words, items)


def _carries(model: Any) -> bool:
    """Is it trained by reading on?"""
    return bool(getattr(model.config.backbone, "carry", False))


def _raw(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
