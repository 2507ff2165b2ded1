"""Transfer: weights of another checkpoint, parts that stay, rates by depth, stopping early."""

import pytest
import torch

from catalog import tiny
from subquad.hf import SubquadConfig, SubquadForCausalLM, SubquadForSequenceClassification
from subquad.train.transfer import begin_from, by_depth, freeze


def config(arch="local", causal=False, **changed):
    fields = {**tiny(arch, causal=causal), **changed.pop("model", {})}
    return SubquadConfig(arch=arch, model=fields, vocab_size=60, **changed)


def classifier(**changed):
    return SubquadForSequenceClassification(config(**changed))


def test_all_but_the_head_is_taken(tmp_path):
    lm = SubquadForCausalLM(config(causal=True))
    lm.save_pretrained(tmp_path)
    m = classifier(causal=True)
    assert begin_from(m, tmp_path) == ["model.head.label.weight", "model.head.label.bias"]
    for name, t in lm.model.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(m.model.state_dict()[name], t)


def test_a_smaller_vocabulary_becomes_the_first_rows(tmp_path):
    SubquadForCausalLM(config(causal=True)).save_pretrained(tmp_path)
    m = SubquadForSequenceClassification(
        SubquadConfig(arch="local", model=tiny("local"), vocab_size=64)
    )
    rest = m.model.stem.embedding.weight[60:].clone()
    begin_from(m, tmp_path)
    source = SubquadForCausalLM.from_pretrained(tmp_path).model.stem.embedding.weight
    assert torch.equal(m.model.stem.embedding.weight[:60], source)
    assert torch.equal(m.model.stem.embedding.weight[60:], rest)


def test_what_does_not_fit_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"has no model\.safetensors to begin from"):
        begin_from(classifier(), tmp_path)
    classifier().save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"do not fit this model: .* is \(32, 32\), not \(16, 16\)"
    ):
        begin_from(classifier(model={"dim": 16, "num_heads": 2}), tmp_path)
    deeper = classifier(model={"num_layers": 3})
    with pytest.raises(ValueError, match=r"backbone\.blocks\.2\S+ is not there"):
        begin_from(deeper, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        begin_from(classifier(), tmp_path)


def test_frozen_parts_have_no_gradient():
    m = classifier()
    freeze(m, ("stem", "backbone.blocks.0"))
    m(torch.randint(0, 60, (2, 9)), labels=torch.tensor([0, 1])).loss.backward()
    for name, p in m.named_parameters():
        still = name.startswith(("model.stem.", "model.backbone.blocks.0."))
        assert (p.grad is None) == still
    with pytest.raises(ValueError, match=r"freeze backbone\.blocks\.7: there is no such part"):
        freeze(classifier(), ("backbone.blocks.7",))
    with pytest.raises(ValueError, match="stem,backbone,head leaves nothing to train"):
        freeze(classifier(), ("stem", "backbone", "head"))


def test_rates_fall_with_depth():
    m = classifier()
    named = dict(m.named_parameters())
    wide = [p for p in named.values() if p.dim() > 1]
    thin = [p for p in named.values() if p.dim() == 1]
    optimizer = torch.optim.SGD(
        [{"params": wide, "weight_decay": 0.1}, {"params": thin, "weight_decay": 0.0}], lr=1.0
    )
    by_depth(optimizer, m, 0.5)
    rate = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert len(rate) == len(named)
    for name, p in named.items():
        depth = (
            0
            if ".stem." in name
            else 1
            if ".blocks.0." in name
            else 2
            if ".blocks.1." in name
            else 3
        )
        assert rate[id(p)] == 0.5 ** (3 - depth), name
    kept = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert all(kept[id(p)] == 0.1 for p in wide)
    assert all(kept[id(p)] == 0.0 for p in thin)
