"""BigBird (https://huggingface.co/docs/transformers/model_doc/big_bird): BERT's names.

Its global tokens are its first and last block, and short inputs are all global: so ours marks them
(`subquad.nn.ends`). Its random blocks are drawn anew, as ours draws them.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from subquad.convert.bert import (
    BERT,
    CLS,
    DROPPED,
    FIELDS,
    FIXED,
    MASKED,
    NONLINEAR,
    OWN,
    POSITIONS,
    SELF,
    answers,
    around,
    choices,
    embeddings,
    labels,
    tags,
)
from subquad.convert.family import BODY, Head
from subquad.convert.fields import Field, Spelled
from subquad.convert.rows import Row, Spare

__all__ = ["BIGBIRD"]

QA = "qa_classifier"
ANSWERS = replace(
    answers("bert."),
    rows=(
        Row(f"{QA}.intermediate.dense.*", "head.mlp.up.*"),
        Row(f"{QA}.output.dense.*", "head.mlp.down.*"),
        Row(f"{QA}.output.LayerNorm.*", "head.norm.*"),
        Row(f"{QA}.qa_outputs.*", "head.label.*"),
    ),
    fields=(
        Field("intermediate_size", "head.ffn_dim"),
        Field("hidden_act", "head.mlp", NONLINEAR),
        Field("layer_norm_eps", "head.norm", Spelled("layer")),
        DROPPED,
    ),
    fixed={"head.kind": "answers"},
)


def marks(config: Mapping[str, Any]) -> dict[str, dict]:
    """Which tokens are global: its attention is dense up to this many, or always."""
    size, draws = config["block_size"], config["num_random_blocks"]
    sparse = config["attention_type"] == "block_sparse"
    dense = (5 + 2 * draws) * size if sparse else config["max_position_embeddings"]
    return {"stem": {"ends": size, "whole_up_to": dense}}


BIGBIRD = replace(
    BERT,
    name="big_bird",
    rows=(*embeddings(), *SELF, *around("mixers.0"), Spare("pooler.*", "aside.pooler.*")),
    fields=(
        *FIELDS,
        POSITIONS,
        Field("block_size", "model.block"),
        Field("num_random_blocks", "model.random_blocks"),
    ),
    fixed={"arch": "bigbird", "model.window": 1, **FIXED},
    derived=marks,
    note=(
        "beyond 5 + 2 num_random_blocks blocks of input ours looks at random blocks, where theirs "
        "draws them in training alone, and else counts its first block once more for each"
    ),
    needs={
        **BERT.needs,
        "attention_type": ("block_sparse", "original_full"),
        "use_bias": True,
        "rescale_embeddings": False,
    },
    heads={
        "BigBirdForMaskedLM": Head("SubquadForMaskedLM", "bert.", CLS, **MASKED),
        "BigBirdForPreTraining": Head("SubquadForMaskedLM", "bert.", CLS, **MASKED),
        "BigBirdForSequenceClassification": replace(
            labels("bert."),
            fields=(Field("hidden_act", "head.hidden", NONLINEAR), OWN),
            fixed={"head.kind": "labels", "head.pool": "first"},
        ),
        "BigBirdForTokenClassification": tags("bert."),
        "BigBirdForQuestionAnswering": ANSWERS,
        "BigBirdForMultipleChoice": choices("bert.", "pooler", DROPPED),
        "BigBirdModel": BODY,
    },
    refused={
        "BigBirdForCausalLM": (
            "its blocks look ahead, so that theirs is causal for short inputs alone, where it is "
            "dense; no pattern of ours changes so with the length"
        )
    },
)
