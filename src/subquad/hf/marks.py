"""Which tokens a class of the shell marks by itself, where neither the user nor the stem does.

Axes: B batch, N tokens.
"""

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["behind_question", "first_token", "question", "through_separator", "unmarked"]


def unmarked(stem: nn.Module, given: dict[str, Any]) -> bool:
    """Are there no marks given, and none that the stem makes?"""
    return given.get("global_attention_mask") is None and getattr(stem, "ends", None) is None


def first_token(given: dict[str, Any]) -> Tensor | None:
    """The first real token of each row (B, N); None where no tokens are read."""
    ids, embedded, mask = (
        given.get(name) for name in ("input_ids", "inputs_embeds", "attention_mask")
    )
    tokens = ids if embedded is None else embedded[..., 0].long()
    if tokens is None:
        return None
    real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.bool()
    return real & (real.cumsum(1) == 1)


def question(given: dict[str, Any], separator: int | None) -> Tensor | None:
    """The real tokens (B, N) before the first separator; none in rows without one.

    None where there is no separator, or tokens come embedded.
    """
    ends = _separators(given, separator)
    if ends is None:
        return None
    return _real(given, (ends.cumsum(1) == 0) & ends.any(1, keepdim=True))


def through_separator(given: dict[str, Any], separator: int | None) -> Tensor | None:
    """The tokens (B, N) up to the first separator and itself, as BigBird counts a question: the
    first token alone where there is none. None as for `question`."""
    ends = _separators(given, separator)
    if ends is None:
        return None
    slots = torch.arange(ends.shape[1], device=ends.device)
    first = ends.int().argmax(1, keepdim=True)
    begun = first_token(given)
    return torch.where(ends.any(1, keepdim=True), slots <= first, begun)


def behind_question(given: dict[str, Any], separator: int | None) -> Tensor | None:
    """The real tokens (B, N) behind the first separator and one token more, which is a separator
    too in RoBERTa's pairs; None as for `question`."""
    ends = _separators(given, separator)
    if ends is None:
        return None
    slots = torch.arange(ends.shape[1], device=ends.device)
    first = ends.int().argmax(1, keepdim=True)
    return _real(given, (slots > first + 1) & ends.any(1, keepdim=True))


def _separators(given: dict[str, Any], separator: int | None) -> Tensor | None:
    ids = given.get("input_ids")
    return None if ids is None or separator is None else ids == separator


def _real(given: dict[str, Any], tokens: Tensor) -> Tensor:
    mask = given.get("attention_mask")
    return tokens if mask is None else tokens & mask.bool()
