"""Perceiver IO for language (https://huggingface.co/docs/transformers/model_doc/perceiver): bytes
read by latents, and a learned query for every place. Its words are told by the table that reads
them; ours are a map of their own, which has to be equal on the way back."""

from collections.abc import Iterator

from subquad.convert.changes import Copy
from subquad.convert.family import Family, Head
from subquad.convert.fields import Field, Named
from subquad.convert.rows import Entry, Row

__all__ = ["PERCEIVER"]


def layer(theirs: str, ours: str, mixer: str, norms: tuple[str, ...]) -> Iterator[Entry]:
    """Attention and MLP; `norms`: in the order of ours."""
    for part in ("query", "key", "value"):
        yield Row(f"{theirs}.attention.self.{part}.*", f"{ours}.{mixer}.{part}.*")
    yield Row(f"{theirs}.attention.output.dense.*", f"{ours}.{mixer}.out.*")
    for i, norm in enumerate(norms):
        yield Row(f"{theirs}.{norm}.*", f"{ours}.norms.{i}.*")
    yield Row(f"{theirs}.mlp.dense1.*", f"{ours}.mlp.up.*")
    yield Row(f"{theirs}.mlp.dense2.*", f"{ours}.mlp.down.*")


CROSS = ("attention.self.layernorm1", "attention.self.layernorm2", "layernorm")

PERCEIVER = Family(
    "perceiver",
    (
        Row(
            "input_preprocessor.embeddings.weight",
            ["stem.embedding.weight", "head.final.weight"],
            Copy(),
        ),
        Row("input_preprocessor.position_embeddings.weight", "stem.position.table.weight"),
        Row("embeddings.latents", "backbone.latents.weight"),
        *layer("encoder.cross_attention", "backbone.reads.0", "mixer", CROSS),
        *layer(
            "encoder.self_attends.{layer}",
            "backbone.blocks.{layer}",
            "mixers.0",
            ("attention.self.layernorm1", "layernorm"),
        ),
        Row("decoder.output_position_encodings.position_embeddings", "head.asked.weight"),
        *layer("decoder.decoding_cross_attention", "backbone.answer", "mixer", CROSS),
    ),
    (
        Field("vocab_size", ("vocab_size", "head.out_dim")),
        Field("max_position_embeddings", ("stem.max_len", "head.outputs")),
        Field("d_model", "model.dim"),
        Field("num_latents", "model.latents"),
        Field("d_latents", ("model.latent_dim", "model.ffn_dim")),
        Field("v_channels", "model.latent_dim"),
        Field("qk_channels", "model.key_dim"),
        Field("num_self_attends_per_block", "model.num_layers"),
        Field("num_blocks", "model.repeats"),
        Field("num_self_attention_heads", "model.num_heads"),
        Field("num_cross_attention_heads", "model.cross_heads"),
        Field("hidden_act", "model.mlp", Named({"gelu": "gelu", "relu": "relu"})),
        Field("attention_probs_dropout_prob", "model.dropout"),
    ),
    fixed={
        "arch": "perceiver_io",
        "model.norm": "layer",
        "model.query_residual": False,
        "stem.kind": "tokens",
        "stem.position": "learned",
        "head.kind": "query",
    },
    needs={
        # that of the queries which ask for words, whatever the settings say
        "qk_channels": 256,
        "self_attention_widening_factor": 1,
        "cross_attention_widening_factor": 1,
        "cross_attention_shape_for_attention": "kv",
    },
    sizes={"layer": "num_self_attends_per_block"},
    heads={
        "PerceiverForMaskedLM": Head(
            "SubquadForMaskedLM",
            "perceiver.",
            (Row("embedding_decoder.bias", "head.final.bias"),),
        ),
    },
)
