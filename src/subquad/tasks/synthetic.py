"""Synthetic sequences that need exact memory: copy, duplication, associative recall.

The loss is the mean over answers alone. Two numbers on unseen items, teacher-forced: the token
accuracy (answers whose likeliest token is right) and the exact match (sequences with every answer
right). Where a model gives outputs for the last places only, those are what is trained and scored,
and the protocol says how many they are.
"""

import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from subquad.data.crops import Crops
from subquad.data.puzzles import PUZZLES, Puzzles
from subquad.hf import SubquadForCausalLM
from subquad.nn.choices import choose
from subquad.nn.losses import IGNORED
from subquad.tasks import causal
from subquad.tasks.encoder import token_stem
from subquad.tasks.looks import Look, spelled
from subquad.tasks.task import Result, Share, Task, add

__all__ = ["Synthetic", "SyntheticConfig"]

_SIDE_BY_SIDE = 8_192  # tokens in one call


@dataclass(frozen=True)
class SyntheticConfig:
    """Fields of the task `synthetic`.

    Args:
        kind: copy (a word, then backwards), duplication (0w0w) or recall (keys and values).
        length: tokens of a sequence; even, for recall a multiple of four.
        symbols: how many different ones a word is drawn from; of recall so many keys and values.
        valid_count: unseen sequences that are scored at each report.
        position: absolute positions added to the embedding: none, sinusoidal, learned, axial
            (on a grid with a place for each token of a sequence), or auto (sinusoidal for
            architectures that have no positions of their own).
    """

    kind: str = "copy"
    length: int = 64
    symbols: int = 32
    valid_count: int = 128
    position: str = "auto"

    def __post_init__(self) -> None:
        puzzle = choose("kind", self.kind, PUZZLES)
        check_length(self.kind, self.length)
        if self.symbols < 2:
            raise ValueError(f"{self.symbols} symbols leave nothing to remember; 2 are the least")
        if (count := puzzle.count(self.symbols)) > 1 << 16:
            raise ValueError(f"{self.symbols} symbols are {count} tokens; {1 << 16} are the most")
        if self.valid_count < 1:
            raise ValueError(f"valid_count is {self.valid_count}; it must be positive")


@dataclass(frozen=True)
class SyntheticScoring:
    """How `subquad eval` scores a run of the task `synthetic`.

    Args:
        count: unseen sequences; default: 1000.
        seed: of those sequences; default: 0, whatever the seed of the training was.
        length: of those sequences; default: as in training.
    """

    count: int | None = None
    seed: int | None = None
    length: int | None = None


