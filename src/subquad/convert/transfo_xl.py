"""Transformer-XL: the classes that transformers had until version 5, and the state dict of
https://github.com/kimiyoung/transformer-xl, which has the same names without a prefix.

The two count the clusters of rare words in opposite orders: in the original, cluster i is column -i
of the first softmax (utils/proj_adaptive_softmax.py). With `same_length` both count the query
itself among the `mem_len` tokens that it sees, and ours do not.

A state dict tells neither memory nor clamped distances: they are taken as in the release's own
evaluation (`DEFAULTS`), and can be set when the model is used.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from torch import Tensor

from subquad.convert.changes import Flip, Join, Split
from subquad.convert.family import BODY, Family, Head
from subquad.convert.fields import Field, Less, Named, Spelled, Unset
from subquad.convert.rows import Entry, Row, Spare, Tied
from subquad.convert.vocabulary import word_level

__all__ = ["ORIGINAL", "TRANSFO_XL"]

BLOCK, LAYER = "backbone.blocks.{layer}", "layers.{layer}"

#: of TransfoXLConfig
DEFAULTS = {
    "vocab_size": 267735,
    "cutoffs": [20000, 40000, 200000],
    "d_model": 1024,
    "d_embed": 1024,
    "n_head": 16,
    "d_head": 64,
    "d_inner": 4096,
    "div_val": 4,
    "pre_lnorm": False,
    "n_layer": 18,
    "mem_len": 1600,
    "tgt_len": 128,
    "clamp_len": 1000,
    "same_length": True,
    "proj_share_all_but_first": True,
    "attn_type": 0,
    "dropout": 0.1,
    "dropatt": 0.0,
    "untie_r": True,
    "layer_norm_epsilon": 1e-5,
    "eos_token_id": 0,
    "tie_word_embeddings": True,
}
#: where clusters begin, by the size of the vocabulary: WikiText-103 and One Billion Word
CUTOFFS = {267735: [20000, 40000, 200000], 793471: [60000, 100000, 640000]}


def body(config: Mapping[str, Any]) -> list[Entry]:
    """Words in one table or in one for each cluster, and the layers."""
    rows: list[Entry] = [
        Row(
            f"{LAYER}.dec_attn.qkv_net.weight",
            [f"{BLOCK}.mixers.0.{part}.weight" for part in ("query", "key", "value")],
            Split(),
        ),
        Row(f"{LAYER}.dec_attn.r_net.weight", f"{BLOCK}.mixers.0.position.table.weight"),
        Row(f"{LAYER}.dec_attn.o_net.weight", f"{BLOCK}.mixers.0.out.weight"),
        Row(f"{LAYER}.dec_attn.layer_norm.*", f"{BLOCK}.norms.0.*"),
        Row(f"{LAYER}.pos_ff.CoreNet.0.*", f"{BLOCK}.mlp.up.*"),
        Row(f"{LAYER}.pos_ff.CoreNet.3.*", f"{BLOCK}.mlp.down.*"),
        Row(f"{LAYER}.pos_ff.layer_norm.*", f"{BLOCK}.norms.1.*"),
        Spare("pos_emb.inv_freq", "aside.pos_emb.inv_freq"),
    ]
    for theirs, ours in (("r_w_bias", "u"), ("r_r_bias", "v")):
        if config["untie_r"]:
            rows.append(Row(f"{LAYER}.dec_attn.{theirs}", f"{BLOCK}.mixers.0.position.{ours}"))
        else:
            rows.append(Row(theirs, f"backbone.biases.{ours}"))
            rows.append(Tied(f"{LAYER}.dec_attn.{theirs}", theirs))
    words = "stem.embedding.words"
    if config["div_val"] == 1:
        whole = [f"{words}.{{*cluster}}.weight"]
        return [*rows, Row("word_emb.emb_layers.0.weight", whole, Split("words"))]
    return [
        *rows,
        Row("word_emb.emb_layers.{cluster}.weight", f"{words}.{{cluster}}.weight"),
        Row("word_emb.emb_projs.{cluster}", "stem.embedding.maps.{cluster}.weight"),
    ]


def head(config: Mapping[str, Any], *order: Flip) -> list[Entry]:
    """Words by the tables that read them, and how likely each cluster is."""
    rows: list[Entry] = [Tied("crit.out_layers.0.weight", "word_emb.emb_layers.0.weight")]
    if config["cutoffs"]:
        rows.append(Row("crit.cluster_weight", "head.clusters.weight", *order))
        rows.append(Row("crit.cluster_bias", "head.clusters.bias", *order))
    if config["div_val"] == 1:
        return [*rows, Row("crit.out_layers.0.bias", "head.bias")]
    return [
        *rows,
        Tied("crit.out_layers.{later}.weight", "word_emb.emb_layers.{later}.weight"),
        Row(["crit.out_layers.{*cluster}.bias"], "head.bias", Join("words")),
        Row("crit.out_projs.0", "head.tables.maps.0.weight"),
        Tied("crit.out_projs.{later}", "word_emb.emb_projs.{later}"),
    ]


def flipped(config: Mapping[str, Any]) -> list[Entry]:
    """The head of the original."""
    return head(config, Flip())


def infer(tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Any]:
    """Settings from the shapes of a state dict. ValueError where they do not tell the clusters."""
    tables = [t for name, t in tensors.items() if name.startswith("word_emb.emb_layers.")]
    layers = sum(name.endswith(".dec_attn.qkv_net.weight") for name in tensors)
    vocabulary, cutoffs = sum(map(len, tables)), []
    for table in tables[:-1]:
        cutoffs.append(len(table) + (cutoffs[-1] if cutoffs else 0))
    if len(tables) == 1 and "crit.cluster_weight" in tensors:
        if vocabulary not in CUTOFFS:
            raise ValueError(
                f"a vocabulary of {vocabulary} in one table does not tell where its "
                f"{len(tensors['crit.cluster_weight']) + 1} clusters begin; save config.json beside"
            )
        cutoffs = CUTOFFS[vocabulary]
    width = tables[0].shape[1]
    heads, head_dim = tensors["r_w_bias"].shape
    return DEFAULTS | {
        "vocab_size": vocabulary,
        "cutoffs": cutoffs,
        "div_val": width // tables[1].shape[1] if len(tables) > 1 else 1,
        "d_embed": width,
        "d_model": tensors["layers.0.dec_attn.qkv_net.weight"].shape[1],
        "d_inner": len(tensors["layers.0.pos_ff.CoreNet.0.weight"]),
        "n_layer": layers,
        "n_head": heads,
        "d_head": head_dim,
        "untie_r": False,
    }


FIELDS = (
    Field("vocab_size", "vocab_size"),
    Field("cutoffs", ("stem.cutoffs", "head.cutoffs")),
    Field("div_val", ("stem.div_val", "head.div_val")),
    Field("d_model", "model.dim"),
    Field("d_embed", "model.dim"),
    Field("n_layer", "model.num_layers"),
    Field("n_head", "model.num_heads"),
    Field("d_head", "model.head_dim"),
    Field("d_inner", "model.ffn_dim"),
    Field("same_length", "model.same_length"),
    Field("mem_len", "model.memory", when=("same_length", Less(1))),
    Field("tgt_len", "model.segment"),
    Field("clamp_len", "model.clamp_len", Unset(-1)),
    Field("untie_r", "model.untie"),
    Field("pre_lnorm", "model.wiring", Named({False: "post"})),
    Field("layer_norm_epsilon", "model.norm", Spelled("layer")),
    Field("dropout", "model.dropout"),
    Field("dropatt", "model.attention_dropout"),
)


def edges(config: Mapping[str, Any]) -> list[int]:
    """Where clusters begin and end."""
    return [0, *config["cutoffs"], config["vocab_size"]]


def family(name: str, crit: Any, prefix: str, **more: Any) -> Family:
    """One of the two."""
    return Family(
        name,
        body,
        FIELDS,
        fixed={"arch": "transformer_xl", "stem.kind": "adaptive", "stem.position": "none"},
        needs={"attn_type": 0, "proj_share_all_but_first": True, "tie_word_embeddings": True},
        sizes={
            "layer": "n_layer",
            "cluster": lambda c: len(c["cutoffs"]) + 1,
            "later": lambda c: range(1, len(c["cutoffs"]) + 1),
            "words": lambda c: tuple(b - a for a, b in pairwise(edges(c))),
        },
        heads={
            "TransfoXLLMHeadModel": Head(
                "SubquadForCausalLM", prefix, crit, fixed={"head.kind": "adaptive"}
            ),
            "TransfoXLModel": BODY,
        },
        derived=lambda c: {"stem": {"scale": c["d_model"] ** 0.5}},
        defaults=DEFAULTS,
        beside=lambda source, dest, c: word_level(source, dest, c["vocab_size"]),
        **more,
    )


TRANSFO_XL = family("transfo-xl", head, "transformer.")
ORIGINAL = family(
    "transformer-xl",
    flipped,
    "",
    signature=("word_emb.emb_layers.0.weight", "layers.0.dec_attn.qkv_net.weight", "r_w_bias"),
    infer=infer,
)
