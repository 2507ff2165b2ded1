"""A checkpoint of Adaptive Span through the command line, against its definition written out.

The release's code is no package; the names are those of its files. float64: what differs is the
1e-8 that the release adds to a sum of weights.
"""

import math

import pytest
import torch

from subquad.cli import main
from subquad.hf import SubquadForCausalLM

WORDS, DIM, HEADS, HIDDEN, LAYERS, SPAN, RAMP = 23, 12, 3, 20, 2, 40, 32
WIDTH = DIM // HEADS


def tensors():
    torch.manual_seed(0)

    def drawn(*shape):
        return torch.randn(*shape, dtype=torch.float64) * 0.4 + float(len(shape) == 1)

    made = {"in_emb.weight": drawn(WORDS, DIM), "key_pe": drawn(1, WIDTH, SPAN)}
    made |= {"out_emb.weight": drawn(WORDS, DIM), "out_emb.bias": drawn(WORDS)}
    for i in range(LAYERS):
        at = f"layers.{i}"
        for part in ("query", "out", "val", "key"):
            made[f"{at}.attn.proj_{part}.weight"] = drawn(DIM, DIM)
        mask = f"{at}.attn.attn.adaptive_span._mask"
        made[f"{mask}.current_val"] = torch.rand(HEADS, 1, 1, dtype=torch.float64) * 0.3
        made[f"{mask}.mask_template"] = torch.linspace(1 - SPAN, 0, SPAN, dtype=torch.float64)
        made |= {f"{at}.ff.fc1.weight": drawn(HIDDEN, DIM), f"{at}.ff.fc1.bias": drawn(HIDDEN)}
        made |= {f"{at}.ff.fc2.weight": drawn(DIM, HIDDEN), f"{at}.ff.fc2.bias": drawn(DIM)}
        for norm in ("norm1", "norm2"):
            made |= {f"{at}.{norm}.{what}": drawn(DIM) for what in ("weight", "bias")}
    return made


def released(t, ids):
    """Log-probabilities (N, V) after ids (N,), whose past is SPAN vectors of zeros a layer."""

    def norm(x, name):
        return torch.nn.functional.layer_norm(x, (DIM,), t[f"{name}.weight"], t[f"{name}.bias"])

    n = len(ids)
    x = t["in_emb.weight"][ids]
    # the last SPAN keys before a token, the token itself not among them, the farthest first
    window = torch.arange(n)[:, None] + torch.arange(SPAN)
    for i in range(LAYERS):
        at = f"layers.{i}"
        past = torch.cat([torch.zeros(SPAN, DIM, dtype=torch.float64), x])
        q, k, v = (
            (y @ t[f"{at}.attn.proj_{part}.weight"].T).view(-1, HEADS, WIDTH)
            for y, part in ((x, "query"), (past, "key"), (past, "val"))
        )
        scores = torch.einsum("nhd,nshd->nhs", q, k[window]) + q @ t["key_pe"][0]
        mask = f"{at}.attn.attn.adaptive_span._mask"
        ramp = t[f"{mask}.mask_template"] + t[f"{mask}.current_val"][:, 0] * SPAN
        a = (scores / math.sqrt(WIDTH)).softmax(-1) * (ramp / RAMP + 1).clamp(0, 1)
        a = a / (a.sum(-1, keepdim=True) + 1e-8)
        out = torch.einsum("nhs,nshd->nhd", a, v[window]).flatten(1)
        x = norm(x + out @ t[f"{at}.attn.proj_out.weight"].T, f"{at}.norm1")
        h = (x @ t[f"{at}.ff.fc1.weight"].T + t[f"{at}.ff.fc1.bias"]).relu()
        x = norm(x + h @ t[f"{at}.ff.fc2.weight"].T + t[f"{at}.ff.fc2.bias"], f"{at}.norm2")
    return (x @ t["out_emb.weight"].T + t["out_emb.bias"]).log_softmax(-1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("prefix", ["module.", ""])
def test_equal_outputs_words_and_the_way_back(prefix, folder):
    t = tensors()
    went = {prefix + name: value for name, value in t.items()}
    notes = {"iter_no": 7, "logger": {"step": [1, 2]}, "optimizer": {"state": {}}}
    torch.save({**notes, "model": went}, "checkpoint.pt")
    assert main(["convert", "checkpoint.pt", "ours"]) == 0
    assert main(["convert", "ours", "back"]) == 0
    came = torch.load("back/checkpoint.pt", weights_only=True)["model"]
    assert came.keys() == went.keys()
    assert all(torch.equal(came[name], went[name]) for name in went)

    ours = SubquadForCausalLM.from_pretrained("ours").eval()
    ids = torch.randint(WORDS, (1, 130))
    wanted = released(t, ids[0])
    with torch.no_grad():
        found = ours(ids).logits[0].log_softmax(-1)
    # before, theirs looks at a past of zeros
    begun = LAYERS * SPAN
    assert (found[:begun] - wanted[:begun]).abs().max() > 1e-3
    torch.testing.assert_close(found[begun:], wanted[begun:], rtol=1e-6, atol=1e-6)
    how = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    words = ours.generate(ids, **how)[0]
    for n in range(len(ids[0]), len(words)):
        assert words[n] == released(t, words[:n])[-1].argmax()


def clusters(t):
    del t["in_emb.weight"]


def persistent(t):
    t["layers.0.attn.attn.persistent_memory.key"] = torch.ones(3)


def without_spans(t):
    del t["layers.0.attn.attn.adaptive_span._mask.current_val"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (clusters, "has words in clusters, and ours has one table"),
        (persistent, "ours has no persistent vectors for feed-forward parts"),
        (without_spans, "was trained without spans that adapt"),
    ],
)
def test_what_is_refused(spoil, message, folder, capsys):
    made = tensors()
    spoil(made)
    torch.save({"model": made}, "checkpoint.pt")
    assert main(["convert", "checkpoint.pt", "ours"]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["checkpoint.pt"]
