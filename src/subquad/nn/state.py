"""State: what is kept between two calls, as values.

Every state is a frozen dataclass of tensors with the batch on dim 0, registered as a pytree, so
the functions here serve all of them: `select` (beams, batches), `detach`, `nbytes`.

Axes: B batch, N new tokens, M kept tokens, G key heads, D head width, C model width.
"""

from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

__all__ = ["Cross", "ModelState", "detach", "nbytes", "register", "same_rows", "select"]


def register(cls: type) -> type:
    """Make a dataclass of tensors a pytree."""
    pytree.register_dataclass(cls, field_names=[f.name for f in fields(cls)])
    return cls


def select(state: Any, index: Tensor) -> Any:
    """The rows `index` of the batch, in that order; a row may be taken more than once."""
    return pytree.tree_map_only(Tensor, lambda t: t.index_select(0, index.to(t.device)), state)


def detach(state: Any) -> Any:
    """The state as constants: gradients stop here (truncated back-propagation)."""
    return pytree.tree_map_only(Tensor, Tensor.detach, state)


def nbytes(state: Any) -> int:
    """Bytes of all tensors in the state."""
    return sum(t.nbytes for t in pytree.tree_leaves(state) if isinstance(t, Tensor))


@register
@dataclass(frozen=True)
class Cross:
    """Keys and values of a memory, written once: k (B, G, M, D), v (B, G, M, Dv), valid (B, M)."""

    k: Tensor | None = None
    v: Tensor | None = None
    valid: Tensor | None = None


@register
@dataclass(frozen=True)
class ModelState:
    """A model's state: how many tokens each row has seen, length (B,), its layers' states, and its
    stem's where that keeps some of the input.
    """

    length: Tensor
    layers: tuple
    stem: Any = None


def same_rows(state: ModelState | None, inputs: Tensor | dict[str, Tensor]) -> None:
    """ValueError unless a state and a batch have equally many rows."""
    given = (inputs if isinstance(inputs, Tensor) else next(iter(inputs.values()))).shape[0]
    if state is not None and (rows := state.length.shape[0]) != given:
        raise ValueError(f"the state holds {rows} rows and the batch has {given}; they must agree")
