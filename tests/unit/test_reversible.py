"""Reversible stacks: the gradients of the plain wiring, in memory that does not grow with depth."""

import pytest
import torch

import subquad as sq
from peak import peak
from subquad import nn
from subquad.model import Model, build
from subquad.nn.choices import stack
from subquad.nn.mixer import Mixer
from subquad.nn.reversible import Reversible, ReversibleDecoder, ReversibleEncoder
from subquad.nn.state import nbytes

pytestmark = pytest.mark.usefixtures("one_thread")

DIM = 24


def mixers(depth, dropout, causal=True):
    """Softmax and kernel attention in turn."""
    ahead = 0 if causal else 5
    return [
        nn.Attention(DIM, 4, sq.Window(5, ahead), dropout=dropout)
        if layer % 2 == 0
        else nn.KernelAttention(DIM, 4, nn.PositiveRandomFeatures(6, 16, seed=layer), causal=causal)
        for layer in range(depth)
    ]


def two_streams(depth=3, *, dropout=0.0, chunk=None, causal=True, made=None, dtype=torch.float64):
    torch.manual_seed(0)
    made = made or mixers(depth, dropout, causal)
    whole = stack(made, DIM, 48, causal=causal, wiring="reversible", dropout=dropout, chunk=chunk)
    for parameter in whole.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return whole.to(dtype).train()


def plain(whole, x, context):
    """The same wiring, every activation kept."""
    both = torch.cat((x, x), -1)
    for block in whole.blocks:
        both, _ = block(both, context)
    return whole.norm(both)


def run(model, call, x, context, weight):
    """Output, gradients of x and of all parameters, and the next random number."""
    torch.manual_seed(5)
    y = call(x, context)
    y = y[0] if isinstance(y, tuple) else y
    after = torch.rand(3)
    grads = torch.autograd.grad((y * weight).sum(), [x, *model.parameters()], allow_unused=True)
    return [y, *grads], torch.cat((after, torch.rand(3)))


def assert_plain(whole, length, context=None, batch=2):
    """`whole` gives what its plain wiring gives, draws what it draws."""
    dtype = next(whole.parameters()).dtype
    x = torch.randn(batch, length, DIM, dtype=dtype, requires_grad=True)
    context = context or nn.Context.of(x)
    weight = torch.randn(batch, length, 2 * DIM, dtype=dtype)
    found, drawn = run(whole, whole, x, context, weight)
    wanted, drawn_plainly = run(whole, lambda x, c: plain(whole, x, c), x, context, weight)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert torch.equal(drawn, drawn_plainly)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("length", [0, 1, 4, 13])
def test_gradients_of_the_plain_wiring(length, chunk, dropout):
    assert_plain(two_streams(dropout=dropout, chunk=chunk), length)


@pytest.mark.parametrize("causal", [True, False])
def test_gradients_with_padding_and_positions(causal):
    valid = torch.arange(13) < torch.tensor([13, 6])[:, None]
    context = nn.Context(torch.arange(13)[None], valid)
    assert_plain(two_streams(dropout=0.2, causal=causal), 13, context)


def test_deep_rows_lose_nothing_that_matters():
    """24 blocks undone in float64."""
    assert_plain(two_streams(24, dropout=0.1), 9)


def test_shared_and_frozen_parameters():
    one = nn.Attention(DIM, 4, sq.Window(5))
    whole = two_streams(made=[one, one, nn.Attention(DIM, 4, sq.Window(3))])
    whole.blocks[2].mixers[0].requires_grad_(False)
    whole.blocks[1].mlp.requires_grad_(False)
    x = torch.randn(1, 9, DIM, dtype=torch.float64)
    context, learning = nn.Context.of(x), [p for p in whole.parameters() if p.requires_grad]
    found = torch.autograd.grad(whole(x, context)[0].square().sum(), learning)
    wanted = torch.autograd.grad(plain(whole, x, context).square().sum(), learning)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


