"""A family of checkpoints: its settings and its tensors as tables, read in both directions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from subquad.convert import fields as settings
from subquad.convert import rows as tables
from subquad.convert.fields import Field
from subquad.convert.heads import BODY, Head, Rows
from subquad.convert.older import as_they_were, renewed
from subquad.convert.paths import get, put
from subquad.convert.rows import ASIDE, Entry

__all__ = ["BODY", "SHARED", "Family", "Head"]

#: settings with one name on both sides, carried where they are set
SHARED = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "sep_token_id",
    "tie_word_embeddings",
    "use_cache",
    "dtype",
    "id2label",
    "label2id",
    "problem_type",
)


@dataclass(frozen=True)
class Family:
    """name: `model_type` of its config.json.  rows: of the body, in names without any prefix.

    fixed: settings of ours that are always so.  needs: settings of theirs that must be so (of a
    tuple, one of them; the first is written), or ours would compute something else.
    sizes: what rows count and shape by, by its path in their settings.
    heads: by the name of their class.  refused: of other classes, by name, why they have none.
    derived: settings of ours that follow from theirs, by part.
    defaults: their settings where transformers has no such class (any more).
    neutral: where settings are the arguments of a class, by hand: those that change nothing here;
    what is in no table besides is refused.
    note: what a caller has to do otherwise with ours.  limits: settings of ours that refuse what
    theirs takes.
    returns: only what came from there goes there, for ours does not tell all their settings.
    tells: by what else than its `model_type` a config.json is known.
    signature, infer: of a torch file without settings, names that it holds, and what tells them,
    by the tensors and the options of the training command that stand beside them, if any.
    beside: what more is made of the files in their folder for ours, and says so.
    """

    name: str
    rows: Rows
    fields: Sequence[Field]
    fixed: Mapping[str, Any]
    heads: Mapping[str, Head]
    sizes: Mapping[str, str | Callable[[Mapping[str, Any]], Any]]
    needs: Mapping[str, Any] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    derived: Callable[[Mapping[str, Any]], dict[str, dict]] = lambda config: {}
    defaults: Mapping[str, Any] | None = None
    neutral: Sequence[str] | None = None
    note: str = ""
    limits: Mapping[str, Any] = field(default_factory=dict)
    returns: bool = False
    tells: Callable[[Mapping[str, Any]], bool] | None = None
    signature: Sequence[str] = ()
    infer: Callable[[Mapping[str, Tensor], Mapping[str, Any]], dict[str, Any]] | None = None
    beside: Callable[[Path, Path, Mapping[str, Any]], str] = lambda source, dest, config: ""

    def head(self, config: Mapping[str, Any]) -> tuple[str, Head]:
        """Their class, by default the first whose needs are met, and ours.

        ValueError for one that is not in the table.
        """
        met = (n for n, h in self.heads.items() if h.meant(config).met(config))
        first = next(met, next(iter(self.heads)))
        name = (config.get("architectures") or [first])[0]
        if name in self.refused:
            raise ValueError(f"{name} of {self.name} is not converted: {self.refused[name]}")
        if name not in self.heads:
            raise ValueError(f"{name} of {self.name} is not known; known: {', '.join(self.heads)}")
        return name, self.heads[name].meant(config)

    def standing(self, ours: Mapping[str, Any]) -> tuple[str, Head]:
        """Their class that stands for a model with our settings: of several, the first whose fixed
        settings it has.

        ValueError if there is none.
        """
        kinds = [*(ours.get("architectures") or ())]
        every = [(name, one) for name, head in self.heads.items() for one in head.every()]
        same = [(name, one) for name, one in every if [one.ours] == kinds]
        if not same:
            said = ", ".join(kinds) or "a model without one"
            raise ValueError(f"{self.name} has no class for {said}")
        return next((found for found in same if found[1].holds(ours)), same[0])

    def signed(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """The tensors of a torch file without any prefix, or None if they are another family's."""
        for prefix in dict.fromkeys(("", *(head.prefix for head in self.heads.values()))):
            bare = {name.removeprefix(prefix): t for name, t in tensors.items()}
            if self.signature and all(name in bare for name in self.signature):
                return bare
        return None

    def ours(self, config: Mapping[str, Any], head: Head) -> dict[str, Any]:
        """The settings of a SubquadConfig. ValueError for what ours does not compute."""
        for path, wanted in {**self.needs, **head.needs}.items():
            _check_need(self.name, config, path, wanted)
        made = settings.there([*self.fields, *head.fields], config)
        for path, value in {**self.fixed, **head.fixed}.items():
            put(made, path, value)
        for part, extra in self.derived(config).items():
            for key, value in extra.items():
                put(made, f"{part}.{key}", value)
        labels = made.get("head", {}).get("num_labels")
        told = {} if labels is None else {"num_labels": labels}
        shared = {n: config[n] for n in SHARED if config.get(n) is not None}
        return {**made, **told, **shared, **self.limits}

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
            known = wanted if isinstance(wanted, tuple) else (wanted,)
            if made.get(path, known[0]) not in known:
                raise ValueError(
                    f"{self.name} has {path} {wanted!r}, and this model {made[path]!r}"
                )
            if not base:
                put(made, path, known[0])
        # a model without words has no say in whether they are tied
        told = [name for name in SHARED if not base or name in base]
        return made | {name: config[name] for name in told if config.get(name) is not None}

    def agree(self, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
        """ValueError where our settings are not those that follow from theirs."""
        for part, extra in self.derived(theirs).items():
            for name, value in extra.items():
                found = get(ours, f"{part}.{name}")
                if found != value:
                    raise ValueError(
                        f"{self.name} has {part}.{name} {value!r} here, and this model {found!r}"
                    )

    def counts(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The sizes that rows go by."""
        return {
            name: get(config, size) if isinstance(size, str) else size(config)
            for name, size in self.sizes.items()
        }

    def _rows(self, config: Mapping[str, Any], head: Head) -> list[Entry]:
        rows = [*_made(self.rows, config), *_made(head.rows, config)]
        return rows if config.get("tie_word_embeddings", True) else tables.untied(rows)

    def there(
        self, tensors: Mapping[str, Tensor], config: Mapping[str, Any], head: Head
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
        """Our tensors, those kept aside, and how theirs were named: the prefix, and what had a
        second name.
        """
        tensors, older = renewed(tensors)
        sizes = self.counts(config)
        own = _own(head, config, sizes)
        body = [name for name in tensors if name not in own]
        prefixed = any(name.startswith(head.prefix) for name in body)
        prefix = head.prefix if prefixed else ""
        plain = {
            name.removeprefix(prefix) if name not in own else name: t for name, t in tensors.items()
        }
        made = tables.there(self._rows(config, head), plain, sizes)
        aside = {name.removeprefix(ASIDE): t for name, t in made.items() if name.startswith(ASIDE)}
        before = "" if head.ours == BODY.ours else "model."
        expanded = (one for row in self._rows(config, head) for one in tables.expand(row, sizes))
        also = {one.theirs for one in expanded if isinstance(one, tables.Tied)}
        second = sorted(n for n in tensors if (n if n in own else n.removeprefix(prefix)) in also)
        return (
            {before + name: t for name, t in made.items() if not name.startswith(ASIDE)},
            aside,
            {"prefix": prefix, "tied": second} | ({"older": older} if older else {}),
        )

    def back(
        self,
        tensors: Mapping[str, Tensor],
        aside: Mapping[str, Tensor],
        config: Mapping[str, Any],
        head: Head,
        origin: Mapping[str, Any],
    ) -> dict[str, Tensor]:
        """Their tensors, from ours and those kept aside, named as the origin was."""
        prefix, tied = origin["prefix"], origin["tied"]
        sizes = self.counts(config)
        before = "" if head.ours == BODY.ours else "model."
        plain = {name.removeprefix(before): t for name, t in tensors.items()}
        plain |= {ASIDE + name: t for name, t in aside.items()}
        made = tables.back(self._rows(config, head), plain, sizes)
        own = _own(head, config, sizes)
        for row in (one for many in self._rows(config, head) for one in tables.expand(many, sizes)):
            full = getattr(row, "theirs", "")
            if isinstance(row, tables.Tied) and (full if full in own else prefix + full) in tied:
                made[full] = made[row.of]
        named = {name if name in own else prefix + name: t for name, t in made.items()}
        return as_they_were(named, origin.get("older", ()))


def _made(rows: Rows, config: Mapping[str, Any]) -> Sequence[Entry]:
    return rows(config) if callable(rows) else rows


def _own(head: Head, config: Mapping[str, Any], sizes: Mapping[str, Any]) -> set[str]:
    """The names of a head's tensors, which take no prefix."""
    rows = _made(head.rows, config)
    return {name for row in rows for one in tables.expand(row, sizes) for name in _of(one)}


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
