"""Cases of causal kernel attention on GPU kernels: how far from float64, and how far is allowed.

Run as a program it goes through all of them on this processor, which TRITON_INTERPRET=1 makes
possible; tests/gpu asks `errors` on a device.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from subquad.ops.linear_causal import kernel_causal, kernel_causal_grad

NAMES = ("out", "state", "top", "dq", "dk", "dv", "first", "projection")


@dataclass(frozen=True)
class Case:
    """Sizes of a call; F = 0: nothing is projected. spans: into how many the positions are cut."""

    kind: str
    length: int
    heads: int
    key_heads: int
    depth: int
    width: int
    features: int
    dtype: torch.dtype = torch.float32
    padded: bool = False
    spans: int = 1
    batch: int = 1

    def __str__(self) -> str:
        sizes = f"N{self.length}-H{self.heads}-K{self.key_heads}-D{self.depth}-E{self.width}"
        padded = "-padded" if self.padded else ""
        kind = f"{self.kind}-{str(self.dtype).removeprefix('torch.')}"
        return f"{kind}-{sizes}-F{self.features}{padded}-spans{self.spans}"

    def arguments(self, device: str = "cpu") -> tuple:
        """Arguments of `kernel_causal`, from a state that has seen keys; padding holds NaN."""
        gen = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=gen)

        n, count = self.length, self.features or self.depth
        q = normal(self.batch, self.heads, n, self.depth)
        k = normal(self.batch, self.key_heads, n, self.depth)
        v = normal(self.batch, self.key_heads, n, self.width)
        q, k, v = (t.to(self.dtype) for t in (q, k, v))
        if self.kind == "none":
            q, k = q.abs(), k.abs()
        valid = None
        if self.padded:
            valid = torch.rand(self.batch, n, generator=gen) < 0.7
            k, v = (t.masked_fill(~valid[:, None, :, None], math.nan) for t in (k, v))
        # as a model holds them: (B, N, H, D), and a projection in its dtype
        q, k, v = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v))
        rows = normal(self.features, self.depth).to(self.dtype) if self.features else None
        kv = normal(self.batch, self.key_heads, count, self.width + 1).abs()
        top = normal(self.batch, self.key_heads) if self.kind == "exp" else None
        top = torch.zeros(self.batch, self.key_heads) if top is None else top
        scale = self.depth**-0.5 if self.features else 1.0
        made = (q, k, v, valid, rows, kv, top)
        made = tuple(t if t is None else t.to(device) for t in made)
        return (*made, self.kind, scale)


CASES = [
    Case("exp", 130, 2, 1, 32, 20, 40, padded=True, spans=2),
    Case("exp", 65, 1, 1, 64, 64, 256),
    Case("exp", 1, 1, 1, 128, 128, 64),
    Case("exp", 70, 1, 1, 64, 32, 64, dtype=torch.float16),
    Case("relu", 63, 1, 1, 32, 16, 64),
    Case("elu", 65, 2, 1, 40, 16, 0, padded=True),
    Case("none", 66, 1, 1, 33, 7, 0),
]


def errors(case: Case, forward, backward, device: str = "cpu") -> dict[str, tuple[float, float]]:
    """The largest error of each result, and the largest allowed, over the largest number in it.

    Allowed is twice what the loops of a processor err by on the same inputs, plus two roundings of
    the dtype. Features of `exp` have exponents, whose error is absolute: kernels round them once
    more, after the product, and the exponent of a state is a sum of several.
    """
    arguments = case.arguments(device)
    wide = tuple(_wide(t) for t in _on_cpu(arguments))
    project = case.features > 0
    gen = torch.Generator().manual_seed(1)

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=gen)

    exact = kernel_causal(*wide)
    dout, dkv = normal(exact[0]).to(device, case.dtype), normal(exact[3]).to(device).float()
    back = kernel_causal_grad(
        *(_wide(dout.cpu()), _wide(dkv.cpu()), *wide[:7], *exact[:3], *wide[7:], project)
    )
    mine = forward(*arguments)
    found = backward(dout, dkv, *arguments[:7], *mine[:3], *arguments[7:], project)
    peer = kernel_causal._init_fn(*_on_cpu(arguments))
    given = _on_cpu((dout, dkv, *arguments[:7]))
    peer_back = kernel_causal_grad._init_fn(*given, *peer[:3], *arguments[7:], project)
    eps = torch.finfo(case.dtype).eps
    largest = max(1.0, float(exact[2].abs().max()), float(exact[4].abs().max()))
    told = {}
    pairs = zip(
        NAMES, _told(mine, found, exact), _told(peer, peer_back, exact), _told(exact, back, exact),
        strict=True,
    )  # fmt: skip
    for name, got, other, want in pairs:
        if want.numel():
            rounded = 8 if name in ("state", "top", "first") else 1
            room = rounded * torch.finfo(torch.float32).eps * largest * (case.kind == "exp")
            size = max(float(want.abs().max()), 1e-30)
            allowed = 2 * (_error(other, want) / size + eps) + room
            told[name] = (_error(got, want) / size, allowed)
    return told


def _told(results: tuple, grads: tuple, exact: tuple) -> list[Tensor]:
    """What NAMES says, as float64 on a processor; a state at the exact log-scale."""
    out, _, _, kv, top = (t.double().cpu() for t in results)
    at = (top - exact[4].to(top)).exp2()[..., None, None]
    dq, dk, dv, first, projection = grads
    told = [out, kv * at, top, dq, dk, dv, first, projection]
    return [t.detach().double().cpu() for t in told]


def _on_cpu(given: tuple) -> tuple:
    return tuple(t.cpu() if isinstance(t, Tensor) else t for t in given)


def _wide(t):
    return t.double() if isinstance(t, Tensor) and t.is_floating_point() else t


def _error(x: Tensor, right: Tensor) -> float:
    gap = float((x - right).abs().max())
    return math.inf if math.isnan(gap) else gap


def _future(forward) -> bool:
    """The outputs before a cut, after everything behind it was changed, bit for bit."""
    arguments = Case("exp", 100, 1, 1, 32, 16, 32).arguments()
    before = forward(*arguments)[0]
    later = [t.clone() for t in arguments[:3]]
    for t in later:
        t[:, :, 50:] = 1e3 * torch.randn_like(t[:, :, 50:])
    after = forward(*later, *arguments[3:])[0]
    return bool(torch.equal(before[:, :, :50], after[:, :, :50]))


def _dwarf(forward, backward) -> bool:
    """A log-scale 1,200 above the others: their factors are 0, nothing overflows."""
    rows = torch.eye(4) * 100
    q, v = torch.randn(1, 1, 100, 4), torch.randn(1, 1, 100, 3)
    k = torch.full((1, 1, 100, 4), -0.1)
    k[:, :, 40] = 30
    first = (torch.zeros(1, 1, 4, 4), torch.full((1, 1), -1e30))
    given = (q, k, v, None, rows, *first)
    out, den, log, kv, top = forward(*given, "exp", 1.0)
    grads = backward(torch.ones_like(out), kv, *given, out, den, log, "exp", 1.0, False)
    finite = all(bool(t.isfinite().all()) for t in (out, den, log, kv, top, *grads))
    return finite and torch.allclose(out[0, 0, 40:], v[0, 0, 40].expand(60, 3))


def _nothing(forward, backward) -> bool:
    """No key is valid: zeros, an empty state, zero gradients."""
    q, k, v, _, rows, _, _, kind, scale = Case("exp", 70, 1, 1, 32, 16, 32).arguments()
    gone = torch.zeros(1, 70, dtype=torch.bool)
    first = (torch.zeros(1, 1, 32, 17), torch.full((1, 1), -1e30))
    nan = torch.full_like(k, math.nan), torch.full_like(v, math.nan)
    given = (q, *nan, gone, rows, *first)
    done = forward(*given, kind, scale)
    grads = backward(torch.ones_like(v), done[3], *given, *done[:3], kind, scale, False)
    empty = all(not t.any() for t in (done[0], done[3], *grads))
    return empty and bool((done[4] == -1e30).all())


def main() -> None:
    """All cases and laws, a line of JSON each: its name, and what was found."""
    from subquad.ops.triton import work
    from subquad.ops.triton.causal import backward, forward

    torch.manual_seed(0)
    torch.set_num_threads(1)

    def tell(name: str, found: object) -> None:
        print(json.dumps([name, found]), flush=True)

    for case in CASES:
        spec = work.spec_of(*case.arguments()[:3], case.arguments()[4], case.kind)
        chunks = math.ceil(case.length / spec.chunk)
        work.WORKSPACE = 4 * spec.size * case.batch * case.heads * math.ceil(chunks / case.spans)
        tell(str(case), errors(case, forward, backward))
    tell("the future changes nothing", _future(forward))
    tell("a key that dwarfs all before", _dwarf(forward, backward))
    tell("no valid key gives zeros", _nothing(forward, backward))


if __name__ == "__main__":
    main()
