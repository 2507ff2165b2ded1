"""Perceiver IO of https://github.com/krasserm/perceiver-io, as its folders for transformers are:
language, labels of texts, labels of pictures. Pictures come with their channels first, as
everywhere here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from subquad.convert.changes import Copy
from subquad.convert.family import Family, Head
from subquad.convert.fields import Field
from subquad.convert.rows import Entry, Row, Spare

__all__ = ["IMAGES", "LANGUAGE", "TEXTS"]

SETTINGS = "model_config"
ENCODER, DECODER = f"{SETTINGS}.encoder", f"{SETTINGS}.decoder"
PARTS = (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("o_proj", "out"))


def mlp(theirs: str, ours: str, norm: int) -> Iterator[Entry]:
    """A norm and two maps."""
    yield Row(f"{theirs}.0.*", f"{ours}.norms.{norm}.*")
    yield Row(f"{theirs}.1.*", f"{ours}.mlp.up.*")
    yield Row(f"{theirs}.3.*", f"{ours}.mlp.down.*")


def cross(theirs: str, ours: str, inside: str) -> Iterator[Entry]:
    """What reads a memory; `inside`: a residual connection's name."""
    at = f"{theirs}.0{inside}"
    yield Row(f"{at}.q_norm.*", f"{ours}.norms.0.*")
    yield Row(f"{at}.kv_norm.*", f"{ours}.norms.1.*")
    for a, b in PARTS:
        yield Row(f"{at}.attention.{a}.*", f"{ours}.mixer.{b}.*")
    yield from mlp(f"{theirs}.1.module", ours, 2)


def rows(config: Mapping[str, Any]) -> list[Entry]:
    """What all have: latents read, think, and are asked."""
    layer, block = "0.self_attn_1.{layer}", "backbone.blocks.{layer}"
    kept = config[SETTINGS]["decoder"]["cross_attention_residual"]
    return [
        Row("0.latent_provider._query", "backbone.latents.weight"),
        *cross("0.cross_attn_1", "backbone.reads.0", ".module"),
        Row(f"{layer}.0.module.norm.*", f"{block}.norms.0.*"),
        *(Row(f"{layer}.0.module.attention.{a}.*", f"{block}.mixers.0.{b}.*") for a, b in PARTS),
        *mlp(f"{layer}.1.module", block, 1),
        *cross("1.cross_attn", "backbone.answer", ".module" if kept else ""),
        Row("1.output_query_provider._query", "head.asked.weight"),
    ]


PLACES = Row("0.input_adapter.pos_embedding.weight", "stem.position.table.weight")
FINAL = Row("1.output_adapter.linear.*", "head.final.*")


def language(config: Mapping[str, Any]) -> list[Entry]:
    """Words are told by the table that reads them, unless queries are of another width."""
    table = "0.input_adapter.txt_embedding.weight"
    if config[SETTINGS]["decoder"]["num_output_query_channels"] is not None:
        return [*rows(config), PLACES, Row(table, "stem.embedding.weight"), FINAL]
    both = ["stem.embedding.weight", "head.final.weight"]
    bias = Row("1.output_adapter.bias", "head.final.bias")
    return [*rows(config), PLACES, Row(table, both, Copy()), bias]


def texts(config: Mapping[str, Any]) -> list[Entry]:
    """Words in, a label out."""
    words = Row("0.input_adapter.txt_embedding.weight", "stem.embedding.weight")
    return [*rows(config), PLACES, words, FINAL]


def images(config: Mapping[str, Any]) -> list[Entry]:
    """Pixels in, a label out; Fourier features are formed anew."""
    places = Spare("0.input_adapter.position_encoding.position_encoding", "aside.places")
    return [*rows(config), places, FINAL]


def widths(config: Mapping[str, Any], inputs: int, looks: int) -> dict[str, Any]:
    """Settings of ours that follow from its widths: `inputs` of what is read, and `looks` of the
    queries and keys that read it by default. ValueError for widths that ours cannot have.
    """
    told = config[SETTINGS]
    encoder, decoder, latent = told["encoder"], told["decoder"], told["num_latent_channels"]
    asked = decoder["num_output_query_channels"] or inputs

    def found(part: Mapping[str, Any], kind: str, otherwise: int) -> tuple[int, int]:
        keys = part[f"num_{kind}_attention_qk_channels"] or otherwise
        return keys, part[f"num_{kind}_attention_v_channels"] or keys

    own = found(encoder, "self", latent)
    pairs = (found(encoder, "cross", looks), own, found(decoder, "cross", asked))
    factors = {
        encoder["cross_attention_widening_factor"],
        encoder["self_attention_widening_factor"],
        decoder["cross_attention_widening_factor"],
    }
    made = {"query_dim": asked, "ffn_dim": latent * max(factors), "key_dim": own[0]}
    if pairs == ((inputs, inputs), (latent, latent), (latent, latent)):
        made["key_dim"] = None
    elif pairs != ((own[0], latent), own, (own[0], asked)) or own[1] != latent:
        raise ValueError(
            f"its keys and values are {pairs} wide where it reads, thinks and answers; in ours all "
            f"keys are equally wide, and values {latent}, {latent} and {asked}; or both are as "
            f"wide as what is read, {inputs}, {latent} and {latent}"
        )
    if len(factors) > 1:
        raise ValueError(f"its widening factors {sorted(factors)} differ; in ours they are equal")
    return made


