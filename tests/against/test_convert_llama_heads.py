"""Labels, tags and answers of Llama, Mistral and Qwen2: official classes at tiny random size
through the converter, with windows and without.

float64 on both sides; their angles are float32 whatever the weights are.
"""

import pytest
import torch
import transformers as hf

import subquad.hf as shell
from converting import config, there_and_back
from subquad.convert.folder import convert

WORDS, LENGTH, CLOSE = 60, 40, 1e-5
SIZES = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "pad_token_id": 1,
}
NAMED = {"num_labels": 3, "id2label": {0: "a", 1: "b", 2: "c"}}
LISTED = ["sliding_attention", "full_attention", "sliding_attention"]
#: a family, its settings, the architecture here
KINDS = {
    "llama": ("Llama", {"attention_bias": True}, "transformer"),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}, "transformer"),
    "mistral": ("Mistral", {"sliding_window": 7}, "local"),
    "mistral-without": ("Mistral", {"sliding_window": None}, "transformer"),
    "qwen2": ("Qwen2", {}, "transformer"),
    "qwen2-window": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 7, "layer_types": LISTED},
        "hybrid",
    ),
}


def made(kind, **fields):
    """Their class, its weights so large that every part matters."""
    torch.manual_seed(0)
    kind = getattr(hf, kind)
    model = kind(kind.config_class(**SIZES, **fields))
    for p in model.parameters():
        torch.nn.init.normal_(p, mean=float(p.dim() == 1), std=0.3)
    return model.eval()


def tokens(*lengths, left=False):
    """Random words, padding by its own word, and their mask."""
    torch.manual_seed(1)
    most = max(lengths)
    mask = (torch.arange(most) < torch.tensor(lengths)[:, None]).long()
    mask = mask.flip(1) if left else mask
    ids = torch.randint(3, WORDS, (len(lengths), most)).masked_fill(mask == 0, 1)
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("name", KINDS)
def test_labels_by_the_last_token(name, tmp_path):
    """Theirs looks for the word of padding, and ours at the mask; loss and gradients too."""
    kind, fields, arch = KINDS[name]
    model = made(f"{kind}ForSequenceClassification", **fields, **NAMED)
    ours = there_and_back(model, tmp_path)
    assert config(tmp_path / "ours")["arch"] == arch
    assert ours.config.id2label == NAMED["id2label"]
    model.double()
    labels = torch.tensor([2, 0])
    for given in (tokens(1, 1), tokens(LENGTH, 23), tokens(LENGTH, 23, left=True)):
        found, wanted = ours(**given, labels=labels), model(**given, labels=labels)
        assert found.logits.shape == (2, 3)
        torch.testing.assert_close(found.logits, wanted.logits, rtol=CLOSE, atol=CLOSE)
        torch.testing.assert_close(found.loss, wanted.loss, rtol=CLOSE, atol=CLOSE)
        assert wanted.logits.std() > 0.02
    found.loss.backward()
    wanted.loss.backward()
    torch.testing.assert_close(
        ours.model.head.label.weight.grad, model.score.weight.grad, rtol=CLOSE, atol=CLOSE
    )


@pytest.mark.parametrize("name", KINDS)
def test_tags(name, tmp_path):
    kind, fields, arch = KINDS[name]
    model = made(f"{kind}ForTokenClassification", **fields, **NAMED)
    ours = there_and_back(model, tmp_path)
    assert config(tmp_path / "ours")["arch"] == arch
    given = tokens(LENGTH, 23)
    with torch.no_grad():
        found, wanted = ours(**given).logits, model.double()(**given).logits
    real = given["attention_mask"] > 0
    torch.testing.assert_close(found[real], wanted[real], rtol=CLOSE, atol=CLOSE)
    assert wanted[real].std() > 0.02


@pytest.mark.parametrize("name", KINDS)
def test_answers(name, tmp_path):
    kind, fields, arch = KINDS[name]
    model = made(f"{kind}ForQuestionAnswering", **fields)
    ours = there_and_back(model, tmp_path)
    assert config(tmp_path / "ours")["arch"] == arch
    given = tokens(LENGTH, 23)
    with torch.no_grad():
        found, wanted = ours(**given), model.double()(**given)
    real = given["attention_mask"] > 0
    for which in ("start_logits", "end_logits"):
        one, other = (getattr(out, which)[real] for out in (found, wanted))
        torch.testing.assert_close(one, other, rtol=CLOSE, atol=CLOSE)
        assert other.std() > 0.02


def test_labels_with_a_bias_stay(tmp_path):
    """Ours has one, and theirs none: zeros go, and nothing else."""
    fields = {"dim": 32, "num_layers": 1, "num_heads": 4, "ffn_dim": 48, "norm": "rms"}
    fields |= {"mlp": "swiglu", "bias": False, "dropout": 0.0}
    head = {"kind": "labels", "pool": "last", "hidden": "none"}
    settings = shell.SubquadConfig(arch="transformer", model=fields, vocab_size=WORDS, head=head)
    ours = shell.SubquadForSequenceClassification(settings).eval()
    ours.save_pretrained(tmp_path / "ours")
    (tmp_path / "back").mkdir()
    convert(tmp_path / "ours", tmp_path / "back", "llama")
    model = hf.LlamaForSequenceClassification.from_pretrained(tmp_path / "back").eval()
    ids = tokens(20)["input_ids"]
    torch.testing.assert_close(ours(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-5)

    torch.nn.init.ones_(ours.model.head.label.bias)
    ours.save_pretrained(tmp_path / "biased")
    with pytest.raises(ValueError, match=r"head\.label\.bias is not zero, and they have no such"):
        convert(tmp_path / "biased", tmp_path / "back", "llama")
