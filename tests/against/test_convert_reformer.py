"""transformers' Reformer with hashing layers through the converter: equal logits for equal hashes.

Theirs are drawn in every call; here those of ours are put in their place. float64.
"""

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file
from transformers.models.reformer.modeling_reformer import LSHSelfAttention

from converting import config, converted
from subquad.convert.folder import convert
from subquad.ops.hashing import rotations

SIZES = {
    "attn_layers": ["local", "lsh", "lsh"],
    "attention_head_size": 6,
    "axial_pos_shape": (5, 8),
    "axial_pos_embds_dim": (12, 20),
    "feed_forward_size": 48,
    "hidden_size": 32,
    "is_decoder": True,
    "local_attn_chunk_length": 4,
    "lsh_attn_chunk_length": 8,
    "num_attention_heads": 4,
    "num_hashes": 3,
    "num_buckets": [4, 2],
    "tie_word_embeddings": False,
    "vocab_size": 60,
}


def theirs(**fields):
    torch.manual_seed(0)
    told = SIZES | fields
    kind = hf.ReformerModelWithLMHead if told["is_decoder"] else hf.ReformerForMaskedLM
    model = kind(hf.ReformerConfig(**told))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model.eval()


@pytest.fixture
def hashes(monkeypatch):
    """Their layers draw what ours hold."""
    drawn, hashed = torch.randn, LSHSelfAttention._hash_vectors

    def as_ours(self, *args, **kwargs):
        buckets = [self.num_buckets] if isinstance(self.num_buckets, int) else self.num_buckets

        def randn(shape, **how):
            if "generator" in how:  # ours
                return drawn(shape, **how)
            heads, _, rounds, _ = shape
            ours = rotations(rounds, buckets[::-1], shape[1], self.layer_idx)
            # (R, D, factors), the factor that counts least last
            parts = ours.split([b // 2 for b in buckets[::-1]], -1)[::-1]
            made = torch.cat(parts, -1).transpose(0, 1)
            return made.expand(heads, *made.shape).to(**how)

        with monkeypatch.context() as patch:
            patch.setattr(torch, "randn", randn)
            return hashed(self, *args, **kwargs)

    monkeypatch.setattr(LSHSelfAttention, "_hash_vectors", as_ours)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"num_buckets": 4, "num_hashes": 1},
        {"attn_layers": ["lsh"] * 2},
        {"attn_layers": ["lsh"] * 2, "is_decoder": False},
    ],
    ids=["factors", "one", "lsh", "masked"],
)
def test_equal_logits_and_the_way_back(fields, hashes, tmp_path):
    model = theirs(**fields)
    ours = converted(model, tmp_path).double()
    (tmp_path / "back").mkdir()
    convert(tmp_path / "ours", tmp_path / "back")
    went, came = (load_file(tmp_path / w / "model.safetensors") for w in ("theirs", "back"))
    assert went.keys() == came.keys()
    assert all(torch.equal(went[k], came[k]) for k in went)
    assert config(tmp_path / "theirs") == config(tmp_path / "back")
    model = model.double()
    for length in (40, 32, 29, 8, 5):
        ids = torch.randint(1, 60, (2, length))
        with torch.no_grad():
            wanted, found = model(ids).logits, ours(ids).logits
        assert wanted.std() > 0.1
        # theirs masks in float32
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_buckets": None}, "num_buckets is not set, and would follow from the length"),
        ({"local_attn_chunk_length": 5}, "local chunks of 5 do not divide its hashed ones of 8"),
        (
            {"is_decoder": False},
            "its first local chunk at the last one; in ours local chunks do not",
        ),
        ({"lsh_num_chunks_before": 2}, "lsh_num_chunks_before 2; ours has 1"),
    ],
)
def test_what_is_refused(fields, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        converted(theirs(**fields), tmp_path)


def test_no_stream(hashes, tmp_path):
    """Its chunks are those of the whole input, so words are not generated one by one."""
    ours = converted(theirs(), tmp_path)
    with pytest.raises(ValueError, match="looks ahead"):
        ours.generate(torch.randint(1, 60, (1, 5)), max_new_tokens=2)
