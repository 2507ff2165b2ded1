"""Low-rank adapters by peft on every architecture, and models that go to the hub and come back."""

import shutil
from types import SimpleNamespace

import pytest
import torch
import transformers

import subquad as sq
from catalog import tiny
from subquad.hf import SubquadConfig, SubquadForCausalLM, SubquadForMaskedLM

peft = pytest.importorskip("peft", reason="adapters need peft")

# peft asks transformers by a name that goes in its next version
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    # the Reformer's head never was tied
    pytest.mark.filterwarnings("ignore:Input and output embeddings are no longer:UserWarning"),
]

WORDS = 23


def model_of(arch):
    fields = {**tiny(arch), "dropout": 0.0}  # of nothing but training: losses can be compared
    config = SubquadConfig(arch=arch, model=fields, vocab_size=WORDS, pad_token_id=0)
    kind = SubquadForCausalLM if config.is_causal else SubquadForMaskedLM
    return kind(config)


@pytest.mark.parametrize("arch", sq.ARCHS)
def test_adapters_train_merge_save_and_load(arch, tmp_path):
    torch.manual_seed(0)
    base, ids = model_of(arch), torch.randint(1, WORDS, (2, 20))
    before = {name: p.clone() for name, p in base.named_parameters()}
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules="all-linear"))
    moving = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
    assert moving
    assert all("lora_" in name for name in moving)
    step = torch.optim.Adam(moving.values(), lr=0.01)
    losses = []
    for _ in range(6):
        loss = adapted(input_ids=ids, labels=ids).loss
        step.zero_grad()
        loss.backward()
        assert any(p.grad.abs().max() > 0 for n, p in moving.items() if "lora_B" in n)
        step.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    adapted.eval()
    counted = {name: t.clone() for name, t in base.named_buffers()}
    with torch.no_grad():
        want = adapted(input_ids=ids).logits
    adapted.save_pretrained(tmp_path / "adapter")
    merged = adapted.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    fresh = model_of(arch)
    # an adapter does not hold what norms have counted in training
    fresh.load_state_dict({**before, **counted}, strict=False)
    again = peft.PeftModel.from_pretrained(fresh, tmp_path / "adapter").eval()
    loaded = type(base).from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        for model in (merged, again, loaded):
            torch.testing.assert_close(model(input_ids=ids).logits, want, rtol=2e-4, atol=2e-4)


def as_cached(folder, home, name):
    """What a download of NAME from the hub leaves in the cache."""
    kept = home / f"models--{name.replace('/', '--')}"
    commit = "0" * 40
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text(commit)
    shutil.copytree(folder, kept / "snapshots" / commit)


def test_pushes_through_transformers_and_loads_by_name(tmp_path, monkeypatch):
    model, sent, ids = model_of("performer").eval(), {}, torch.randint(1, WORDS, (1, 9))

    class Hub:
        """What of huggingface_hub's HfApi a push calls, without a network."""

        def create_repo(self, name, **_):
            return SimpleNamespace(repo_id=name)

        def create_commit(self, repo_id, operations, **_):
            for one in operations:
                with one.as_file() as file:
                    sent[one.path_in_repo] = file.read()
            return SimpleNamespace(repo_id=repo_id)

    monkeypatch.setattr(transformers.utils.hub, "hf_api", Hub)
    model.push_to_hub("someone/tiny")
    assert {"config.json", "model.safetensors"} <= set(sent)
    folder = tmp_path / "sent"
    folder.mkdir()
    for name, content in sent.items():
        (folder / name).write_bytes(content)
    home = tmp_path / "hub"
    as_cached(folder, home, "someone/tiny")
    for name, where in (("someone/tiny", {"cache_dir": home}), (folder, {})):
        back = transformers.AutoModelForCausalLM.from_pretrained(name, **where).eval()
        assert type(back) is SubquadForCausalLM
        assert torch.equal(back(input_ids=ids).logits, model(input_ids=ids).logits)
