"""XLNet (https://huggingface.co/docs/transformers/model_doc/xlnet): Transformer-XL's relative
attention over whole inputs, both ways or one way. What tells segments apart (`token_type_ids`), the
second stream of its training (`perm_mask`, `target_mapping`) and a memory (`mems`) have no place in
ours: what is converted is what it computes without them, and their tensors are kept aside. Kinds
that differ within a row are refused.

Its language model, as released, looks both ways: without `perm_mask` each token sees itself and all
others, and its words are those of a model of hidden words. Labels are read from the last token,
which in theirs may be padding: pad on the left, as its tokenizer does."""

from dataclasses import replace

from subquad.convert.changes import Reshape, Transpose
from subquad.convert.family import BODY, Family, Head
from subquad.convert.fields import Field, Named, Spelled
from subquad.convert.rows import Entry, Row, Spare, Tied

__all__ = ["XLNET"]

BLOCK, LAYER = "backbone.blocks.{layer}", "layer.{layer}"
MIXER, HEADS = f"{BLOCK}.mixers.0", Reshape(("dim", "heads", -1), ("dim", -1))

ROWS: tuple[Entry, ...] = (
    Row("word_embedding.weight", "stem.embedding.weight"),
    *(
        Row(f"{LAYER}.rel_attn.{theirs}", f"{MIXER}.{ours}.weight", HEADS, Transpose())
        for theirs, ours in (("q", "query"), ("k", "key"), ("v", "value"), ("r", "position.table"))
    ),
    Row(f"{LAYER}.rel_attn.o", f"{MIXER}.out.weight", HEADS),
    Row(f"{LAYER}.rel_attn.r_w_bias", f"{MIXER}.position.u"),
    Row(f"{LAYER}.rel_attn.r_r_bias", f"{MIXER}.position.v"),
    Row(f"{LAYER}.rel_attn.layer_norm.*", f"{BLOCK}.norms.0.*"),
    Row(f"{LAYER}.ff.layer_1.*", f"{BLOCK}.mlp.up.*"),
    Row(f"{LAYER}.ff.layer_2.*", f"{BLOCK}.mlp.down.*"),
    Row(f"{LAYER}.ff.layer_norm.*", f"{BLOCK}.norms.1.*"),
    Spare(f"{LAYER}.rel_attn.r_s_bias", "aside.layer.{layer}.r_s_bias"),
    Spare(f"{LAYER}.rel_attn.seg_embed", "aside.layer.{layer}.seg_embed"),
    Spare("mask_emb", "aside.mask_emb"),
)

LM = (
    Row("lm_loss.bias", "head.project.bias"),
    Tied("lm_loss.weight", "word_embedding.weight", "head.project.weight"),
)


def words(ours: str, way: str) -> Head:
    """Its language model, which looks both ways or one way."""
    fixed = {"head.kind": "tokens", "head.bias": True}
    return Head(ours, "transformer.", LM, fixed=fixed, needs={"attn_type": way})


def summary(ours: str) -> Head:
    """Labels by the last token, with a map and a nonlinearity between."""
    return Head(
        ours,
        "transformer.",
        (
            Row("sequence_summary.summary.*", "head.hidden.dense.*"),
            Row("logits_proj.*", "head.label.*"),
        ),
        (Field("summary_last_dropout", "head.dropout"),),
        fixed={"head.kind": "labels", "head.pool": "last", "head.hidden": "tanh"},
        needs={"summary_type": "last", "summary_use_proj": True, "summary_activation": "tanh"},
    )


XLNET = Family(
    "xlnet",
    ROWS,
    (
        Field("vocab_size", "vocab_size"),
        Field("d_model", "model.dim"),
        Field("n_layer", "model.num_layers"),
        Field("n_head", "model.num_heads"),
        Field("d_inner", "model.ffn_dim"),
        Field("attn_type", "model.causal", Named({"uni": True, "bi": False})),
        Field("ff_activation", "model.mlp", Named({"gelu": "gelu", "relu": "relu"})),
        Field("layer_norm_eps", "model.norm", Spelled("layer")),
        Field("dropout", ("model.dropout", "stem.dropout")),
    ),
    fixed={
        "arch": "transformer",
        "model.position": "xl",
        "model.wiring": "post",
        "model.bias": False,
        "model.num_kv_heads": None,
        "stem.kind": "tokens",
        "stem.position": "none",
    },
    needs={"clamp_len": -1, "same_length": False, "bi_data": False},
    limits={"token_types": 1},
    sizes={"layer": "n_layer", "dim": "d_model", "heads": "n_head"},
    heads={
        "XLNetLMHeadModel": replace(
            words("SubquadForMaskedLM", "bi"), other=words("SubquadForCausalLM", "uni")
        ),
        "XLNetForSequenceClassification": summary("SubquadForSequenceClassification"),
        "XLNetForMultipleChoice": summary("SubquadForMultipleChoice"),
        "XLNetForTokenClassification": Head(
            "SubquadForTokenClassification",
            "transformer.",
            (Row("classifier.*", "head.label.*"),),
            fixed={"head.kind": "tags"},
        ),
        "XLNetForQuestionAnsweringSimple": Head(
            "SubquadForQuestionAnswering",
            "transformer.",
            (Row("qa_outputs.*", "head.label.*"),),
            fixed={"head.kind": "tags"},
        ),
        "XLNetModel": BODY,
    },
    refused={
        "XLNetForQuestionAnswering": (
            "it looks for ends of answers from each of its best starts, and ours for both at once, "
            "as XLNetForQuestionAnsweringSimple does"
        ),
    },
)
