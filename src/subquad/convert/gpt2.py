"""GPT-2 (https://huggingface.co/docs/transformers/model_doc/gpt2): maps are (inputs, outputs), and
query, key and value one map. The label of a row is read from its last token: theirs finds it by
`pad_token_id`, ours by `attention_mask`."""

from subquad.convert.bert import answers, tags
from subquad.convert.changes import Split, Transpose
from subquad.convert.family import BODY, Family, Head
from subquad.convert.fields import Field, Named, Spelled
from subquad.convert.rows import Absent, Constant, Row, Tied

__all__ = ["GPT2", "OWN", "last"]

BLOCK = "backbone.blocks.{layer}"

ROWS = (
    Row("wte.weight", "stem.embedding.weight"),
    Row("wpe.weight", "stem.position.table.weight"),
    Row("h.{layer}.ln_1.*", f"{BLOCK}.norms.0.*"),
    Row(
        "h.{layer}.attn.c_attn.*",
        [f"{BLOCK}.mixers.0.{part}.*" for part in ("query", "key", "value")],
        Transpose(),
        Split(),
    ),
    Row("h.{layer}.attn.c_proj.*", f"{BLOCK}.mixers.0.out.*", Transpose()),
    Row("h.{layer}.ln_2.*", f"{BLOCK}.norms.1.*"),
    Row("h.{layer}.mlp.c_fc.*", f"{BLOCK}.mlp.up.*", Transpose()),
    Row("h.{layer}.mlp.c_proj.*", f"{BLOCK}.mlp.down.*", Transpose()),
    Row("ln_f.*", "backbone.norm.*"),
    # the causal triangle, and what stands outside it, in older files
    Constant("h.{layer}.attn.bias"),
    Constant("h.{layer}.attn.masked_bias"),
)

FIELDS = (
    Field("vocab_size", "vocab_size"),
    Field("n_embd", "model.dim"),
    Field("n_layer", "model.num_layers"),
    Field("n_head", "model.num_heads"),
    Field("n_inner", "model.ffn_dim", otherwise=("n_embd", 4)),
    Field("n_positions", "stem.max_len"),
    Field(
        "activation_function",
        "model.mlp",
        Named(
            {
                "gelu_new": "gelu_tanh",
                "gelu_pytorch_tanh": "gelu_tanh",
                "gelu": "gelu",
                "relu": "relu",
            }
        ),
    ),
    Field("layer_norm_epsilon", "model.norm", Spelled("layer")),
    Field("resid_pdrop", "model.dropout"),
    Field("embd_pdrop", "stem.dropout"),
)

#: how much a head for tokens drops in training; neither is a setting that they have by default
OWN = Field("classifier_dropout", "head.dropout", otherwise=("hidden_dropout", 1), default=0.1)


def last(prefix: str) -> Head:
    """Labels by the last token, without a bias."""
    return Head(
        "SubquadForSequenceClassification",
        prefix,
        rows=(
            Row("score.weight", "head.label.weight"),
            Absent("head.label.bias", "head.label.weight"),
        ),
        fixed={"head.kind": "labels", "head.pool": "last", "head.hidden": "none"},
    )


GPT2 = Family(
    "gpt2",
    ROWS,
    FIELDS,
    fixed={
        "arch": "transformer",
        "model.causal": True,
        "model.num_kv_heads": None,
        "model.position": "none",
        "model.wiring": "pre",
        "model.bias": True,
        "stem.kind": "tokens",
        "stem.position": "learned",
    },
    needs={
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    },
    sizes={"layer": "n_layer"},
    heads={
        "GPT2LMHeadModel": Head(
            "SubquadForCausalLM",
            "transformer.",
            rows=(Tied("lm_head.weight", "wte.weight", "head.project.weight"),),
            fixed={"head.kind": "tokens", "head.bias": False},
        ),
        "GPT2ForSequenceClassification": last("transformer."),
        "GPT2ForTokenClassification": tags("transformer.", OWN),
        "GPT2ForQuestionAnswering": answers("transformer."),
        "GPT2Model": BODY,
    },
    refused={
        "GPT2DoubleHeadsModel": (
            "it writes and chooses at once; save its GPT2LMHeadModel, or the body alone"
        )
    },
)
