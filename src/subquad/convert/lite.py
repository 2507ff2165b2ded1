"""Lite Transformer as https://github.com/mit-han-lab/lite-transformer saves it: a checkpoint of
fairseq, model `transformer_multibranch_v2`, with the options of the training command beside the
state dict. Numbers of words are those of its dict.txt; 0, 1 and 2 are its begin, padding and end.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from subquad.convert.changes import Reshape
from subquad.convert.family import Family, Head
from subquad.convert.fields import Field
from subquad.convert.led import attention
from subquad.convert.rows import Entry, Row, Spare, Tied

__all__ = ["LITE"]

SIDES = ("encoder", "decoder")
ATTENTION, CONV = "self_attn.branches.0", "self_attn.branches.1"

#: base_architecture of the release's model
DEFAULTS = {
    "encoder_embed_dim": 512,
    "encoder_ffn_embed_dim": 2048,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "decoder_attention_heads": 8,
    "encoder_kernel_size_list": [3, 7, 15, 31, 31, 31],
    "decoder_kernel_size_list": [3, 7, 15, 31, 31, 31],
    "encoder_glu": True,
    "decoder_glu": True,
    "dropout": 0.1,
    "attention_dropout": 0.0,
}
TOKENS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}


def side(name: str, config: Mapping[str, Any]) -> Iterator[Entry]:
    """What encoder and decoder have in common."""
    layer, block = f"{name}.layers.{{{name}}}", f"{name}.backbone.blocks.{{{name}}}"
    mixer = f"{block}.mixers.0"
    yield from attention(f"{layer}.{ATTENTION}", f"{mixer}.first")
    enter = "enter.up" if config["glu"] else "enter"
    yield Row(f"{layer}.{CONV}.linear1.*", f"{mixer}.second.{enter}.*")
    yield Row(f"{layer}.{CONV}.linear2.*", f"{mixer}.second.out.*")
    kernel = f"{mixer}.second.kernel.weight"
    if config["conv"] == "dynamic":
        yield Row(f"{layer}.{CONV}.weight_linear.weight", kernel)
    elif config["kernel_axes"] == 3:
        yield Row(f"{layer}.{CONV}.weight", kernel, Reshape(("heads", 1, -1), ("heads", -1)))
    else:
        yield Row(f"{layer}.{CONV}.weight", kernel)
    norms = ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm")
    for i, norm in enumerate(norms if name == "decoder" else norms[::2]):
        yield Row(f"{layer}.{norm}.*", f"{block}.norms.{i}.*")
    yield Row(f"{layer}.fc1.*", f"{block}.mlp.up.*")
    yield Row(f"{layer}.fc2.*", f"{block}.mlp.down.*")
    yield Spare(f"{name}.version", f"aside.{name}.version")
    yield Spare(f"{name}.embed_positions._float_tensor", f"aside.{name}.float")


def rows(config: Mapping[str, Any]) -> list[Entry]:
    """Both sides, one table of words, and what the decoder reads by."""
    layer, block = "decoder.layers.{decoder}", "decoder.backbone.blocks.{decoder}"
    return [
        Row("encoder.embed_tokens.weight", "decoder.stem.embedding.weight"),
        Tied("decoder.embed_tokens.weight", "encoder.embed_tokens.weight"),
        *side("encoder", config),
        *side("decoder", config),
        *attention(f"{layer}.encoder_attn", f"{block}.mixers.1"),
    ]


def branches(told: Mapping[str, Any]) -> tuple[str, int]:
    """The convolution beside attention, and the heads of either. ValueError for other branches."""
    sides = [told.get(f"{name}_branch_type") or () for name in SIDES]
    # kind:kernel:width:heads
    first, second = ([one.strip("[], ").split(":") for one in side] for side in sides)
    half = str(told["encoder_embed_dim"] // 2)
    fits = (
        first == second
        and [len(one) for one in first] == [4, 4]
        and [first[0][0], first[1][0]] in (["attn", "dynamic"], ["attn", "lightweight"])
        and first[0][2:] == first[1][2:] == [half, first[0][3]]
        and first[1][1] == "default"
        and bool(told["encoder_glu"]) == bool(told["decoder_glu"])
    )
    if not fits:
        raise ValueError(
            f"its branches are {[*sides[0]]} and {[*sides[1]]}; ours are attention and a "
            "convolution, each of half the width and of as many heads, the same on both sides"
        )
    return {"dynamic": "dynamic", "lightweight": "light"}[first[1][0]], int(first[0][3])


def infer(tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Any]:
    """Settings from the options of the training command, and from shapes. ValueError for layers
    that are not attention beside a convolution.
    """
    if not options:
        raise ValueError("the options of the training command (args) are not beside the model")
    told = DEFAULTS | options
    kind, heads = branches(told)
    kernel = tensors.get(f"encoder.layers.0.{CONV}.weight")
    return {
        **told,
        **TOKENS,
        "vocab_size": len(tensors["encoder.embed_tokens.weight"]),
        "conv": kind,
        # a lightweight convolution has no gate, whatever is said
        "glu": kind == "dynamic" and bool(told["encoder_glu"]),
        "heads": heads,
        "kernel_axes": 0 if kernel is None else kernel.dim(),
        "tie_word_embeddings": True,
    }


BOTH = ("model", "encoder.model")

LITE = Family(
    "lite-transformer",
    rows,
    (
        Field("vocab_size", "vocab_size"),
        Field("encoder_embed_dim", ("model.dim", "encoder.model.dim")),
        Field("encoder_ffn_embed_dim", ("model.ffn_dim", "encoder.model.ffn_dim")),
        Field("encoder_layers", "encoder.model.num_layers"),
        Field("decoder_layers", "model.num_layers"),
        Field("encoder_kernel_size_list", "encoder.model.kernels"),
        Field("decoder_kernel_size_list", "model.kernels"),
        Field("heads", ("model.num_heads", "encoder.model.num_heads")),
        Field("decoder_attention_heads", "cross.num_heads"),
        Field("conv", ("model.conv", "encoder.model.conv")),
        Field("glu", ("model.glu", "encoder.model.glu")),
        Field("dropout", ("model.dropout", "encoder.model.dropout")),
        Field("attention_dropout", ("model.drop_weights", "encoder.model.drop_weights")),
    ),
    fixed={
        "arch": "lite_transformer",
        "encoder.arch": "lite_transformer",
        "model.causal": True,
        "encoder.model.causal": False,
        "cross.kind": "full",
        "head.kind": "tokens",
        "head.bias": False,
        **{
            f"{of}.{k}": v
            for of in BOTH
            for k, v in (
                ("mixer", "full"),
                ("position", "none"),
                ("wiring", "post"),
                ("norm", "layer"),
                ("mlp", "relu"),
            )
        },
        **{
            f"{of}stem.{k}": v
            for of in ("", "encoder.")
            for k, v in (("kind", "tokens"), ("position", "fairseq"))
        },
    },
    needs={
        "share_all_embeddings": True,
        "activation_fn": "relu",
        "conv_linear": True,
        "weight_softmax": True,
        "encoder_normalize_before": False,
        "decoder_normalize_before": False,
        "encoder_learned_pos": False,
        "decoder_learned_pos": False,
        "no_token_positional_embeddings": False,
        "adaptive_softmax_cutoff": None,
    },
    sizes={"encoder": "encoder_layers", "decoder": "decoder_layers", "heads": "heads"},
    heads={"TransformerMultibranchModel": Head("SubquadForSeq2SeqLM")},
    derived=lambda c: {
        part: {"scale": c["encoder_embed_dim"] ** 0.5} for part in ("stem", "encoder.stem")
    },
    defaults=DEFAULTS,
    returns=True,
    signature=(
        "encoder.embed_tokens.weight",
        f"encoder.layers.0.{ATTENTION}.q_proj.weight",
        f"encoder.layers.0.{CONV}.linear1.weight",
    ),
    infer=infer,
)
