"""Tasks whose items are rows, each by itself: labelled texts and pictures, pairs of them.

What every such task shares: rows are read as `Examples`, encoded, padded to batches of about equal
lengths; answers are counted row by row, so that processes can add what they have counted.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from subquad.data.examples import Examples, open_examples
from subquad.data.forms import Form
from subquad.data.rows import Shuffled, alike, padded, spread
from subquad.tasks.given import renamed, row_given
from subquad.tasks.task import Result, Share, Task, add

__all__ = ["Row", "RowScoring", "RowTask"]

Row = dict[str, Any]

_SIDE_BY_SIDE = 16_384  # elements in one call of an evaluation
_SAMPLE = 256  # rows whose size tells that of all


@dataclass(frozen=True)
class RowScoring:
    """How `subquad eval` scores rows.

    Args:
        part: train, valid, test or all; default: test of the run's own data, all of other data.
        rows: score only so many rows, spread over the part.
    """

    part: str | None = None
    rows: int | None = None


class RowTask(Task):
    """A task over rows. Its `config` has `valid_rows`: so many are scored at each report."""

    Scoring = RowScoring
    unit = "rows"
    by_row = True
    #: the fields of a row that the model reads; a text alone is the last of them
    reads: ClassVar[tuple[str, ...]] = ("text",)
    #: what a row holds, for which of it the config may name a column, and the rows without data
    form: ClassVar[Form]
    columns: ClassVar[tuple[str, ...]] = ()
    default: ClassVar[Callable[[], Examples]]
    #: and those where many classes are wanted, if they are others
    many: ClassVar[Callable[[], Examples] | None] = None
    examples: Examples | None = None
    #: with what to extend tensors of a batch, by their names
    fill: ClassVar[dict[str, int]] = {
        "attention_mask": 0,
        "global_attention_mask": 0,
        "labels": -100,
    }

    # --- what a task of its own says ----------------------------------------------------------

    @abstractmethod
    def learn(self, rows: Sequence[Row]) -> None:
        """Take from the training rows what is not known yet: vocabulary, labels."""

    @abstractmethod
    def inputs(self, row: Row) -> dict[str, Tensor]:
        """Arguments of the model's forward, for one row, without a batch."""

    @abstractmethod
    def targets(self, row: Row) -> dict[str, Tensor]:
        """What `loss` needs besides."""

    def item(self, row: Row) -> dict[str, Tensor]:
        """Both, of a row to learn from."""
        return self.inputs(row) | self.targets(row)

    def sizes(self, rows: Sequence[Row]) -> list[int]:
        """About how many elements each row has."""
        return [1] * len(rows)

    @abstractmethod
    def answers(self, model: Any, rows: Sequence[Row]) -> list[Any]:
        """What the model says to each row; it is in eval mode."""

    @property
    @abstractmethod
    def sums(self) -> int:
        """How many numbers `counted` gives."""

    @abstractmethod
    def counted(self, answers: Sequence[Any], rows: Sequence[Row]) -> Tensor:
        """Sums over rows, (`sums`,) float64, from which `measured` tells the numbers."""

    @abstractmethod
    def measured(self, counts: Tensor) -> dict[str, float]:
        """The numbers of an evaluation."""

    def says(self, rows: Sequence[Row]) -> str:
        """How rows are scored, for the protocol."""
        return ""

    # --- what they share ----------------------------------------------------------------------

    @property
    def told_columns(self) -> dict[str, str]:
        """Field -> its column, of those that the config names."""
        told = {field: getattr(self.config, field) for field in self.columns}
        return {field: column for field, column in told.items() if column is not None}

    def open(self, data: str | None) -> Examples:
        """The rows at a path, or the embedded ones. ValueError if they do not do."""
        how = {"columns": self.told_columns, "default": type(self).default}
        return open_examples(data, self.form, **how)

    def prepare(self, data: str | None) -> None:
        found = self.open(data)
        for part in ("train", "valid"):
            if not len(found.rows[part]):
                raise ValueError(f"{found.source} has no rows to {_NEEDED[part]}")
        self.examples = found
        self.learn(found.rows["train"])

    def data_key(self, data: str | None) -> str:
        return self.open(data).key

    @property
    def data_facts(self) -> dict[str, Any]:
        """What a run remembers of its data."""
        found = self.known
        parts = {part: len(rows) for part, rows in found.rows.items()}
        left = dict(found.left_out)
        return {"source": found.source, "key": found.key, "rows": parts, "left_out": left}

    @property
    def known(self) -> Examples:
        """The rows that `prepare` has opened."""
        assert self.examples is not None
        return self.examples

    @property
    def tokens_per_item(self) -> int:
        rows = self.known.rows["train"]
        some = self.sizes([rows[i] for i in spread(len(rows), _SAMPLE)])
        return max(1, sum(some) // len(some))

    def train_set(self, count: int, seed: int) -> Dataset:
        rows = self.known.rows["train"]
        return Shuffled(lambda i: self.item(rows[i]), self.sizes(rows), count, seed)

    def collate(self, items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """One batch of items."""
        return padded(items, self.fill)

    def batch(self, model: nn.Module, rows: Sequence[Row]) -> dict[str, Tensor]:
        """The inputs of rows as one batch, where the model is."""
        at = next(model.parameters()).device
        return {name: t.to(at) for name, t in self.collate([*map(self.inputs, rows)]).items()}

    def validate(self, model: nn.Module, share: Share) -> Result:
        return self.score(model, self.known, "valid", self.config.valid_rows, share)

    def evaluate_on(
        self,
        model: nn.Module,
        data: str | None,
        trained_on: dict[str, Any],
        *,
        part: str | None = None,
        rows: int | None = None,
        report: Callable[[int, int], None] = lambda done, of: None,
        **how: Any,
    ) -> Result:
        self.settle(**how)
        found = self.open(trained_on["path"] if data is None else data)
        own = found.key == trained_on["key"]
        if data is None and not own:
            raise ValueError(
                f"{found.source} is not what this run was trained on: it has moved, or its size or "
                "time has changed; name what to score with --data"
            )
        part = part or ("test" if own else "all")
        if rows is not None and rows < 1:
            raise ValueError(f"--rows is {rows}; it must be positive")
        return self.score(model, found, part, rows, Share(), report)

    def compared(self, multiple: int, limit: int) -> dict[str, Any] | None:
        # rows are as long as they are
        return {} if multiple == 1 else None

    @torch.no_grad()
    def score(
        self,
        model: Any,
        found: Examples,
        part: str,
        most: int | None,
        share: Share,
        report: Callable[[int, int], None] = lambda done, of: None,
    ) -> Result:
        """The numbers of a part, or of `most` of its rows."""
        rows = rows_of(found, part, most)
        was = model.training
        model.eval()
        total = torch.zeros(self.sums, dtype=torch.float64)
        for number, group in enumerate(alike(self.sizes(rows), _SIDE_BY_SIDE)):
            if share.mine(number):
                some = [rows[i] for i in group]
                total += self.counted(self.answers(model, some), some)
                report(len(some), len(rows))
        model.train(was)
        every = torch.tensor(add(share, *total.tolist()), dtype=torch.float64)
        numbers = self.measured(every)
        told = f"{len(rows):,} rows, the {part} part of {found.source}"
        said = "; ".join(filter(None, (told, self.says(rows))))
        return Result({**numbers, "rows": len(rows)}, said, self.files(every))

    def files(self, counts: Tensor) -> dict[str, str]:
        """What `eval` keeps beside the numbers, by the names of files, from the same sums."""
        return {}

    def read(self, raw: str | Path | dict[str, Any]) -> Row:
        """A row from a text, a text file or a row of JSON that has all the task reads."""
        return row_given(self.renamed(raw) if isinstance(raw, dict) else raw, self.reads)

    def renamed(self, row: Row) -> Row:
        """A row whose fields may go by the names of columns that training would have taken."""
        return renamed(row, self.form.fields, self.told_columns)

    @torch.no_grad()
    def predict(self, model: Any, row: Row) -> Any:
        """What the model says to one row, as JSON holds it."""
        return self.answers(model, [row])[0]


_NEEDED = {"train": "train on", "valid": "validate on; give more, or a file called valid"}


def rows_of(found: Examples, part: str, most: int | None) -> Sequence[Row]:
    """The rows of a part, or `most` of them. ValueError if there are none."""
    rows = found.take(part)
    if not len(rows):
        raise ValueError(f"{found.source} has no rows to score in its {part} part")
    return rows if most is None else [rows[i] for i in spread(len(rows), most)]
