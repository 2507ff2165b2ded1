"""Perceiver AR of https://github.com/krasserm/perceiver-io, as its folders for transformers are:
language, symbolic audio.

It reads the prefix under one norm and latents under another (`subquad.nn.prefix`). There a caller
says how long the prefix is; ours goes by anchors: the output of a position is theirs with the
prefix that ends at its anchor. With `stride` 1 all outputs beyond the first `latents` have as many
latents, as where theirs generates.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from subquad.convert.changes import TurnHeads
from subquad.convert.family import Family, Head
from subquad.convert.fields import Field, Named, Unset
from subquad.convert.rows import Absent, Entry, Row, Spare

__all__ = ["BIASES", "BLOCK", "FIXED", "LANGUAGE", "READ", "SYMBOLIC", "mlp"]

READ, BLOCK = "backbone.read", "backbone.blocks.{layer}"
#: what neither this one nor the package perceiver-ar-pytorch has
BIASES = tuple(
    Absent(f"{at}.{part}.bias", f"{at}.{part}.weight")
    for at in (f"{READ}.mixer", f"{READ}.mlp", f"{BLOCK}.mixers.0", f"{BLOCK}.mlp")
    for part in (("query", "key", "value", "out") if "mixer" in at else ("up", "down"))
    if (at, part) != (f"{READ}.mixer", "out")
)
FIXED = {
    "arch": "perceiver_ar",
    "model.causal": True,
    "model.read": "prefix",
    "model.cross_heads": None,
    "model.norm": "layer",
    "model.mlp": "gelu",
    "stem.kind": "tokens",
    "head.kind": "tokens",
}

SETTINGS = "model_config"


def attention(theirs: str, ours: str) -> Iterator[Entry]:
    """Maps of one attention; rotary channels alternate there."""
    pairs = TurnHeads("heads", "turned")
    yield Row(f"{theirs}.q_proj.weight", f"{ours}.query.weight", pairs)
    yield Row(f"{theirs}.k_proj.weight", f"{ours}.key.weight", pairs)
    yield Row(f"{theirs}.v_proj.weight", f"{ours}.value.weight")
    yield Row(f"{theirs}.o_proj.weight", f"{ours}.out.weight")


def mlp(theirs: str, ours: str, last: int) -> Iterator[Entry]:
    """Two maps, the second by its place there."""
    yield Row(f"{theirs}.1.weight", f"{ours}.up.weight")
    yield Row(f"{theirs}.{last}.weight", f"{ours}.down.weight")


def rows(config: Mapping[str, Any]) -> list[Entry]:
    """All; words are told by the table that reads them."""
    told = config[SETTINGS]
    read, layer = "cross_attention", "self_attention.{layer}"
    adapter = "input_adapter"
    made: list[Entry] = [
        Row(f"{adapter}.txt_embedding.weight", "stem.embedding.weight"),
        Spare(f"{adapter}.frq_pos_encoding.inv_freq", f"aside.{adapter}.inv_freq"),
        Row(f"{read}.0.module.q_norm.*", f"{READ}.norms.0.*"),
        Row(f"{read}.0.module.kv_norm.*", f"{READ}.norms.1.*"),
        *attention(f"{read}.0.module.attention", f"{READ}.mixer"),
        Row(f"{read}.0.module.attention.o_proj.bias", f"{READ}.mixer.out.bias"),
        Row(f"{read}.1.module.0.*", f"{READ}.norms.2.*"),
        *mlp(f"{read}.1.module", f"{READ}.mlp", 3),
        Row(f"{layer}.0.module.norm.*", f"{BLOCK}.norms.0.*"),
        *attention(f"{layer}.0.module.attention", f"{BLOCK}.mixers.0"),
        Row(f"{layer}.1.module.0.*", f"{BLOCK}.norms.1.*"),
        *mlp(f"{layer}.1.module", f"{BLOCK}.mlp", 3),
        *BIASES,
    ]
    if told["abs_pos_emb"]:
        made.append(Row(f"{adapter}.pos_embedding.weight", "stem.position.table.weight"))
    if told["output_norm"]:
        made.append(Row("out_norm.*", "backbone.norm.*"))
    if told["output_bias"]:
        made.append(Row("output_adapter.bias", "head.project.bias"))
    return made


def turned(config: Mapping[str, Any]) -> int:
    """How many channels of a head turn. ValueError if ours would turn others."""
    told = config[SETTINGS]
    width = told["num_channels"] // told["num_heads"]
    half = width // 2 if told["abs_pos_emb"] else width
    if half % 2 or half == 0:
        raise ValueError(
            f"with abs_pos_emb {told['abs_pos_emb']} and num_heads {told['num_heads']} it turns "
            f"{half} of {width} channels of a head, and ours an even number"
        )
    return half


def follows(config: Mapping[str, Any]) -> dict[str, dict]:
    """Widths inside feed-forward parts."""
    turned(config)
    told = config[SETTINGS]
    wide = {
        name: told["num_channels"] * told[f"{part}_attention_widening_factor"]
        for name, part in (("ffn_dim", "self"), ("cross_ffn_dim", "cross"))
    }
    return {"model": wide}


LANGUAGE = Family(
    "perceiver-ar-causal-language-model",
    rows,
    (
        Field(f"{SETTINGS}.vocab_size", "vocab_size"),
        Field(f"{SETTINGS}.max_seq_len", "stem.max_len"),
        Field(f"{SETTINGS}.max_latents", "model.latents"),
        Field(f"{SETTINGS}.num_channels", "model.dim"),
        Field(f"{SETTINGS}.num_heads", "model.num_heads"),
        Field(f"{SETTINGS}.num_self_attention_layers", "model.num_layers"),
        Field(f"{SETTINGS}.num_self_attention_rotary_layers", "model.position_layers", Unset(-1)),
        Field(f"{SETTINGS}.cross_attention_dropout", "model.cross_dropout"),
        Field(f"{SETTINGS}.residual_dropout", "model.dropout"),
        Field(f"{SETTINGS}.output_norm", "model.wiring", Named({False: "pre_open", True: "pre"})),
        Field(f"{SETTINGS}.output_bias", "head.bias"),
        Field(
            f"{SETTINGS}.abs_pos_emb",
            "model.position",
            Named({True: "rotary_half", False: "rotary"}),
        ),
        Field(f"{SETTINGS}.abs_pos_emb", "stem.position", Named({True: "learned", False: "none"})),
    ),
    fixed={**FIXED, "model.head_dim": None, "tie_word_embeddings": True},
    needs={"tie_word_embeddings": True},
    sizes={
        "layer": f"{SETTINGS}.num_self_attention_layers",
        "heads": f"{SETTINGS}.num_heads",
        "turned": turned,
    },
    heads={"PerceiverCausalLanguageModel": Head("SubquadForCausalLM", "backend_model.")},
    derived=follows,
    # of versions that do not say it yet
    defaults={SETTINGS: {"num_self_attention_rotary_layers": 1, "residual_dropout": 0.0}},
    returns=True,
    note="outputs are theirs with the prefix_len of their anchors, model.stride apart",
)
SYMBOLIC = replace(
    LANGUAGE,
    name="perceiver-ar-symbolic-audio-model",
    heads={"PerceiverSymbolicAudioModel": Head("SubquadForCausalLM", "backend_model.")},
)
