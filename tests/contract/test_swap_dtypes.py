"""What a swap adds to a model lies where the model does, in its dtype; uploads are whole."""

import json
from pathlib import Path

import pytest
import torch
import transformers as hf

from pretrained import CAUSAL, ids, made
from subquad.hf import swap
from subquad.hf.swapping import Features, Hashes, plan_of

MIXERS = {
    "favor": Features("favor", 16),
    "learned": Features("learned"),
    "lsh": Hashes(rounds=2, buckets=(4,), window=8),
}


def added(model):
    """Parameters and buffers that the swap brought, by name."""
    params = {n: t for n, t in model.named_parameters() if ".subquad." in n}
    return params, {n: t for n, t in model.named_buffers() if ".subquad." in n}


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("mixer", MIXERS.values(), ids=MIXERS)
def test_new_weights_follow_the_model_and_drawn_rows_do_not(tmp_path, mixer, kind):
    model = swap(made(CAUSAL, "llama").to(kind), mixer)
    drawn = swap(made(CAUSAL, "llama"), mixer)
    for one in (model, _again(model, tmp_path)):
        params, buffers = added(one)
        assert {p.dtype for p in params.values()} <= {kind}
        assert {p.dtype for p in one.parameters()} == {kind}
        assert bool(params) == (mixer == MIXERS["learned"])
        for name, rows in added(drawn)[1].items():
            assert torch.equal(buffers[name], rows)  # the bits of the seed, in float32
        assert one(ids(1, 9)).logits.dtype == kind


def test_hashes_in_bf16_are_the_same_after_loading(tmp_path):
    """GPT-2, because .to(bfloat16) rounds the angles of a Llama, and those are drawn anew."""
    model = swap(made(CAUSAL, "gpt2").to(torch.bfloat16), MIXERS["lsh"])
    given = ids(2, 60)
    assert torch.equal(model(given).logits, _again(model, tmp_path)(given).logits)


def _again(model, folder):
    model.save_pretrained(folder)
    return hf.AutoModelForCausalLM.from_pretrained(folder, dtype=model.dtype).eval()


# a hash that falls to another bucket is no rounding
@pytest.mark.parametrize("mixer", [MIXERS["favor"], MIXERS["learned"]], ids=["favor", "learned"])
def test_bf16_errs_at_most_twice_as_much_as_the_original_in_bf16(mixer):
    """Against float64: swapped bf16 to swapped float64, as exact bf16 to exact float64."""
    given = ids(2, 33)

    def apart(change):
        kinds = (torch.bfloat16, torch.float64)
        low, high = (
            change(made(CAUSAL, "llama").to(kind))(given).logits.double() for kind in kinds
        )
        return float((low - high).detach().norm() / high.detach().norm())

    assert apart(lambda model: swap(model, mixer)) < 2 * apart(lambda model: model)


def test_uploads_hold_the_plan(tmp_path, monkeypatch):
    model = swap(made(CAUSAL, "llama"), Features("elu"))
    with pytest.raises(ValueError, match=r"model\.push_to_hub\(repo_id\) uploads both"):
        model.save_pretrained(tmp_path / "kept", push_to_hub=True, repo_id="me/mine")
    assert not (tmp_path / "kept").exists()
    sent = {}

    class Hub:
        def create_repo(self, repo_id, **_):
            return type("Repo", (), {"repo_id": repo_id})()

    monkeypatch.setattr("transformers.utils.hub.hf_api", Hub)
    card = type("Card", (), {"save": lambda self, path: Path(path).write_text("card")})
    monkeypatch.setattr("transformers.utils.hub.create_and_tag_model_card", lambda *a, **k: card())

    def send(self, folder, repo_id, *args, **kwargs):
        sent[repo_id] = json.loads((Path(folder) / "config.json").read_text())

    monkeypatch.setattr(hf.LlamaForCausalLM, "_upload_modified_files", send)
    model.push_to_hub("me/mine")
    assert sent["me/mine"]["model_type"] == "subquad-swap"
    assert set(sent["me/mine"]["plan"]) == set(plan_of(model))
