"""Labels: names to numbers, and how well they are told, from a matrix of what was said for what."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["Labels", "measuring"]

_SHOWN = 20


class Labels:
    """The labels of a task, in a fixed order. ValueError for fewer than two."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        if len(self.names) < 2:
            raise ValueError(f"all training rows have one label, {', '.join(self.names)}")
        self._numbers = {name: number for number, name in enumerate(self.names)}

    @classmethod
    def among(cls, names: Iterable[str]) -> "Labels":
        """Those that occur; numbers stand in their order, before all others."""
        return cls(sorted(set(names), key=_by_number))

    def __len__(self) -> int:
        return len(self.names)

    def number(self, name: str) -> int:
        """ValueError for a label that was not there in training."""
        if name not in self._numbers:
            more = ", ..." if len(self) > _SHOWN else ""
            raise ValueError(
                f"the label {name!r} was not there in training; known: "
                f"{', '.join(self.names[:_SHOWN])}{more}"
            )
        return self._numbers[name]

    def numbers(self, names: Iterable[str]) -> Tensor:
        """(n,) int64."""
        return torch.tensor([self.number(name) for name in names], dtype=torch.int64)

    @property
    def config(self) -> dict[str, dict]:
        """What a model's configuration says of them."""
        return {"id2label": dict(enumerate(self.names)), "label2id": dict(self._numbers)}

    def counted(self, true: Iterable[str], said: Iterable[str]) -> Tensor:
        """How often each label (row) was called each (column): (L * L,) float64."""
        pairs = self.numbers(true) * len(self) + self.numbers(said)
        return torch.bincount(pairs, minlength=len(self) ** 2).double()

    def table(self, counts: Tensor) -> str:
        """From the same counts, tab-separated: of each label that occurs its rows and how many were
        told, the worst first, and what it was called most where it was not."""
        of = counts.view(len(self), len(self))
        lines = []
        for i, name in enumerate(self.names):
            rows, right, wrong = of[i].sum().item(), of[i, i].item(), of[i].clone()
            wrong[i] = 0
            if rows:
                called = self.names[int(wrong.argmax())] if wrong.any() else ""
                lines.append((right / rows, f"{name}\t{rows:.0f}\t{right:.0f}\t", called))
        rest = "".join(f"{at}{share:.4f}\t{called}\n" for share, at, called in sorted(lines))
        return f"label\trows\tright\taccuracy\tcalled most\n{rest}"

    def measured(self, counts: Tensor) -> dict[str, float]:
        """Accuracy, the mean F1 of the labels that occur or are said, and what always saying one
        label would give."""
        with measuring():
            from sklearn.metrics import accuracy_score, f1_score

        number = torch.arange(len(self))
        true, said = number.repeat_interleave(len(self)).numpy(), number.repeat(len(self)).numpy()
        weight, often = counts.numpy(), counts.view(len(self), -1).sum(1)
        # a label that neither occurs nor is said is none of these rows'
        true, said, weight = (some[weight > 0] for some in (true, said, weight))
        macro = f1_score(true, said, sample_weight=weight, average="macro", zero_division=0.0)
        return {
            "accuracy": float(accuracy_score(true, said, sample_weight=weight)),
            "macro_f1": float(macro),
            "accuracy_of_one_label": float(often.max() / often.sum()),
        }


@contextmanager
def measuring(extra: str = "metrics") -> Iterator[None]:
    """Around the import of what measures: ValueError with the extra to install it."""
    try:
        yield
    except ImportError as error:
        raise ValueError(f"{error}; scores need it: pip install 'subquad[{extra}]'") from error


def _by_number(label: str) -> tuple[float, str]:
    return (float(label), label) if label.isdecimal() else (float("inf"), label)
