"""wav2vec2-conformer (https://huggingface.co/docs/transformers/model_doc/wav2vec2-conformer): waves
through convolutions, then a Conformer with relative positions. Labels of CTC come as
log-probabilities. Theirs lets padding into its convolutions, ours does not."""

from collections.abc import Mapping
from typing import Any

from subquad.convert.changes import Reshape, Turn
from subquad.convert.family import BODY, Family, Head
from subquad.convert.fields import Field, Named, Spelled
from subquad.convert.rows import Absent, Entry, Row, Spare

__all__ = ["WAV2VEC2_CONFORMER"]

BLOCK, LAYER = "backbone.blocks.{layer}", "encoder.layers.{layer}"
CONV = "feature_extractor.conv_layers.{conv}"

#: theirs, ours: maps and norms of a layer that change nothing but the name
PLAIN = {
    "ffn1_layer_norm": "norm_before",
    "ffn1.intermediate_dense": "before.up",
    "ffn1.output_dense": "before.down",
    "self_attn_layer_norm": "norms.0",
    "self_attn.linear_q": "mixers.0.query",
    "self_attn.linear_k": "mixers.0.key",
    "self_attn.linear_v": "mixers.0.value",
    "self_attn.linear_out": "mixers.0.out",
    "conv_module.layer_norm": "norm_conv",
    "conv_module.batch_norm": "conv.norm",
    "ffn2_layer_norm": "norms.1",
    "ffn2.intermediate_dense": "mlp.up",
    "ffn2.output_dense": "mlp.down",
    "final_layer_norm": "norm_out",
}


def rows(config: Mapping[str, Any]) -> list[Entry]:
    """Convolutions over the wave, and the layers."""
    point, taps = Reshape((-1, "dim", 1), (-1, "dim")), Reshape(("dim", 1, -1), ("dim", -1))
    made: list[Entry] = [
        Row(f"{CONV}.conv.weight", "stem.convs.{conv}.weight"),
        Row("feature_projection.layer_norm.*", "stem.norm.*"),
        Row("feature_projection.projection.*", "stem.project.*"),
        *(Row(f"{LAYER}.{theirs}.*", f"{BLOCK}.{ours}.*") for theirs, ours in PLAIN.items()),
        *(
            Row(f"{LAYER}.conv_module.batch_norm.{name}", f"{BLOCK}.conv.norm.{name}")
            for name in ("running_mean", "running_var", "num_batches_tracked")
        ),
        Row(f"{LAYER}.self_attn.pos_bias_u", f"{BLOCK}.mixers.0.position.u"),
        Row(f"{LAYER}.self_attn.pos_bias_v", f"{BLOCK}.mixers.0.position.v"),
        Row(
            f"{LAYER}.self_attn.linear_pos.weight",
            f"{BLOCK}.mixers.0.position.table.weight",
            Turn(),
        ),
        Row(f"{LAYER}.conv_module.pointwise_conv1.weight", f"{BLOCK}.conv.up.weight", point),
        Row(f"{LAYER}.conv_module.depthwise_conv.weight", f"{BLOCK}.conv.conv.weight", taps),
        Row(f"{LAYER}.conv_module.pointwise_conv2.weight", f"{BLOCK}.conv.down.weight", point),
        *(
            Absent(f"{BLOCK}.conv.{name}.bias", f"{BLOCK}.conv.{name}.weight")
            for name in ("up", "conv", "down")
        ),
        Row("encoder.layer_norm.*", "backbone.norm.*"),
        # in their files, and in no forward of theirs
        Spare("encoder.pos_conv_embed.conv.bias", "aside.pos_conv_embed.bias"),
        *(
            Spare(f"encoder.pos_conv_embed.conv.{name}", f"aside.pos_conv_embed.{name}")
            for name in (
                "parametrizations.weight.original0",
                "parametrizations.weight.original1",
                "weight_g",
                "weight_v",
            )
        ),
        # of what is hidden in training
        Spare("masked_spec_embed", "aside.masked_spec_embed"),
    ]
    if config["conv_bias"]:
        made.append(Row(f"{CONV}.conv.bias", "stem.convs.{conv}.bias"))
    which = "{conv}" if config["feat_extract_norm"] == "layer" else "0"
    made.append(
        Row(
            f"feature_extractor.conv_layers.{which}.layer_norm.*",
            f"stem.norms.{which}.*",
        )
    )
    return made


WAV2VEC2_CONFORMER = Family(
    "wav2vec2-conformer",
    rows,
    (
        Field("hidden_size", "model.dim"),
        Field("num_hidden_layers", "model.num_layers"),
        Field("num_attention_heads", "model.num_heads"),
        Field("intermediate_size", "model.ffn_dim"),
        Field("conv_depthwise_kernel_size", "model.kernel"),
        Field("layer_norm_eps", ("model.norm_last", "stem.norm"), Spelled("layer")),
        Field("hidden_act", "model.mlp", Named({"swish": "swish", "silu": "swish"})),
        Field("hidden_dropout", "model.dropout"),
        Field("vocab_size", "vocab_size"),
        Field("conv_dim", "stem.channels"),
        Field("conv_kernel", "stem.kernels"),
        Field("conv_stride", "stem.strides"),
        Field("conv_bias", "stem.bias"),
        Field("feat_extract_norm", "stem.norms", Named({"group": "first", "layer": "layer"})),
        Field("feat_proj_dropout", "stem.dropout"),
    ),
    fixed={
        "arch": "conformer",
        "model.mixer": "full",
        "model.position": "xl",
        "model.conv": "around",
        "model.norm": "batch",
        "model.wiring": "macaron",
        "stem.kind": "waves",
    },
    needs={
        "position_embeddings_type": "relative",
        "feat_extract_activation": "gelu",
        "add_adapter": False,
    },
    sizes={
        "layer": "num_hidden_layers",
        "conv": lambda c: len(c["conv_dim"]),
        "dim": "hidden_size",
    },
    heads={
        "Wav2Vec2ConformerForCTC": Head(
            "SubquadForCTC",
            "wav2vec2_conformer.",
            (Row("lm_head.*", "head.project.*"),),
            (Field("pad_token_id", "head.blank"), Field("final_dropout", "head.dropout")),
            {"head.kind": "ctc"},
        ),
        "Wav2Vec2ConformerModel": BODY,
    },
)
