"""Masked language modelling: fill in hidden tokens of documents: text, pixels, proteins, music.

Devlin et al., 2019, https://arxiv.org/abs/1810.04805. Two numbers over the hidden tokens of a part:
bits for each, and the share whose likeliest token is right.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from subquad.data.corpus import Corpus, Windows
from subquad.data.documents import Documents
from subquad.data.masking import MaskedWindows, cut, hide, ordinary
from subquad.data.rows import alike, padded
from subquad.data.vocabulary import Subwords
from subquad.hf import SubquadConfig, SubquadForMaskedLM
from subquad.tasks.documents import DocumentTask
from subquad.tasks.encoder import described, token_stem
from subquad.tasks.looks import Look, spelled
from subquad.tasks.task import Result, Share, add

__all__ = ["MaskedConfig", "MaskedLanguageModel"]

_SIDE_BY_SIDE = 16_384  # tokens in one call
_MASK = "<|mask|>"


@dataclass(frozen=True)
class MaskedConfig:
    """Fields of the task `mlm`.

    Args:
        context: tokens of a window.
        rate: the share of tokens that are hidden.
        tokenizer: 'bytes'; 'bpe:N', learnt from the training part; a tokenizer.json; a hub id.
        valid_bytes: bytes (tokens, of other data than text) of the validation part that are scored
            at each report.
        position: absolute positions added to the embedding: none, sinusoidal, learned, axial, or
            auto (sinusoidal for architectures that have no positions of their own).
        order: how pictures are read: raster, channels, or a file with a permutation.
    """

    context: int = 512
    rate: float = 0.15
    tokenizer: str = "bytes"
    valid_bytes: int = 65_536
    position: str = "auto"
    order: str = "raster"

    def __post_init__(self) -> None:
        if self.context < 1 or self.valid_bytes < 1:
            raise ValueError(
                f"context {self.context} and valid_bytes {self.valid_bytes} must be positive"
            )
        if not 0 < self.rate < 1:
            raise ValueError(f"rate is {self.rate}; it lies between 0 and 1")


@dataclass(frozen=True)
class MaskedScoring:
    """How `subquad eval` scores a masked language model.

    Args:
        part: train, valid, test or all; default: test of the run's own data, all of other data.
        limit: score only so many bytes (tokens, of other data than text), spread over the part.
        context: tokens of a window; default: as in training.
    """

    part: str | None = None
    limit: int | None = field(default=None, metadata={"flag": "max-bytes"})
    context: int | None = None


class MaskedLanguageModel(DocumentTask):
    """The task `mlm`: data and vocabularies as in `lm`."""

    name = "mlm"
    Config = MaskedConfig
    Scoring = MaskedScoring
    metric = "bits_per_hidden_token"
    greater_is_better = False
    looks_ahead = True
    model_class: ClassVar[Any] = SubquadForMaskedLM

    def _words(self, train: Documents) -> Any:
        words = super()._words(train)
        return words.complete() if isinstance(words, Subwords) else words

    def train_set(self, count: int, seed: int) -> Dataset:
        assert self.words is not None
        windows = Windows(self.corpus, self.config.context, count, seed)
        return MaskedWindows(windows, self.words, self.config.rate)

    def build(self, arch: str, fields: dict[str, Any]) -> SubquadForMaskedLM:
        assert self.words is not None
        c = self.config
        stem = self.stem or token_stem(arch, fields, c.position, c.context)
        return SubquadForMaskedLM(
            SubquadConfig(arch=arch, model=fields, stem=stem, **described(self.words))
        )

    def loss(self, model: nn.Module, batch: dict[str, Tensor], label_smoothing: float) -> Tensor:
        batch = dict(batch)
        labels = batch.pop("labels")
        logits = model(**batch).logits
        return F.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), label_smoothing=label_smoothing
        )

    @torch.no_grad()
    def score(
        self,
        model: Any,
        documents: Documents,
        corpus: Corpus,
        *,
        context: int | None = None,
        share: Share | None = None,
        report: Callable[[int, int], None] = lambda scored, of: None,
    ) -> Result:
        """The numbers of tokenised documents, in windows side by side, hidden alike every time."""
        assert self.words is not None
        context, share = self.config.context if context is None else context, share or Share()
        if context < 1:
            raise ValueError(f"context is {context}; a window has at least 1 token")
        was, at = model.training, next(model.parameters()).device
        model.eval()
        windows = cut(corpus, context)
        tokens = sum(length for _, length in windows)
        found = [0.0, 0.0, 0.0]  # hidden tokens, their nats, right ones
        for number, group in enumerate(alike([n for _, n in windows], _SIDE_BY_SIDE)):
            if not share.mine(number):
                continue
            ids = [torch.from_numpy(corpus.read(*windows[i])) for i in group]
            rows = [
                {
                    **hide(row, self.words, self.config.rate, (0, i)),
                    "attention_mask": torch.ones(len(row), dtype=torch.int64),
                }
                for i, row in zip(group, ids, strict=True)
            ]
            fill = {"input_ids": self.words.pad, "labels": -100, "attention_mask": 0}
            batch = {name: t.to(at) for name, t in padded(rows, fill).items()}
            labels = batch.pop("labels")
            asked = labels != -100
            logits, goal = model(**batch).logits[asked].float(), labels[asked]
            nats = F.cross_entropy(logits, goal, reduction="none").double().sum()
            hits = (logits.argmax(-1) == goal).sum()
            parts = (len(goal), nats.item(), hits.item())
            found = [a + b for a, b in zip(found, parts, strict=True)]
            report(sum(len(row) for row in ids), tokens)
        model.train(was)
        hidden, nats, right = add(share, *found)
        numbers = {
            "bits_per_hidden_token": nats / math.log(2) / max(hidden, 1),
            "hidden_accuracy": right / max(hidden, 1),
            "hidden_tokens": int(hidden),
        }
        return Result(numbers, self._protocol(documents, context))

    def compared(self, multiple: int, limit: int) -> dict[str, Any]:
        return {"context": multiple * self.config.context, "limit": limit}

    def _protocol(self, documents: Documents, context: int) -> str:
        kind = documents.kind
        members = kind.member if len(documents) == 1 else f"{kind.member}s"
        return (
            f"{documents.nbytes:,} {kind.unit} in {len(documents):,} {members} of "
            f"{documents.source}; windows of {context:,} tokens side by side, each token hidden "
            f"with probability {self.config.rate} by a fixed draw (8 in 10 masked, 1 another, "
            "1 unchanged)"
        )

    # --- use ----------------------------------------------------------------------------------

    @torch.no_grad()
    def predict(self, model: Any, text: str | bytes, top: int = 5) -> dict[str, Any]:
        """Fills each <|mask|> of a text with the likeliest token; `masks`: what else may be there.

        ValueError for a text without one.
        """
        assert self.words is not None
        ids = self._asked(text)
        if self.words.hidden not in ids:
            raise ValueError(
                f"a text for this run holds {_MASK} where something is to be filled in"
            )
        logits = model(input_ids=torch.tensor([ids], device=model.device)).logits[0].float()
        usual = torch.zeros(self.words.size, dtype=torch.bool)
        usual[torch.from_numpy(ordinary(self.words))] = True
        logits = logits.masked_fill(~usual.to(logits.device), -torch.inf)
        masks = []
        for place in [i for i, token in enumerate(ids) if token == self.words.hidden]:
            likely = logits[place].softmax(-1).topk(top)
            ids[place] = int(likely.indices[0])
            found = zip(likely.values.tolist(), likely.indices.tolist(), strict=True)
            masks.append([(self.words.decode([i]).decode(errors="replace"), p) for p, i in found])
        return {"text": self.words.decode(ids).decode(errors="replace"), "masks": masks}

    def _asked(self, text: str | bytes) -> list[int]:
        """The tokens of a text, each <|mask|> hidden."""
        assert self.words is not None
        raw = text if isinstance(text, bytes) else text.encode()
        ids: list[int] = []
        for number, piece in enumerate(raw.split(_MASK.encode())):
            ids += ([self.words.hidden] if number else []) + self.words.encode(piece).tolist()
        return ids

    def look(self, model: Any, raw: Any) -> Look:
        assert self.words is not None
        ids = self._asked(self.read(raw))
        given = {"input_ids": torch.tensor([ids], device=model.device)}
        return Look(given, {"tokens": spelled(self.words, ids)})

    def told(self, answer: dict[str, Any]) -> str:
        return answer["text"]
