"""XLNet, one way only, is a Transformer-XL: transformers' class, its weights and memory in ours."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file
from transformers import XLNetConfig, XLNetLMHeadModel

from converting import converted
from subquad.archs import transformer_xl
from subquad.convert.folder import convert
from subquad.model import build
from subquad.nn.past import Memory
from subquad.nn.state import ModelState

DIM, HEADS, WIDTH, LAYERS, WORDS = 32, 4, 8, 2, 60
SEGMENT, MEMORY = 6, 8


def theirs(**changed) -> XLNetLMHeadModel:
    torch.manual_seed(0)
    model = XLNetLMHeadModel(
        XLNetConfig(
            vocab_size=WORDS,
            d_model=DIM,
            n_layer=LAYERS,
            n_head=HEADS,
            d_inner=48,
            ff_activation="relu",
            attn_type="uni",
            untie_r=True,
            mem_len=MEMORY,
            layer_norm_eps=1e-5,
            **changed,
        )
    )
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return model.double().eval()


def ours(of: XLNetLMHeadModel, **changed):
    fields = {"dim": DIM, "num_layers": LAYERS, "num_heads": HEADS, "ffn_dim": 48, "untie": True}
    fields |= {"segment": SEGMENT, "memory": MEMORY, **changed}
    fields = dataclasses.asdict(transformer_xl.Config(**fields))
    model = build("transformer_xl", fields, vocab_size=WORDS, head={"bias": True}).double().eval()
    pairs = [
        (model.stem.embedding.weight, of.transformer.word_embedding.weight),
        (model.head.project.bias, of.lm_loss.bias),
    ]
    for block, layer in zip(model.backbone.blocks, of.transformer.layer, strict=True):
        mixer, a, ff = block.mixers[0], layer.rel_attn, layer.ff
        maps = (mixer.query, a.q), (mixer.key, a.k), (mixer.value, a.v), (mixer.position.table, a.r)
        pairs += [(linear.weight, w.flatten(1).mT) for linear, w in maps]
        pairs += [(mixer.out.weight, a.o.flatten(1))]
        pairs += [(mixer.position.u, a.r_w_bias), (mixer.position.v, a.r_r_bias)]
        same = (block.norms[0], a.layer_norm), (block.norms[1], ff.layer_norm)
        same += (block.mlp.up, ff.layer_1), (block.mlp.down, ff.layer_2)
        pairs += [p for x, y in same for p in ((x.weight, y.weight), (x.bias, y.bias))]
    with torch.no_grad():
        for mine, their in pairs:
            mine.copy_(their)
    return model


@pytest.mark.parametrize("clamp", [None, 5])
@pytest.mark.parametrize("same_length", [False, True])
def test_segments_with_their_memory(same_length, clamp):
    xlnet = theirs(same_length=same_length, clamp_len=-1 if clamp is None else clamp)
    model = ours(xlnet, same_length=same_length, clamp_len=clamp)
    mems = [torch.randn(MEMORY, 2, DIM).double() for _ in range(LAYERS)]
    # a segment begins at a multiple of its length; the memory stands right before it
    start = 2 * SEGMENT
    pos = torch.arange(start - MEMORY, start).expand(2, -1)
    layers = tuple((Memory(x=m.transpose(0, 1), pos=pos),) for m in mems)
    state = ModelState(torch.full((2,), start), layers)
    for _ in range(3):
        ids = torch.randint(WORDS, (2, SEGMENT))
        out = xlnet(ids, mems=mems, use_mems=True)
        mems = out.mems
        y, state = model(ids, state=state)
        # their sinusoids are computed in float32
        torch.testing.assert_close(y, out.logits, rtol=1e-5, atol=1e-5)
        for (kept,), mem in zip(state.layers, mems, strict=True):
            assert kept.x.shape[1] == MEMORY
            torch.testing.assert_close(kept.x.transpose(0, 1), mem, rtol=1e-5, atol=1e-5)


def test_whole_inputs_through_the_converter(tmp_path):
    """One way; theirs takes no padding then. Both ways: test_convert_xlnet.py."""
    xlnet = theirs().float()
    model = converted(xlnet, tmp_path).double()
    (tmp_path / "back").mkdir()
    convert(tmp_path / "ours", tmp_path / "back")
    went, came = (load_file(tmp_path / w / "model.safetensors") for w in ("theirs", "back"))
    assert went.keys() == came.keys()
    assert all(torch.equal(went[k], came[k]) for k in went)
    ids = torch.randint(WORDS, (2, 37))
    with torch.no_grad():
        wanted = xlnet.double()(ids).logits
        torch.testing.assert_close(model(ids).logits, wanted, rtol=1e-5, atol=1e-5)
        how = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 5, "eos_token_id": None}
        words = model.generate(ids[:1], **how)
        for n in range(37, 43):
            assert words[0, n] == xlnet(words[:, :n]).logits[0, -1].argmax()
