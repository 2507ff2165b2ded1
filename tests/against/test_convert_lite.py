"""A checkpoint of Lite Transformer (fairseq) through the command line, against its definition
written out: names as in fairseq/models/transformer_multibranch_v2.py. float64 on both sides.
"""

import argparse
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers

from subquad.cli import main
from subquad.hf import SubquadForSeq2SeqLM

WORDS, DIM, HIDDEN, HEADS, CROSS, LAYERS = 30, 16, 24, 2, 4, 2
KERNELS = {"encoder": [3, 7], "decoder": [3, 6]}


def options(kind, glu, **fields):
    branches = [f"attn:1:{DIM // 2}:{HEADS}", f"{kind}:default:{DIM // 2}:{HEADS}"]
    told = {"arch": "transformer_multibranch_v2_wmt_en_de", "lr": [1e-7], "ffn_init": None}
    told |= {"share_all_embeddings": True, "conv_linear": True, "weight_softmax": True}
    for side in ("encoder", "decoder"):
        told |= {f"{side}_embed_dim": DIM, f"{side}_ffn_embed_dim": HIDDEN}
        told |= {f"{side}_layers": LAYERS, f"{side}_attention_heads": CROSS, f"{side}_glu": glu}
        told |= {f"{side}_branch_type": branches, f"{side}_kernel_size_list": KERNELS[side]}
    return argparse.Namespace(**told | fields)


def tensors(kind, glu, axes):
    torch.manual_seed(0)
    made = {}

    def linear(name, out, width):
        made[f"{name}.weight"] = torch.randn(out, width, dtype=torch.float64) * 0.3
        made[f"{name}.bias"] = torch.randn(out, dtype=torch.float64) * 0.3

    def norm(name):
        made[f"{name}.weight"] = 1 + torch.randn(DIM, dtype=torch.float64) * 0.3
        made[f"{name}.bias"] = torch.randn(DIM, dtype=torch.float64) * 0.3

    words = torch.randn(WORDS, DIM, dtype=torch.float64) * 0.3
    for side in ("encoder", "decoder"):
        made[f"{side}.version"] = torch.tensor([3.0])
        made[f"{side}.embed_tokens.weight"] = words
        made[f"{side}.embed_positions._float_tensor"] = torch.zeros(1)
        for i in range(LAYERS):
            at, half = f"{side}.layers.{i}", DIM // 2
            for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
                linear(f"{at}.self_attn.branches.0.{part}", half, half)
                if side == "decoder":
                    linear(f"{at}.encoder_attn.{part}", DIM, DIM)
            conv, kernel = f"{at}.self_attn.branches.1", KERNELS[side][i]
            linear(f"{conv}.linear1", half * (1 + glu), half)
            linear(f"{conv}.linear2", half, half)
            if kind == "dynamic":
                linear(f"{conv}.weight_linear", HEADS * kernel, half)
                del made[f"{conv}.weight_linear.bias"]
            else:
                shape = (HEADS, kernel) if axes == 2 else (HEADS, 1, kernel)
                made[f"{conv}.weight"] = torch.randn(shape, dtype=torch.float64)
            linear(f"{at}.fc1", HIDDEN, DIM)
            linear(f"{at}.fc2", DIM, HIDDEN)
            names = ["self_attn_layer_norm", "final_layer_norm"]
            for name in [*names, "encoder_attn_layer_norm"][: 3 if side == "decoder" else 2]:
                norm(f"{at}.{name}")
    return made


class Released:
    """The model's forward, for one row."""

    def __init__(self, t, kind, glu):
        self.t, self.kind, self.glu = t, kind, glu

    def linear(self, x, name):
        return F.linear(x, self.t[f"{name}.weight"], self.t.get(f"{name}.bias"))

    def norm(self, x, name):
        return F.layer_norm(x, (DIM,), self.t[f"{name}.weight"], self.t[f"{name}.bias"])

    def attend(self, x, other, name, heads, causal=False):
        q, k, v = (
            self.linear(y, f"{name}.{p}_proj").unflatten(-1, (heads, -1)).transpose(0, 1)
            for y, p in ((x, "q"), (other, "k"), (other, "v"))
        )
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        if causal:
            scores = scores + torch.full_like(scores, -torch.inf).triu(1)
        return self.linear((scores.softmax(-1) @ v).transpose(0, 1).flatten(1), f"{name}.out_proj")

    def convolve(self, x, name, kernel, left):
        x = self.linear(x, f"{name}.linear1")
        x = F.glu(x, -1) if self.glu else x
        if self.kind == "dynamic":
            taps = self.linear(x, f"{name}.weight_linear").view(len(x), HEADS, kernel)
        else:
            taps = self.t[f"{name}.weight"].view(1, HEADS, kernel).expand(len(x), -1, -1)
        padded = F.pad(x, (0, 0, left, kernel - 1 - left))
        near = padded.unfold(0, kernel, 1).unflatten(1, (HEADS, -1))
        y = (near * taps.softmax(-1).unsqueeze(2)).sum(-1).flatten(1)
        return self.linear(y, f"{name}.linear2")

    def layer(self, x, at, kernel, memory=None):
        causal, half = memory is not None, DIM // 2
        left = kernel - 1 if causal else kernel // 2
        far = self.attend(x[:, :half], x[:, :half], f"{at}.self_attn.branches.0", HEADS, causal)
        near = self.convolve(x[:, half:], f"{at}.self_attn.branches.1", kernel, left)
        x = self.norm(x + torch.cat([far, near], -1), f"{at}.self_attn_layer_norm")
        if causal:
            found = self.attend(x, memory, f"{at}.encoder_attn", CROSS)
            x = self.norm(x + found, f"{at}.encoder_attn_layer_norm")
        h = self.linear(self.linear(x, f"{at}.fc1").relu(), f"{at}.fc2")
        return self.norm(x + h, f"{at}.final_layer_norm")

    def side(self, name, ids, memory=None):
        half = DIM // 2
        rates = torch.exp(torch.arange(half).double() * -(math.log(10000) / (half - 1)))
        angle = torch.arange(2, 2 + len(ids)).double()[:, None] * rates
        x = self.t[f"{name}.embed_tokens.weight"][ids] * math.sqrt(DIM)
        x = x + torch.cat([angle.sin(), angle.cos()], 1)
        for i in range(LAYERS):
            x = self.layer(x, f"{name}.layers.{i}", KERNELS[name][i], memory)
        return x

    def __call__(self, source, target):
        x = self.side("decoder", target, self.side("encoder", source))
        return x @ self.t["decoder.embed_tokens.weight"].T


