"""generate() over a streaming state: what transformers asks of a model, answered for ours."""

from typing import Any

from torch import Tensor
from transformers import GenerationMixin

from subquad.hf.cache import StateCache
from subquad.hf.inputs import follow
from subquad.model import init_state

__all__ = ["StateGenerationMixin"]


class StateGenerationMixin(GenerationMixin):
    """For a PreTrainedModel whose `_parts` hold a backbone that streams."""

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, inputs_embeds: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """What generate() passes to each call; marks and documents go on as they ended."""
        follow(kwargs, input_ids.shape[1])
        ready = super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, **kwargs
        )
        first = ready.get("input_ids")
        slots = (first if first is not None else ready["inputs_embeds"]).shape[1]
        for name in ("global_attention_mask", "document_ids"):
            if ready.get(name) is not None:
                ready[name] = ready[name][:, -slots:]
        ready.pop("position_ids", None)
        return ready

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict, *args: Any, **kwargs: Any
    ) -> Any:
        wanted = generation_config.cache_implementation
        if wanted not in (None, "dynamic"):
            raise ValueError(
                f"cache_implementation={wanted!r} does not apply: the state is the model's own"
            )
        generation_config.cache_implementation = None
        use_cache = generation_config.use_cache is not False
        if use_cache and model_kwargs.get("past_key_values") is None:
            batch = self._batch_in_generation(generation_config, *args, **kwargs)
            state = init_state(self._parts.backbone, batch, self._parts.stem)
            model_kwargs["past_key_values"] = StateCache(state)
        return super()._prepare_cache_for_generation(
            generation_config, model_kwargs, *args, **kwargs
        )

    @staticmethod
    def _batch_in_generation(
        generation_config: Any, generation_mode: Any, batch_size: int, *args: Any, **kwargs: Any
    ) -> int:
        """Rows of the first call: generate() repeats each input for beams and for sequences."""
        return batch_size * max(generation_config.num_beams, generation_config.num_return_sequences)