class Synthetic(Task):
    """The task `synthetic`."""

    name = "synthetic"
    Config = SyntheticConfig
    Scoring = SyntheticScoring
    metric = "token_accuracy"  # the exact match stays at 0 for long
    greater_is_better = True
    model_class: ClassVar[Any] = SubquadForCausalLM

    def __init__(self, config: SyntheticConfig) -> None:
        self.config = config

    def items(self, part: str, count: int, seed: int, length: int | None = None) -> Puzzles:
        """`count` items of train, valid or test; no two of these share a draw."""
        c = self.config
        length = length or c.length
        return Puzzles(c.kind, length, c.symbols, count=count, seed=seed, part=part)

    def prepare(self, data: str | None) -> None:
        if data is not None:
            raise ValueError(f"the task synthetic makes its own items; leave --data {data} out")

    def train_set(self, count: int, seed: int) -> Dataset:
        return Crops(self.items("train", count, seed), seed)

    @property
    def tokens_per_item(self) -> int:
        return self.config.length

    @property
    def data_facts(self) -> dict[str, Any]:
        """What a run remembers of its data."""
        c = self.config
        source = f"{c.kind} of {c.length} tokens, {c.symbols} symbols"
        return {"source": source, "key": source}

    def data_key(self, data: str | None) -> str:
        return self.data_facts["key"]

    def build(self, arch: str, fields: dict[str, Any]) -> SubquadForCausalLM:
        words = self.items("train", 1, 0).words
        stem = token_stem(arch, fields, self.config.position, self.config.length)
        return causal.build(arch, fields, words, stem=stem)

    def loss(self, model: nn.Module, batch: dict[str, Tensor], label_smoothing: float) -> Tensor:
        return causal.loss(model, batch, label_smoothing)

    def validate(self, model: nn.Module, share: Share) -> Result:
        items = self.items("valid", self.config.valid_count, 0)
        return self.score(model, items, share)

    def evaluate_on(
        self,
        model: nn.Module,
        data: str | None,
        trained_on: dict[str, Any],
        *,
        count: int | None = None,
        seed: int | None = None,
        length: int | None = None,
        report: Callable[[int, int], None] = lambda done, of: None,
    ) -> Result:
        """Accuracies on the test set of a seed."""
        self.prepare(data)
        if length is not None:
            check_length(self.config.kind, length)
        count, seed = 1000 if count is None else count, seed or 0
        if count < 1 or seed < 0:
            raise ValueError(
                f"--count {count} must be at least 1, and --seed {seed} not below 0, to draw by"
            )
        return self.score(model, self.items("test", count, seed, length), Share(), report)

    def compared(self, multiple: int, limit: int) -> dict[str, Any]:
        return {"length": multiple * self.config.length}

    @torch.no_grad()
    def score(
        self,
        model: nn.Module,
        items: Puzzles,
        share: Share,
        report: Callable[[int, int], None] = lambda done, of: None,
    ) -> Result:
        """Accuracies on items, and how they were measured."""
        was = model.training
        model.eval()
        batch = max(1, _SIDE_BY_SIDE // items.length)
        found = [0.0, 0.0, 0.0, 0.0]  # sequences, exact ones, answers, right ones
        for number, at in enumerate(range(0, len(items), batch)):
            if share.mine(number):
                rows = default_collate([items[i] for i in range(at, min(at + batch, len(items)))])
                found = [a + b for a, b in zip(found, right(model, rows), strict=True)]
                report(rows["input_ids"].numel(), len(items) * items.length)
        model.train(was)
        sequences, exact, answers, correct = add(share, *found)
        numbers = {
            "token_accuracy": correct / answers,
            "exact_match": exact / sequences,
            "sequences": int(sequences),
            "answers": int(answers),
        }
        return Result(numbers, self._protocol(items, round(answers / sequences)))

    def _protocol(self, items: Puzzles, scored: int) -> str:
        kind, symbols = self.config.kind, self.config.symbols
        answers = int(items.sequence(0)[1].sum())
        which = f"all {answers}" if scored == answers else f"the last {scored} of {answers}"
        free = items.puzzle.free(items.length) * math.log10(symbols)
        return (
            f"{len(items):,} sequences of {kind}, {items.length:,} tokens with {symbols} symbols "
            f"(of more than 10^{int(free)} possible ones), drawn apart from those "
            f"of training, seed {items.seed}; {which} answers scored, the right ones before them "
            f"given; chance is {1 / symbols:.4f}"
        )

    def look(self, model: Any, raw: Any) -> Look:
        """Of symbols as numbers, or of `item N`, a sequence of the test set."""
        said = self.read(raw)
        text = said.decode(errors="replace") if isinstance(said, bytes) else said
        item = re.fullmatch(r"\s*item (\d+)\s*", text)
        words = self.items("test", 1, 0).words
        if item is not None:
            ids = self.items("test", int(item[1]) + 1, 0)[int(item[1])]["input_ids"].tolist()
        else:
            ids = [words.boundary, *words.encode(text.encode()).tolist()]
        given = {"input_ids": torch.tensor([ids], device=model.device)}
        return Look(given, {"tokens": spelled(words, ids)})

    def save(self, folder: Path) -> dict[str, Any]:
        return {"config": asdict(self.config)}

    @classmethod
    def load(cls, folder: Path, facts: dict[str, Any]) -> "Synthetic":
        return cls(SyntheticConfig(**facts["config"]))


def check_length(kind: str, length: int) -> None:
    """ValueError for a length that a kind cannot have."""
    puzzle = PUZZLES[kind]
    if length < puzzle.least or length % puzzle.every:
        raise ValueError(
            f"{kind} of {length} tokens cannot be: a length is a multiple of {puzzle.every}, and "
            f"at least {puzzle.least}"
        )


def right(model: Any, rows: dict[str, Tensor]) -> list[float]:
    """Of a batch: sequences, those with every answer right, answers, right ones."""
    at = next(model.parameters()).device
    logits = model(input_ids=rows["input_ids"].to(at)).logits
    targets = rows["targets"].to(at)[:, -logits.shape[1] :]
    asked = targets != IGNORED
    hit = (logits.argmax(-1) == targets) & asked
    exact = (hit | ~asked).all(1)
    return [float(n) for n in (len(targets), exact.sum(), asked.sum(), hit.sum())]
