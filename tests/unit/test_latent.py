"""Latents of Perceiver AR: anchors, the definition written out, streams, training, its numbers."""

import copy
from dataclasses import replace

import pytest
import torch

import subquad as sq
from catalog import model, tiny
from phases import stream_rows_of_their_own
from subquad.archs import configure
from subquad.hf import SubquadConfig, SubquadForCausalLM
from subquad.model import build
from subquad.nn.context import Context
from subquad.nn.groups import Groups
from subquad.nn.mixer import merge_heads, split_heads
from subquad.nn.state import nbytes
from subquad.ops.positions import rotate

SHAPES = [(7, 3), (7, 1), (7, 7), (8, 4), (1, 1), (50, 25)]


def stack(latents=7, stride=3, **fields):
    """A backbone with weights large enough to matter."""
    torch.manual_seed(7)
    config = configure("perceiver_ar", {**tiny("perceiver_ar"), **fields})
    made = sq.ARCHS["perceiver_ar"].build(replace(config, latents=latents, stride=stride))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return made.double().eval()


def attend(mixer, q, x, q_pos, k_pos):
    """Causal attention as it is written, of inputs already normed (B, N, C)."""
    width = mixer.position.width
    q, k, v = (
        split_heads(part(t), mixer.num_heads)
        for part, t in ((mixer.query, q), (mixer.key, x), (mixer.value, x))
    )
    q, k = rotate(q, q_pos[None], width), rotate(k, k_pos[None], width)
    scores = mixer.scale * q @ k.mT
    allowed = k_pos <= q_pos[:, None]
    return mixer.out(merge_heads(scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ v))


def think(made, x, first, length):
    """The outputs of latents `first` .. `length` - 1, all from the anchor `first`."""
    read, at = made.read, torch.arange(length)
    own = at[first:]
    z = x[:, first:length]
    z = z + attend(read.mixer, read.norms[0](z), read.norms[1](x[:, :length]), own, at)
    z = z + read.mlp(read.norms[2](z))
    for block in made.blocks:
        normed = block.norms[0](z)
        z = z + attend(block.mixers[0], normed, normed, own, own)
        z = z + block.mlp(block.norms[1](z))
    return made.norm(z)


def anchor(p, latents, stride):
    """By the definition, looking for it."""
    if p < latents:
        return 0
    return next(a for a in range(p + 1) if a % stride == 0 and a > p - latents)


def oracle(made, x):
    """Every position alone, under its own anchor."""
    groups, outs = made.groups, []
    for p in range(x.shape[1]):
        first = anchor(p, groups.latents, groups.stride)
        outs.append(think(made, x, first, p + 1)[:, -1])
    return torch.stack(outs, 1)


@pytest.mark.parametrize(("latents", "stride"), [(7, 3), (8, 4), (5, 5), (6, 1), (1, 1), (9, 7)])
def test_anchors(latents, stride):
    groups = Groups(latents, stride)
    for p in range(60):
        found = groups.anchor(p)
        assert found == anchor(p, latents, stride)
        assert p < latents or latents - stride < p - found + 1 <= latents
    pos = torch.arange(60)
    assert groups.anchor(pos).tolist() == [groups.anchor(p) for p in range(60)]


@pytest.mark.parametrize(("latents", "stride"), SHAPES)
def test_equals_the_definition_with_gradients(latents, stride):
    made = stack(latents, stride)
    x = torch.randn(2, 37, 32, dtype=torch.float64, requires_grad=True)
    found, wanted = made(x, Context.of(x))[0], oracle(made, x)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    weigh = torch.randn_like(wanted)
    gradients = [
        torch.autograd.grad((y * weigh).sum(), (x, *made.parameters())) for y in (found, wanted)
    ]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("latents", [1, 5])
