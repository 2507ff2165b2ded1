"""Models of transformers that are not ours, looked at through their own `output_attentions`.

Such a model writes its matrices whole, so length is bounded by memory; nothing is recomputed.

Axes: B batch, N queries, M keys, H heads.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from subquad.hf.swapping.attention import EXACT, PART, attentions
from subquad.nn.context import Context
from subquad.viz.factors import Factors
from subquad.viz.seen import Sight
from subquad.viz.shown import Shown, Views, of_sights

__all__ = ["look"]

_NO_SLOPES = (
    "the attention of a swapped model has no gradient-weighted view: restore the model to see that "
    "of its own"
)


def look(
    model: Any,
    inputs: Mapping[str, Tensor],
    *,
    title: str,
    labels: Mapping[str, Sequence[str]],
    facts: Mapping[str, str],
    views: Views,
) -> Shown:
    """What a model of transformers looks at, by its eager attention.

    Swapped attention writes no matrices; its parts form their rows. ValueError for a model that
    gives none, that has a decoder beside its encoder, or whose matrices do not fit the memory of
    `views`.
    """
    how: dict[str, Any] = {"title": title, "labels": labels, "over": None, "facts": facts}
    if any(hasattr(part, PART) for part in model.modules()):
        return of_sights(_swapped(model, inputs), views=views, slopes=_none, **how)
    name, config = config_name(model), model.config
    if config.is_encoder_decoder:
        raise ValueError(
            f"{name} has an encoder and a decoder, and maps of such models are drawn once it is "
            "ours: subquad convert"
        )
    n = inputs["input_ids"].shape[-1]
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    size = 4 * layers * heads * n * n
    if size > views.memory:
        most = int((views.memory / (4 * layers * heads)) ** 0.5)
        raise ValueError(
            f"{name} writes {layers} x {heads} matrices of {n:,} x {n:,}, {size / 2**20:,.0f} MiB; "
            f"{views.memory / 2**20:,.0f} MiB are allowed, enough for {most:,} tokens: cut the "
            "input, or allow more memory"
        )
    matrices, y = _run(model, inputs)
    found = [_sight(i, matrix.detach(), model) for i, matrix in enumerate(matrices)]

    def slopes() -> list[Tensor]:
        if y is None:
            raise ValueError(f"{name} gives no logits, so no output is the likeliest")
        return [t[0] for t in torch.autograd.grad(y, matrices, retain_graph=True)]

    return of_sights(found, views=views, slopes=slopes, **how)


def _none() -> list[Tensor]:
    raise ValueError(_NO_SLOPES)


@torch.no_grad()
def _swapped(model: Any, inputs: Mapping[str, Tensor]) -> list[Sight]:
    """What the parts of a swapped model look at, layer by layer."""
    layers = attentions(model)
    parts = {id(part): part for part in (getattr(x.module, PART, EXACT) for x in layers)}
    seen: list[tuple[nn.Module, tuple]] = []
    hooks = [
        part.register_forward_pre_hook(lambda part, args: seen.append((part, args)))
        for part in parts.values()
    ]
    was = model.training
    model.eval()
    try:
        model(**inputs)
    finally:
        model.train(was)
        for hook in hooks:
            hook.remove()
    return [_part(x.name, *call) for x, call in zip(layers, seen, strict=True)]


def _part(name: str, part: Any, args: tuple) -> Sight:
    q, k, _, call = args

    def look_at(rows: Tensor) -> Tensor:
        return part.weights(q, k, call, rows)[0]

    x = q.new_zeros(1, q.shape[2], 1)
    kind, sizes = type(part).__name__, (q.shape[1], q.shape[2], k.shape[2])
    return Sight(name, kind, *sizes, "tokens", "tokens", look_at, part, x, Context.of(x))


def config_name(model: Any) -> str:
    """What a model is called in messages."""
    return str(getattr(model.config, "model_type", type(model).__name__))


def _run(model: Any, inputs: Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """The matrices (1, H, N, N) of all layers, and the largest logit behind them."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    was = model.training
    model.eval()
    try:
        with torch.enable_grad():
            out = model(**inputs, output_attentions=True, use_cache=False)
    except TypeError:
        with torch.enable_grad():
            out = model(**inputs, output_attentions=True)
    finally:
        model.train(was)
        model.set_attn_implementation(before)
    matrices = getattr(out, "attentions", None)
    if not matrices or any(m is None or m.dim() != 4 for m in matrices):
        raise ValueError(f"{config_name(model)} gives no matrices of attention to be drawn")
    logits = getattr(out, "logits", None)
    if logits is None:
        return matrices, None
    return matrices, (logits[0] if logits.dim() == 2 else logits[0, -1]).max()


def _sight(number: int, matrix: Tensor, model: nn.Module) -> Sight:
    held = matrix[0]
    heads, queries, keys = held.shape
    x = held.new_zeros(1, queries, 1)

    def look_at(rows: Tensor) -> Tensor:
        return held[:, rows]

    factors = Factors(look_at, None, None, torch.arange(keys))
    kind = f"attention of {config_name(model)}"
    return Sight(
        f"layer {number}", kind, heads, queries, keys, "tokens", "tokens", look_at, model, x,
        Context.of(x), factors,
    )  # fmt: skip
