"""One class per head around `subquad.Model`, with the names that transformers looks for.

transformers decides some things by a class's name, so these are neutral: no architecture in them.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, initialization
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
    MaskedLMOutput,
)

from subquad.hf.cache import StateCache
from subquad.hf.config import SubquadConfig
from subquad.hf.generation import StateGenerationMixin
from subquad.hf.inputs import last_targets, loss_options, model_inputs
from subquad.model import build, init_state, run
from subquad.nn.adaptive import Tables
from subquad.nn.init import initialise_one

__all__ = ["SubquadForCausalLM", "SubquadForMaskedLM", "SubquadModel"]


class SubquadPreTrainedModel(PreTrainedModel):
    """What all heads share: configuration, initialisation, embedding, and how a batch runs.

    Every `forward` takes input_ids (B, N), or inputs_embeds (B, N, C) in their place, and
        attention_mask (B, length so far): 0 marks padding, wherever it stands
        global_attention_mask (B, N): marked tokens, Longformer's global ones
        document_ids (B, N): keeps packed documents apart
        token_type_ids (B, N): for stems with `types`; others have no such embedding, and ignore it
    Any other argument is refused by name.
    """

    config: SubquadConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _is_stateful = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        initialise_one(module)
        if hasattr(module, "draw"):
            (drawn,) = module.buffers(recurse=False)
            initialization.copy_(drawn, module.draw())

    @property
    def _parts(self) -> nn.Module:
        """Where stem and backbone live: here, or in the model inside."""
        return getattr(self, "model", self)

    def get_input_embeddings(self) -> nn.Module:
        return self._parts.stem.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self._parts.stem.embedding = value

    def get_output_embeddings(self) -> nn.Module | None:
        return getattr(getattr(self._parts, "head", None), "project", None)

    def set_output_embeddings(self, value: nn.Module) -> None:
        self._parts.head.project = value

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """As in transformers. ValueError for adaptive input, whose words are in several tables."""
        if isinstance(self.get_input_embeddings(), Tables):
            raise ValueError("an adaptive embedding cannot be resized: build another with cutoffs")
        return super().resize_token_embeddings(*args, **kwargs)

    def post_init(self) -> None:
        self._note_what_is_tied()
        super().post_init()

    def _note_what_is_tied(self) -> None:
        """Parameters that go by several names, as saving and loading need it: the words of stem and
        head, and what layers share."""
        first: dict[int, str] = {}
        named = self.named_parameters(remove_duplicate=False)
        names = {name: first.setdefault(id(p), name) for name, p in named}
        self._tied_weights_keys = {name: one for name, one in names.items() if name != one}

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """What is tied, noted when built; `tie_word_embeddings` speaks of the words alone."""
        return dict(self._tied_weights_keys or {})

    def features(
        self,
        given: dict[str, Any],
        past_key_values: Any = None,
        use_cache: bool | None = None,
        last: int | None = None,
    ) -> tuple[Tensor, StateCache | None]:
        """Features (B, N, C) of what `forward` was given, or of its last slots alone, and the cache
        after it."""
        inputs, options = model_inputs(self.config, self._parts.stem, given)
        cache = self._cache(past_key_values, use_cache, inputs.shape[0])
        state = None if cache is None else cache.state
        parts = self._parts
        asks = getattr(parts, "head", None)
        y, state = run(
            parts.stem, parts.backbone, None, inputs, state=state, last=last, asks=asks, **options
        )
        if cache is not None:
            cache.advance(state, inputs.shape[1])
        return y, cache

    def _cache(self, given: Any, use_cache: bool | None, batch: int) -> StateCache | None:
        if given is not None and not isinstance(given, StateCache):
            raise ValueError(
                f"past_key_values must be a subquad StateCache, not {type(given).__name__}; "
                "leave it out and pass use_cache=True to get one"
            )
        if given is not None and given.batch_size != batch:
            raise ValueError(
                f"the cache holds {given.batch_size} rows and the batch has {batch}; they must "
                "agree (for beams or several sequences, call its batch_repeat_interleave first)"
            )
        if given is None and use_cache:
            given = StateCache(init_state(self._parts.backbone, batch, self._parts.stem))
        return given

    def _loss(self, logits: Tensor, labels: Tensor | None, **options: Any) -> Tensor | None:
        if labels is None:
            return None
        if labels.shape != logits.shape[:2]:
            raise ValueError(
                f"labels are {tuple(labels.shape)} and logits {tuple(logits.shape[:2])}; "
                "they must agree (logits_to_keep does not go with labels)"
            )
        return self.loss_function(logits, labels, self.config.vocab_size, **options)


class SubquadModel(SubquadPreTrainedModel):
    """Features (B, N, C) without a head."""

    def __init__(self, config: SubquadConfig) -> None:
        super().__init__(config)
        bare = build(**{**config.parts(), "head": {"kind": "none"}})
        self.stem, self.backbone = bare.stem, bare.backbone
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: StateCache | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        **inputs: Any,
    ) -> BaseModelOutputWithPast | tuple:
        """Features. A cache comes back only for `use_cache=True`, or if one is given."""
        given = {"input_ids": input_ids, "attention_mask": attention_mask, **inputs}
        y, cache = self.features(given, past_key_values, use_cache)
        out = BaseModelOutputWithPast(last_hidden_state=y, past_key_values=cache)
        return out if return_dict is not False else out.to_tuple()


class SubquadForCausalLM(SubquadPreTrainedModel, StateGenerationMixin):
    """A language model: next-token logits, and generate() over the streaming state."""

    def __init__(self, config: SubquadConfig) -> None:
        super().__init__(config)
        config.check_causal()
        self.model = build(**config.parts())
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        document_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        targets: Tensor | None = None,
        label_smoothing: float = 0.0,
        past_key_values: StateCache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        **inputs: Any,
    ) -> CausalLMOutputWithPast | tuple:
        """Logits (B, N, V), of the last `logits_to_keep` tokens if that is not 0.

        labels (B, N): the tokens themselves, -100 where not scored; they are shifted here.
        targets (B, N): what follows each token, -100 where not scored. Then the mean loss comes
        without logits, which are never formed whole (`subquad.nn.losses`); `label_smoothing` is
        for this loss.
        """
        options = loss_options(inputs)
        # by name above, because generate() refuses what a signature does not show
        given = {
            "input_ids": input_ids,
            "inputs_embeds": inputs_embeds,
            "attention_mask": attention_mask,
            "global_attention_mask": global_attention_mask,
            "document_ids": document_ids,
            **inputs,
        }
        if getattr(self.model.stem, "types", None) is not None:
            given["token_type_ids"] = token_type_ids
        bare = labels is None and targets is None
        last = logits_to_keep if bare and isinstance(logits_to_keep, int) else 0
        y, cache = self.features(given, past_key_values, use_cache, last or None)
        labels, targets = last_targets(labels, targets, attention_mask, y.shape[1], options)
        if targets is not None:
            loss = self.model.head.loss(y, targets, label_smoothing)
            out = CausalLMOutputWithPast(loss=loss, past_key_values=cache)
            return out if return_dict is not False else out.to_tuple()
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.model.head(y[:, keep])
        loss = self._loss(logits, labels, **options)
        out = CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=cache)
        return out if return_dict is not False else out.to_tuple()


class SubquadForMaskedLM(SubquadPreTrainedModel):
    """A bidirectional model that fills in hidden tokens."""

    def __init__(self, config: SubquadConfig) -> None:
        super().__init__(config)
        if config.is_causal:
            raise ValueError(f"a masked language model needs {config.arch} with causal=False")
        self.model = build(**config.parts())
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **inputs: Any,
    ) -> MaskedLMOutput | tuple:
        """Logits (B, N, V); labels (B, N) hold -100 where a token was not hidden."""
        options = loss_options(inputs)
        y, _ = self.features({"input_ids": input_ids, "attention_mask": attention_mask, **inputs})
        logits = self.model.head(y)
        out = MaskedLMOutput(loss=self._loss(logits, labels, **options), logits=logits)
        return out if return_dict is not False else out.to_tuple()
