"""Llama (https://huggingface.co/docs/transformers/model_doc/llama) and two of its kin: Mistral
where no window is set, and Qwen2, whose output map alone has no bias."""

from dataclasses import replace

from subquad.convert.family import BODY, Family, Head
from subquad.convert.fields import Field, Spelled
from subquad.convert.rows import Absent, Row, Spare, Tied

__all__ = ["LLAMA", "MISTRAL", "QWEN2"]

BLOCK = "backbone.blocks.{layer}"
MAPS = (("q", "query"), ("k", "key"), ("v", "value"), ("o", "out"))

ROWS = (
    Row("embed_tokens.weight", "stem.embedding.weight"),
    *(
        Row(f"layers.{{layer}}.self_attn.{theirs}_proj.weight", f"{BLOCK}.mixers.0.{ours}.weight")
        for theirs, ours in MAPS
    ),
    Row("layers.{layer}.mlp.gate_proj.weight", f"{BLOCK}.mlp.gate.weight"),
    Row("layers.{layer}.mlp.up_proj.weight", f"{BLOCK}.mlp.up.weight"),
    Row("layers.{layer}.mlp.down_proj.weight", f"{BLOCK}.mlp.down.weight"),
    Row("layers.{layer}.input_layernorm.weight", f"{BLOCK}.norms.0.weight"),
    Row("layers.{layer}.post_attention_layernorm.weight", f"{BLOCK}.norms.1.weight"),
    Row("norm.weight", "backbone.norm.weight"),
    # frequencies, in older files
    Spare(
        "layers.{layer}.self_attn.rotary_emb.inv_freq",
        "aside.layers.{layer}.self_attn.rotary_emb.inv_freq",
    ),
)

#: biases of the attention, where `attention_bias` says so
BIASES = tuple(
    Spare(f"layers.{{layer}}.self_attn.{theirs}_proj.bias", f"{BLOCK}.mixers.0.{ours}.bias")
    for theirs, ours in MAPS
)

FIELDS = (
    Field("vocab_size", "vocab_size"),
    Field("hidden_size", "model.dim"),
    Field("num_hidden_layers", "model.num_layers"),
    Field("num_attention_heads", "model.num_heads"),
    Field("num_key_value_heads", "model.num_kv_heads", otherwise=("num_attention_heads", 1)),
    Field("intermediate_size", "model.ffn_dim"),
    Field("rms_norm_eps", "model.norm", Spelled("rms", 1e-6)),
    Field("rope_parameters.rope_theta", "model.position", Spelled("rotary", 10000.0)),
    Field("attention_dropout", "model.dropout"),
)

FIXED = {
    "arch": "transformer",
    "model.causal": True,
    "model.mlp": "swiglu",
    "model.wiring": "pre",
    "stem.kind": "tokens",
    "stem.position": "none",
}

NEEDS = {"hidden_act": "silu", "rope_parameters.rope_type": "default"}

LM = Head(
    "SubquadForCausalLM",
    "model.",
    rows=(Tied("lm_head.weight", "embed_tokens.weight", "head.project.weight"),),
    fixed={"head.kind": "tokens", "head.bias": False},
)

LLAMA = Family(
    "llama",
    ROWS + BIASES,
    (*FIELDS, Field("attention_bias", "model.bias")),
    fixed=FIXED,
    needs={**NEEDS, "mlp_bias": False},
    sizes={"layer": "num_hidden_layers"},
    heads={"LlamaForCausalLM": LM, "LlamaModel": BODY},
)

MISTRAL = replace(
    LLAMA,
    name="mistral",
    rows=ROWS,
    fields=FIELDS,
    fixed={**FIXED, "model.bias": False},
    needs={**NEEDS, "sliding_window": None},
    heads={"MistralForCausalLM": LM, "MistralModel": BODY},
)

QWEN2 = replace(
    LLAMA,
    name="qwen2",
    rows=(
        *ROWS,
        *(
            Row(f"layers.{{layer}}.self_attn.{a}_proj.bias", f"{BLOCK}.mixers.0.{b}.bias")
            for a, b in MAPS[:3]
        ),
        Absent(f"{BLOCK}.mixers.0.out.bias", like=f"{BLOCK}.mixers.0.out.weight"),
    ),
    fields=FIELDS,
    fixed={**FIXED, "model.bias": True},
    needs={**NEEDS, "use_sliding_window": False},
    heads={"Qwen2ForCausalLM": LM, "Qwen2Model": BODY},
)
