"""Fields: which settings there are which settings here, both ways.

    Field("layer_norm_epsilon", ("model.norm", "stem.norm"), Spelled("layer"))

Names are paths into nested settings, dots between.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from subquad.convert.paths import get, put

__all__ = [
    "Doubled",
    "Each",
    "Field",
    "Less",
    "Listed",
    "Named",
    "Spelled",
    "Told",
    "Unset",
    "there",
    "told",
]


class Told:
    """A value that is the same on both sides."""

    def there(self, value: Any) -> Any:
        """Ours, from theirs. ValueError for one that we do not have."""
        return value

    def back(self, value: Any) -> Any:
        """Theirs, from ours. ValueError for one that they do not have."""
        return value


@dataclass(frozen=True)
class Named(Told):
    """A value by another name: theirs -> ours; of several names, the first goes back."""

    names: Mapping[Any, Any] = field(hash=False)

    def there(self, value: Any) -> Any:
        if value not in self.names:
            raise ValueError(f"{value!r} is none of {', '.join(map(repr, self.names))}")
        return self.names[value]

    def back(self, value: Any) -> Any:
        for theirs, ours in self.names.items():
            if ours == value:
                return theirs
        raise ValueError(f"{value!r} is none of {', '.join(map(repr, self.names.values()))}")


@dataclass(frozen=True)
class Each(Named):
    """A list of values by other names."""

    def there(self, value: Any) -> Any:
        return [super(Each, self).there(one) for one in value]

    def back(self, value: Any) -> Any:
        return [super(Each, self).back(one) for one in value]


@dataclass(frozen=True)
class Spelled(Told):
    """A number that ours has inside a name, as "layer:1e-12"; `default` is of the bare name."""

    word: str
    default: float = 1e-5

    def there(self, value: Any) -> Any:
        return f"{self.word}:{float(value)!r}"

    def back(self, value: Any) -> Any:
        word, _, number = str(value).partition(":")
        if word != self.word:
            raise ValueError(f"{value!r} is no {self.word!r}")
        return float(number) if number else self.default


@dataclass(frozen=True)
class Unset(Told):
    """A number that means "not set" there, and is None in ours."""

    number: int

    def there(self, value: Any) -> Any:
        return None if value == self.number else value

    def back(self, value: Any) -> Any:
        return self.number if value is None else value


@dataclass(frozen=True)
class Listed(Told):
    """One value there, a list of one here."""

    def there(self, value: Any) -> Any:
        return [value]

    def back(self, value: Any) -> Any:
        if len(value) != 1:
            raise ValueError(f"{value!r} are several, and there is one for all layers there")
        return value[0]


@dataclass(frozen=True)
class Less(Told):
    """A number that counts so many more there."""

    by: int

    def there(self, value: Any) -> Any:
        return value - self.by

    def back(self, value: Any) -> Any:
        return value + self.by


@dataclass(frozen=True)
class Doubled(Told):
    """Windows that count both sides there, and one here: one number, or one for each layer."""

    def there(self, value: Any) -> Any:
        windows = [value] if isinstance(value, int) else [*value]
        if any(w % 2 for w in windows):
            raise ValueError(f"windows {windows} must be even")
        return [w // 2 for w in windows]

    def back(self, value: Any) -> Any:
        windows = [2 * w for w in value]
        return windows[0] if len(windows) == 1 else windows


@dataclass(frozen=True)
class Field:
    """One setting there, one or several here that are equal.

    otherwise: where a side says None, a multiple of another of their settings, which a field before
    this one tells.
    default: what theirs takes where its settings say neither, and which they may then lack.
    when: what is told in place of `how` where another of their settings, which a field before this
    one tells, is true.
    along: how long a list of theirs is that ours repeats, by another of their settings, which a
    field before this one tells.
    """

    theirs: str
    ours: str | tuple[str, ...]
    how: Told = Told()  # noqa: RUF009 - it holds nothing
    otherwise: tuple[str, int] | None = None
    when: tuple[str, Told] | None = None
    default: Any = None
    along: str | None = None

    @property
    def places(self) -> tuple[str, ...]:
        return (self.ours,) if isinstance(self.ours, str) else self.ours

    def told_by(self, config: Mapping[str, Any]) -> Told:
        """How it is told, given their settings."""
        return self.when[1] if self.when is not None and get(config, self.when[0]) else self.how

    def ours_of(self, config: Mapping[str, Any]) -> Any:
        """Our value. ValueError, with the name, for one that we do not have."""
        value = self.said(config, self.theirs)
        if value is None and self.otherwise is not None:
            other, times = self.otherwise
            found = self.said(config, other)
            value = None if found is None else times * found
        try:
            return self.told_by(config).there(self.default if value is None else value)
        except ValueError as error:
            raise ValueError(f"{self.theirs}: {error}") from error

    def said(self, config: Mapping[str, Any], path: str) -> Any:
        """Their setting; None where it may be lacking. ValueError where it may not."""
        try:
            return get(config, path)
        except ValueError:
            if self.default is None:
                raise
            return None

    def theirs_of(self, value: Any, made: Mapping[str, Any]) -> Any:
        """Their value, given what fields before this one told. ValueError for one they have not."""
        if value is None and self.otherwise is not None:
            other, times = self.otherwise
            value = times * get(made, other)
        if self.along is not None:
            value = [value[i % len(value)] for i in range(get(made, self.along))]
        return self.told_by(made).back(value)


def there(fields: Sequence[Field], config: Mapping[str, Any]) -> dict[str, Any]:
    """Our settings, nested, from theirs. ValueError names the setting that is not there."""
    made: dict[str, Any] = {}
    for one in fields:
        value = one.ours_of(config)
        for place in one.places:
            put(made, place, value, one.theirs)
    return made


def told(
    fields: Sequence[Field], ours: Mapping[str, Any], base: Mapping[str, Any]
) -> dict[str, Any]:
    """Their settings, nested, from ours; what `base` says in other words already stays.

    ValueError for what they cannot say.
    """
    made: dict[str, Any] = {}
    seen: set[str] = set()
    for one in fields:
        values = [get(ours, place) for place in one.places]
        if any(v != values[0] for v in values):
            said = ", ".join(f"{p} {v!r}" for p, v in zip(one.places, values, strict=True))
            raise ValueError(f"{one.theirs} is one setting there, and here {said}")
        if base and one.ours_of(base) == values[0]:
            value = one.said(base, one.theirs)
            if value is None and one.default is not None:  # it goes on saying nothing
                continue
        else:
            try:
                value = one.theirs_of(values[0], made)
            except ValueError as error:
                raise ValueError(f"{one.places[0]}: {error}") from error
        if one.theirs in seen and get(made, one.theirs) != value:
            raise ValueError(
                f"{one.theirs} is one setting there: {', '.join(one.places)} would have it "
                f"{value!r}, and others {get(made, one.theirs)!r}"
            )
        seen.add(one.theirs)
        put(made, one.theirs, value)
    return made
