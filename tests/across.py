"""Cases of attention over several processes, each compared with one process that holds everything.

    python -m torch.distributed.run ... tests/across.py FOLDER

Every process knows the whole case, runs its own piece, and writes to FOLDER how far its output and
gradients are from those of one process, and how many bytes it has sent forward and in all.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, distributed

from subquad.nn.features import PositiveRandomFeatures
from subquad.ops import across
from subquad.ops.attend import attend
from subquad.ops.dense import dense
from subquad.ops.linear import kernel_attention
from subquad.ops.pattern import Coords, Pattern, PerHead
from subquad.ops.patterns import Causal, Full, Marked, SameLabel, Strided, Window

#: rows of the batch, heads, key heads, head width, value width, features
B, H, G, D, E, F = 2, 4, 2, 6, 5, 16
#: tokens of each process; the last holds few, and one of four none
LENGTHS = {1: (46,), 2: (27, 19), 4: (13, 0, 22, 11)}


@dataclass(frozen=True)
class Softmax:
    """`attend` with a pattern; `gaps`: some tokens do not exist, and hold NaN."""

    pattern: Pattern
    gaps: bool = False


@dataclass(frozen=True)
class Kernel:
    """`kernel_attention`, with one key a thousand times as long as the others if `spread`."""

    causal: bool
    gaps: bool = False
    spread: bool = False


@dataclass(frozen=True)
class Halo:
    """A causal convolution over borders."""

    behind: int
    ahead: int


LONGFORMER = Window(4, 4) | Marked()
CASES: dict[str, Softmax | Kernel | Halo] = {
    "kernel causal": Kernel(True),
    "kernel causal, gaps": Kernel(True, gaps=True),
    "kernel causal, a long key": Kernel(True, spread=True),
    "kernel both ways": Kernel(False),
    "kernel both ways, gaps": Kernel(False, gaps=True, spread=True),
    "window": Softmax(Window(5)),
    "window both ways": Softmax(Window(3, 7), gaps=True),
    "window ahead": Softmax(Window(-2, 4)),
    "window beyond a neighbour": Softmax(Window(30, 2)),
    "window of steps": Softmax(Window(3, 1, 3)),
    "window of documents": Softmax(Window(9, 4) & SameLabel(), gaps=True),
    "full": Softmax(Full()),
    "full, gaps": Softmax(Full(), gaps=True),
    "causal": Softmax(Causal()),
    "causal, gaps": Softmax(Causal(), gaps=True),
    "documents": Softmax(Causal() & SameLabel()),
    "strided": Softmax(Causal() & (Window(4) | Strided(5))),
    "marked": Softmax(LONGFORMER),
    "marked, gaps": Softmax(LONGFORMER, gaps=True),
    "marked, causal": Softmax(Causal() & LONGFORMER),
    "marked, of documents": Softmax(LONGFORMER & SameLabel()),
    "per head": Softmax(PerHead((1, Window(3)), (3, Causal()))),
    "halo": Halo(3, 2),
}


def whole(gaps: bool, spread: bool) -> dict[str, Tensor]:
    """All tokens of a case, the same in every process."""
    g = torch.Generator().manual_seed(3)
    n = sum(LENGTHS[1])

    def draw(heads: int, width: int) -> Tensor:
        return torch.randn(B, heads, n, width, generator=g, dtype=torch.float64)

    made = {"q": draw(H, D), "k": draw(G, D), "v": draw(G, E), "grad": draw(H, E)}
    made["label"] = (torch.arange(n) // 17).expand(1, 1, n)
    made["mark"] = torch.zeros(B, 1, n, dtype=torch.bool)
    for row, slot in ((0, 2), (0, 25), (0, 26), (1, 40)):
        made["mark"][row, 0, slot] = True
    if spread:
        made["k"][:, :, 30] *= 1000
    if gaps:
        valid = torch.rand(B, n, generator=g) > 0.2
        made["valid"] = valid | made["mark"][:, 0]
        valid[1] &= torch.arange(n) > 15  # and nothing at all for the first queries of a row
        made["valid"] = valid | made["mark"][:, 0]
        for name in ("k", "v"):
            made[name] = made[name].masked_fill(~made["valid"][:, None, :, None], float("nan"))
    return made


def features() -> PositiveRandomFeatures:
    """The map of kernel cases, as every process draws it."""
    return PositiveRandomFeatures(head_dim=D, num_features=F, seed=0).double()


def run(case, given: dict[str, Tensor], ranks: across.Ranks | None) -> Tensor:
    """The output of a case, by one process (no ranks) or by several."""
    q, k, v, valid = (given.get(name) for name in ("q", "k", "v", "valid"))
    if isinstance(case, Halo):
        if ranks is None:
            n, (left, right) = q.shape[2], (case.behind, case.ahead)
            around = torch.nn.functional.pad(q, (0, 0, left, right))
        else:
            n, start = ranks.tokens, ranks.starts[ranks.rank]
            around = across.halo(q, ranks, case.behind, case.ahead)
            left = max(0, case.behind - start) if n else 0
            right = max(0, start + n + case.ahead - ranks.total) if n else 0
            around = torch.nn.functional.pad(around, (0, 0, left, right))
        taps = case.behind + case.ahead + 1
        return sum((t + 1) * around[:, :, t : t + n, :E] for t in range(taps))
    if isinstance(case, Kernel):
        options = {"causal": case.causal, "valid": valid}
        if ranks is None:
            return kernel_attention(q, k, v, features(), **options)[0]
        return across.kernel_attention(q, k, v, features(), ranks, **options)[0]
    facts = {name: given[name] for name in ("label", "mark")}
    if ranks is not None:
        return across.attend(q, k, v, case.pattern, ranks, valid=valid, **facts)
    at = Coords(torch.arange(q.shape[2]).view(1, 1, -1), **facts)
    return attend(q, k, v, case.pattern, valid=valid, where=(at, at), engine=dense)


def learn(case, given: dict[str, Tensor], ranks: across.Ranks | None, after: Callable) -> list:
    """Output and gradients; `after` is called between them."""
    leaves = [given[name].clone().requires_grad_() for name in ("q", "k", "v")]
    given = given | dict(zip(("q", "k", "v"), leaves, strict=True))
    out = run(case, given, ranks)
    after()
    grads = torch.autograd.grad(
        (out * given["grad"]).sum(), leaves, allow_unused=True, materialize_grads=True
    )
    return [out.detach(), *grads]


def compare(name: str, group=None) -> dict[str, float]:
    """How far this process is from one process, and what it has sent."""
    case = CASES[name]
    given = whole(getattr(case, "gaps", False), getattr(case, "spread", False))
    expected = learn(case, given, None, lambda: None)
    size = distributed.get_world_size(group)
    ranks = across.Ranks.of(LENGTHS[size][distributed.get_rank(group)], group)
    first = ranks.starts[ranks.rank]
    last = first + ranks.tokens
    own = {
        key: t[:, first:last] if key == "valid" else t[:, :, first:last] for key, t in given.items()
    }
    marks = []
    got = learn(case, own, ranks, lambda: marks.append(ranks.sent))
    far = [
        (a - b[:, :, first:last]).abs().max().item() if a.numel() else 0.0
        for a, b in zip(got, expected, strict=True)
    ]
    assert not any(map(torch.Tensor.any, (t.isnan() for t in got)))
    return {"far": max(far), "forward": marks[0], "sent": ranks.sent}


def main() -> None:
    """Run all cases in a process that torchrun has started."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    found = {name: compare(name) for name in CASES}
    path = Path(sys.argv[1]) / f"{distributed.get_rank()}.json"
    path.write_text(json.dumps(found))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
