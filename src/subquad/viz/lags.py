"""Attention over lags: how much of each head's matrix lies how many steps back."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from subquad.nn.mixer import Mixer

__all__ = ["attention"]


@torch.no_grad()
def attention(
    model: nn.Module, inputs: dict[str, Tensor], rows: int = 24
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Of each mixer its name, lags (M,) from 0 on, and mean weights (H, M) of the last `rows`
    queries.

    The matrix is the one that the mixer multiplies by (`Mixer.weights`); columns that blend many
    positions belong to no lag and are left out. Sums over lags are thus at most 1.
    ValueError if no mixer runs.
    """
    seen: list[tuple[str, Mixer, Tensor, Any]] = []
    hooks = [
        mixer.register_forward_pre_hook(_noting(name, seen), with_kwargs=True)
        for name, mixer in _outermost(model)
    ]
    try:
        model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        raise ValueError("this model has no mixer whose matrix could be drawn")
    found = []
    for number, (_, mixer, x, context) in enumerate(seen, 1):
        length = x.shape[1]
        asked = torch.arange(max(0, length - rows), length, device=x.device)
        weights = mixer.weights(x, context, rows=asked)[0].double()
        lag = asked[:, None] - mixer.columns(x, context)[None].to(x.device)
        there = (lag >= 0) & (mixer.columns(x, context) >= 0)[None]
        sums = weights.new_zeros(len(weights), length)
        for row in range(len(asked)):
            own = there[row]
            sums.index_add_(1, lag[row][own], weights[:, row][:, own])
        title = f"{type(mixer).__name__}, layer {number}"
        found.append((title, np.arange(length), (sums / len(asked)).cpu().numpy()))
    return found


def _outermost(model: nn.Module, name: str = "") -> list[tuple[str, Mixer]]:
    """The mixers that are inside no other mixer."""
    if isinstance(model, Mixer):
        return [(name, model)]
    return [one for part, child in model.named_children() for one in _outermost(child, part)]


def _noting(name: str, seen: list[tuple[str, Mixer, Tensor, Any]]) -> Any:
    def note(mixer: Mixer, args: tuple, given: dict[str, Any]) -> None:
        x = args[0] if args else given["x"]
        context = args[1] if len(args) > 1 else given["context"]
        seen.append((name, mixer, x, context))

    return note
