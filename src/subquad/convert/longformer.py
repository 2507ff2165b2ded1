"""Longformer: BERT's names, RoBERTa's positions, and a second set of projections for global tokens
(https://huggingface.co/docs/transformers/model_doc/longformer). The original code
(https://github.com/allenai/longformer) has the same tensors under RoBERTa's prefix, and counts the
windows of its layers on one side."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from subquad.convert.bert import (
    AFTER_TWO,
    DROPPED,
    FIELDS,
    FIXED,
    POOLER,
    answers,
    around,
    choices,
    embeddings,
    labels,
    lm_head,
    tags,
)
from subquad.convert.family import BODY, Family
from subquad.convert.fields import Doubled, Field, Told
from subquad.convert.rows import Row

__all__ = ["ALLENAI", "LONGFORMER", "Repeated"]

THEIRS, OURS = "encoder.layer.{layer}.attention.self", "backbone.blocks.{layer}.mixers.0"
PARTS = ("query", "key", "value")


@dataclass(frozen=True)
class Repeated(Told):
    """A value for each layer there, all equal; a list of one here."""

    def there(self, value: Any) -> Any:
        if len({*value}) != 1:
            raise ValueError(f"{value!r} differ by layer, and ours has one for all")
        return [value[0]]


LONGFORMER = Family(
    "longformer",
    (
        *embeddings(2),
        *(Row(f"{THEIRS}.{part}.*", f"{OURS}.inner.{part}.*") for part in PARTS),
        *(Row(f"{THEIRS}.{part}_global.*", f"{OURS}.{part}.*") for part in PARTS),
        *around("mixers.0.inner"),
        POOLER,
    ),
    (*FIELDS, AFTER_TWO, Field("attention_window", "model.windows", Doubled())),
    fixed={
        "arch": "longformer",
        "model.causal": False,
        "model.dilations": [1],
        **FIXED,
    },
    needs={"pad_token_id": 1},
    sizes={"layer": "num_hidden_layers"},
    heads={
        "LongformerForMaskedLM": lm_head("longformer."),
        "LongformerForSequenceClassification": labels("longformer.", dropped=DROPPED),
        "LongformerForTokenClassification": tags("longformer.", DROPPED),
        "LongformerForQuestionAnswering": answers("longformer."),
        "LongformerForMultipleChoice": choices("longformer.", dropped=DROPPED),
        "LongformerModel": BODY,
    },
)

#: attention_mode of the original's settings; those of transformers' files say "longformer"
MODES = ("sliding_chunks", "tvm", "sliding_chunks_no_overlap", "n2")


def original(config: Mapping[str, Any]) -> bool:
    """Are these the settings of the original code, as RoBERTa's or of no type?"""
    return config.get("model_type") != "longformer" and config.get("attention_mode") in MODES


WORDS = lm_head("roberta.")
ALLENAI = replace(
    LONGFORMER,
    name="allenai-longformer",
    fields=(
        *FIELDS,
        AFTER_TWO,
        Field("attention_window", "model.windows"),
        Field("attention_dilation", "model.dilations", Repeated()),
    ),
    fixed={k: v for k, v in LONGFORMER.fixed.items() if k != "model.dilations"},
    needs={"pad_token_id": 1, "autoregressive": False, "attention_mode": MODES[:2]},
    heads={
        "RobertaForMaskedLM": WORDS,
        "RobertaLongForMaskedLM": WORDS,
        "LongformerForMaskedLM": WORDS,
        "Longformer": BODY,
        "RobertaModel": BODY,
    },
    # of the transformers that it was written for
    defaults={
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "hidden_dropout_prob": 0.1,
        "pad_token_id": 1,
        "tie_word_embeddings": True,
    },
    tells=original,
)
