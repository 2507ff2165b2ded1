"""Sequence to sequence: an encoder reads a source, a decoder writes; generate() over its state.

The source is words, features, pictures or frames, whatever the encoder's stem takes; see
`subquad.pair`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from subquad.hf.cache import StateCache
from subquad.hf.config import SubquadConfig
from subquad.hf.generation import StateGenerationMixin
from subquad.hf.inputs import check_whole, loss_options, real_outputs, token_inputs
from subquad.hf.modeling import SubquadPreTrainedModel
from subquad.nn.losses import IGNORED
from subquad.pair import Pair, build

__all__ = ["SubquadForSeq2SeqLM"]

#: what transformers calls the source, by the kind of stem that takes it; all others take frames
SOURCES = {"tokens": "input_ids", "adaptive": "input_ids", "patches": "pixel_values"}
FRAMES = "input_features"


class SubquadForSeq2SeqLM(SubquadPreTrainedModel, StateGenerationMixin):
    """A pair of encoder and decoder: logits of the target's words, and generate().

    The source comes as input_ids (B, M), or in their place inputs_embeds (B, M, C), pixel_values or
    input_features, as the encoder's stem takes them. attention_mask and global_attention_mask
    (B, M) are those of the source.
    """

    def __init__(self, config: SubquadConfig) -> None:
        super().__init__(config)
        self.model = build(**config.pair_parts())
        self.main_input_name = SOURCES.get(config.encoder["stem"]["kind"], FRAMES)
        # labels are what each token is followed by: nothing is left to shift
        self.loss_type = "ForMaskedLM"
        self.post_init()

    @property
    def _parts(self) -> nn.Module:
        return self.model.decoder

    def _note_what_is_tied(self) -> None:
        words = self.model.decoder.stem
        known = {id(p): name for name, p in words.named_parameters("model.decoder.stem")}
        every = self.model.named_parameters("model", remove_duplicate=False)
        self._tied_weights_keys = {
            name: known[id(p)] for name, p in every if known.get(id(p), name) != name
        }

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """As in transformers. ValueError if the encoder has words of its own."""
        ours = self._parts.stem.embedding
        theirs = getattr(self.model.encoder.stem, "embedding", None)
        if isinstance(theirs, nn.Embedding) and theirs.weight is not ours.weight:
            raise ValueError(
                "encoder and decoder have a table of words each, and one alone cannot be resized: "
                "build the model with tie_word_embeddings=True and equal widths"
            )
        return super().resize_token_embeddings(*args, **kwargs)

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        return _Reader(self.model)

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """What the decoder is given to predict labels (B, N): they come one place later, behind the
        token to start with; -100 becomes padding. ValueError if the config lacks either."""
        start, pad = self.config.decoder_start_token_id, self.config.pad_token_id
        if start is None or pad is None:
            raise ValueError(
                f"decoder_start_token_id is {start} and pad_token_id {pad}: to shift labels the "
                "configuration must name both, or pass decoder_input_ids"
            )
        shifted = torch.cat((torch.full_like(labels[:, :1], start), labels[:, :-1]), 1)
        return shifted.masked_fill(shifted == IGNORED, pad)

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        """What generate() passes to each call; the source was read before the first."""
        ready = GenerationMixin.prepare_inputs_for_generation(self, input_ids, **kwargs)
        ready.pop("decoder_position_ids", None)
        return ready

    def _memory(
        self, source: dict[str, Any], encoder_outputs: Any, cache: StateCache | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """What the decoder is to attend to, and which of it is real; none if the cache knows.

        ValueError if the cache knows another source.
        """
        begun = cache is not None and cache.get_seq_length() > 0
        if begun:
            _check_same(cache, source, encoder_outputs)
            return None, None
        if encoder_outputs is not None:
            memory = encoder_outputs[0]
            known = real_outputs(self.model.encoder.stem, _known(source["attention_mask"]))
        else:
            memory, known = _read(self.model, source)
        if cache is not None:
            cache.keep_source(memory)
        return memory, known

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        input_features: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple | None = None,
        past_key_values: StateCache | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        **inputs: Any,
    ) -> Seq2SeqLMOutput | tuple:
        """Logits (B, N, V) of what follows each token of the decoder.

        labels (B, N): the target, -100 where not scored; decoder_input_ids follow from them, if not
        given.  encoder_outputs: what the encoder gave for the source, which is then not read again.
        A cache that has read a source goes on with that one: encoder_outputs may be given again,
        and ValueError says if they are others, or if a source is to be read besides.
        """
        options = loss_options(inputs)
        source = {
            "input_ids": input_ids,
            "inputs_embeds": inputs_embeds,
            "pixel_values": pixel_values,
            "input_features": input_features,
            "attention_mask": attention_mask,
            "global_attention_mask": global_attention_mask,
        }
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        target = {
            "input_ids": decoder_input_ids,
            "inputs_embeds": decoder_inputs_embeds,
            "attention_mask": decoder_attention_mask,
        }
        tokens, about = _tokens({**target, **inputs})
        cache = self._cache(past_key_values, use_cache, len(tokens))
        memory, known = self._memory(source, encoder_outputs, cache)
        state = None if cache is None else cache.state
        logits, state = self.model.decode(tokens, memory, known, valid=about["valid"], state=state)
        if cache is not None:
            cache.advance(state, tokens.shape[1])
        out = Seq2SeqLMOutput(
            loss=self._loss(logits, labels, **options),
            logits=logits,
            past_key_values=cache,
            encoder_last_hidden_state=memory if encoder_outputs is None else encoder_outputs[0],
        )
        return out if return_dict is not False else out.to_tuple()


class _Reader(nn.Module):
    """The encoder as generate() calls it. It owns nothing: a new one is made for each call."""

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.pair = pair

    def forward(self, return_dict: bool | None = None, **kwargs: Any) -> BaseModelOutput | tuple:
        """The memory (B, M, C) of a source, given as to the whole model."""
        out = BaseModelOutput(last_hidden_state=_read(self.pair, kwargs)[0])
        return out if return_dict is not False else out.to_tuple()


def _read(pair: Pair, given: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    """The memory of a source, and which of its tokens are real."""
    names = _sources()
    found = {name: given[name] for name in names if given.get(name) is not None}
    if len(found) != 1:
        raise ValueError(
            f"pass one source, as {', '.join(names)}, not {' and '.join(found) or 'none'}"
        )
    check_whole(pair.encoder.stem, given)
    (source,) = found.values()
    rest = {name: value for name, value in given.items() if name not in names}
    # whatever is no word comes embedded
    inputs, about = _tokens({**rest, "inputs_embeds": source})
    return pair.encode(inputs, valid=about["valid"], mark=about["mark"])


def _tokens(given: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor | None]]:
    if given.get("document_ids") is not None:
        raise ValueError("an encoder-decoder takes no document_ids: give each document a row")
    return token_inputs(given)


def _check_same(cache: StateCache, source: dict[str, Any], encoder_outputs: Any) -> None:
    """ValueError if there is something to read that the cache has not read."""
    if encoder_outputs is not None:
        new = not torch.compiler.is_compiling() and not cache.has_read(encoder_outputs[0])
    else:
        new = any(source[name] is not None for name in _sources())
    if new:
        raise ValueError(
            "past_key_values have read another source: to go on with it leave the source and "
            "encoder_outputs out, to read a new one leave past_key_values out"
        )


def _sources() -> list[str]:
    """What a source may be called."""
    return list(dict.fromkeys((*SOURCES.values(), "inputs_embeds", FRAMES)))


def _known(attention_mask: Tensor | None) -> Tensor | None:
    """The mask of a source as validity, None where all tokens are real."""
    if attention_mask is None:
        return None
    if not torch.compiler.is_compiling() and bool(attention_mask.all()):
        return None
    return attention_mask.bool()
