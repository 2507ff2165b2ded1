"""What every task offers; training, evaluation and the command line know nothing else of it.

Life of a task:  task = Task(config)            typed fields, the flags --task.FIELD
                 task.prepare(data)             opens the data; vocabulary and sizes are known now
                 model = task.build(arch, ...)  stem and head of the task around the architecture
                 task.train_set(...) or task.lanes(...), task.loss(model, batch, ...)
                 task.validate(model, ...)
                 task.save(folder), later Task.load(folder, facts).evaluate_on(model, ...)
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from subquad.archs import ARCHS
from subquad.nn.losses import IGNORED
from subquad.nn.state import ModelState

__all__ = ["Result", "Share", "Task"]


@dataclass(frozen=True)
class Share:
    """Which part of an evaluation this process does, and how the parts are summed."""

    rank: int = 0
    world: int = 1
    total: Callable[[Tensor], Tensor] = lambda part: part

    def mine(self, number: int) -> bool:
        """Is the batch of this number ours?"""
        return number % self.world == self.rank


@dataclass(frozen=True)
class Result:
    """Numbers by name, and the protocol in words that stands beside them everywhere.

    files: by name, texts that `eval` keeps in the run folder, such as a list of errors.
    beside: other methods, with their numbers on the same data.  parts: what a picture shows.
    """

    numbers: dict[str, float]
    protocol: str
    files: Mapping[str, str] = field(default_factory=dict)
    beside: Mapping[str, dict[str, float]] = field(default_factory=dict)
    parts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plainly:
    """`predict` has no options."""


class Task(ABC):
    """Base of all tasks."""

    name: ClassVar[str]
    #: a frozen dataclass
    Config: ClassVar[type]
    #: the arguments of `evaluate_on` that a user may give, a frozen dataclass: flags of `eval`
    Scoring: ClassVar[type]
    #: how `predict` may be asked to answer, a frozen dataclass: flags of `predict`
    Answering: ClassVar[type] = Plainly
    #: which number of an evaluation makes a checkpoint the best, and in which direction; the data
    #: may decide it
    metric: str
    greater_is_better: ClassVar[bool]
    #: what an evaluation counts as it goes on
    unit: ClassVar[str] = "tokens"
    #: items to a batch; None: tensors of a name are alike, and stacked
    collate: Any = None
    #: the architectures that it goes with
    archs: ClassVar[Mapping[str, Any]] = ARCHS
    #: fields whose flags of `train` may leave --task. out
    short: ClassVar[tuple[str, ...]] = ()
    #: a text file is an input on each line; a table (.csv, .jsonl, ...) on each row
    lines: ClassVar[bool] = False
    by_row: ClassVar[bool] = False
    #: those that can look ahead do so unless told otherwise
    looks_ahead: ClassVar[bool] = False
    config: Any
    #: told as n more of so many are done: seconds of a long input while `predict` answers, rows
    #: that must be seen before training
    report: Callable[[float, float], None] = staticmethod(lambda done, of: None)

    def begin(self, folder: Path) -> None:
        """Take vocabulary and stem of a run or checkpoint whose weights training begins with.

        ValueError if they do not do.
        """
        raise ValueError(f"the task {self.name} begins afresh; leave --init-from {folder} out")

    @abstractmethod
    def prepare(self, data: str | None) -> None:
        """Open the data (None: the embedded default). ValueError if it does not do."""

    @abstractmethod
    def build(self, arch: str, fields: dict[str, Any]) -> nn.Module:
        """A fresh model of the Hugging Face shell."""

    @abstractmethod
    def train_set(self, count: int, seed: int) -> Dataset:
        """`count` items; item i depends on (seed, i) alone."""

    def token_batches(self, count: int, seed: int, tokens: int) -> Dataset:
        """`count` batches of about `tokens` tokens; item i, one batch, depends on (seed, i) alone.

        It has `mean`, the tokens of a batch that are no padding. ValueError for tasks that make
        none.
        """
        raise ValueError(
            f"the task {self.name} counts a batch in items (--train.batch); leave "
            f"--train.batch_tokens {tokens} out"
        )

    def memory_of(self, model: nn.Module) -> Callable[[int], ModelState] | None:
        """What a model that is trained by reading on remembers before its first batch, by rows.

        None: its items stand alone, and `train_set` gives them; else `lanes` does, and each batch
        holds the memory that the one before left, as `past_key_values`.
        """
        return None

    def lanes(self, count: int, seed: int, lanes: int) -> Dataset:
        """`count` items, of which item i + `lanes` goes on where item i ended."""
        raise ValueError(f"the items of the task {self.name} do not go on from one to the next")

    @property
    @abstractmethod
    def data_facts(self) -> dict[str, Any]:
        """What a run remembers of its data: `source` in words, `key` of its content, sizes."""

    @abstractmethod
    def data_key(self, data: str | None) -> str:
        """What `data_facts` calls the key of this data, now."""

    @property
    @abstractmethod
    def tokens_per_item(self) -> int:
        """For the rate that is shown."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: dict[str, Tensor], label_smoothing: float) -> Tensor:
        """The mean loss of a batch; `model` may be wrapped for data parallelism."""

    def scored(self, batch: dict[str, Any]) -> Tensor:
        """How many targets that mean is over, (): what a batch weighs among those of one step; 1
        where all batches weigh the same."""
        labels = batch.get("labels")
        return torch.ones(()) if labels is None else (labels != IGNORED).sum()

    @abstractmethod
    def validate(self, model: nn.Module, share: Share) -> Result:
        """The numbers of the validation part, as fast as makes sense during training."""

    @abstractmethod
    def evaluate_on(
        self,
        model: nn.Module,
        data: str | None,
        trained_on: dict[str, Any],
        *,
        report: Callable[[int, int], None] = lambda done, of: None,
        **how: Any,
    ) -> Result:
        """The numbers of a saved run on what it has not seen; `how` are fields of `Scoring`.

        data: None for the run's own, which `trained_on` (its facts' "data") describes.
        report(n, of): told as `n` more of `of` tokens are scored.
        """

    def compared(self, multiple: int, limit: int) -> dict[str, Any] | None:
        """The arguments of `evaluate_on` at a multiple of the trained length, over so many bytes;
        None where a comparison does not score this."""
        return None

    def blank(self, model: nn.Module, tokens: int) -> Tensor:
        """One row of so many inputs, of any content: to see what a stream keeps of them."""
        return torch.zeros(1, tokens, dtype=torch.int64)

    def published(self, archs: Sequence[str]) -> str:
        """What others have published of the same, to stand beside a comparison; "" for nothing."""
        return ""

    def read(self, raw: str | Path | dict[str, Any]) -> Any:
        """What `predict` takes, from a text, a file or a row of JSON. ValueError if it is none."""
        if isinstance(raw, dict):
            if "text" not in raw:
                raise ValueError(f"a row wants text; this one has {', '.join(raw) or 'nothing'}")
            if not isinstance(raw["text"], str):
                raise ValueError(f"text is {raw['text']!r}, which is no text")
            return raw["text"]
        return raw.read_bytes() if isinstance(raw, Path) else raw

    def remark(self, row: Any) -> str:
        """What of an input is not as `read` found it, in words; "" for nothing."""
        return ""

    def asked(self, row: Any, question: str) -> Any:
        """What `predict` takes, with a question. ValueError for tasks that have none."""
        raise ValueError(f"a run of the task {self.name} takes no question")

    def look(self, model: Any, raw: Any) -> Any:
        """The `Look` of what `read` is given, for maps. ValueError for tasks that have none."""
        raise ValueError(f"a run of the task {self.name} has no input to show")

    def settle(self, **how: Any) -> None:
        """How to answer from now on: fields of `Answering`. ValueError for what is none."""
        for name in how:
            flag = name.replace("_", "-")
            raise ValueError(f"a run of the task {self.name} takes no --{flag}")

    def predict_all(self, model: nn.Module, rows: Iterable[Any]) -> Iterator[Any]:
        """What `predict` says to inputs as they come: by default to each by itself."""
        return (self.predict(model, row) for row in rows)  # type: ignore[attr-defined]

    def told(self, answer: Any) -> str:
        """What `predict` gave, for a person."""
        return json.dumps(answer, ensure_ascii=False)

    def table(self, answer: Any) -> list[dict[str, Any]]:
        """What `predict` gave, as rows of a table. ValueError for tasks that have none."""
        raise ValueError(f"a run of the task {self.name} writes no table; leave --out out")

    @abstractmethod
    def save(self, folder: Path) -> dict[str, Any]:
        """Write what the task needs again; return facts, as JSON, for run.json."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, facts: dict[str, Any]) -> "Task":
        """The task of a saved run, without data."""

    @property
    @abstractmethod
    def model_class(self) -> Any:
        """The class of the Hugging Face shell that `build` makes."""


def add(share: Share, *numbers: float) -> list[float]:
    """Sums over all processes."""
    return share.total(torch.tensor(numbers, dtype=torch.float64)).tolist()
