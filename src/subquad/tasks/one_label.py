"""One label for each row: what the logits of a row say, and how answers are counted."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from subquad.tasks.rows import Row, RowTask

__all__ = ["OneLabelTask"]


class OneLabelTask(RowTask):
    """A task whose model gives one logit for each of `labels`."""

    #: a `Labels`, known once data is open
    labels: Any

    def answers(self, model: Any, rows: Sequence[Row]) -> list[dict[str, Any]]:
        found = []
        for odds in model(**self.batch(model, rows)).logits.float().softmax(-1).tolist():
            by_label = dict(zip(self.labels.names, odds, strict=True))
            best = max(by_label, key=by_label.__getitem__)
            found.append({"label": best, "probability": by_label[best], "labels": by_label})
        return found

    @property
    def sums(self) -> int:
        return len(self.labels) ** 2

    def counted(self, answers: Sequence[Any], rows: Sequence[Row]) -> Tensor:
        return self.labels.counted((r["label"] for r in rows), (a["label"] for a in answers))

    def files(self, counts: Tensor) -> dict[str, str]:
        """Errors by class, the worst first, and what each is taken for most."""
        return {"classes.tsv": self.labels.table(counts)}

    def measured(self, counts: Tensor) -> dict[str, float]:
        return self.labels.measured(counts)
