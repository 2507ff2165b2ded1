"""The package performer-pytorch (https://github.com/lucidrains/performer-pytorch): `PerformerLM`,
both ways and causal, with the softmax kernel or the generalised one.

Its softmax kernel adds 1e-4 to features, beside a maximum over all keys of the input, and its
causal sums 1e-6; a mixer of its own has both (`nn.OffsetKernelAttention`). config.json beside the
state dict has the arguments that the model was made with.
"""

from collections.abc import Mapping
from math import log
from typing import Any

from subquad.convert.changes import Change, Split, Turn, TurnHeads
from subquad.convert.family import Family, Head
from subquad.convert.fields import Field, Named
from subquad.convert.rows import Absent, Entry, Row, Spare, Tied

__all__ = ["PERFORMER"]

BLOCK, LAYER = "backbone.blocks.{layer}", "layers.{layer}"
NET, AGAIN, MIXER = "performer.net", "performer.proj_updater.instance", f"{BLOCK}.mixers.0"


def layers(config: Mapping[str, Any]) -> list[Row]:
    """A layer, by its names within the stack."""
    pairs, columns = (
        (TurnHeads("heads"), Turn()) if config["rotary_position_emb"] else (Change(),) * 2
    )
    biased = {True: "*", False: "weight"}
    gated = [f"{BLOCK}.mlp.gate.*", f"{BLOCK}.mlp.up.*"]
    up = (gated, Split()) if config["ff_glu"] else (f"{BLOCK}.mlp.up.*",)
    of, out = biased[config["qkv_bias"]], biased[config["attn_out_bias"]]
    return [
        Row(f"{LAYER}.0.norm.*", f"{BLOCK}.norms.0.*"),
        Row(f"{LAYER}.0.fn.to_q.{of}", f"{MIXER}.query.{of}", pairs),
        Row(f"{LAYER}.0.fn.to_k.{of}", f"{MIXER}.key.{of}", pairs),
        Row(f"{LAYER}.0.fn.to_v.{of}", f"{MIXER}.value.{of}"),
        Row(f"{LAYER}.0.fn.to_out.{out}", f"{MIXER}.out.{out}"),
        Row(
            f"{LAYER}.0.fn.fast_attention.projection_matrix",
            f"{MIXER}.feature_map.projection",
            columns,
        ),
        Row(f"{LAYER}.1.norm.*", f"{BLOCK}.norms.1.*"),
        Row(f"{LAYER}.1.fn.fn.w1.*", *up),
        Row(f"{LAYER}.1.fn.fn.w2.*", f"{BLOCK}.mlp.down.*"),
    ]


def rows(config: Mapping[str, Any]) -> list[Entry]:
    """All; what redraws the features names every tensor of the stack again."""
    if config["dim_head"] * config["heads"] != config["dim"]:
        raise ValueError(
            f"this performer-pytorch has {config['heads']} heads of width {config['dim_head']} in "
            f"a model of width {config['dim']}, and ours divides the width among the heads"
        )
    made: list[Entry] = [
        Row("token_emb.weight", "stem.embedding.weight"),
        Row("norm.*", "backbone.norm.*"),
        Spare("performer.proj_updater.calls_since_last_redraw", "aside.calls_since_last_redraw"),
    ]
    for row in layers(config):
        (theirs,) = row.theirs
        made.append(Row(f"{NET}.{theirs}", row.ours, *row.changes))
        made.append(Tied(f"{AGAIN}.{theirs}", f"{NET}.{theirs}"))
    parts = [] if config["qkv_bias"] else ["query", "key", "value"]
    parts += [] if config["attn_out_bias"] else ["out"]
    made += [Absent(f"{MIXER}.{part}.bias", f"{MIXER}.{part}.weight") for part in parts]
    if not config["rotary_position_emb"]:
        return [*made, Row("pos_emb.emb.weight", "stem.position.table.weight")]
    # sinusoids, formed in float32
    return [
        *made,
        Spare("pos_emb.emb", "aside.pos_emb.emb"),
        Spare("layer_pos_emb.emb", "aside.layer_pos_emb.emb"),
    ]


def features(config: Mapping[str, Any]) -> dict[str, dict]:
    """As many as it takes by default."""
    width = config["dim_head"]
    return {
        "model": {
            "features": config["nb_features"] or int(width * log(width)),
            "ffn_dim": config["ff_mult"] * config["dim"],
        }
    }


def out(config: Mapping[str, Any]) -> tuple[Entry, ...]:
    """What tells words: a map, or the table that reads them."""
    return () if config["tie_embed"] else (Row("to_out.*", "head.project.*"),)


WORDS: Mapping[str, Any] = {
    "rows": out,
    "fields": (
        Field("tie_embed", "tie_word_embeddings"),
        Field("tie_embed", "head.bias", Named({True: False, False: True})),
    ),
    "fixed": {"head.kind": "tokens"},
}

PERFORMER = Family(
    "performer-pytorch",
    rows,
    (
        Field("num_tokens", "vocab_size"),
        Field("max_seq_len", "stem.max_len"),
        Field("dim", "model.dim"),
        Field("depth", "model.num_layers"),
        Field("heads", "model.num_heads"),
        Field("causal", "model.causal"),
        Field(
            "generalized_attention",
            "model.kernel",
            Named({True: "relu", False: "softmax_offset"}),
            when=("causal", Named({True: "relu_offset", False: "softmax_offset"})),
        ),
        Field("emb_dropout", "stem.dropout"),
        Field("ff_dropout", "model.dropout"),
        Field("ff_glu", "model.mlp", Named({False: "gelu", True: "geglu"})),
        Field(
            "rotary_position_emb",
            "model.position",
            Named({True: "rotary", False: "none"}),
        ),
        Field(
            "rotary_position_emb",
            "stem.position",
            Named({True: "sinusoidal", False: "learned"}),
        ),
    ),
    fixed={
        "arch": "performer",
        "model.norm": "layer",
        "stem.kind": "tokens",
    },
    needs={
        "no_projection": False,
        "local_attn_heads": 0,
        "reversible": False,
        "use_scalenorm": False,
        "use_rezero": False,
        "cross_attend": False,
        "axial_position_emb": False,
        "shift_tokens": False,
    },
    sizes={"layer": "depth", "heads": "heads"},
    heads={
        "PerformerLM": Head("SubquadForMaskedLM", needs={"causal": False}, **WORDS),
        "PerformerLM(causal=True)": Head("SubquadForCausalLM", needs={"causal": True}, **WORDS),
    },
    derived=features,
    # of its arguments, those that need not be given
    defaults={
        "dim_head": 64,
        "local_attn_heads": 0,
        "causal": False,
        "ff_mult": 4,
        "nb_features": None,
        "reversible": False,
        "ff_glu": False,
        "emb_dropout": 0.0,
        "ff_dropout": 0.0,
        "generalized_attention": False,
        "use_scalenorm": False,
        "use_rezero": False,
        "cross_attend": False,
        "no_projection": False,
        "tie_embed": False,
        "rotary_position_emb": True,
        "axial_position_emb": False,
        "qkv_bias": False,
        "attn_out_bias": False,
        "shift_tokens": False,
    },
    neutral=(
        "local_window_size",
        "feature_redraw_interval",
        "ff_chunks",
        "attn_dropout",
        "axial_position_shape",
        "auto_check_redraw",
    ),
    signature=("token_emb.weight", "performer.net.layers.0.0.fn.fast_attention.projection_matrix"),
)
