"""The attention function that transformers calls, and the modules that call it.

Axes: B batch, N queries, M keys, H heads, G key heads, D head width.
"""

import inspect
from typing import Any

from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel

from subquad.hf.swapping.masks import NAME, Rule, rule_of
from subquad.hf.swapping.parts import Call
from subquad.hf.swapping.replacements import Exact

__all__ = ["EXACT", "PART", "Found", "attentions", "refuse"]

#: under this name an attention module carries what stands in for its softmax
PART = "subquad"
#: and one without it goes on with this
EXACT = Exact().build(0, 0, 0)
_CROSS = ("cross", "encoder_attn", "encdec")
_BIASED = ("relative_attention_bias", "has_relative_attention_bias", "linear_pos", "rel_pos")


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    output_attentions: bool | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """out (B, N, H, D) of query (B, H, N, D), key and value (B, G, M, D); no weights."""
    if position_bias is not None:
        raise ValueError(f"{type(module).__name__} adds a position bias to scores: {_NO_BIAS}")
    if softcap is not None or s_aux is not None:
        raise ValueError(
            f"{type(module).__name__} caps its scores or adds sinks to them, and swapped attention "
            "does not; restore(model) goes back"
        )
    if output_attentions:
        raise ValueError(
            "swapped attention writes no matrix of weights; ask subquad.viz for maps, or restore "
            "the model first"
        )
    rule = rule_of(attention_mask)
    if rule is None:
        looks_back = getattr(module, "is_causal", False) if is_causal is None else is_causal
        rule = Rule(bool(looks_back))
    valid = None if attention_mask is None else attention_mask[:, -key.shape[2] :].bool()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer = getattr(key, "_subquad_layer", None)
    state = None if layer is None else layer.state
    gone = 0 if layer is not None or rule.seen is None else max(0, rule.seen - key.shape[2])
    call = Call(scale, rule.causal, rule.window, valid, dropout, state, gone)
    out, state = getattr(module, PART, EXACT)(query, key, value, call)
    if layer is not None:
        layer.keep(state)
    return out.transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)

_NO_BIAS = (
    "scores that depend on positions by a table have no kernel features and no pattern of their "
    "own; such a model keeps its attention"
)


class Found:
    """An attention module inside a model: its place, its sizes, and its layer in a cache."""

    def __init__(self, name: str, module: nn.Module, config: Any) -> None:
        self.name, self.module = name, module
        heads = ("num_heads", "num_attention_heads", "n_heads")
        widths = ("head_dim", "attention_head_size")
        self.num_heads = int(_first(module, heads, config, "num_attention_heads"))
        plain = getattr(config, "hidden_size", 0) // max(1, self.num_heads)
        self.head_dim = int(_first(module, widths, config, "head_dim") or plain)
        self.layer: int | None = getattr(module, "layer_idx", None)


def attentions(model: PreTrainedModel) -> list[Found]:
    """The self-attention modules of a model, in order; those that read an encoder are not among
    them.
    """
    found = []
    for name, module in model.named_modules():
        if _calls_interface(type(module)) and not any(word in name.lower() for word in _CROSS):
            found.append(Found(name, module, getattr(module, "config", model.config)))
    return found


def refuse(model: PreTrainedModel) -> None:
    """ValueError for a model whose attention cannot be swapped, by its name."""
    family = model.config.model_type
    if not model._can_set_attn_implementation() or not attentions(model):
        raise ValueError(
            f"{family} does not route its attention through transformers' AttentionInterface, so "
            "nothing can take its place"
        )
    for name, module in model.named_modules():
        for biased in _BIASED:
            if getattr(module, biased, None):
                raise ValueError(f"{family} has {name}.{biased}: {_NO_BIAS}")


def _calls_interface(kind: type) -> bool:
    try:
        return "get_interface(" in inspect.getsource(kind.forward)  # type: ignore[attr-defined]
    except (AttributeError, OSError, TypeError):
        return False


def _first(module: nn.Module, names: tuple[str, ...], config: Any, other: str) -> Any:
    for name in names:
        if isinstance(getattr(module, name, None), int):
            return getattr(module, name)
    return getattr(config, other, None) or 0
