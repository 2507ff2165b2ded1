"""Names of tensors that older files have, and transformers still reads."""

from collections.abc import Iterable, Mapping

from torch import Tensor

__all__ = ["as_they_were", "renewed"]

#: of norms, in the first BERT
_ENDS = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


def renewed(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors by their names of today, and those names that were others."""
    made: dict[str, Tensor] = {}
    older: list[str] = []
    for name, t in tensors.items():
        now = next((name.removesuffix(a) + b for a, b in _ENDS.items() if name.endswith(a)), name)
        if now != name and now not in tensors:  # beside the name of today it is one too many
            older.append(now)
            made[now] = t
        else:
            made[name] = t
    return made, sorted(older)


def as_they_were(tensors: Mapping[str, Tensor], older: Iterable[str]) -> dict[str, Tensor]:
    """The tensors with those that were named otherwise by their names of then."""
    was = {
        now: now.removesuffix(b) + a for now in older for a, b in _ENDS.items() if now.endswith(b)
    }
    return {was.get(name, name): t for name, t in tensors.items()}