@pytest.mark.parametrize("stride", [1, 5])
def test_short_and_odd_lengths(latents, stride):
    made = stack(latents, min(stride, latents))
    for n in (0, 1, 2, 5, 6, 11):
        x = torch.randn(1, n, 32, dtype=torch.float64)
        y = made(x, Context.of(x))[0]
        assert y.shape == x.shape
        if n:
            torch.testing.assert_close(y, oracle(made, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("latents", "stride"), SHAPES)
def test_rows_at_different_phases_stream_each_by_its_own_anchors(latents, stride):
    stream_rows_of_their_own(stack(latents, stride))


def test_a_stream_thinks_again_once_a_stride():
    made, thought = stack(8, 4), []
    made.blocks[0].register_forward_hook(lambda m, args, out: thought.append(args[0].shape[1]))
    x, state = torch.randn(1, 100, 32, dtype=torch.float64), made.init_state(1)
    for p in range(100):
        start = torch.tensor([p])
        state = made(x[:, p : p + 1], Context.of(x[:, :1], None, start), state)[1]
    # each token once, and at an anchor the 4 latents that are kept
    crossings = (100 - 8) // 4
    assert sum(thought) == 100 + crossings * 4
    assert state.tail.count == 4
    assert all(layer[0].count <= 8 for layer in state.layers)
    with_tail = nbytes(state)
    assert with_tail - nbytes(state.read) <= 8 * (4 * 32 + 2 * 8 * 2 * 32 + 100)


@pytest.mark.parametrize("last", [1, 2, 9, 40])
@pytest.mark.parametrize("before", [0, 5, 30])
def test_the_last_outputs_alone(before, last):
    made = stack(8, 4)
    reads = []
    made.read.register_forward_hook(lambda m, args, out: reads.append(out.shape[1]))
    x = torch.randn(2, before + 41, 32, dtype=torch.float64)
    whole = made(x, Context.of(x))[0]
    state = made.init_state(2)
    if before:
        state = made(x[:, :before], Context.of(x[:, :before]), state)[1]
    piece, start = x[:, before:], torch.full((2,), before)
    told = replace(Context.of(piece, None, start), last=last)
    reads.clear()
    found, after = made(piece, told, state)
    torch.testing.assert_close(found, whole[:, -last:], rtol=1e-10, atol=1e-10)
    assert sum(reads) <= last + 8
    # the state is whole nevertheless
    more = torch.randn(2, 9, 32, dtype=torch.float64)
    found = made(more, Context.of(more, None, start + 41), after)[0]
    joined = torch.cat((x, more), 1)
    torch.testing.assert_close(found, made(joined, Context.of(joined))[0][:, -9:])
    if not before:
        found = made(piece, told)[0]
        torch.testing.assert_close(found, whole[:, -last:], rtol=1e-10, atol=1e-10)


def test_the_model_gives_the_last_outputs_of_ragged_rows():
    m, ids = model("perceiver_ar"), torch.randint(0, 50, (3, 60))
    valid = torch.arange(60) >= torch.tensor([[0], [7], [45]])
    whole = m(ids, valid=valid)[0]
    found = m(ids, valid=valid, last=5)[0]
    torch.testing.assert_close(found, whole[:, -5:], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_prompt_is_read_by_its_last_latents_alone(use_cache):
    torch.manual_seed(5)
    config = SubquadConfig(arch="perceiver_ar", model=tiny("perceiver_ar"), vocab_size=50)
    m, ids = SubquadForCausalLM(config).eval(), torch.randint(0, 50, (2, 200))
    reads = []
    read = m.model.backbone.read
    read.register_forward_hook(lambda module, args, out: reads.append(out.shape[1]))
    words = m.generate(ids, max_new_tokens=4, do_sample=False, use_cache=use_cache)
    assert reads == ([16, 1, 1, 1] if use_cache else [16, 9, 10, 11])
    # as from all outputs
    for n in range(200, 204):
        assert torch.equal(m(words[:, :n]).logits[:, -1].argmax(-1), words[:, n])


def test_without_more_tokens_than_latents_it_is_a_causal_decoder():
    made, x = stack(64, None), torch.randn(2, 40, 32, dtype=torch.float64)
    read, first = made.read, copy.deepcopy(made.blocks[0])
    read.norms[1] = read.norms[0]
    first.mixers[0], first.mlp = read.mixer, read.mlp
    first.norms = torch.nn.ModuleList([read.norms[0], read.norms[2]])
    decoder = sq.nn.Decoder([first, *made.blocks], 32, made.norm).double().eval()
    wanted = decoder(x, Context.of(x))[0]
    torch.testing.assert_close(made(x, Context.of(x))[0], wanted, rtol=1e-12, atol=1e-12)
    # in training too
    made.train(), decoder.train()
    torch.testing.assert_close(made(x, Context.of(x))[0], wanted, rtol=1e-12, atol=1e-12)


def test_training_takes_one_anchor_for_the_crop():
    made, x = stack(8, 4).train(), torch.randn(2, 29, 32, dtype=torch.float64, requires_grad=True)
    found, state = made(x, Context.of(x))
    wanted = think(made, x, 21, 29)
    assert found.shape == (2, 8, 32)
    assert state is None
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    for a, b in zip(
        *(torch.autograd.grad(y.square().sum(), (x, *made.parameters())) for y in (found, wanted)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("side", ["left", "right", "middle"])
def test_training_on_ragged_rows_aligns_each_to_the_right(side):
    m, ids, lengths = model("perceiver_ar").train(), torch.randint(0, 50, (4, 50)), [50, 31, 9, 0]
    slots = torch.arange(50)
    real = torch.tensor(lengths)[:, None]
    valid = {
        "left": slots >= 50 - real,
        "right": slots < real,
        "middle": (slots < real // 2) | (slots >= 50 - (real - real // 2)),
    }[side]
    y = m(ids, valid=valid)[0]
    assert y.shape == (4, 16, 50)
    for b, n in enumerate(lengths):
        k = min(n, 16)
        assert not y[b, : 16 - k].any()
        if n:
            alone = m(ids[b][valid[b]][None])[0][0]
            torch.testing.assert_close(y[b, 16 - k :], alone, rtol=1e-10, atol=1e-10)


def test_labels_follow_the_outputs_in_training():
    torch.manual_seed(5)
    config = SubquadConfig(arch="perceiver_ar", model=tiny("perceiver_ar"), vocab_size=50)
    m, ids = SubquadForCausalLM(config).double().train(), torch.randint(0, 50, (2, 40))
    cross = torch.nn.functional.cross_entropy
    out = m(ids, labels=ids)
    assert out.logits.shape == (2, 16, 50)
    wanted = cross(out.logits[:, :-1].flatten(0, 1).float(), ids[:, -15:].flatten())
    torch.testing.assert_close(out.loss, wanted)
    # padding on the right: each row is scored on its own last tokens
    mask = torch.ones_like(ids)
    mask[1, 23:] = 0
    out = m(ids, attention_mask=mask, labels=ids)
    targets = torch.stack((ids[0, -15:], ids[1, 8:23]))
    wanted = cross(out.logits[:, :-1].flatten(0, 1).float(), targets.flatten())
    torch.testing.assert_close(out.loss, wanted)
    # what a Trainer counts are all labels; the mean is over those scored here
    counted = m(ids, labels=ids, num_items_in_batch=torch.tensor(2 * 39)).loss
    torch.testing.assert_close(counted, m(ids, labels=ids).loss)
    # targets are aligned by themselves
    follow = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=-100)
    found = m(ids, attention_mask=mask, targets=follow.masked_fill(mask.roll(-1, 1) == 0, -100))
    torch.testing.assert_close(found.loss.float(), wanted)
    with pytest.raises(ValueError, match="logits_to_keep does not go with labels"):
        m(ids, labels=ids, logits_to_keep=2)
    # in eval mode every token has an output
    assert m.eval()(ids, labels=ids).logits.shape == (2, 40, 50)


def test_one_latent_has_no_label_behind_it():
    """It was a loss of nothing, nan; targets, and labels outside training, have what follows."""
    config = SubquadConfig(arch="perceiver_ar", model={**tiny("perceiver_ar"), "latents": 1})
    m, ids = SubquadForCausalLM(config).train(), torch.randint(0, 50, (2, 40))
    says = "of 40 tokens this model trains on the last one alone, and no label follows it: make `la"
    with pytest.raises(ValueError, match=says):
        m(ids, labels=ids)
    loss = m(ids, targets=ids.roll(-1, 1)).loss
    loss.backward()
    assert loss.isfinite()
    assert m.eval()(ids, labels=ids).loss.isfinite()
    two = SubquadConfig(arch="perceiver_ar", model={**tiny("perceiver_ar"), "latents": 2})
    assert SubquadForCausalLM(two).train()(ids, labels=ids).loss.isfinite()


def test_inputs_are_hidden_from_all_heads_and_queries_in_training_alone():
    made, x = stack(8, 4, cross_dropout=0.5), torch.randn(3, 200, 32, dtype=torch.float64)
    whole = made(x, Context.of(x))[0]
    assert torch.equal(made(x, Context.of(x))[0], whole)
    made.train()
    torch.manual_seed(1)
    seen, _ = made.read.inputs(x, Context.of(x), None)
    assert 0.4 < seen.valid.double().mean() < 0.6
    assert not torch.equal(seen.valid[0], seen.valid[1])
    torch.manual_seed(1)
    x.requires_grad_()
    made(x, Context.of(x))[0].square().sum().backward()
    # an input that is hidden, and no latent itself, takes no part
    assert torch.equal((x.grad != 0).any(-1)[:, :192], seen.valid[:, :192])


def test_more_latents_with_the_same_weights():
    small = stack(4, 2)
    x = torch.randn(1, 60, 32, dtype=torch.float64)
    for latents in (2, 8, 16, 100):
        other = stack(latents, None)
        other.load_state_dict(small.state_dict())
        torch.testing.assert_close(other(x, Context.of(x))[0], oracle(other, x))


def test_documents_are_kept_apart():
    made = stack(8, 4)
    x = torch.randn(2, 50, 32, dtype=torch.float64, requires_grad=True)
    label = (torch.arange(50) >= torch.tensor([[23], [30]])).long()[:, None]
    y = made(x, replace(Context.of(x), label=label))[0]
    gradient = torch.autograd.grad(y[0, 23:].sum() + y[1, 30:].sum(), x)[0]
    assert not gradient[0, :23].any()
    assert not gradient[1, :30].any()
    assert gradient[0, 23:].any(-1).all()
    # streamed, with rows at different phases
    state, outs = made.init_state(2), []
    for at in range(0, 50, 3):
        piece, part = x[:, at : at + 3], label[..., at : at + 3]
        context = replace(Context.of(piece, None, torch.tensor([at, at])), label=part)
        out, state = made(piece, context, state)
        outs.append(out)
    torch.testing.assert_close(torch.cat(outs, 1), y, rtol=1e-10, atol=1e-10)
    made.train()
    y = made(x, replace(Context.of(x), label=label))[0]
    assert not torch.autograd.grad(y.sum(), x)[0][0, :23].any()


@pytest.mark.parametrize("labelled", [False, True])
def test_rows_of_a_stream_are_renewed(labelled):
    """Rows cross at different times; one has seen nothing when the other crosses first."""
    made, x = stack(6, 2), torch.randn(2, 30, 32, dtype=torch.float64)
    label = torch.arange(30).expand(2, 1, 30) // 11 if labelled else None
    valid, state = torch.tensor([[True] * 9, [False] * 9]), made.init_state(2)
    first = None if label is None else label[..., :9]
    start = torch.zeros(2, dtype=torch.int64)
    state = made(x[:, :9], replace(Context.of(x[:, :9], valid, start), label=first), state)[1]
    outs, start = [], torch.tensor([9, 0])
    for i in range(20):
        piece = torch.stack((x[0, 9 + i], x[1, i]))[:, None]
        told = (
            None if label is None else torch.stack((label[0, :, 9 + i], label[1, :, i]))[..., None]
        )
        context = replace(Context.of(piece, None, start + i), label=told)
        y, state = made(piece, context, state)
        outs.append(y)
    whole = made(x, replace(Context.of(x), label=label))[0]
    found = torch.cat(outs, 1)
    torch.testing.assert_close(found[0], whole[0, 9:29], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found[1], whole[1, :20], rtol=1e-10, atol=1e-10)


def parameters(preset):
    """How many there are, from two depths: all layers are alike."""
    arch, found = sq.ARCHS["perceiver_ar"], []
    for depth in (1, 2):
        with torch.device("meta"):
            made = arch.build(replace(arch.PRESETS[preset], num_layers=depth))
        found.append(sum(p.numel() for p in made.parameters()))
    return found[0] + (arch.PRESETS[preset].num_layers - 1) * (found[1] - found[0])


def test_sizes_of_the_paper():
    # 12 C^2 for the cross-attention and for each layer (papers: 767.6M of 770.1M, and 88M)
    assert parameters("imagenet64") == pytest.approx(61 * 12 * 1024**2, rel=0.01)
    assert parameters("imagenet64") == pytest.approx(770.1e6, rel=0.01)
    assert parameters("copy-131072") == pytest.approx(88e6, rel=0.01)
    assert parameters("wikitext-small") == pytest.approx(9 * 12 * 512**2, rel=0.01)


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match="there must be at least 1 latent, not 0"):
        stack(0, None)
    with pytest.raises(ValueError, match="a stride of -2 does not fit 8 latents; take 1 to 8"):
        stack(8, -2)
    with pytest.raises(ValueError, match="a stride of 9 does not fit 8 latents; take 1 to 8"):
        stack(8, 9)
    with pytest.raises(ValueError, match=r"at least 0 and below 1, not 1\.0"):
        stack(cross_dropout=1.0)
    with pytest.raises(ValueError, match="perceiver_ar only predicts, so causal=False"):
        build("perceiver_ar", {**tiny("perceiver_ar"), "causal": False}, vocab_size=9)
    with pytest.raises(ValueError, match="carry nothing from one to the next"):
        model("perceiver_ar").init_memory(1)
    with pytest.raises(ValueError, match="3 heads do not divide 32"):
        stack(cross_heads=3)


def test_a_state_of_another_model_is_refused():
    made, x = stack(8, 4), torch.randn(1, 20, 32, dtype=torch.float64)
    state = made(x, Context.of(x), made.init_state(1))[1]
    told = Context.of(x, None, torch.tensor([20]))
    with pytest.raises(
        ValueError, match=r"keeps 4 inputs for the next anchor and this model 8: .*"
    ):
        stack(16, 8)(x, told, state)
    with pytest.raises(ValueError, match="keeps 4 inputs for the next anchor and this model 2"):
        stack(4, 2)(x, told, state)
    with pytest.raises(ValueError, match="LatentStack keeps a Latents and was given a tuple"):
        made(x, told, model("local").init_state(1).layers)
    with pytest.raises(ValueError, match="Decoder keeps a tuple and was given a Latents"):
        model("local")(
            torch.zeros(1, 2, dtype=torch.int64), state=model("perceiver_ar").init_state(1)
        )
