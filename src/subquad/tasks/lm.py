"""Language modelling: predict each next token of a text; the metric is bits per byte.

Bits per byte = (sum of -log2 p over all tokens of the text) / (its bytes), whatever the tokens are,
so that models over bytes and over subwords compare, with each other and with gzip.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.utils.data import Dataset

from subquad.archs import configure
from subquad.data.corpus import Corpus, Windows, tokenise
from subquad.data.lanes import Lanes
from subquad.data.text import Text, open_text
from subquad.data.vocabulary import Bytes, Subwords, learn, vocabulary
from subquad.hf import SubquadConfig, SubquadForCausalLM
from subquad.model import init_memory
from subquad.nn.state import ModelState
from subquad.tasks.lm_config import LanguageModelConfig
from subquad.tasks.sampling import generate, score, stream
from subquad.tasks.scoring import carried, gzip_bits, protocol, windowed
from subquad.tasks.task import Result, Share, Task

__all__ = ["LanguageModel", "LanguageModelConfig"]

_SIDE_BY_SIDE = 8_192  # side by side in evaluation


class LanguageModel(Task):
    """The task `lm`."""

    name = "lm"
    Config = LanguageModelConfig
    metric = "bits_per_byte"
    greater_is_better = False
    model_class: ClassVar[Any] = SubquadForCausalLM

    def __init__(self, config: LanguageModelConfig, words: Bytes | Subwords | None = None) -> None:
        self.config = config
        self.text: Text | None = None
        self.words = words

    # --- data ---------------------------------------------------------------------------------

    def prepare(self, data: str | None) -> None:
        self.text = open_text(data)
        train = self.text.take("train")
        if self.words is None:
            self.words = self._vocabulary(train)
        self.corpus = tokenise(train, self.words, keep=True)
        need = self.config.context + 1
        if len(self.corpus) < need or not self.text.take("valid").nbytes:
            raise ValueError(
                f"{data or self.text.source}: the training part has {len(self.corpus):,} tokens "
                f"and one window needs {need:,}; give a longer text or a smaller --task.context"
            )
        valid = self.text.take("valid").head(self.config.valid_bytes)
        self.valid = tokenise(valid, self.words, keep=False)

    def _vocabulary(self, train: Text) -> Bytes | Subwords:
        kind, _, size = self.config.tokenizer.partition(":")
        if kind != "bpe":
            return vocabulary(self.config.tokenizer)
        if not size.isdigit():
            raise ValueError(f"bpe wants its size, as in bpe:1024, not {self.config.tokenizer!r}")
        pieces = train.head(1 << 25).pieces(1 << 16)
        return Subwords(learn(pieces, int(size)), self.config.tokenizer)

    def train_set(self, count: int, seed: int) -> Dataset:
        return Windows(self.corpus, self.config.context, count, seed)

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
        assert self.text is not None
        parts = {part: self.text.take(part).nbytes for part in ("train", "valid", "test")}
        return {"source": self.text.source, "bytes": parts, "key": self.text.key}

    # --- model --------------------------------------------------------------------------------

    def build(self, arch: str, fields: dict[str, Any]) -> SubquadForCausalLM:
        assert self.words is not None
        return SubquadForCausalLM(
            SubquadConfig(
                arch=arch,
                model=fields,
                stem=self._stem(configure(arch, fields)),
                vocab_size=self.words.size,
                bos_token_id=self.words.boundary,
                eos_token_id=self.words.boundary,
                pad_token_id=self.words.pad,
            )
        )

    def _stem(self, backbone: Any) -> dict[str, Any]:
        position = self.config.position
        if position == "auto":
            own = getattr(backbone, "position", "none") != "none"
            position = "none" if own else "sinusoidal"
        scale = getattr(backbone, "embedding_scale", 1.0)
        context = self.config.context
        width = 2 ** math.ceil(math.log2(context) / 2)
        sizes = {
            "learned": {"max_len": context},
            "axial": {"axial_shape": [math.ceil(context / width), width]},
        }
        return {"position": position, "scale": scale, **sizes.get(position, {})}

    def loss(self, model: nn.Module, batch: dict[str, Tensor], label_smoothing: float) -> Tensor:
        # batches hold arguments of the model's forward, which a wrapper for data parallelism needs
        return model(**batch, label_smoothing=label_smoothing).loss

    # --- evaluation ---------------------------------------------------------------------------

    def validate(self, model: nn.Module, share: Share) -> Result:
        text = self.text.take("valid").head(self.config.valid_bytes)  # type: ignore[union-attr]
        return self.score(model, text, self.valid, share=share)

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
        """Bits per byte of a part of data, with gzip's beside it; `how` as in `score`.

        Without data, the run's own; without a part, `test` of the run's own data, all of others.
        """
        assert self.words is not None
        text = open_text(trained_on["path"] if data is None else data)
        own = text.key == trained_on["key"]
        text = text.take(part or ("test" if data is None or own else "all"))
        text = text if limit is None else text.head(limit)
        if not text.nbytes:
            raise ValueError(f"{text.source} has no bytes to score in this part")
        result = self.score(model, text, tokenise(text, self.words, keep=False), **how)
        result.numbers["gzip_bits_per_byte"] = gzip_bits(text.pieces()) / text.nbytes
        return result

    def score(
        self,
        model: Any,
        text: Text,
        corpus: Corpus,
        *,
        context: int | None = None,
        stride: int | None = None,
        carry: bool | None = None,
        share: Share | None = None,
        report: Callable[[int, int], None] = lambda scored, of: None,
    ) -> Result:
        """Bits per byte of tokenised documents, and how it was measured.

        Default: windows as long as in training with half of that as stride; or carried states, for
        an architecture whose Config says so by `carry`, as one that is trained so does.
        """
        if carry is None:
            carry = _carries(model) and context is None and stride is None
        context = context or self.config.context
        stride = stride or max(1, context // 2)
        if not 0 < stride <= context:
            raise ValueError(f"stride {stride} does not fit context {context}: 1 to {context}")
        how: dict[str, Any] = {"batch": max(1, _SIDE_BY_SIDE // context)}
        tokens = int((corpus.end - corpus.start).sum())
        how |= {"share": share or Share(), "tick": lambda scored: report(scored, tokens)}
        was = model.training
        model.eval()
        if carry:
            nats = carried(model.model, corpus, context, **how)
        else:
            nats = windowed(model.model, corpus, context, stride, **how)
        model.train(was)
        numbers = {
            "bits_per_byte": nats / math.log(2) / text.nbytes,
            "nats_per_token": nats / tokens,
            "bytes": text.nbytes,
            "tokens": tokens,
        }
        unit = "bytes" if isinstance(self.words, Bytes) else "tokens"
        said = protocol(context, None if carry else stride, unit)
        held = "document" if len(text) == 1 else "documents"
        what = f"{text.nbytes:,} bytes in {len(text):,} {held} of {text.source}"
        return Result(numbers, f"{what}; {said}")

    # --- use ----------------------------------------------------------------------------------

    def generate(
        self, model: Any, prompt: str | bytes = "", max_new_tokens: int = 200, **how: Any
    ) -> str:
        """As `sampling.generate`; what is not UTF-8 comes out as U+FFFD."""
        out = generate(model, self.words, _raw(prompt), max_new_tokens=max_new_tokens, **how)
        return out.decode(errors="replace")

    def predict(self, model: Any, text: str | bytes, top: int = 5) -> dict[str, Any]:
        """As `sampling.score`."""
        return score(model, self.words, _raw(text), top)

    def stream(self, model: Any, items: Iterable[int | bytes | str]) -> Iterator[Tensor]:
        """As `sampling.stream`."""
        return stream(model, self.words, items)

    def save(self, folder: Path) -> dict[str, Any]:
        assert self.words is not None
        self.words.save(folder)
        kind = "bytes" if isinstance(self.words, Bytes) else "subwords"
        return {"config": asdict(self.config), "vocabulary": kind}

    @classmethod
    def load(cls, folder: Path, facts: dict[str, Any]) -> "LanguageModel":
        config = LanguageModelConfig(**facts["config"])
        own = facts["vocabulary"] == "bytes"
        return cls(config, vocabulary("bytes" if own else str(folder / "tokenizer.json")))


def _carries(model: Any) -> bool:
    """Is it trained by reading on?"""
    return bool(getattr(model.config.backbone, "carry", False))


def _raw(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
