"""Transformer-XL against its definition: four terms, explicit memory, sizes, tables kept."""

import copy
import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import subquad as sq
from subquad.archs import ARCHS, configure, transformer_xl
from subquad.model import build
from subquad.nn import XLRelative, nbytes
from subquad.nn.context import Context
from subquad.nn.past import KV, Memory
from subquad.ops.band import band
from subquad.ops.positions import sinusoids

pytestmark = pytest.mark.usefixtures("one_thread")

DIM, HEADS, WIDTH = 12, 2, 6


def lm(seed: int = 7, **changed):
    torch.manual_seed(seed)
    fields = {**vars(transformer_xl.PRESETS["tiny"]), **changed}
    made = build("transformer_xl", fields, vocab_size=50).double().eval()
    for name, parameter in made.named_parameters():
        if not name.endswith(("norms.0.weight", "norms.1.weight")):
            nn.init.normal_(parameter, std=0.2)
    return made


def tokens(batch: int, length: int):
    return torch.randint(0, 50, (batch, length))


# --- one layer ----------------------------------------------------------------------------------


def mixer(pattern, seed=3, **options):
    torch.manual_seed(seed)
    position = XLRelative(HEADS, WIDTH, **options.pop("relative", {}))
    made = sq.nn.Attention(DIM, HEADS, pattern, position=position, bias=False, **options).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made


def by_terms(m, x, memory, see, clamp=None):
    """The paper's (a) + (b) + (c) + (d), pair by pair; `see(i, j)` by place in [memory; x]."""
    both = torch.cat((memory, x), 1)
    u, v = m.position.u, m.position.v
    q, k, val = (
        p(t).unflatten(-1, (HEADS, WIDTH))
        for p, t in ((m.query, x), (m.key, both), (m.value, both))
    )
    w_r = m.position.table
    out = torch.zeros_like(q)
    for b in range(x.shape[0]):
        for h in range(HEADS):
            for i in range(x.shape[1]):
                at = memory.shape[1] + i
                seen = [j for j in range(both.shape[1]) if see(at, j)]
                scores = []
                for j in seen:
                    distance = at - j if clamp is None else min(at - j, clamp)
                    r = w_r(sinusoids(torch.tensor(distance), DIM).double()).view(HEADS, WIDTH)[h]
                    scores.append(
                        q[b, i, h] @ k[b, j, h] + q[b, i, h] @ r + u[h] @ k[b, j, h] + v[h] @ r
                    )
                p = (torch.stack(scores) / math.sqrt(WIDTH)).softmax(0)
                out[b, i, h] = sum(p[n] * val[b, j, h] for n, j in enumerate(seen))
    return m.out(out.flatten(-2))