def of_words(config: Mapping[str, Any]) -> dict[str, dict]:
    """Widths, of models that read words."""
    told = config[SETTINGS]
    inputs = told["encoder"]["num_input_channels"]
    return {"model": widths(config, inputs, told["num_latent_channels"])}


def of_pixels(config: Mapping[str, Any]) -> dict[str, dict]:
    """Widths and size, of models that read pictures."""
    encoder = config[SETTINGS]["encoder"]
    *size, channels = encoder["image_shape"]
    inputs = channels + 2 * (1 + 2 * encoder["num_frequency_bands"])
    return {
        "model": {"dim": inputs, **widths(config, inputs, inputs)},
        "stem": {"image_size": [*size], "channels": channels},
    }


CLASSES = Field(f"{DECODER}.num_classes", "head.num_labels")

LANGUAGE = Family(
    "perceiver-io-masked-language-model",
    language,
    (
        Field(f"{SETTINGS}.num_latents", "model.latents"),
        Field(f"{SETTINGS}.num_latent_channels", "model.latent_dim"),
        Field(f"{ENCODER}.num_self_attention_layers_per_block", "model.num_layers"),
        Field(f"{ENCODER}.num_self_attention_blocks", "model.repeats"),
        Field(f"{ENCODER}.num_self_attention_heads", "model.num_heads"),
        Field(f"{ENCODER}.num_cross_attention_heads", "model.cross_heads"),
        Field(f"{DECODER}.num_cross_attention_heads", "model.cross_heads"),
        Field(f"{DECODER}.cross_attention_residual", "model.query_residual"),
        Field(f"{ENCODER}.dropout", "model.dropout"),
        Field(f"{ENCODER}.vocab_size", "vocab_size"),
        Field(f"{ENCODER}.max_seq_len", "stem.max_len"),
        Field(f"{ENCODER}.num_input_channels", "model.dim"),
    ),
    fixed={
        "arch": "perceiver_io",
        "model.norm": "layer",
        "model.mlp": "gelu",
        "stem.kind": "tokens",
        "stem.position": "learned",
    },
    needs={
        f"{ENCODER}.num_cross_attention_layers": 1,
        f"{ENCODER}.first_self_attention_block_shared": True,
    },
    sizes={"layer": f"{ENCODER}.num_self_attention_layers_per_block"},
    heads={
        "PerceiverMaskedLanguageModel": Head(
            "SubquadForMaskedLM",
            "backend_model.",
            fields=(
                Field(f"{DECODER}.vocab_size", "head.out_dim"),
                Field(f"{DECODER}.max_seq_len", "head.outputs"),
            ),
            fixed={"head.kind": "query"},
        )
    },
    derived=of_words,
    defaults={},
    returns=True,
)
TEXTS = replace(
    LANGUAGE,
    name="perceiver-io-text-classifier",
    rows=texts,
    heads={
        "PerceiverTextClassifier": Head(
            "SubquadForSequenceClassification",
            "backend_model.",
            fields=(CLASSES,),
            fixed={"head.kind": "query_label"},
            needs={f"{DECODER}.num_output_queries": 1},
        )
    },
)
IMAGES = replace(
    LANGUAGE,
    name="perceiver-io-image-classifier",
    rows=images,
    fields=(*LANGUAGE.fields[:-3], Field(f"{ENCODER}.num_frequency_bands", "stem.bands")),
    fixed={
        **LANGUAGE.fixed,
        "stem.kind": "pixels",
        "stem.position": "fourier",
        "stem.mapped": False,
    },
    heads={
        "PerceiverImageClassifier": replace(
            TEXTS.heads["PerceiverTextClassifier"], ours="SubquadForImageClassification"
        )
    },
    derived=of_pixels,
)
