"""Longformer: BERT's names, RoBERTa's positions, and a second set of projections for global tokens
(https://huggingface.co/docs/transformers/model_doc/longformer)."""

from subquad.convert.bert import (
    AFTER_TWO,
    FIELDS,
    FIXED,
    POOLER,
    answers,
    around,
    embeddings,
    labels,
    lm_head,
    tags,
)
from subquad.convert.family import BODY, Family
from subquad.convert.fields import Doubled, Field
from subquad.convert.rows import Row

__all__ = ["LONGFORMER"]

THEIRS, OURS = "encoder.layer.{layer}.attention.self", "backbone.blocks.{layer}.mixers.0"
PARTS = ("query", "key", "value")

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
        "LongformerForSequenceClassification": labels("longformer."),
        "LongformerForTokenClassification": tags("longformer."),
        "LongformerForQuestionAnswering": answers("longformer."),
        "LongformerModel": BODY,
    },
)
