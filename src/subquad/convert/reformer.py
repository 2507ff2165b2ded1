"""Reformer (https://huggingface.co/docs/transformers/model_doc/reformer): reversible layers, axial
positions, chunks of neighbours, and chunks of tokens that hash alike, in a circle.

Its hashes are no weights: theirs are drawn in every call, or from a seed; ours from a seed, once
for all heads, and kept. With equal hashes the logits are equal. Models that look both ways let
local chunks look around in a circle too, which ours do not: only those that hash in all layers are
converted.
"""

from collections.abc import Mapping
from functools import partial
from math import lcm
from typing import Any

from subquad.convert.changes import Reshape
from subquad.convert.family import BODY, Family, Head
from subquad.convert.fields import Each, Field, Named, Spelled, Told
from subquad.convert.rows import Entry, Made, Row
from subquad.ops.hashing import rotations

__all__ = ["REFORMER"]

BLOCK, LAYER = "backbone.blocks.{layer}", "encoder.layers.{layer}"


class Buckets(Told):
    """One number or factors there, whose first counts least; factors here, whose last does."""

    def there(self, value: Any) -> Any:
        if value is None:
            raise ValueError("is not set, and would follow from the length of the input")
        return [value] if isinstance(value, int) else [*value][::-1]

    def back(self, value: Any) -> Any:
        return value[0] if len(value) == 1 else [*value][::-1]


PARTS = {"local": ("query", "key", "value"), "lsh": ("query_key", "value")}


def rows(config: Mapping[str, Any]) -> list[Entry]:
    """What all layers have, and the projections of each kind."""
    made: list[Entry] = [*COMMON]
    for i, kind in enumerate(config["attn_layers"]):
        theirs = f"encoder.layers.{i}.attention.self_attention"
        ours = f"backbone.blocks.{i}.mixers.0"
        made += [Row(f"{theirs}.{part}.weight", f"{ours}.{part}.weight") for part in PARTS[kind]]
        if kind == "lsh":
            factors = Buckets().there(config["num_buckets"])
            width = config["attention_head_size"]
            draw = partial(rotations, config["num_hashes"], factors, width, i)
            made.append(Made(f"{ours}.directions", draw))
    return made


def hashing(config: Mapping[str, Any]) -> dict[str, dict]:
    """Settings of layers that hash, if there are any. ValueError where padding to whole chunks of
    both kinds would add more than ours sees.
    """
    if "local" in config["attn_layers"] and not config["is_decoder"]:
        raise ValueError(
            "this reformer looks both ways, and its first local chunk at the last one; in ours "
            "local chunks do not go round in a circle"
        )
    if "lsh" not in config["attn_layers"]:
        return {}
    size, near = config["lsh_attn_chunk_length"], config["local_attn_chunk_length"]
    if "local" in config["attn_layers"] and lcm(size, near) != size:
        raise ValueError(
            f"its local chunks of {near} do not divide its hashed ones of {size}: inputs would be "
            "filled up to both, and ours are not"
        )
    for name, wanted in (("lsh_num_chunks_before", 1), ("lsh_num_chunks_after", 0)):
        if config[name] != wanted:
            raise ValueError(f"this reformer has {name} {config[name]}; ours has {wanted}")
    try:
        buckets = Buckets().there(config["num_buckets"])
    except ValueError as error:
        raise ValueError(f"num_buckets {error}") from error
    return {"model": {"buckets": buckets, "rounds": config["num_hashes"], "window": size}}


COMMON: tuple[Entry, ...] = (
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
    Row(f"{LAYER}.attention.output.dense.weight", f"{BLOCK}.mixers.0.out.weight"),
    Row(f"{LAYER}.attention.layer_norm.*", f"{BLOCK}.norms.0.*"),
    Row(f"{LAYER}.feed_forward.layer_norm.*", f"{BLOCK}.norms.1.*"),
    Row(f"{LAYER}.feed_forward.dense.dense.*", f"{BLOCK}.mlp.up.*"),
    Row(f"{LAYER}.feed_forward.output.dense.*", f"{BLOCK}.mlp.down.*"),
    Row("encoder.layer_norm.*", "backbone.norm.*"),
)

WORDS = (
    Row("lm_head.decoder.weight", "head.project.weight"),
    # which their forward leaves out
    Row("lm_head.bias", "aside.lm_head.bias"),
)
PLAIN = {"head.kind": "tokens", "head.bias": False}

REFORMER = Family(
    "reformer",
    rows,
    (
        Field("vocab_size", "vocab_size"),
        Field("hidden_size", "model.dim"),
        Field("num_hidden_layers", "model.num_layers"),
        Field("num_attention_heads", "model.num_heads"),
        Field("attention_head_size", "model.head_dim"),
        Field("feed_forward_size", "model.ffn_dim"),
        Field("attn_layers", "model.layers", Each({"local": "chunks", "lsh": "sorted"})),
        Field("local_attn_chunk_length", "model.local_window"),
        Field("hidden_act", "model.mlp", Named({"relu": "relu", "gelu": "gelu"})),
        Field("layer_norm_eps", "model.norm", Spelled("layer")),
        Field("hidden_dropout_prob", "model.dropout"),
        Field("is_decoder", "model.causal"),
        Field("axial_pos_shape", "stem.axial_shape"),
        Field("axial_pos_embds_dim", "stem.axial_dims"),
    ),
    fixed={
        "arch": "reformer",
        "model.position": "none",
        "model.wiring": "reversible",
        "model.bias": False,
        "stem.kind": "tokens",
        "stem.position": "axial",
    },
    needs={
        "axial_pos_embds": True,
        "local_num_chunks_before": 1,
        "local_num_chunks_after": 0,
        "tie_word_embeddings": False,
    },
    derived=hashing,
    sizes={
        "layer": "num_hidden_layers",
        "first": "axial_pos_embds_dim.0",
        "second": "axial_pos_embds_dim.1",
    },
    heads={
        "ReformerModelWithLMHead": Head(
            "SubquadForCausalLM", "reformer.", WORDS, fixed=PLAIN, needs={"is_decoder": True}
        ),
        "ReformerForMaskedLM": Head(
            "SubquadForMaskedLM", "reformer.", WORDS, fixed=PLAIN, needs={"is_decoder": False}
        ),
        "ReformerModel": BODY,
    },
)
