"""Latents that read their prefix under one norm and themselves under another: the definition
written out, and the laws that the contracts ask of every architecture.
"""

from dataclasses import replace

import pytest
import torch

import subquad as sq
from catalog import cuts
from phases import stream_rows_of_their_own
from prefixed import fields, large, model, stack, tokens
from subquad.archs import configure
from subquad.hf import SubquadConfig, SubquadForCausalLM
from subquad.model import load, save
from subquad.nn import PrefixRead, PrefixStack
from subquad.nn.context import Context
from subquad.nn.mixer import merge_heads, split_heads
from subquad.nn.prefix import before
from subquad.nn.state import nbytes, select
from subquad.ops.positions import rotate

SHAPES = [(7, 3), (7, 1), (7, 7), (8, 4), (1, 1), (50, 25)]
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def attend(mixer, q, x, q_pos, k_pos):
    """Causal attention as it is written, of inputs already normed (B, N, C)."""
    q, k, v = (
        split_heads(part(t), mixer.num_heads)
        for part, t in ((mixer.query, q), (mixer.key, x), (mixer.value, x))
    )
    if hasattr(mixer.position, "width"):
        width = mixer.position.width
        q, k = rotate(q, q_pos[None], width), rotate(k, k_pos[None], width)
    scores = mixer.scale * q @ k.mT
    allowed = k_pos <= q_pos[:, None]
    return mixer.out(merge_heads(scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ v))


def think(made, x, first, length):
    """The outputs of latents `first` .. `length` - 1, all from the anchor `first`."""
    read, at = made.read, torch.arange(length)
    own, z = at[first:], x[:, first:length]
    q = read.norms[0](z)
    keys = torch.cat((read.norms[1](x[:, :first]), q), 1)
    z = z + attend(read.mixer, q, keys, own, at)
    z = z + read.mlp(read.norms[2](z))
    for block in made.blocks:
        normed = block.norms[0](z)
        z = z + attend(block.mixers[0], normed, normed, own, own)
        z = z + block.mlp(block.norms[1](z))
    return made.norm(z)


def oracle(made, x):
    """Every position alone, under its own anchor."""
    n = x.shape[1]
    return torch.cat([think(made, x, made.groups.anchor(p), p + 1)[:, -1:] for p in range(n)], 1)


@pytest.mark.parametrize(
    "more",
    [{}, {"position_layers": 1, "wiring": "pre_open", "head_dim": 6, "cross_ffn_dim": 20}],
    ids=["plain", "other sizes"],
)
@pytest.mark.parametrize(("latents", "stride"), SHAPES)
def test_equals_the_definition_with_gradients(latents, stride, more):
    made = stack(latents, stride, **more)
    assert isinstance(made, PrefixStack)
    assert isinstance(made.read, PrefixRead)
    x = torch.randn(2, 37, 32, dtype=torch.float64, requires_grad=True)
    found, wanted = made(x, Context.of(x))[0], oracle(made, x)
    torch.testing.assert_close(found, wanted, **CLOSE)
    weigh = torch.randn_like(wanted)
    gradients = [
        torch.autograd.grad((y * weigh).sum(), (x, *made.parameters()), materialize_grads=True)
        for y in (found, wanted)
    ]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_it_is_not_the_stack_with_one_norm():
    made, x = stack(8, 4), torch.randn(1, 30, 32, dtype=torch.float64)
    config = configure("perceiver_ar", fields(8, 4, read="inputs"))
    other = sq.ARCHS["perceiver_ar"].build(config).double().eval()
    other.load_state_dict(made.state_dict())
    a, b = (one(x, Context.of(x))[0] for one in (made, other))
    assert (a - b).abs().amax() > 0.1
    # with equal norms it is
    made.read.norms[1].load_state_dict(made.read.norms[0].state_dict())
    other.load_state_dict(made.state_dict())
    a, b = (one(x, Context.of(x))[0] for one in (made, other))
    torch.testing.assert_close(a, b, **CLOSE)


@pytest.mark.parametrize(("latents", "stride"), SHAPES)
def test_streamed_equals_whole(latents, stride):
    m, ids = model(latents, stride), tokens(2, 60)
    whole = m(ids)[0]
    for cut in cuts(60):
        state, parts = m.init_state(2), []
        for part in ids.split(cut, 1):
            y, state = m(part, state=state)
            parts.append(y)
        torch.testing.assert_close(torch.cat(parts, 1), whole, **CLOSE)
    for n in (1, 30, 59):
        torch.testing.assert_close(m(ids[:, :n])[0], whole[:, :n], **CLOSE)


