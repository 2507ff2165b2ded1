"""Perceiver IO for language and for labels of pictures
(https://huggingface.co/docs/transformers/model_doc/perceiver).

Language: bytes read by latents, and a learned query for every place. Its words are told by the
table that reads them; ours are a map of their own, which has to be equal on the way back.
Pictures: every pixel beside its place, by Fourier features or a learned vector; pictures that a
convolution makes smaller first (`PerceiverForImageClassificationConvProcessing`) are not known.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from subquad.convert.changes import Copy, Reshape
from subquad.convert.family import Family, Head
from subquad.convert.fields import Field, Named, Told
from subquad.convert.rows import Entry, Row

__all__ = ["PERCEIVER", "Squared"]


@dataclass(frozen=True)
class Squared(Told):
    """The side of a square there, both sides here."""

    def there(self, value: Any) -> Any:
        return [value, value]

    def back(self, value: Any) -> Any:
        if len({*value}) != 1:
            raise ValueError(f"{value!r} is no square, as theirs is")
        return value[0]


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
INPUT = "input_preprocessor"

#: what latents do, alike in all
BODY = (
    Row("embeddings.latents", "backbone.latents.weight"),
    *layer("encoder.cross_attention", "backbone.reads.0", "mixer", CROSS),
    *layer(
        "encoder.self_attends.{layer}",
        "backbone.blocks.{layer}",
        "mixers.0",
        ("attention.self.layernorm1", "layernorm"),
    ),
)
#: what reads bytes, and is asked for them
BYTES = (
    Row(
        f"{INPUT}.embeddings.weight",
        ["stem.embedding.weight", "head.final.weight"],
        Copy(),
    ),
    Row(f"{INPUT}.position_embeddings.weight", "stem.position.table.weight"),
    Row("decoder.output_position_encodings.position_embeddings", "head.asked.weight"),
    *layer("decoder.decoding_cross_attention", "backbone.answer", "mixer", CROSS),
)
#: what is asked for a label
LABEL = (
    Row("decoder.decoder.output_position_encodings.position_embeddings", "head.asked.weight"),
    *layer("decoder.decoder.decoding_cross_attention", "backbone.answer", "mixer", CROSS),
    Row("decoder.decoder.final_layer.*", "head.final.*"),
)
#: colours and places, each mapped
PLACES = (
    Row(
        f"{INPUT}.convnet_1x1.weight",
        "stem.embedding.weight",
        Reshape((-1, "colours", 1, 1), (-1, "colours")),
    ),
    Row(f"{INPUT}.convnet_1x1.bias", "stem.embedding.bias"),
    Row(f"{INPUT}.position_embeddings.position_embeddings", "stem.place.position.table.weight"),
    Row(f"{INPUT}.positions_projection.*", "stem.place.project.*"),
)
MASKED, FOURIER, LEARNED = (
    "PerceiverForMaskedLM",
    "PerceiverForImageClassificationFourier",
    "PerceiverForImageClassificationLearned",
)


def rows(config: Mapping[str, Any]) -> list[Entry]:
    """By the class: how it reads and is asked stands inside the body."""
    kind = (config.get("architectures") or [MASKED])[0]
    if kind == MASKED:
        return [*BODY, *BYTES]
    return [*BODY, *LABEL, *(PLACES if kind == LEARNED else ())]


PICTURES = {
    "head.kind": "query_label",
    "model.query_residual": True,
    "model.key_dim": None,
    "model.cross_heads": 1,
    "stem.kind": "pixels",
    "stem.channels": 3,
}
NEEDS = {"num_cross_attention_heads": 1, "qk_channels": None, "v_channels": None}
ASKED = Field("d_latents", "model.query_dim")

PERCEIVER = Family(
    "perceiver",
    rows,
    (
        Field("d_model", "model.dim"),
        Field("num_latents", "model.latents"),
        Field("d_latents", ("model.latent_dim", "model.ffn_dim")),
        Field("num_self_attends_per_block", "model.num_layers"),
        Field("num_blocks", "model.repeats"),
        Field("num_self_attention_heads", "model.num_heads"),
        Field("hidden_act", "model.mlp", Named({"gelu": "gelu", "relu": "relu"})),
        Field("attention_probs_dropout_prob", "model.dropout"),
    ),
    fixed={"arch": "perceiver_io", "model.norm": "layer"},
    needs={
        "self_attention_widening_factor": 1,
        "cross_attention_widening_factor": 1,
        "cross_attention_shape_for_attention": "kv",
    },
    sizes={"layer": "num_self_attends_per_block", "colours": lambda c: 3},
    heads={
        MASKED: Head(
            "SubquadForMaskedLM",
            "perceiver.",
            (Row("embedding_decoder.bias", "head.final.bias"),),
            (
                Field("vocab_size", ("vocab_size", "head.out_dim")),
                Field("max_position_embeddings", ("stem.max_len", "head.outputs")),
                Field("v_channels", "model.latent_dim"),
                Field("qk_channels", "model.key_dim"),
                Field("num_cross_attention_heads", "model.cross_heads"),
            ),
            {
                "model.query_residual": False,
                "stem.kind": "tokens",
                "stem.position": "learned",
                "head.kind": "query",
            },
            # those of the queries which ask for words, whatever the settings say
            {"qk_channels": 256, "num_cross_attention_heads": 8},
        ),
        FOURIER: Head(
            "SubquadForImageClassification",
            "perceiver.",
            fields=(ASKED,),
            fixed={**PICTURES, "stem.position": "fourier", "stem.mapped": False, "stem.bands": 64},
            needs=NEEDS,
        ),
        LEARNED: Head(
            "SubquadForImageClassification",
            "perceiver.",
            fields=(ASKED, Field("image_size", "stem.image_size", Squared())),
            fixed={**PICTURES, "stem.position": "learned", "stem.mapped": True},
            needs=NEEDS,
        ),
    },
)
