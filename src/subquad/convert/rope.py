"""Rotary positions: `rope_parameters` there, a name with numbers here.

    {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}     "rotary_linear:10000.0,2.0"

As https://huggingface.co/docs/transformers/internal/rope_utils has them. Kinds that change with the
length of an input (`dynamic`, `longrope`) or scale scores besides (`yarn`) are none of ours.
"""

from collections.abc import Mapping
from typing import Any

from subquad.convert.fields import Named, Told

__all__ = ["Rope"]

_NAMES = Named({"default": "rotary", "linear": "rotary_linear", "llama3": "rotary_llama3"})
#: of a name without numbers
_BASE = "10000.0"
_LENGTH = "original_max_position_embeddings"
#: what the numbers of a kind are called there, after the base
_NUMBERS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", _LENGTH),
}


class Rope(Told):
    """`rope_parameters`, of the kinds that ours has."""

    def there(self, value: Mapping[str, Any]) -> str:
        kind = value.get("rope_type", "default")
        word, names = _NAMES.there(kind), ("rope_theta", *_NUMBERS[kind])
        lacks = [name for name in names if value.get(name) is None]
        if lacks:
            raise ValueError(f"{kind!r} needs {', '.join(lacks)} besides {dict(value)!r}")
        return f"{word}:{','.join(repr(float(value[name])) for name in names)}"

    def back(self, value: str) -> dict[str, Any]:
        word, _, said = value.partition(":")
        kind = _NAMES.back(word)
        numbers = [float(number) for number in (said or _BASE).split(",")]
        made: dict[str, Any] = dict(zip(("rope_theta", *_NUMBERS[kind]), numbers, strict=True))
        if _LENGTH in made:
            if not made[_LENGTH].is_integer():
                raise ValueError(f"{value!r} ends with a length that is no whole number")
            made[_LENGTH] = int(made[_LENGTH])
        return {"rope_type": kind, **made}