@pytest.mark.parametrize("side", ["left", "right"])
def test_batched_equals_alone(side):
    m, ids, lengths = model(8, 3), tokens(3, 40), torch.tensor([40, 23, 1])
    slots = torch.arange(40)
    valid = slots < lengths[:, None] if side == "right" else slots >= 40 - lengths[:, None]
    y = m(ids, valid=valid)[0]
    last = m(ids, valid=valid, last=5)[0]
    if side == "left":
        torch.testing.assert_close(last, y[:, -5:], **CLOSE)
    for b in range(3):
        alone = m(ids[b][valid[b]][None])[0][0]
        torch.testing.assert_close(y[b][valid[b]], alone, **CLOSE)


@pytest.mark.parametrize(("latents", "stride"), SHAPES)
def test_rows_at_different_phases_stream_each_by_its_own_anchors(latents, stride):
    stream_rows_of_their_own(stack(latents, stride))


def test_streams_on_after_left_padding_and_selecting_is_reindexing():
    m, ids, lengths = model(6, 4), tokens(3, 30), [30, 12, 2]
    valid, more = torch.arange(30) >= 30 - torch.tensor(lengths)[:, None], tokens(3, 19)
    state = m(ids, valid=valid, state=m.init_state(3))[1]
    index, outs = torch.tensor([1, 1, 2]), []
    picked = m(more[index], state=select(state, index))[0]
    for i in range(19):
        y, state = m(more[:, i : i + 1], state=state)
        outs.append(y)
    found = torch.cat(outs, 1)
    torch.testing.assert_close(picked, found[index], **CLOSE)
    for b, n in enumerate(lengths):
        whole = m(torch.cat((ids[b, 30 - n :], more[b]))[None])[0][0, n:]
        torch.testing.assert_close(found[b], whole, **CLOSE)


def test_documents_are_kept_apart():
    m, ids, sizes = model(8, 4), tokens(2, 60), [25, 1, 34]
    label = torch.repeat_interleave(torch.tensor([4, 0, 7]), torch.tensor(sizes)).expand(2, -1)
    whole = m(ids, label=label)[0]
    changed = ids.clone()
    changed[:, :25] = tokens(2, 25)
    torch.testing.assert_close(m(changed, label=label)[0][:, 26:], whole[:, 26:], **CLOSE)
    assert (m(changed)[0] - m(ids)[0])[:, 26:].abs().amax() > 1e-3
    for size in (1, 3, 7, 60):
        state, outs = m.init_state(2), []
        for part, told in zip(ids.split(size, 1), label.split(size, 1), strict=True):
            y, state = m(part, label=told, state=state)
            outs.append(y)
        torch.testing.assert_close(torch.cat(outs, 1), whole, **CLOSE)


