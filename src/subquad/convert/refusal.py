"""What is refused by its name: families that have no tables, and arguments that are in none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from subquad.convert.family import SHARED, Family
from subquad.nn.choices import choose

__all__ = ["Refusal", "check_arguments"]


@dataclass(frozen=True)
class Refusal:
    """A family that ours cannot say exactly. name: its `model_type`, or its package.

    signature: names that its state dicts hold.  reason: what ours would compute otherwise.
    """

    name: str
    reason: str
    signature: Sequence[str] = ()

    def check(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """ValueError if it is this one, by its name or by the names of its tensors."""
        if name == self.name or (self.signature and all(n in tensors for n in self.signature)):
            raise ValueError(f"{self.name} is not converted: {self.reason}")


def check_arguments(family: Family, config: Mapping[str, Any]) -> None:
    """ValueError, with the nearest name, where `config` is written by hand and names an argument
    that their class does not have: the default would be taken in place of it.
    """
    if family.neutral is None:
        return
    _, head = family.head(config)
    told = (one.theirs for one in (*family.fields, *head.fields))
    known = [*told, *family.needs, *head.needs, *(family.defaults or ()), *family.neutral]
    for name in config:
        if name not in (*SHARED, "model_type", "architectures"):
            choose(f"argument of {family.name}", name, dict.fromkeys(known))
