"""A family of checkpoints: its settings and its tensors as tables, read in both directions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from subquad.convert import fields as settings
from subquad.convert import rows as tables
from subquad.convert.fields import Field, get, put
from subquad.convert.rows import ASIDE, Entry

__all__ = ["BODY", "Family", "Head"]

#: settings with one name on both sides, carried where they are set
SHARED = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "tie_word_embeddings",
    "use_cache",
    "dtype",
    "id2label",
    "label2id",
    "problem_type",
)


@dataclass(frozen=True)
class Head:
    """One of the family's classes: ours that does the same, and what the head itself adds.

    prefix: before the names of the body there.  ours: a class of `subquad.hf`.
    """

    ours: str
    prefix: str = ""
    rows: Sequence[Entry] = ()
    fields: Sequence[Field] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    needs: Mapping[str, Any] = field(default_factory=dict)


#: of a class without a head
BODY = Head("SubquadModel", fixed={"head.kind": "none"})


@dataclass(frozen=True)
class Family:
    """name: `model_type` of its config.json.  rows: of the body, in names without any prefix.

    fixed: settings of ours that are always so.  needs: settings of theirs that must be so (of a
    tuple, one of them; the first is written), or ours would compute something else.
    sizes: what rows count and shape by, by its path in their settings.
    heads: by the name of their class.
    """

    name: str
    rows: Sequence[Entry]
    fields: Sequence[Field]
    fixed: Mapping[str, Any]
    heads: Mapping[str, Head]
    sizes: Mapping[str, str]
    needs: Mapping[str, Any] = field(default_factory=dict)

    def head(self, architectures: Sequence[str] | None) -> tuple[str, Head]:
        """Their class and ours. ValueError for one that is not in the table."""
        name = architectures[0] if architectures else next(iter(self.heads))
        if name not in self.heads:
            raise ValueError(f"{name} of {self.name} is not known; known: {', '.join(self.heads)}")
        return name, self.heads[name]

    def ours(self, config: Mapping[str, Any], head: Head) -> dict[str, Any]:
        """The settings of a SubquadConfig. ValueError for what ours does not compute."""
        for path, wanted in {**self.needs, **head.needs}.items():
            _check_need(self.name, config, path, wanted)
        made = settings.there([*self.fields, *head.fields], config)
        for path, value in {**self.fixed, **head.fixed}.items():
            put(made, path, value)
        return made | {name: config[name] for name in SHARED if config.get(name) is not None}

    def theirs(
        self, config: Mapping[str, Any], head: Head, base: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Their settings, those that the tables know; `base`: all that they were, or none.

        ValueError for what they cannot say.
        """
        for path, value in {**self.fixed, **head.fixed}.items():
            found = get(config, path)
            if found != value:
                raise ValueError(f"{self.name} has {path} {value!r}, and this model {found!r}")
        made = settings.told([*self.fields, *head.fields], config, base)
        for path, wanted in {**self.needs, **head.needs}.items():
            if not base:
                put(made, path, wanted[0] if isinstance(wanted, tuple) else wanted)
        # a model without words has no say in whether they are tied
        told = [name for name in SHARED if not base or name in base]
        return made | {name: config[name] for name in told if config.get(name) is not None}

    def counts(self, config: Mapping[str, Any]) -> dict[str, int]:
        """The sizes that rows go by."""
        return {name: get(config, path) for name, path in self.sizes.items()}

    def _rows(self, config: Mapping[str, Any], head: Head) -> list[Entry]:
        rows = [*self.rows, *head.rows]
        return rows if config.get("tie_word_embeddings", True) else tables.untied(rows)

    def there(
        self, tensors: Mapping[str, Tensor], config: Mapping[str, Any], head: Head
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], str]:
        """Our tensors, those kept aside, and the prefix that was found."""
        sizes = self.counts(config)
        own = {name for row in head.rows for one in tables.expand(row, sizes) for name in _of(one)}
        body = [name for name in tensors if name not in own]
        prefixed = any(name.startswith(head.prefix) for name in body)
        prefix = head.prefix if prefixed else ""
        plain = {
            name.removeprefix(prefix) if name not in own else name: t for name, t in tensors.items()
        }
        made = tables.there(self._rows(config, head), plain, sizes)
        aside = {name.removeprefix(ASIDE): t for name, t in made.items() if name.startswith(ASIDE)}
        before = "" if head.ours == BODY.ours else "model."
        return (
            {before + name: t for name, t in made.items() if not name.startswith(ASIDE)},
            aside,
            prefix,
        )

    def back(
        self,
        tensors: Mapping[str, Tensor],
        aside: Mapping[str, Tensor],
        config: Mapping[str, Any],
        head: Head,
        prefix: str,
    ) -> dict[str, Tensor]:
        """Their tensors, from ours and those kept aside."""
        sizes = self.counts(config)
        before = "" if head.ours == BODY.ours else "model."
        plain = {name.removeprefix(before): t for name, t in tensors.items()}
        plain |= {ASIDE + name: t for name, t in aside.items()}
        made = tables.back(self._rows(config, head), plain, sizes)
        own = {name for row in head.rows for one in tables.expand(row, sizes) for name in _of(one)}
        return {name if name in own else prefix + name: t for name, t in made.items()}


def _of(row: Entry) -> tuple[str, ...]:
    names = getattr(row, "theirs", ())
    return (names,) if isinstance(names, str) else names


def _check_need(family: str, config: Mapping[str, Any], path: str, wanted: Any) -> None:
    try:
        found = get(config, path)
    except ValueError:  # a setting of other versions
        return
    if found not in (wanted if isinstance(wanted, tuple) else (wanted,)):
        raise ValueError(
            f"this {family} has {path} {found!r}, which ours does not compute; it needs {wanted!r}"
        )