CASES = [("dynamic", True, 0), ("dynamic", False, 0), ("lightweight", False, 2)]
CASES += [("lightweight", False, 3)]


@pytest.mark.parametrize(("kind", "glu", "axes"), CASES)
def test_equal_outputs_words_and_the_way_back(kind, glu, axes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    went, told = tensors(kind, glu, axes), options(kind, glu)
    notes = {"optimizer_history": [{"num_updates": 3}], "extra_state": {"epoch": 1}}
    torch.save({"args": told, "model": went, **notes}, "checkpoint_best.pt")
    for side in ("src", "tgt"):
        (tmp_path / f"dict.{side}.txt").write_text(f"the 7\n{side} 3\n")
    assert main(["convert", "checkpoint_best.pt", "ours"]) == 0
    assert main(["convert", "ours", "back"]) == 0
    for folder in ("ours", "back"):
        assert (tmp_path / folder / "dict.tgt.txt").read_text() == "the 7\ntgt 3\n"
    with torch.serialization.safe_globals([argparse.Namespace]):
        back = torch.load("back/checkpoint_best.pt", weights_only=True)
    assert back["args"] == told
    assert back["model"].keys() == went.keys()
    assert all(torch.equal(back["model"][name], went[name]) for name in went)

    theirs, ours = Released(went, kind, glu), SubquadForSeq2SeqLM.from_pretrained("ours").eval()
    source, target = torch.randint(4, WORDS, (1, 13)), torch.randint(4, WORDS, (1, 9))
    wanted = theirs(source[0], target[0])
    with torch.no_grad():
        found = ours(input_ids=source, decoder_input_ids=target).logits[0]
    assert wanted.std() > 0.1
    # sinusoids of ours are rounded to float32
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    words = ours.generate(source, max_new_tokens=6, num_beams=1, do_sample=False)[0]
    assert words[0] == 2
    for n in range(1, len(words)):
        assert words[n] == theirs(source[0], words[:n])[-1].argmax()


def test_translations_begin_from_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = options("lightweight", False, dropout=0.0)
    torch.save({"args": told, "model": tensors("lightweight", False, 2)}, "checkpoint.pt")
    assert main(["convert", "checkpoint.pt", "ours"]) == 0
    # fairseq's dict.txt as a tokenizer, with the numbers of its own
    known = ["<s>", "<pad>", "</s>", "<unk>", *map(str, range(WORDS - 6)), "<mask>", "<cls>"]
    numbers = {word: i for i, word in enumerate(known)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save("ours/tokenizer.json")
    rows = (f"{i % 9} {i % 7} {i % 5}\t{i % 5} {i % 7}\n" for i in range(60))
    Path("t.tsv").write_text("text\ttranslation\n" + "".join(rows))
    words = ["train", "translate", "--init-from", "ours", "--data", "t.tsv", "--out", "run"]
    words += ["--train.batch", "4", "--train.reports", "1", "--train.lr", "1e-9"]
    assert main([*words, "--train.steps", "1", "--task.valid_rows", "4"]) == 0
    facts = json.loads(Path("run/run.json").read_text())
    assert facts["fresh"] == []
    source, target = torch.randint(4, WORDS, (1, 13)), torch.randint(4, WORDS, (1, 9))
    given = {"input_ids": source, "decoder_input_ids": target}
    one, two = (SubquadForSeq2SeqLM.from_pretrained(n).float().eval() for n in ("ours", "run"))
    with torch.no_grad():
        torch.testing.assert_close(two(**given).logits, one(**given).logits, rtol=1e-4, atol=1e-4)


class Initialiser:
    """What the release's smallest models keep among their options, as code."""


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"share_all_embeddings": False}, "has share_all_embeddings False, which ours does not"),
        ({"decoder_branch_type": None}, "ours are attention and a convolution, each of half"),
        ({"encoder_normalize_before": True}, "has encoder_normalize_before True, which ours"),
        ({"ffn_init": Initialiser()}, "Initialiser, and reading that would run its code"),
    ],
    ids=["words", "branches", "norms", "code"],
)
def test_what_is_refused(fields, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    told = options("dynamic", True, **fields)
    torch.save({"args": told, "model": tensors("dynamic", True, 0)}, "checkpoint.pt")
    assert main(["convert", "checkpoint.pt", "ours"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert message in said


def test_options_are_needed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": tensors("dynamic", True, 0)}, "checkpoint.pt")
    assert main(["convert", "checkpoint.pt", "ours"]) == 2
    assert "the options of the training command (args) are not beside" in capsys.readouterr().err
