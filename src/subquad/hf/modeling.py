"""One class per head around `subquad.Model`, with the names that transformers looks for.

transformers decides some things by a class's name, so these are neutral: no architecture in them.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel, initialization
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
    MaskedLMOutput,
)

from subquad.hf.cache import StateCache, valid_slots
from subquad.hf.config import SubquadConfig
from subquad.model import build, init_state, run
from subquad.nn.init import initialise_one

__all__ = ["SubquadForCausalLM", "SubquadForMaskedLM", "SubquadModel"]


class SubquadPreTrainedModel(PreTrainedModel):
    """What all heads share: configuration, initialisation, the embedding."""

    config: SubquadConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _is_stateful = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        initialise_one(module)
        if hasattr(module, "draw"):
            initialization.copy_(module.projection, module.draw())

    def get_input_embeddings(self) -> nn.Module:
        return getattr(self, "model", self).stem.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        getattr(self, "model", self).stem.embedding = value

    def _advance(
        self, head: nn.Module | None, input_ids: Tensor, cache: StateCache | None, **inputs: Any
    ) -> Tensor:
        """Run stem, backbone and head over (B, N) tokens; a cache is brought up to date."""
        parts = getattr(self, "model", self)
        state = None if cache is None else cache.state
        y, state = run(parts.stem, parts.backbone, head, input_ids, state=state, **inputs)
        if cache is not None:
            cache.advance(state, input_ids.shape[1])
        return y

    def _cache(self, given: Any, use_cache: bool | None, batch: int) -> StateCache | None:
        if given is not None and not isinstance(given, StateCache):
            raise ValueError(
                f"past_key_values must be a subquad StateCache, not {type(given).__name__}; "
                "leave it out and pass use_cache=True to get one"
            )
        if given is not None and given.batch_size != batch:
            raise ValueError(
                f"the cache holds {given.batch_size} rows and the batch has {batch}; "
                "they must agree"
            )
        if given is None and use_cache:
            given = StateCache(init_state(getattr(self, "model", self).backbone, batch))
        return given


class SubquadModel(SubquadPreTrainedModel):
    """Features (B, N, C) without a head."""

    def __init__(self, config: SubquadConfig) -> None:
        super().__init__(config)
        bare = build(**{**config.parts(), "head": {"kind": "none"}})
        self.stem, self.backbone = bare.stem, bare.backbone
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        document_ids: Tensor | None = None,
        past_key_values: StateCache | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPast | tuple:
        """Features of input_ids (B, N).

        attention_mask (B, length so far): 0 marks padding, left or right.  global_attention_mask
        (B, N): marked tokens.  document_ids (B, N) keeps packed documents apart.  A cache comes
        back only for `use_cache=True`, or if one is given.
        """
        cache = self._cache(past_key_values, use_cache, len(input_ids))
        y = self._advance(
            None,
            input_ids,
            cache,
            valid=valid_slots(attention_mask, input_ids.shape[1]),
            mark=None if global_attention_mask is None else global_attention_mask.bool(),
            label=document_ids,
        )
        out = BaseModelOutputWithPast(last_hidden_state=y, past_key_values=cache)
        return out if return_dict is not False else out.to_tuple()


class SubquadForCausalLM(SubquadPreTrainedModel, GenerationMixin):
    """A language model: next-token logits, and generate() over the streaming state."""

    _tied_weights_keys: ClassVar[dict[str, str]] = {
        "model.head.project.weight": "model.stem.embedding.weight"
    }

    def __init__(self, config: SubquadConfig) -> None:
        super().__init__(config)
        if not config.is_causal:
            raise ValueError(f"a causal language model needs {config.arch} with causal=True")
        self.model = build(**config.parts())
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.model.head.project

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.model.head.project = value

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        document_ids: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: StateCache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple:
        """Logits (B, N, V), of the last `logits_to_keep` tokens if that is not 0.

        labels (B, N): the tokens themselves, -100 where not scored; they are shifted here.
        Other arguments as in `SubquadModel.forward`; `kwargs` go to the loss function.
        """
        cache = self._cache(past_key_values, use_cache, len(input_ids))
        y = self._advance(
            None,
            input_ids,
            cache,
            valid=valid_slots(attention_mask, input_ids.shape[1]),
            mark=None if global_attention_mask is None else global_attention_mask.bool(),
            label=document_ids,
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.model.head(y[:, keep])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config.vocab_size, **kwargs)
        out = CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=cache)
        return out if return_dict is not False else out.to_tuple()

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
            state = init_state(self.model.backbone, batch)
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


class SubquadForMaskedLM(SubquadPreTrainedModel):
    """A bidirectional model that fills in hidden tokens."""

    _tied_weights_keys: ClassVar[dict[str, str]] = {
        "model.head.project.weight": "model.stem.embedding.weight"
    }

    def __init__(self, config: SubquadConfig) -> None:
        super().__init__(config)
        if config.is_causal:
            raise ValueError(f"a masked language model needs {config.arch} with causal=False")
        self.model = build(**config.parts())
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.model.head.project

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.model.head.project = value

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        document_ids: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput | tuple:
        """Logits (B, N, V); labels (B, N) hold -100 where a token was not hidden."""
        logits = self._advance(
            self.model.head,
            input_ids,
            None,
            valid=valid_slots(attention_mask, input_ids.shape[1]),
            mark=None if global_attention_mask is None else global_attention_mask.bool(),
            label=document_ids,
        )
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config.vocab_size, **kwargs)
        out = MaskedLMOutput(loss=loss, logits=logits)
        return out if return_dict is not False else out.to_tuple()
