"""Reformer (https://huggingface.co/docs/transformers/model_doc/reformer): reversible layers, axial
positions, chunks of neighbours. Its hashing layers, and models that look both ways, see the last
chunk from the first one, which ours do not: those are refused."""

from subquad.convert.changes import Reshape
from subquad.convert.family import BODY, Family, Head
from subquad.convert.fields import Each, Field, Named, Spelled
from subquad.convert.rows import Row

__all__ = ["REFORMER"]

BLOCK, LAYER = "backbone.blocks.{layer}", "encoder.layers.{layer}"

REFORMER = Family(
    "reformer",
    (
        Row("embeddings.word_embeddings.weight", "stem.embedding.weight"),
        Row(
            "embeddings.position_embeddings.weights.0",
            "stem.position.tables.0.weight",
            Reshape((-1, 1, "first"), (-1, "first")),
        ),
        Row(
            "embeddings.position_embeddings.weights.1",
            "stem.position.tables.1.weight",
            Reshape((1, -1, "second"), (-1, "second")),
        ),
        *(
            Row(
                f"{LAYER}.attention.self_attention.{part}.weight",
                f"{BLOCK}.mixers.0.{part}.weight",
            )
            for part in ("query", "key", "value")
        ),
        Row(f"{LAYER}.attention.output.dense.weight", f"{BLOCK}.mixers.0.out.weight"),
        Row(f"{LAYER}.attention.layer_norm.*", f"{BLOCK}.norms.0.*"),
        Row(f"{LAYER}.feed_forward.layer_norm.*", f"{BLOCK}.norms.1.*"),
        Row(f"{LAYER}.feed_forward.dense.dense.*", f"{BLOCK}.mlp.up.*"),
        Row(f"{LAYER}.feed_forward.output.dense.*", f"{BLOCK}.mlp.down.*"),
        Row("encoder.layer_norm.*", "backbone.norm.*"),
    ),
    (
        Field("vocab_size", "vocab_size"),
        Field("hidden_size", "model.dim"),
        Field("num_hidden_layers", "model.num_layers"),
        Field("num_attention_heads", "model.num_heads"),
        Field("attention_head_size", "model.head_dim"),
        Field("feed_forward_size", "model.ffn_dim"),
        Field("attn_layers", "model.layers", Each({"local": "chunks"})),
        Field("local_attn_chunk_length", "model.local_window"),
        Field("hidden_act", "model.mlp", Named({"relu": "relu", "gelu": "gelu"})),
        Field("layer_norm_eps", "model.norm", Spelled("layer")),
        Field("hidden_dropout_prob", "model.dropout"),
        Field("axial_pos_shape", "stem.axial_shape"),
        Field("axial_pos_embds_dim", "stem.axial_dims"),
    ),
    fixed={
        "arch": "reformer",
        "model.causal": True,
        "model.position": "none",
        "model.wiring": "reversible",
        "model.bias": False,
        "stem.kind": "tokens",
        "stem.position": "axial",
    },
    needs={
        "is_decoder": True,
        "axial_pos_embds": True,
        "local_num_chunks_before": 1,
        "local_num_chunks_after": 0,
        "tie_word_embeddings": False,
    },
    sizes={
        "layer": "num_hidden_layers",
        "first": "axial_pos_embds_dim.0",
        "second": "axial_pos_embds_dim.1",
    },
    heads={
        "ReformerModelWithLMHead": Head(
            "SubquadForCausalLM",
            "reformer.",
            (
                Row("lm_head.decoder.weight", "head.project.weight"),
                # which their forward leaves out
                Row("lm_head.bias", "aside.lm_head.bias"),
            ),
            fixed={"head.kind": "tokens", "head.bias": False},
        ),
        "ReformerModel": BODY,
    },
)
