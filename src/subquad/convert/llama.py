"""Llama (https://huggingface.co/docs/transformers/model_doc/llama) and two of its kin: Mistral, and
Qwen2, whose output map alone has no bias. Their window counts the token itself, ours those behind
it. Without one they are a `transformer`; with one Mistral is `local`, and Qwen2, whose layers
differ then, a `hybrid`. Labels are read from the last token, as of a GPT-2."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from subquad.convert.bert import answers, tags
from subquad.convert.family import BODY, Family, Head
from subquad.convert.fields import Each, Field, Less, Spelled
from subquad.convert.gpt2 import OWN, last
from subquad.convert.rope import Rope
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
    Field("rope_parameters", "model.position", Rope()),
    Field("attention_dropout", "model.dropout"),
)

FIXED = {
    "model.causal": True,
    "model.mlp": "swiglu",
    "stem.kind": "tokens",
    "stem.position": "none",
}
DENSE = {"arch": "transformer", "model.wiring": "pre"}

NEEDS = {"hidden_act": "silu"}

LM = Head(
    "SubquadForCausalLM",
    "model.",
    rows=(Tied("lm_head.weight", "embed_tokens.weight", "head.project.weight"),),
    fixed={"head.kind": "tokens", "head.bias": False},
)


LABELS, TAGS = last("model."), tags("model.", OWN, "score")


def width(config: Mapping[str, Any]) -> dict[str, dict]:
    """Nothing more of ours. ValueError for heads of another width than their share."""
    dim, heads = config["hidden_size"], config["num_attention_heads"]
    told = config.get("head_dim")
    if told is not None and told * heads != dim:
        raise ValueError(
            f"head_dim is {told}, and hidden_size {dim} by num_attention_heads {heads} is "
            f"{dim / heads:g}: ours gives each head that share of the width alone"
        )
    return {}


def windowed(head: Head, arch: str, *fields: Field, **needs: Any) -> Head:
    """A head of a dense model where no window is set, else of `arch`, told by more fields."""
    more, fixed = (*head.fields, *fields), {**head.fixed, "arch": arch}
    other = replace(head, fields=more, fixed=fixed, needs=needs)
    none = {"sliding_window": None}
    return replace(head, fixed={**head.fixed, **DENSE}, needs=none, other=other)


LLAMA = Family(
    "llama",
    ROWS + BIASES,
    (*FIELDS, Field("attention_bias", "model.bias")),
    fixed={**FIXED, **DENSE},
    needs={**NEEDS, "mlp_bias": False},
    sizes={"layer": "num_hidden_layers"},
    derived=width,
    heads={
        "LlamaForCausalLM": LM,
        "LlamaForSequenceClassification": LABELS,
        "LlamaForTokenClassification": TAGS,
        "LlamaForQuestionAnswering": answers("transformer."),
        "LlamaModel": BODY,
    },
)


@dataclass(frozen=True)
class Window(Less):
    """A window of theirs, which counts the token itself."""

    by: int = 1

    def there(self, value: Any) -> Any:
        if value < 1:
            raise ValueError(f"a window of {value} holds no token; 1 is the token itself, null all")
        return super().there(value)


WINDOW = Field("sliding_window", "model.window", Window())


def mistral(head: Head) -> Head:
    """The same window in all layers, or none."""
    return windowed(head, "local", WINDOW)


MISTRAL = replace(
    LLAMA,
    name="mistral",
    rows=ROWS,
    fields=FIELDS,
    fixed={**FIXED, "model.bias": False},
    needs=NEEDS,
    heads={
        "MistralForCausalLM": mistral(LM),
        "MistralForSequenceClassification": mistral(LABELS),
        "MistralForTokenClassification": mistral(TAGS),
        "MistralForQuestionAnswering": mistral(answers("model.")),
        "MistralModel": mistral(BODY),
    },
)

LAYERS = Field(
    "layer_types",
    "model.kinds",
    Each({"full_attention": "full", "sliding_attention": "local"}),
    along="num_hidden_layers",
)


def qwen2(head: Head) -> Head:
    """A window in some layers, or in none."""
    return windowed(head, "hybrid", WINDOW, LAYERS, use_sliding_window=True)


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
    needs=NEEDS,
    heads={
        "Qwen2ForCausalLM": qwen2(LM),
        "Qwen2ForSequenceClassification": qwen2(LABELS),
        "Qwen2ForTokenClassification": qwen2(TAGS),
        "Qwen2ForQuestionAnswering": qwen2(answers("transformer.")),
        "Qwen2Model": qwen2(BODY),
    },
)
