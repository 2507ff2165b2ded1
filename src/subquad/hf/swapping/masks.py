"""What transformers says of pairs of tokens, kept as what it is: real tokens, and a rule.

transformers asks a mask function for a mask (B, 1, N, M) before the layers run. Ours hands on the
padding alone, (B, M), and notes the rule beside it; the attention function reads both. Without a
mask function of the same name padding would be dropped without a word.

Axes: B batch, N queries, M keys.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

__all__ = ["NAME", "Rule", "rule_of"]

#: the name under which attention and masks are registered
NAME = "subquad"


class Rule(NamedTuple):
    """Which keys a query may look at, padding apart: only earlier ones, and not further than
    `window` (None: any distance). seen: tokens up to the last query, if it is known.
    """

    causal: bool
    window: int | None = None
    seen: int | None = None


def rule_of(mask: Tensor | None) -> Rule | None:
    """The rule that was noted beside a mask, if it is one of ours. ValueError for another form."""
    if mask is None:
        return None
    if mask.dim() != 2:
        raise ValueError(
            f"a mask of shape {tuple(mask.shape)} says more than which tokens are real; swapped "
            "attention takes attention_mask (batch, length), and restore(model) goes back"
        )
    return getattr(mask, "_subquad_rule", None)


def _padding(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int | Tensor = 0,
    mask_function: Callable[..., Any],
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    **_: Any,
) -> Tensor:
    """Which keys are real, (B, M) bool or longer, with the rule beside it.

    ValueError for rules that are neither causal nor all-to-all, within a window or not, and for a
    cache with room for tokens that are yet to come.
    """
    kind = mask_function.__qualname__.split(".")[0]
    # a window of the model's own is the one joined rule that `local_size` tells in full
    joined = {one.__qualname__.split(".")[0] for one in _joined(mask_function)}
    plain = joined in ({kind}, *_SLIDING) and kind in (*_PLAIN, "and_masks")
    if use_vmap or not plain or (kind == "and_masks" and local_size is None):
        raise ValueError(
            f"swapped attention knows causal, two-sided and sliding masks, not {kind} (packed "
            "documents, chunks or prefixes); give each document a row of its own"
        )
    causal = _looks_back(mask_function)
    seen, last = int(kv_offset) + kv_length, int(q_offset) + q_length
    if causal and seen != last:
        raise ValueError(
            f"the cache has places for {seen} tokens and the last token is number {last}; swapped "
            "attention takes caches that grow, as generate() makes them"
        )
    mask = attention_mask
    if mask is None:
        mask = torch.ones(batch_size, kv_length, dtype=torch.bool, device=device)
    # a view is a new tensor: the caller's own stays as it is
    mask = mask.bool().view(mask.shape)
    mask._subquad_rule = Rule(causal, local_size, seen)  # type: ignore[attr-defined]
    return mask


_PLAIN = ("causal_mask_function", "bidirectional_mask_function")
_SLIDING = (
    {"sliding_window_overlay", "causal_mask_function"},
    {"sliding_window_bidirectional_overlay", "bidirectional_mask_function"},
)


def _joined(rule: Callable[..., Any]) -> tuple[Callable[..., Any], ...]:
    """The rules that transformers joined into one; a rule alone is itself."""
    if rule.__qualname__.split(".")[0] != "and_masks" or rule.__closure__ is None:
        return (rule,)
    return tuple(one for cell in rule.__closure__ for one in cell.cell_contents)


def _looks_back(mask_function: Callable[..., Any]) -> bool:
    """Does the rule hide what comes later? Asked of it: a later key next to the query."""
    zero, one = torch.tensor(0), torch.tensor(1)
    return not bool(torch.as_tensor(mask_function(zero, zero, zero, one)))


ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, _padding)
