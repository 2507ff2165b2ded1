"""Context: what is known about the tokens that pass through a model.

Axes: B batch, N tokens, M memory tokens, O questions, H heads, C model width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from subquad.ops.pattern import Coords

__all__ = ["Context", "agree", "described", "rolled", "take"]


@dataclass(frozen=True)
class Context:
    """Made by the stem, read by mixers. Where `valid` is None every token is real.

    pos: (B or 1, N) int64, increasing along each row.
    valid: (B, N) bool; padding is on the right.
    label: (B, H or 1, N) int64, mark: (B, N) bool: what SameLabel and Marked look at.
    memory: (B, M, C) with memory_valid (B, M): what cross-attention reads (an encoder's output).
    queries: (B or 1, O, C): what a stack that answers is asked; None asks once for each token.
    last: only so many outputs at the end are wanted; a stack may skip the others, or give them.
    """

    pos: Tensor
    valid: Tensor | None = None
    label: Tensor | None = None
    mark: Tensor | None = None
    memory: Tensor | None = None
    memory_valid: Tensor | None = None
    queries: Tensor | None = None
    last: int | None = None

    @classmethod
    def of(cls, x: Tensor, valid: Tensor | None = None, start: Tensor | None = None) -> "Context":
        """The plain context of x (B, N, ...): positions from `start` (B,) or 0 on."""
        pos = torch.arange(x.shape[1], device=x.device)[None]
        return cls(pos if start is None else pos + start[:, None], valid)

    def coords(self) -> Coords:
        """The coordinates that patterns are asked about."""
        return Coords(
            self.pos[:, None], self.label, None if self.mark is None else self.mark[:, None]
        )

    def clean(self, x: Tensor) -> Tensor:
        """x (B, N, C) with zeros where there is no token, whatever stood there."""
        return x if self.valid is None else x.masked_fill(~self.valid.unsqueeze(-1), 0.0)

    def clean_memory(self) -> Tensor:
        """The memory, with zeros where there is no token. ValueError if there is none."""
        if self.memory is None:
            raise ValueError("cross-attention needs Context.memory, or a state that has read one")
        if self.memory_valid is None:
            return self.memory
        return self.memory.masked_fill(~self.memory_valid.unsqueeze(-1), 0.0)

    def check_unread(self) -> None:
        """ValueError if there is a memory: for a state that has read one already."""
        if self.memory is not None:
            raise ValueError(
                "this state has read a memory and was given another: to go on give none, to read "
                "the new one begin with init_state"
            )

    def rows(self, rows: Tensor) -> "Context":
        """The context of some tokens, by their index (R,)."""

        def cut(t: Tensor | None) -> Tensor | None:
            return None if t is None else t[..., rows]

        return replace(
            self,
            pos=self.pos[..., rows],
            valid=cut(self.valid),
            label=cut(self.label),
            mark=cut(self.mark),
        )


def take(t: Tensor, slots: Tensor) -> Tensor:
    """The slots (B, K) of each row of t (B, N, ...): (B, K, ...)."""
    index = slots.view(*slots.shape, *[1] * (t.dim() - 2))
    return t.gather(1, index.expand(*slots.shape, *t.shape[2:]))


def rolled(valid: Tensor) -> tuple[Tensor, Tensor]:
    """The order (B, N) that puts the real tokens of each row first, else as they are, and the place
    of each token in it.
    """
    # counted, not sorted: linear, and every runtime can count
    before = valid.cumsum(1)
    after = (~valid).cumsum(1) + before[:, -1:]
    place = torch.where(valid, before, after) - 1
    slots = torch.arange(valid.shape[1], device=valid.device)[None].expand_as(place)
    return torch.zeros_like(place).scatter(1, place, slots), place


def agree(inputs: Tensor | Mapping[str, Tensor], **tokens: Tensor | None) -> Tensor:
    """The inputs (B, N, ...). ValueError unless what is said of tokens, by name, is (B, N) and of
    its dtype; or if inputs are of several kinds, of which nothing is said.
    """
    if not isinstance(inputs, Tensor):
        raise ValueError(
            f"{', '.join(tokens)} go with one row of tokens; inputs of several kinds come whole"
        )
    for name, t in tokens.items():
        if t is not None and t.shape != inputs.shape[:2]:
            raise ValueError(
                f"{name} is {tuple(t.shape)} and the inputs are {tuple(inputs.shape[:2])}; "
                "(batch, length) must agree"
            )
        if t is not None and name in ("valid", "mark") and t.dtype != torch.bool:
            raise ValueError(f"{name} must be bool, True for yes, not {t.dtype}")
    return inputs


def described(stem: object, x: Tensor, label: Tensor | None, mark: Tensor | None) -> None:
    """ValueError unless labels and marks are those of the tokens x that the stem made, of an image
    too, and no stem reads across labels.
    """
    agree(x, label=label, mark=mark)
    if label is not None and hasattr(stem, "init_state"):
        raise ValueError(
            f"{type(stem).__name__} reads several inputs for a token, across the borders of packed "
            "documents; give each document a row of its own"
        )
