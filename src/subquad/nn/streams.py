"""Streams: how stem and backbone together are fed piece by piece.

A backbone takes `step` tokens at a time, or a multiple. A stem that makes one token of several
inputs, or whose backbone has a step above 1, keeps what does not fill a token or a step, and goes
on with it: so the input may be cut anywhere, and outputs come late by at most `delay` inputs.

Axes: B batch, N tokens, C model width.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from subquad.nn.context import Context
from subquad.nn.mixer import Mixer
from subquad.nn.state import ModelState
from subquad.ops.lowering import without

__all__ = ["bounded", "delay", "ended", "init_memory", "init_state", "read"]


def init_state(backbone: nn.Module, batch: int, stem: nn.Module | None = None) -> ModelState:
    """The state of a model around `backbone` before the first token of `batch` rows.

    stem: of a model whose stem may have a state of its own. ValueError if the model looks ahead.
    """
    return _begun(_start(backbone, "init_state", batch), stem, backbone)


def init_memory(backbone: nn.Module, batch: int, stem: nn.Module | None = None) -> ModelState:
    """What training carries from segment to segment, before the first token of `batch` rows.

    It goes where a state goes; keys and values of what it holds are formed again each time, so
    that gradients reach their weights. stem: as in `init_state`.
    """
    return _begun(_start(backbone, "init_memory", batch), stem, backbone)


def read(
    stem: Any, inputs: Any, valid: Tensor | None, state: ModelState | None
) -> tuple[Tensor, Context, Any]:
    """Features and context of inputs that follow a state, and the stem's own state after them."""
    if state is None:
        return *stem(inputs, valid, None), None
    if state.stem is None:
        return *stem(inputs, valid, state.length), None
    return stem.follow(inputs, valid, state.length, state.stem)


def ended(state: ModelState) -> tuple[Tensor, ModelState]:
    """Inputs of no token, and a state for which these are the end: all that is withheld comes."""
    if state.stem is None:
        return state.length.new_zeros(len(state.length), 0), state
    inputs, last = state.stem.end()
    return inputs, replace(state, stem=last)


def delay(stem: nn.Module, backbone: nn.Module) -> int:
    """How many inputs follow the first that an output stands for before it comes, at most.

    ValueError if the model looks ahead.
    """
    step = getattr(backbone, "step", None)
    if step is None:
        raise ValueError(_why(backbone))
    factor, field = (getattr(stem, name, 1) for name in ("factor", "field"))
    return factor * (step - 1) + field - 1


def bounded(backbone: nn.Module) -> bool:
    """Does a state, of a backbone that streams, stop growing however much it has read?

    Told by what its mixers declare: the most tokens they keep, or how far back their pattern looks,
    marked tokens apart.
    """
    for mixer in (m for m in backbone.modules() if isinstance(m, Mixer)):
        pattern = getattr(mixer, "pattern", None)
        # marked tokens are few, and none unless marks are given
        rest = None if pattern is None else without(pattern, labels=True, marks=False)
        if rest is not None and rest.reach()[0] is None:
            return False
        if getattr(mixer, "limit", 0) is None:
            return False
    return True


_LOOKS_AHEAD = (
    "this model looks ahead, so it cannot stream; build it with causal=True, or to look by chunks"
)


def _why(backbone: nn.Module) -> str:
    """Why a backbone does not stream, and what to do about it."""
    for mixer in (m for m in backbone.modules() if isinstance(m, Mixer)):
        if getattr(mixer, "causal", False) and not mixer.streams:
            return (
                f"{type(mixer).__name__} looks back alone, but how it does so follows from the "
                "whole input, so it cannot stream; use_cache=False of generate() and of forward "
                "runs the whole input for each new token"
            )
    return _LOOKS_AHEAD


def _begun(state: ModelState, stem: Any, backbone: Any) -> ModelState:
    """A state before the first token, with that of a stem that has one."""
    begin = getattr(stem, "init_state", None)
    if begin is None:
        return state
    return replace(state, stem=begin(len(state.length), getattr(backbone, "step", 1)))


def _start(backbone: nn.Module, method: str, batch: int) -> ModelState:
    start = getattr(backbone, method, None)
    if start is None:
        raise ValueError(_why(backbone))
    device = next(backbone.parameters()).device
    length = torch.zeros(batch, dtype=torch.int64, device=device)
    return ModelState(length, start(batch))
