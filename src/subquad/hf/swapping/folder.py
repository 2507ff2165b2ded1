"""Swapped models on disk: config.json of type "subquad-swap" holds the model's own and the plan.

After `import subquad.hf`, the Auto classes load such a folder as the model it was.
"""

from pathlib import Path
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from subquad.hf.swapping.model import install, plan_of
from subquad.hf.swapping.plans import plain_plan, told_plan

__all__ = ["SwapConfig", "register", "write"]


@strict
class SwapConfig(PreTrainedConfig):
    """base: config.json of the model.  plan: by the name of each attention module, what stands in.
    head: the name of the model's class.
    """

    model_type = "subquad-swap"
    base: dict | None = None
    plan: dict | None = None
    head: str | None = None


def write(model: Any, folder: Any) -> None:
    """Put config.json of a swapped model over the one that the model itself wrote."""
    base = model.config.to_dict()
    base.pop("_attn_implementation", None)
    config = SwapConfig(base=base, plan=plain_plan(plan_of(model)), head=type(model).__name__)
    config.save_pretrained(Path(folder))


class _Loader(PreTrainedModel):
    """What an Auto class finds for a SwapConfig; it gives the model that the folder holds."""

    config_class = SwapConfig
    auto: ClassVar[Any]

    @classmethod
    def from_pretrained(cls, folder: Any, *args: Any, **kwargs: Any) -> Any:
        config = kwargs.pop("config", None)
        config = SwapConfig.from_pretrained(folder) if config is None else config
        base = dict(config.base)
        own = AutoConfig.for_model(base.pop("model_type"), **base)
        plan = told_plan(config.plan)
        kind = cls.auto._model_mapping[type(own)]
        kind = kind[0] if isinstance(kind, tuple | list) else kind
        return _ready(kind, plan).from_pretrained(folder, *args, config=own, **kwargs)


def _ready(kind: type, plan: dict) -> Any:
    """A class whose models are swapped when they are made, so that their weights are read too."""

    def begin(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        kind.__init__(self, config, *args, **kwargs)  # type: ignore[misc]
        self.__class__ = kind  # so that `restore` gives the class that it was
        install(self, plan)

    return type(kind.__name__, (kind,), {"__module__": kind.__module__, "__init__": begin})


def register(autos: list[Any]) -> None:
    """Make these Auto classes know folders of swapped models."""
    AutoConfig.register(SwapConfig.model_type, SwapConfig, exist_ok=True)
    for auto in autos:
        loader = type(f"Swapped{auto.__name__}", (_Loader,), {"auto": auto})
        auto.register(SwapConfig, loader, exist_ok=True)
