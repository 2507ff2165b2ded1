"""Heads of a family: its classes, and ours that do the same."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from subquad.convert.fields import Field
from subquad.convert.paths import get
from subquad.convert.rows import Entry

__all__ = ["BODY", "Head", "Rows"]

#: a table, or what makes it of their settings
Rows = Sequence[Entry] | Callable[[Mapping[str, Any]], Sequence[Entry]]


@dataclass(frozen=True)
class Head:
    """One of the family's classes: ours that does the same, and what the head itself adds.

    prefix: before the names of the body there.  ours: a class of `subquad.hf`.
    other: what does the same where `needs` are not met, for one class of theirs may be several of
    ours.
    """

    ours: str
    prefix: str = ""
    rows: Rows = ()
    fields: Sequence[Field] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    needs: Mapping[str, Any] = field(default_factory=dict)
    other: "Head | None" = None

    def every(self) -> Iterator["Head"]:
        """This one, and the others of the same class."""
        yield self
        if self.other is not None:
            yield from self.other.every()

    def meant(self, config: Mapping[str, Any]) -> "Head":
        """The first of them whose needs are met; this one, which says what it needs, if none is."""
        return next((one for one in self.every() if one.met(config)), self)

    def met(self, config: Mapping[str, Any]) -> bool:
        """Do their settings have what it needs, as far as they say?"""
        return all(n not in config or config[n] == wanted for n, wanted in self.needs.items())

    def holds(self, ours: Mapping[str, Any]) -> bool:
        """Do our settings have all that it fixes?"""
        return all(_is(ours, path, value) for path, value in self.fixed.items())


#: of a class without a head
BODY = Head("SubquadModel", fixed={"head.kind": "none"})


def _is(settings: Mapping[str, Any], path: str, value: Any) -> bool:
    try:
        return bool(get(settings, path) == value)
    except ValueError:  # another architecture has no such setting
        return False
