"""ViT (https://huggingface.co/docs/transformers/model_doc/vit), in the names of its files."""

from subquad.convert.changes import Lead, Reshape
from subquad.convert.family import BODY, Family, Head
from subquad.convert.fields import Field, Named, Spelled
from subquad.convert.rows import Row, Spare

__all__ = ["VIT"]

BLOCK = "backbone.blocks.{layer}"
LAYER = "encoder.layer.{layer}"

ROWS = (
    Row("embeddings.cls_token", "stem.classes.weight", Lead()),
    Row("embeddings.position_embeddings", "stem.position.table.weight", Lead()),
    Row(
        "embeddings.patch_embeddings.projection.weight",
        "stem.embedding.weight",
        Reshape(("dim", "channels", "patch", "patch"), ("dim", -1)),
    ),
    Row("embeddings.patch_embeddings.projection.bias", "stem.embedding.bias"),
    *(
        Row(f"{LAYER}.attention.attention.{part}.*", f"{BLOCK}.mixers.0.{part}.*")
        for part in ("query", "key", "value")
    ),
    Row(f"{LAYER}.attention.output.dense.*", f"{BLOCK}.mixers.0.out.*"),
    Row(f"{LAYER}.intermediate.dense.*", f"{BLOCK}.mlp.up.*"),
    Row(f"{LAYER}.output.dense.*", f"{BLOCK}.mlp.down.*"),
    Row(f"{LAYER}.layernorm_before.*", f"{BLOCK}.norms.0.*"),
    Row(f"{LAYER}.layernorm_after.*", f"{BLOCK}.norms.1.*"),
    Row("layernorm.*", "backbone.norm.*"),
    Spare("pooler.dense.*", "aside.pooler.dense.*"),
)

VIT = Family(
    "vit",
    ROWS,
    (
        Field("hidden_size", "model.dim"),
        Field("num_hidden_layers", "model.num_layers"),
        Field("num_attention_heads", "model.num_heads"),
        Field("intermediate_size", "model.ffn_dim"),
        Field("hidden_act", "model.mlp", Named({"gelu": "gelu", "gelu_new": "gelu_tanh"})),
        Field("layer_norm_eps", "model.norm", Spelled("layer")),
        Field("hidden_dropout_prob", ("model.dropout", "stem.dropout")),
        Field("image_size", "stem.image_size"),
        Field("patch_size", "stem.patch"),
        Field("num_channels", "stem.channels"),
    ),
    fixed={
        "arch": "vit",
        "model.mixer": "full",
        "stem.kind": "patches",
        "stem.class_tokens": 1,
        "stem.position": "learned",
    },
    needs={"qkv_bias": True},
    sizes={
        "layer": "num_hidden_layers",
        "dim": "hidden_size",
        "channels": "num_channels",
        "patch": "patch_size",
    },
    heads={
        "ViTForImageClassification": Head(
            "SubquadForImageClassification",
            "vit.",
            (Row("classifier.*", "head.label.*"),),
            fixed={"head.kind": "labels", "head.pool": "first"},
        ),
        "ViTModel": BODY,
    },
    refused={
        "ViTForMaskedImageModeling": (
            "it paints hidden patches of a picture, and no head of ours paints"
        )
    },
)