@pytest.mark.parametrize("last", [1, 2, 9, 40])
@pytest.mark.parametrize("start", [0, 5, 30])
def test_the_last_outputs_alone(start, last):
    made, reads = stack(8, 4), []
    made.read.register_forward_hook(lambda m, args, out: reads.append(out.shape[:2].numel()))
    x = torch.randn(2, start + 41, 32, dtype=torch.float64)
    whole, state = made(x, Context.of(x))[0], made.init_state(2)
    if start:
        state = made(x[:, :start], Context.of(x[:, :start]), state)[1]
    piece, at = x[:, start:], torch.full((2,), start)
    told = replace(Context.of(piece, None, at), last=last)
    reads.clear()
    found, after = made(piece, told, state)
    torch.testing.assert_close(found, whole[:, -last:], **CLOSE)
    # each group reads its latents anew
    assert sum(reads) <= 2 * 8 * (last // 4 + 2)
    more = torch.randn(2, 9, 32, dtype=torch.float64)
    found = made(more, Context.of(more, None, at + 41), after)[0]
    joined = torch.cat((x, more), 1)
    torch.testing.assert_close(found, made(joined, Context.of(joined))[0][:, -9:], **CLOSE)


def test_training_takes_one_anchor_for_the_crop():
    made, x = stack(8, 4).train(), torch.randn(2, 29, 32, dtype=torch.float64, requires_grad=True)
    found, wanted = made(x, Context.of(x))[0], think(made, x, 21, 29)
    torch.testing.assert_close(found, wanted, **CLOSE)
    for a, b in zip(
        *(torch.autograd.grad(y.square().sum(), (x, *made.parameters())) for y in (found, wanted)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("side", ["left", "right"])
def test_training_on_ragged_rows_aligns_each_to_the_right(side):
    m, ids, lengths = model().train(), tokens(4, 50), [50, 31, 9, 0]
    slots, real = torch.arange(50), torch.tensor(lengths)[:, None]
    valid = slots >= 50 - real if side == "left" else slots < real
    y = m(ids, valid=valid)[0]
    assert y.shape == (4, 16, 50)
    for b, n in enumerate(lengths):
        k = min(n, 16)
        assert not y[b, : 16 - k].any()
        if n:
            alone = m(ids[b][valid[b]][None])[0][0]
            torch.testing.assert_close(y[b, 16 - k :], alone, **CLOSE)


def test_inputs_of_the_prefix_alone_are_hidden_in_training():
    made, x = stack(8, 4, cross_dropout=0.5), torch.randn(2, 200, 32, dtype=torch.float64)
    whole = made(x, Context.of(x))[0]
    assert torch.equal(made(x, Context.of(x))[0], whole)
    made.train()
    x.requires_grad_()
    made(x, Context.of(x))[0].square().sum().backward()
    some = (x.grad != 0).any(-1)
    assert 0.3 < some[:, :192].double().mean() < 0.7
    assert some[:, 192:].all()


def test_gradients_are_the_same_with_checkpointing():
    made, x = stack(8, 4).train(), torch.randn(1, 30, 32, dtype=torch.float64)
    found = []
    for again in (False, True):
        made.gradient_checkpointing = again
        y = made(x, Context.of(x))[0]
        found.append(torch.autograd.grad(y.square().sum(), [*made.parameters()]))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def test_a_state_keeps_the_prefix_and_what_latents_need():
    made = stack(8, 4)
    x, state = torch.randn(1, 100, 32, dtype=torch.float64), made.init_state(1)
    for p in range(100):
        state = made(x[:, p : p + 1], Context.of(x[:, :1], None, torch.tensor([p])), state)[1]
        assert state.tail.count <= 4
        assert state.layers[0].count <= 8
    assert state.read.count == 100
    assert nbytes(state) - nbytes(state.read) <= 8 * (4 * 32 + 3 * 8 * 2 * 32 + 100)


@pytest.mark.parametrize("use_cache", [True, False])
def test_generates_through_the_shell(use_cache, tmp_path):
    torch.manual_seed(5)
    config = SubquadConfig(arch="perceiver_ar", model=fields(8, 3), vocab_size=50)
    made = large(SubquadForCausalLM(config))
    made.save_pretrained(tmp_path)
    m, ids = SubquadForCausalLM.from_pretrained(tmp_path).eval(), tokens(2, 30)
    mask = torch.arange(30) >= torch.tensor([[0], [11]])
    for how in ({}, {"num_beams": 3}):
        words = m.generate(
            ids, attention_mask=mask.long(), max_new_tokens=9, use_cache=use_cache,
            do_sample=False, **how,
        )  # fmt: skip
        assert words.shape == (2, 39)
    words = m.generate(
        ids, attention_mask=mask.long(), max_new_tokens=9, use_cache=use_cache, do_sample=False
    )
    for n in range(30, 39):
        alone = m(words[1:, 11:n]).logits[:, -1].argmax(-1)
        assert torch.equal(alone, words[1:, n])


def test_saves_and_loads(tmp_path):
    m, ids = model(), tokens(1, 40)
    save(m, tmp_path, {"arch": "perceiver_ar", "model": fields(), "vocab_size": 50})
    torch.testing.assert_close(load(tmp_path).double().eval()(ids)[0], m(ids)[0], **CLOSE)


def test_tokens_before_an_anchor():
    x = torch.randn(2, 6, 32, dtype=torch.float64)
    made = stack()
    valid = torch.tensor([[True] * 6, [False] * 2 + [True] * 4])
    context = replace(Context.of(x, valid), pos=torch.arange(6) - torch.tensor([[0], [2]]))
    seen, _ = made.read.inputs(x, context, None)
    found = before(seen, torch.tensor([1, 0, 1]), torch.tensor([3, 1, 0]))
    assert found.pos.tolist() == [[-2, -1, 0, 1, 2], [-4, -3, -2, -1, 0], [-5, -4, -3, -2, -1]]
    assert found.valid.tolist() == [
        [False, False, True, True, True],
        [False] * 4 + [True],
        [False] * 5,
    ]
    assert torch.equal(found.k[0, :, 2:], seen.k[1, :, 2:5])
    assert torch.equal(found.v[1, :, -1:], seen.v[0, :, :1])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"read": "prefixes"}, "no read is called 'prefixes'; did you mean 'prefix'"),
        ({"wiring": "post"}, "no wiring is called 'post'; .*pre, pre_open"),
        ({"position_layers": -1}, "position_layers is -1; it must be at least 0, or None"),
        ({"head_dim": 0}, "head_dim is 0; it must be at least 1, or None"),
        ({"cross_ffn_dim": 0}, "cross_ffn_dim is 0; it must be at least 1, or None"),
    ],
)
def test_what_does_not_fit_is_said(more, message):
    with pytest.raises(ValueError, match=message):
        stack(**more)


def test_a_state_of_the_other_read_is_refused():
    x, told = torch.randn(1, 20, 32, dtype=torch.float64), torch.tensor([20])
    made, config = stack(8, 4), configure("perceiver_ar", fields(8, 4, read="inputs"))
    other = sq.ARCHS["perceiver_ar"].build(config).double().eval()
    for a, b in ((made, other), (other, made)):
        state = a(x, Context.of(x), a.init_state(1))[1]
        with pytest.raises(ValueError, match="this state is of another architecture"):
            b(x, Context.of(x, None, told), state)