class Hashing(Mixer):
    """Tokens of one sign of their first channel share their mean; counts how often it hashes."""

    def __init__(self) -> None:
        super().__init__()
        self.value = torch.nn.Linear(DIM, DIM)
        self.hashed = 0
        self.given: list = []

    def hash(self, x, context):
        self.hashed += 1
        return (x[..., 0] > 0).to(torch.int32)

    def forward(self, x, context, state=None, labels=None):
        self.given.append(labels)
        labels = self.hash(x, context) if labels is None else labels
        same = (labels[:, :, None] == labels[:, None]).to(x.dtype)
        return (same / same.sum(-1, keepdim=True)) @ self.value(x), state

    @property
    def streams(self):
        return False


def test_labels_are_decided_once_and_reused():
    hashing = Hashing()
    whole = two_streams(made=[hashing, Hashing()], causal=False, dropout=0.2)
    hashing.hashed, hashing.given = 0, []
    x = torch.randn(2, 9, DIM, dtype=torch.float64, requires_grad=True)
    whole(x, nn.Context.of(x))[0].sum().backward()
    assert hashing.hashed == 1
    first, again = hashing.given
    assert torch.equal(first, again)
    assert_plain(whole, 9)


def test_a_token_that_would_be_hashed_anew_stays_where_it_was(monkeypatch):
    """The restored input differs in its last bits; here so much that every label would change."""
    whole = two_streams(made=[Hashing(), Hashing()], causal=False)
    x = torch.randn(1, 9, DIM, dtype=torch.float64, requires_grad=True)
    context = nn.Context.of(x)
    wanted = torch.autograd.grad(plain(whole, x, context).square().sum(), x)[0]
    y = whole(x, context)[0]
    monkeypatch.setattr(Hashing, "hash", lambda self, x, c: torch.zeros(x.shape[:2]))
    found = torch.autograd.grad(y.square().sum(), x)[0]
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("causal", [True, False])
def test_layers_that_hash(causal, dropout):
    def hashing(seed):
        options = {"rounds": 2, "buckets": (4, 2), "window": 3, "causal": causal, "seed": seed}
        return nn.HashedAttention(DIM, 4, dropout=dropout, **options)

    made = [hashing(0), *mixers(1, dropout, causal), hashing(2)]
    whole = two_streams(made=made, dropout=dropout, causal=causal)
    valid = torch.arange(37) < torch.tensor([37, 20])[:, None]
    assert_plain(whole, 37, nn.Context(torch.arange(37)[None], valid))
    assert_plain(whole, 1)


