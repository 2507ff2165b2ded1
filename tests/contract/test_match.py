"""The shell's class of two towers: save and load, training, what it refuses."""

import pytest
import torch
from transformers import AutoModelForZeroShotImageClassification

from catalog import BOTH_WAYS, tiny
from subquad.hf import SubquadConfig, SubquadForImageTextMatching

STEM = {"kind": "patches", "image_size": 8, "patch": 4, "channels": 3}


def made(arch="transformer", causal=True, **fields):
    torch.manual_seed(4)
    encoder = {"arch": "vit", "model": tiny("vit", causal=False), "stem": STEM}
    fields = {"vocab_size": 50, "encoder": encoder, **fields}
    config = SubquadConfig(arch=arch, model=tiny(arch, causal=causal), **fields)
    return SubquadForImageTextMatching(config).eval()


def given():
    ids, mask = torch.randint(1, 48, (3, 12)), torch.ones(3, 12, dtype=torch.int64)
    mask[1, 7:] = 0
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": torch.randn(3, 3, 8, 8)}


@pytest.mark.parametrize(("arch", "causal"), BOTH_WAYS)
def test_saved_and_loaded_bit_for_bit(arch, causal, tmp_path):
    m, batch = made(arch, causal, head={"kind": "vector", "width": 9}), given()
    m.save_pretrained(tmp_path)
    again = AutoModelForZeroShotImageClassification.from_pretrained(tmp_path)
    assert type(again) is type(m)
    one, other = m(**batch, return_loss=True), again(**batch, return_loss=True)
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name])
    assert one.text_embeds.shape == one.image_embeds.shape == (3, 9)
    assert torch.equal(one.logits_per_image, one.logits_per_text.T)
    assert torch.equal(m(**batch, return_dict=False)[0], one.logits_per_image)


def test_every_weight_learns_and_towers_share_none():
    m, batch = made().train(), given()
    m(**batch, return_loss=True).loss.backward()
    assert [name for name, p in m.named_parameters() if p.grad is None] == []
    images, texts = ({*map(id, t.parameters())} for t in (m.model.images, m.model.texts))
    assert not images & texts
    assert m.get_input_embeddings() is m.model.texts.stem.embedding
    assert m.config.head == {"kind": "vector", "width": 64, "pool": "mean"}


def test_other_counts_of_pictures_and_texts():
    m, batch = made(), given()
    batch["pixel_values"] = torch.randn(5, 3, 8, 8)
    assert m(**batch).logits_per_image.shape == (5, 3)
    alone = m.read(batch["input_ids"][1:2, :7])
    torch.testing.assert_close(alone[0], m(**batch).text_embeds[1], rtol=0, atol=1e-6)


def test_what_does_not_do_is_said():
    m = made()
    with pytest.raises(ValueError, match="pass pixel_values beside the texts"):
        m(input_ids=torch.zeros(1, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="'tokens' reads no pictures; give the encoder stem="):
        made(encoder={"arch": "vit", "model": tiny("vit", causal=False)})
    with pytest.raises(ValueError, match="this configuration is of one model: for a pair give"):
        made(encoder=None)
    with pytest.raises(ValueError, match="take no document_ids"):
        m.read(torch.zeros(1, 4, dtype=torch.int64), document_ids=torch.zeros(1, 4))
