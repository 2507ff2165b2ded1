"""Swap: another attention inside a pretrained transformers model, and back.

    swapped = subquad.hf.swap(model, sq.Window(256, 256))     the same object, other attention
    subquad.hf.restore(swapped)                               as it was

The model's weights stay where they are: its projections make queries, keys and values, its mask and
its positions apply, and what mixes them is ours. Parts with numbers of their own (features) are
saved with it.
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from subquad.hf.swapping.attention import PART, Found, attentions, refuse
from subquad.hf.swapping.masks import NAME
from subquad.hf.swapping.plans import Plan
from subquad.hf.swapping.replacements import Exact, Looks, Replacement
from subquad.hf.swapping.states import cache
from subquad.ops.pattern import Pattern

__all__ = ["Swapped", "new_cache", "plan_of", "restore", "swap", "swapped_class"]


class Swapped:
    """What a model's class gains while its attention is swapped; never built by itself."""

    #: by the name of each attention module, what stands in
    subquad_plan: Plan
    config: Any

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict, *args: Any, **kwargs: Any
    ) -> Any:
        wanted = generation_config.cache_implementation
        if wanted not in (None, "dynamic"):
            raise ValueError(
                f"cache_implementation={wanted!r} does not apply to swapped attention, which keeps "
                "sums and windows of its own"
            )
        use = generation_config.use_cache is not False
        if use and model_kwargs.get("past_key_values") is None:
            model_kwargs["past_key_values"] = new_cache(self)  # type: ignore[arg-type]
        parent: Any = super()
        return parent._prepare_cache_for_generation(
            generation_config, model_kwargs, *args, **kwargs
        )

    def save_pretrained(
        self, save_directory: Any, *, push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Write weights, and a config.json of type "subquad-swap" that holds model and plan.

        ValueError for push_to_hub: it would upload the config.json that is not there to stay.
        """
        from subquad.hf.swapping.folder import write

        if push_to_hub:
            raise ValueError(
                "save_pretrained(push_to_hub=True) would upload config.json before the plan of the "
                "swap is in it; model.push_to_hub(repo_id) uploads both as they belong"
            )
        parent: Any = super()
        parent.save_pretrained(save_directory, **kwargs)
        write(self, save_directory)


def swap(
    model: PreTrainedModel,
    mixer: Pattern | Replacement,
    *,
    layers: Iterable[int] | None = None,
) -> PreTrainedModel:
    """Put another attention into a model, in place; the model, for convenience.

    mixer: a pattern, or a `Looks`, `Features`, `Hashes` or `Exact`.  layers: numbers of the
    self-attention layers that get it, in the order in which the model holds them; the others keep
    their own attention. Default: all. What was swapped before stays swapped in layers that are not
    named.

    ValueError for a model that does not route its attention through transformers, one with a
    position bias, or a layer that there is not.
    """
    made = Looks(str(mixer)) if isinstance(mixer, Pattern) else mixer
    refuse(model)
    found = attentions(model)
    wanted = list(range(len(found)) if layers is None else layers)
    for i in wanted:
        if not 0 <= i < len(found):
            raise ValueError(f"layer {i} is none of the {len(found)} layers, 0 to {len(found) - 1}")
    plan = plan_of(model)
    install(model, {**plan, **{found[i].name: made for i in wanted}})
    return model


def restore(model: PreTrainedModel) -> PreTrainedModel:
    """Take out what `swap` put in, in place: the model as it was. ValueError if nothing is."""
    if not isinstance(model, Swapped):
        raise ValueError(f"nothing is swapped in this {type(model).__name__}")
    for found in attentions(model):
        if hasattr(found.module, PART):
            delattr(found.module, PART)
    model.set_attn_implementation(model._subquad_before)
    model.__class__ = type(model).__mro__[2]
    del model.subquad_plan, model._subquad_before
    return model


def install(model: Any, plan: Plan) -> None:
    """Give each attention module its part, and the model its class. Weights of parts that are
    there already, of an equal replacement, stay.
    """
    old, places = plan_of(model), attentions(model)
    plan = _placed(model, plan, [found.name for found in places])
    for index, found in enumerate(places):
        new = plan.get(found.name)
        if new is None or (old.get(found.name) == new and hasattr(found.module, PART)):
            continue
        part = new.build(found.num_heads, found.head_dim, index)
        # while from_pretrained builds on the meta device, weights are put in place later
        if not any(t.is_meta for t in part.state_dict().values()):
            part = _beside(part, next(found.module.parameters()))
        setattr(found.module, PART, part.train(found.module.training))
    if not isinstance(model, Swapped):
        model._subquad_before = model.config._attn_implementation
        model.set_attn_implementation(NAME)
        model.__class__ = swapped_class(type(model))
    if model.config._attn_implementation != NAME:
        raise ValueError(f"{model.config.model_type} keeps its own attention implementation")
    model.subquad_plan = dict(plan)


def _beside(part: nn.Module, like: Tensor) -> nn.Module:
    """A part where the model's weights are, its own weights in their dtype.

    What was drawn and is not learnt (buffers: rows of features, rotations) stays float32: rounded
    rows are no longer those of the seed, and from_pretrained leaves buffers in their dtype too.
    """
    for p in part.parameters():
        p.data = p.data.to(like.dtype)
    return part.to(like.device)


def _placed(model: Any, plan: Plan, names: list[str]) -> Plan:
    """A plan by this model's own names: with a head they begin with the name of its body.

    ValueError for a place that there is not.
    """
    start = f"{model.base_model_prefix}."
    own = {name.removeprefix(start): name for name in names}
    for name in plan:
        if name.removeprefix(start) not in own:
            raise ValueError(f"{name} is no self-attention of a {type(model).__name__}")
    return {own[name.removeprefix(start)]: one for name, one in plan.items()}


def plan_of(model: nn.Module) -> Plan:
    """What stands in for attention, by the names of modules; empty if nothing does."""
    return dict(model.subquad_plan) if isinstance(model, Swapped) else {}


def swapped_class(kind: type) -> type:
    """The class of a swapped model of this class; its name stays, for transformers reads names."""
    if kind not in _CLASSES:
        _CLASSES[kind] = type(kind.__name__, (Swapped, kind), {"__module__": kind.__module__})
    return _CLASSES[kind]


_CLASSES: dict[type, type] = {}


def new_cache(model: Any) -> Any:
    """An empty cache for a swapped model that generates, as generate() makes it: sums or a window
    where the plan has them, else all keys. To step by hand: `model(ids, past_key_values=cache)`.
    """
    pairs = bool(getattr(model.config, "is_encoder_decoder", False))
    mine = [
        found
        for found in attentions(model)
        if found.layer is not None and (not pairs or "decoder" in found.name)
    ]
    plan = {_layer(found): plan_of(model).get(found.name, Exact()) for found in mine}
    return cache(plan, max(plan) + 1, crosses=pairs)


def _layer(found: Found) -> int:
    assert found.layer is not None
    return found.layer