@pytest.mark.parametrize("clamp", [None, 0, 4])
@pytest.mark.parametrize("engine", [None, band], ids=["chosen", "band"])
@pytest.mark.parametrize("pattern", [sq.Segments(7, 5), sq.Window(5)], ids=str)
def test_scores_are_the_four_terms_of_the_paper(pattern, engine, clamp):
    m = mixer(pattern, relative={"clamp_len": clamp}, engine=engine)
    memory, x = torch.randn(2, 5, DIM).double(), torch.randn(2, 7, DIM).double()

    def see(i, j):
        return j <= i and (isinstance(pattern, sq.Segments) or i - j <= 5)

    # the memory holds the five tokens before a segment that begins at place 7
    state = Memory(x=memory, pos=torch.arange(2, 7).expand(2, -1))
    y, _ = m(x, Context(torch.arange(7, 14)[None]), state)
    wanted = by_terms(m, x, memory, see, clamp)
    torch.testing.assert_close(y, wanted, rtol=1e-10, atol=1e-10)
    parameters = list(m.parameters())
    found = torch.autograd.grad(y.square().sum(), parameters)
    for a, b in zip(found, torch.autograd.grad(wanted.square().sum(), parameters), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


# --- the whole model with its memory ------------------------------------------------------------


def shifted(x):
    """The paper's shift of (..., Q, K) by distances K - 1 ... 0: a column more, and read anew."""
    q, k = x.shape[-2:]
    return F.pad(x, (1, 0)).view(*x.shape[:-2], k + 1, q)[..., 1:, :].reshape(x.shape)


def plain_layer(block, x, memory, u, v, reach):
    """A layer as the paper's appendix computes it: memory joined, all distances, shift, mask."""
    m = block.mixers[0]
    both = torch.cat((memory, x), 1)
    heads, width = m.num_heads, m.head_dim
    q, k, val = (
        p(t).unflatten(-1, (heads, width)).transpose(1, 2)
        for p, t in ((m.query, x), (m.key, both), (m.value, both))
    )
    n, total = x.shape[1], both.shape[1]
    r = m.position.table(sinusoids(torch.arange(total - 1, -1, -1), x.shape[-1]).double())
    r = r.unflatten(-1, (heads, width)).transpose(0, 1)
    scores = (q + u[:, None]) @ k.mT + shifted((q + v[:, None]) @ r.mT)
    distance = torch.arange(total - n, total)[:, None] - torch.arange(total)
    allowed = (distance >= 0) & (distance <= reach)
    p = (scores / math.sqrt(width)).masked_fill(~allowed, -math.inf).softmax(-1)
    x = block.norms[0](x + m.out((p @ val).transpose(1, 2).flatten(2)))
    return block.norms[1](x + block.mlp.down(block.mlp.up(x).relu()))


def plain_segments(model, ids, segment, memory, reach):
    """Logits of each segment, in an explicit loop that keeps the inputs of every layer."""
    stack = model.backbone
    u, v = stack.biases.u, stack.biases.v
    kept = [torch.zeros(len(ids), 0, stack.out_dim).double() for _ in stack.blocks]
    for part in ids.split(segment, 1):
        x, after = model.stem(part)[0], []
        for block, old in zip(stack.blocks, kept, strict=True):
            after.append(torch.cat((old, x), 1)[:, -memory:].detach())
            x = plain_layer(block, x, old, u, v, reach)
        kept = after
        yield model.head(x)


@pytest.mark.parametrize("same_length", [False, True])
def test_training_by_segments_equals_an_explicit_loop(same_length):
    """Outputs and gradients; in the second and third segment the past is constant layer inputs."""
    segment, memory = 6, 9
    m = lm(segment=segment, memory=memory, same_length=same_length)
    reach = memory if same_length else memory + segment - 1
    ids, state = tokens(2, 3 * segment), m.init_memory(2)
    parameters = list(m.parameters())
    plain = plain_segments(m, ids, segment, memory, reach)
    for part, wanted in zip(ids.split(segment, 1), plain, strict=True):
        y, state = m(part, state=state)
        torch.testing.assert_close(y, wanted, rtol=1e-10, atol=1e-10)
        found = torch.autograd.grad(y.square().sum(), parameters)
        for a, b in zip(found, torch.autograd.grad(wanted.square().sum(), parameters), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("fields", [{}, {"same_length": True}, {"clamp_len": 3}], ids=str)
@pytest.mark.parametrize("segment", [5, 8, 11])
def test_memory_and_keys_and_values_give_the_same(fields, segment):
    m, ids = lm(memory=9, **fields), tokens(2, 40)
    valid = torch.arange(40) >= torch.tensor([[0], [7]])
    whole = m(ids, valid=valid)[0]
    for start, kind in ((m.init_state, KV), (m.init_memory, Memory)):
        state, parts = start(2), []
        for part, real in zip(ids.split(segment, 1), valid.split(segment, 1), strict=True):
            y, state = m(part, valid=real, state=state)
            parts.append(y)
        assert all(isinstance(layer[0], kind) for layer in state.layers)
        found = torch.cat(parts, 1)
        torch.testing.assert_close(found[valid], whole[valid], rtol=1e-10, atol=1e-10)


def test_a_memory_that_covers_everything_is_the_dense_model():
    m, ids = lm(memory=100, segment=100), tokens(1, 70)
    short = lm(memory=100, segment=10)
    assert torch.equal(short(ids)[0], lm(memory=100, segment=10, same_length=True)(ids)[0])
    torch.testing.assert_close(m(ids)[0], short(ids)[0], rtol=1e-10, atol=1e-10)


def test_what_the_state_holds():
    """What later tokens may look at: more of a segment that goes on than of one that is over."""
    m, ids, state = lm(memory=9, segment=6), tokens(2, 25), None
    counts = []
    state = m.init_state(2)
    for token in ids.split(1, 1):
        state = m(token, state=state)[1]
        counts.append(state.layers[0][0].count)
    assert counts[-7:] == [10, 11, 12, 13, 14, 9, 10]  # after token 18 + i
    assert m(ids, state=m.init_state(2))[1].layers[1][0].count == 10
    m = lm(memory=9, same_length=True)
    assert m(tokens(1, 60), state=m.init_state(1))[1].layers[0][0].count == 9
    m = lm(memory=1000)
    states = [m(tokens(1, 20), state=m.init_state(1))[1]]  # longer than what was read: all of it
    assert states[0].layers[0][0].count == 20
    assert nbytes(states[0]) < 20 * 2 * (2 * 32 + 4) * 8


def test_forgotten_activations_and_memory_give_the_same_gradients():
    m = lm(dropout=0.2).train()
    first, second = tokens(2, 16).chunk(2, 1)
    found = []
    for forget in (False, True):
        m.backbone.gradient_checkpointing = forget
        m.zero_grad()
        torch.manual_seed(1)
        state = m(first, state=m.init_memory(2))[1]
        m(second, state=state)[0].square().mean().backward()
        found.append([p.grad.clone() for p in m.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_dropout_of_attention_is_the_configured_one():
    assert {b.mixers[0].dropout for b in lm(attention_dropout=0.3).backbone.blocks} == {0.3}


# --- tables of distances ------------------------------------------------------------------------


def test_a_step_does_not_form_the_distances_again(monkeypatch):
    m, ids = lm(memory=40, segment=8), tokens(1, 60)
    calls = []
    real = nn.Linear.forward

    def counted(self, x):
        if any(self is b.mixers[0].position.table for b in m.backbone.blocks):
            calls.append(len(x))
        return real(self, x)

    monkeypatch.setattr(nn.Linear, "forward", counted)
    with torch.no_grad():
        state = m(ids[:, :50], state=m.init_state(1))[1]
        calls.clear()
        for token in ids[:, 50:].split(1, 1):
            state = m(token, state=state)[1]
        assert calls == []
        m(ids[:, :1], state=m.init_state(1))
        assert calls == []
        copy.deepcopy(m)(ids)
    m(ids)
    assert len(calls) == 2  # with gradients, once for each layer


@pytest.mark.parametrize("change", ["optimizer", "data", "load", "move"])
def test_kept_distances_follow_their_weights(change):
    m, ids = lm(), tokens(1, 30)
    other = lm(seed=8)
    with torch.no_grad():
        before = m(ids)[0]
        tables = [b.mixers[0].position.table for b in m.backbone.blocks]
        if change == "optimizer":
            for p in m.parameters():
                p.grad = torch.ones_like(p)
            torch.optim.SGD(m.parameters(), lr=0.1).step()
        elif change == "data":
            for table in tables:
                table.weight.data.mul_(1.5)
        elif change == "load":
            m.load_state_dict(other.state_dict())
        else:
            m = m.float().double()
        fresh = lm(seed=9)
        fresh.load_state_dict(m.state_dict())
        found, wanted = m(ids)[0], fresh(ids)[0]
        assert torch.equal(found, wanted)
        assert not torch.equal(found, before)


def test_kept_distances_are_not_those_of_an_autocast():
    m, ids = lm().float(), tokens(1, 30)
    with torch.no_grad():
        wanted = copy.deepcopy(m)(ids)[0]
        with torch.autocast("cpu", torch.bfloat16):
            m(ids)
        assert torch.equal(m(ids)[0], wanted)


# --- sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "published"),
    [("enwik8_base", 40.9e6), ("enwik8_large", 276.8e6)],
)
def test_parameters_without_embeddings(preset, published):
    c = transformer_xl.PRESETS[preset]
    with torch.device("meta"):
        count = sum(p.numel() for p in transformer_xl.build(c).parameters())
    formula = c.num_layers * (5 * c.dim**2 + 2 * c.dim * c.ffn_dim)
    assert formula == pytest.approx(published, rel=2e-3)
    small = c.num_layers * (5 * c.dim + c.ffn_dim) + 2 * c.dim  # norms, biases of the MLP, u and v
    assert count == formula + small
    assert count == pytest.approx(formula, rel=0.01)


@pytest.mark.parametrize("preset", transformer_xl.PRESETS)
def test_presets_build(preset):
    c = dataclasses.replace(transformer_xl.PRESETS[preset], num_layers=1)
    with torch.device("meta"):
        made = transformer_xl.build(c)
    mixer = made.blocks[-1].mixers[0]
    assert mixer.head_dim * c.num_heads == c.dim
    assert all(getattr(mixer, n).bias is None for n in ("query", "key", "value", "out"))
    assert mixer.position.table.bias is None


def test_u_and_v_are_shared_unless_untied():
    names = [n for n, _ in lm().named_parameters() if n.endswith((".u", ".v"))]
    assert names == ["backbone.biases.u", "backbone.biases.v"]
    untied = lm(untie=True)
    assert len([n for n, _ in untied.named_parameters() if n.endswith((".u", ".v"))]) == 4
    twin = copy.deepcopy(lm())
    ids = tokens(1, 20)
    assert torch.equal(twin(ids)[0], lm()(ids)[0])
    with torch.no_grad():
        twin.backbone.biases.u.add_(1.0)
    assert not torch.equal(twin(ids)[0], lm()(ids)[0])


def test_weights_begin_as_in_the_paper():
    torch.manual_seed(0)
    m = build("transformer_xl", {"dim": 256, "num_layers": 4}, vocab_size=50)
    for name, p in m.named_parameters():
        if p.dim() > 1 and "stem" not in name:
            assert float(p.detach().std()) == pytest.approx(0.02, rel=0.1), name


def test_embeddings_are_scaled_where_norms_follow_sums():
    assert transformer_xl.Config(dim=64).embedding_scale == 8.0
    assert transformer_xl.Config(dim=64, wiring="pre").embedding_scale == 1.0


def test_a_head_need_not_divide_the_width():
    m, ids = lm(dim=32, num_heads=3, head_dim=10), tokens(1, 20)
    assert m.backbone.blocks[0].mixers[0].position.table.weight.shape == (30, 32)
    assert m(ids)[0].isfinite().all()


# --- what does not fit --------------------------------------------------------------------------


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match="clamp_len is -1; it is a distance from 0 on, or None"):
        lm(clamp_len=-1)
    with pytest.raises(ValueError, match="transformer_xl only predicts: causal=False"):
        lm(causal=False)
    with pytest.raises(ValueError, match="segment 0 must be at least 1 token, and memory 8"):
        lm(segment=0)
    with pytest.raises(ValueError, match="no field 'memry'; did you mean 'memory'"):
        configure("transformer_xl", {"memry": 3})


def test_a_state_of_another_model_is_refused():
    m, ids = lm(), tokens(2, 5)
    for arch, fields, message in (
        ("performer", {}, "Attention keeps a Past and was given a Sum: .* another architecture"),
        ("transformer_xl", {"num_layers": 3}, "that of 3 layers and this model has 2"),
        ("transformer_xl", {"num_heads": 2}, r"keeps k of \(2, 2, 16\) .* makes \(2, 4, 8\)"),
    ):
        tiny = {**vars(ARCHS[arch].PRESETS["tiny"]), **fields}
        other = build(arch, tiny, vocab_size=50).double()
        with pytest.raises(ValueError, match=message):
            m(ids, state=other.init_state(2))
    kernel = build("performer", vars(ARCHS["performer"].PRESETS["tiny"]), vocab_size=50).double()
    with pytest.raises(ValueError, match="KernelAttention keeps a Sum and was given a Memory"):
        kernel(ids, state=m.init_memory(2))
    wide = build(
        "transformer_xl", {**vars(transformer_xl.PRESETS["tiny"]), "dim": 64}, vocab_size=9
    )
    with pytest.raises(ValueError, match=r"keeps x of \(2, 64\) .* makes \(2, 32\)"):
        m(ids, state=wide.double().init_memory(2))
    with pytest.raises(ValueError, match="the state holds 3 rows and the batch has 2"):
        m(ids, state=m.init_memory(3))