def kept_bytes(call, own):
    """Bytes of tensors kept for backward, parameters apart."""
    kept = {}

    def pack(t):
        if t.data_ptr() not in own:
            kept[t.data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = call()
    return sum(kept.values()), y


def test_what_is_kept_does_not_grow_with_depth():
    x = torch.randn(2, 64, DIM, dtype=torch.float64, requires_grad=True)
    context, kept, plainly = nn.Context.of(x), [], []
    for depth in (2, 8):
        whole = two_streams(depth, dropout=0.1)
        own = {p.data_ptr() for p in whole.parameters()}
        kept.append(kept_bytes(lambda w=whole: w(x, context)[0], own)[0])
        plainly.append(kept_bytes(lambda w=whole: plain(w, x, context), own)[0])
    assert kept[0] == kept[1]
    assert plainly[1] > 3 * plainly[0] > 3 * kept[0]


@pytest.mark.no_poison
def test_peak_memory_does_not_grow_with_depth():
    x = torch.randn(1, 2048, DIM, requires_grad=True)
    context, most = nn.Context.of(x), []
    for depth in (2, 6):
        whole = two_streams(depth, chunk=256, dtype=torch.float32)
        own = sum(p.nbytes for p in whole.parameters())

        def step(whole=whole):
            whole(x, context)[0].square().mean().backward()

        step()
        for parameter in whole.parameters():
            parameter.grad = None
        most.append(peak(step) - 2 * own)  # a gradient, and its sum as it grows
    assert max(most) <= 1.05 * min(most), most


def test_asking_for_less_memory_does_no_double_work(monkeypatch):
    calls = []
    forward = nn.MLP.forward
    monkeypatch.setattr(nn.MLP, "forward", lambda m, x: calls.append(1) or forward(m, x))
    whole, found = two_streams(3, dropout=0.2), []
    x = torch.randn(2, 13, DIM, dtype=torch.float64, requires_grad=True)
    for forget in (False, True):
        whole.gradient_checkpointing = forget
        calls.clear()
        torch.manual_seed(2)
        grads = torch.autograd.grad(whole(x, nn.Context.of(x))[0].sum(), [x, *whole.parameters()])
        assert len(calls) == 2 * 3
        found.append(grads)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_gradients_can_be_taken_twice_from_one_graph():
    whole, x = two_streams(), torch.randn(1, 5, DIM, dtype=torch.float64, requires_grad=True)
    y = whole(x, nn.Context.of(x))[0]
    first = torch.autograd.grad(y.sum(), x, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], first)
    y = whole(x, nn.Context.of(x))[0]
    with pytest.raises(RuntimeError, match="a reversible row is differentiated once"):
        torch.autograd.grad(y.sum(), x, create_graph=True)


def test_a_parameter_changed_before_backward_is_an_error():
    whole, x = two_streams(), torch.randn(1, 5, DIM, dtype=torch.float64)
    y = whole(x, nn.Context.of(x))[0]
    with torch.no_grad():
        whole.blocks[0].mlp.up.weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("how", ["float32", "bfloat16", "autocast"])
def test_low_precision_is_as_good_as_plain(how):
    """The error is at most twice that of the plain wiring with the same streams."""
    exact = two_streams(6)
    kind = torch.bfloat16 if how == "bfloat16" else torch.float32
    low = two_streams(6, dtype=kind)
    x = torch.randn(2, 33, DIM, dtype=torch.float64)
    weight = torch.randn(2, 33, 2 * DIM, dtype=torch.float64)

    def gradients(model, call, kind):
        leaf = x.to(kind).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast" and model is low):
            y = call(leaf, nn.Context.of(leaf))
        y = y[0] if isinstance(y, tuple) else y
        return torch.autograd.grad((y * weight).sum(), [leaf, *model.parameters()])

    wanted = gradients(exact, exact, torch.float64)
    found = gradients(low, low, kind)
    usual = gradients(low, lambda x, c: plain_wide(low, x, c), kind)
    for a, b, c in zip(found, usual, wanted, strict=True):
        assert (a - c).norm() <= 2 * (b - c).norm() + 1e-6 * c.norm()


def plain_wide(whole, x, context):
    """The plain wiring with streams in float32."""
    both = torch.cat((x, x), -1).float()
    for block in whole.blocks:
        both, _ = block(both, context)
    return whole.norm(both.to(x.dtype))


