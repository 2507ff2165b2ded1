"""Causal kernel attention on a GPU: the kernels in Triton, behind the operators that all use."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import subquad as sq
from subquad.nn.features import PositiveRandomFeatures
from subquad.ops.linear import Sum, kernel_attention
from subquad.ops.linear_causal import _kernels, kernel_causal, kernel_causal_grad
from triton_cases import CASES, Case, errors

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.no_poison,
    # the compilers speak of precision and of the device
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning"),
]

MORE = [
    Case("exp", 1025, 4, 2, 64, 64, 256, padded=True, batch=2),
    Case("exp", 1025, 2, 2, 64, 64, 256, dtype=torch.bfloat16, padded=True, batch=2),
    Case("exp", 300, 2, 2, 128, 128, 256, dtype=torch.bfloat16),
    Case("exp", 300, 2, 2, 128, 128, 256),
]


@pytest.mark.parametrize("case", [*CASES, *MORE], ids=str)
def test_equals_float64(case: Case, monkeypatch):
    from subquad.ops.triton import work

    assert _kernels() is not None
    spec = work.spec_of(*case.arguments()[:3], case.arguments()[4], case.kind)
    chunks = -(-case.length // spec.chunk)
    size = 4 * spec.size * case.batch * case.heads * -(-chunks // case.spans)
    monkeypatch.setattr(work, "WORKSPACE", size)
    found = errors(case, kernel_causal, kernel_causal_grad, "cuda")
    wrong = {name: (e, most) for name, (e, most) in found.items() if not e <= most}
    assert not wrong


def test_bfloat16_errs_no_more_than_twice_plain_torch():
    n, depth, count = 700, 64, 256
    gen = torch.Generator("cuda").manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=gen, device="cuda").bfloat16()

    q, k, v, weight = (normal(2, 4, n, depth) for _ in range(4))
    features = PositiveRandomFeatures(depth, count).to("cuda", torch.bfloat16)
    rows = features.projection

    def quadratic(q, k, v, rows):
        q, k = q * depth**-0.25, k * depth**-0.25
        u = [x @ rows.T - x.square().sum(-1, keepdim=True) / 2 for x in (q, k)]
        phi_q, phi_k = (torch.exp(t - t.amax((-1, -2), keepdim=True)) for t in u)
        scores = (phi_q @ phi_k.mT).tril()
        return scores / scores.sum(-1, keepdim=True) @ v

    def run(attend, dtype):
        leaves = [t.to(dtype).detach().requires_grad_() for t in (q, k, v)]
        out = attend(*leaves)
        return [out, *torch.autograd.grad(out, leaves, weight.to(dtype))]

    exact = run(lambda *t: quadratic(*t, rows.double()), torch.float64)
    plain = run(lambda *t: quadratic(*t, rows), torch.bfloat16)
    mine = run(lambda *t: kernel_attention(*t, features)[0], torch.bfloat16)
    for a, b, c in zip(mine, plain, exact, strict=True):
        assert (a - c).norm() <= 2 * (b - c).norm()


def test_same_bits_twice():
    case = replace(MORE[1], padded=False)
    runs = [kernel_causal(*case.arguments("cuda")) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_no_kernel_is_compiled_again_for_another_length():
    from subquad.ops.triton import forward

    features = PositiveRandomFeatures(64, 128).to("cuda")

    def run(n: int) -> int:
        q, k, v = (torch.randn(1, n, 2, 64, device="cuda").transpose(1, 2) for _ in range(3))
        kernel_attention(q, k, v, features)
        device = torch.cuda.current_device()
        return len(forward.outputs.device_caches[device][0])

    first = run(1000)
    assert [run(n) for n in (999, 64, 4096, 1, 65)] == [first] * 5


def test_compiles_in_one_graph_for_all_lengths():
    features = PositiveRandomFeatures(64, 128).to("cuda")
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    def step(q, k, v):
        return kernel_attention(q, k, v, features)[0] * 2

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend=backend)
    for n in (130, 999, 64):
        q, k, v = (torch.randn(1, 2, n, 64, device="cuda") for _ in range(3))
        assert torch.equal(compiled(q, k, v), step(q, k, v))
    assert len(graphs) == 1


def test_a_decoding_step_is_a_graph():
    features = PositiveRandomFeatures(64, 128).to("cuda")
    mixer = sq.nn.KernelAttention(256, 4, features, causal=True).cuda().eval()
    x = torch.randn(32, 5, 256, device="cuda")
    where = [sq.nn.Context(torch.full((32, 1), i, device="cuda")) for i in range(5)]
    state, want = mixer.init_state(32), []
    with torch.no_grad():
        for i in range(5):
            y, state = mixer(x[:, i : i + 1], where[i], state)
            want.append(y)
        token, kept = x[:, :1].clone(), mixer.init_state(32)

        def step() -> torch.Tensor:
            y, after = mixer(token, where[0], kept)
            kept.kv.copy_(after.kv), kept.top.copy_(after.top)
            return y

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = step()
        fresh = mixer.init_state(32)
        kept.kv.copy_(fresh.kv), kept.top.copy_(fresh.top)
        for i in range(5):
            token.copy_(x[:, i : i + 1])
            graph.replay()
            assert torch.equal(out, want[i])
    assert isinstance(kept, Sum)


def test_memory_beside_results_does_not_grow():
    features = PositiveRandomFeatures(64, 256).to("cuda", torch.bfloat16)
    extra = []
    for n in (32_768, 65_536):
        q, k, v = (torch.randn(1, 8, n, 64, device="cuda").bfloat16() for _ in range(3))
        kernel_attention(q, k, v, features)
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        out, _ = kernel_attention(q, k, v, features)
        # results, and the five numbers that are kept of each position
        kept = out.numel() * 2 + 5 * 8 * n * 4
        extra.append(torch.cuda.max_memory_allocated() - before - kept)
    assert extra[1] <= 1.1 * extra[0] + (1 << 20)