def test_streams_like_any_decoder():
    whole = two_streams(4).eval()
    x = torch.randn(2, 30, DIM, dtype=torch.float64)
    wanted, sizes = whole(x, nn.Context.of(x))[0], []
    for start in (whole.init_state(2), whole.init_memory(2)):
        state, parts, at = start, [], 0
        for piece in x.split([1, 7, 1, 12, 9], 1):
            pos = torch.arange(at, at + piece.shape[1])[None]
            y, state = whole(piece, nn.Context(pos), state)
            parts.append(y)
            at += piece.shape[1]
        assert len(state) == 4
        sizes.append(nbytes(state))
        torch.testing.assert_close(torch.cat(parts, 1), wanted, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        assert torch.equal(whole(x, nn.Context.of(x))[0], wanted)


@pytest.mark.slow
@pytest.mark.no_poison
def test_compiles_to_one_graph_with_the_same_gradients():
    torch._dynamo.reset()
    whole, x = two_streams(1), torch.randn(2, 9, DIM, dtype=torch.float64, requires_grad=True)
    context = nn.Context.of(x)
    whole.gradient_checkpointing = True
    compiled = torch.compile(whole, fullgraph=True, backend="aot_eager")
    found = []
    for call in (compiled, whole):
        y = call(x, context)[0]
        found.append([y, *torch.autograd.grad(y.square().sum(), [x, *whole.parameters()])])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_a_model_has_a_head_of_its_own():
    fields = {**vars(sq.ARCHS["transformer"].PRESETS["tiny"]), "wiring": "reversible"}
    model = build("transformer", fields, vocab_size=50)
    assert isinstance(model, Model)
    assert isinstance(model.backbone, ReversibleDecoder)
    assert model.backbone.out_dim == 64
    assert model.head.project.weight.shape == (50, 64)
    assert model(torch.randint(0, 50, (1, 9)))[0].shape == (1, 9, 50)
    looking = build("transformer", {**fields, "causal": False}, vocab_size=50)
    assert isinstance(looking.backbone, ReversibleEncoder)


def test_the_shell_does_not_tie_what_differs_in_width(tmp_path):
    from transformers import AutoModelForCausalLM

    from subquad.hf import SubquadConfig, SubquadForCausalLM

    fields = {**vars(sq.ARCHS["transformer"].PRESETS["tiny"]), "wiring": "reversible"}
    made = SubquadForCausalLM(SubquadConfig(arch="transformer", model=fields, vocab_size=50)).eval()
    ids = torch.randint(0, 50, (1, 9))
    made.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again(ids).logits, made(ids).logits)
    made.resize_token_embeddings(60)
    assert made(ids).logits.shape == (1, 9, 60)


def test_what_does_not_fit_is_said():
    two = [nn.Attention(DIM, 4, sq.Causal()), nn.CrossAttention(DIM, 4)]
    with pytest.raises(ValueError, match="has 1 mixer, not 2"):
        Reversible(DIM, two, nn.MLP(DIM, 48))
    block = nn.PreNorm(DIM, two[:1], nn.MLP(DIM, 48))
    with pytest.raises(ValueError, match="block 0 of two streams must be a Reversible, not a Pre"):
        ReversibleDecoder([block], DIM)
    with pytest.raises(ValueError, match="at least 1 position, not 0"):
        Reversible(DIM, two[:1], nn.MLP(DIM, 48), chunk=0)


@pytest.mark.parametrize("causal", [True, False])
def test_the_mean_of_both_streams(causal):
    torch.manual_seed(0)
    sizes = {"causal": causal, "wiring": "reversible_mean"}
    whole = stack(mixers(3, 0.0, causal), DIM, 48, **sizes).double().train()
    assert isinstance(whole, nn.MeanReversibleDecoder if causal else nn.MeanReversibleEncoder)
    assert whole.out_dim == DIM
    x = torch.randn(2, 17, DIM, dtype=torch.float64, requires_grad=True)
    context = nn.Context(torch.arange(17)[None])

    def kept(x, context):
        both = torch.cat((x, x), -1)
        for block in whole.blocks:
            both, _ = block(both, context)
        return whole.norm((both[..., :DIM] + both[..., DIM:]) / 2)

    weight = torch.randn(2, 17, DIM, dtype=torch.float64)
    found, wanted = (run(whole, call, x, context, weight)[0] for call in (whole, kept))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    if causal:
        state, parts = whole.init_state(2), []
        for at in range(17):
            y, state = whole(x[:, at : at + 1], nn.Context(torch.tensor([[at]])), state)
            parts.append(y)
        torch.testing.assert_close(torch.cat(parts, 1), wanted[0], rtol=1e-9, atol=1e-9)
