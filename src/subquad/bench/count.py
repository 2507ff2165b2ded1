"""What a model costs: its parameters, and the multiply-adds of one row at a given length.

Multiply-adds are half of the FLOPs of matrix products and convolutions, as torch's own counter sees
them and as our operators tell it; what is elementwise (softmax, norms, gates, tables looked up) is
not counted. Attention counts the pairs that its pattern allows (causal: those on and below the
diagonal) at every length, also where a short input would run under a mask.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils.flop_counter import FlopCounterMode

from subquad.model import Model
from subquad.nn.frames import FrameStem
from subquad.nn.patches import PatchStem
from subquad.nn.stems import TokenStem
from subquad.ops import plan
from subquad.pair import Pair

__all__ = ["Cost", "Count", "count", "counter", "on_shapes", "planned_as_long", "table"]


@dataclass(frozen=True)
class Cost:
    """Numbers held, and multiply-adds for one row."""

    parameters: int = 0
    multiply_adds: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.parameters + other.parameters, self.multiply_adds + other.multiply_adds)


@dataclass(frozen=True)
class Count:
    """The parts of a model in the order in which it runs, by name; `length` and `target` tokens.

    A parameter that several parts share counts in the first of them.
    """

    parts: Mapping[str, Cost]
    length: int
    target: int | None = None

    @property
    def total(self) -> Cost:
        """All parts."""
        return sum(self.parts.values(), Cost())

    @property
    def layers(self) -> Cost:
        """What is neither a stem, with its tables of words and positions, nor a head."""
        inner = (cost for name, cost in self.parts.items() if name.endswith("layers"))
        return sum(inner, Cost())

    def facts(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "length": self.length,
            "target_length": self.target,
            "parts": {name: asdict(cost) for name, cost in self.parts.items()},
            "without_stems_and_heads": asdict(self.layers),
            **asdict(self.total),
        }


def count(make: Callable[[], nn.Module], length: int, target: int | None = None) -> Count:
    """The cost of the Model or Pair that `make` gives, read at `length` tokens (frames, or patches
    and class tokens); a Pair writes `target` tokens, by default as many as it reads.

    It is made and run on shapes alone, which costs nothing at any length; only where what a model
    does depends on what it reads (hashes, say) it is run for a row of zeros. ValueError for a
    model that reads something else, or that writes nothing though a target is given.
    """
    for tokens in (length, target or 0):
        if tokens < 0:
            raise ValueError(f"{tokens} tokens cannot be: a length is at least 0")
    return on_shapes(lambda: _count(make(), length, target))


T = TypeVar("T")


def on_shapes(run: Callable[[], T]) -> T:
    """What `run` gives where all tensors that it makes are shapes alone; where what it does depends
    on what stands in them, it is run on real ones.
    """
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), warnings.catch_warnings():
            # parts that are copied while a model is made; that a shape has no address is all right
            warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
            return run()
    except (DataDependentOutputException, DynamicOutputShapeException):
        return run()


def table(found: Count) -> str:
    """A line for each part, then all of them."""
    rows = [*found.parts.items(), ("without stems and heads", found.layers), ("all", found.total)]
    lines = [f"{'':<25}{'parameters':>16}{'multiply-adds':>26}"]
    lines += [f"{name:<25}{c.parameters:>16,}{c.multiply_adds:>26,}" for name, c in rows]
    what = f"one row of {found.length:,} tokens"
    if found.target is not None:
        what = f"{found.length:,} tokens read and {found.target:,} written, one row"
    return "\n".join([*lines, f"multiply-adds of {what}; a head gives logits of each"])


@torch.no_grad()
def _count(model: nn.Module, length: int, target: int | None) -> Count:
    model.eval()
    if isinstance(model, Pair):
        target = length if target is None else target
        sides = {"encoder ": model.encoder, "decoder ": model.decoder}
        inputs = _row(model.encoder.stem, length), _row(model.decoder.stem, target)
    elif isinstance(model, Model):
        if target is not None:
            raise ValueError(f"a target of {target} tokens is for an encoder with a decoder alone")
        sides, inputs = {"": model}, (_row(model.stem, length),)
    else:
        raise ValueError(f"{type(model).__name__} is neither a model nor an encoder with a decoder")
    with planned_as_long(), counter() as seen:
        model(*inputs)
    flops = {name: sum(by.values()) for name, by in seen.get_flop_counts().items()}
    names = {id(part): name for name, part in model.named_modules()}
    parts, seen = {}, set[int]()
    for side, inside in sides.items():
        for what, part in zip(_PARTS, (inside.stem, inside.backbone, inside.head), strict=True):
            if part is None:
                continue
            own = {id(p): p.numel() for p in part.parameters() if id(p) not in seen}
            seen |= own.keys()
            spent = flops.get(f"{type(model).__name__}.{names[id(part)]}", 0)
            parts[side + what] = Cost(sum(own.values()), spent // 2)
    return Count(parts, length, target)


_PARTS = ("stem", "layers", "head")


def _row(stem: nn.Module, length: int) -> Tensor:
    """One row of zeros of what a stem reads."""
    if isinstance(stem, TokenStem):
        return torch.zeros(1, length, dtype=torch.int64)
    if isinstance(stem, FrameStem):
        return torch.zeros(1, length, stem.bands)
    if isinstance(stem, PatchStem):
        # all in one row; places are interpolated
        patches = max(0, length - stem.class_tokens)
        return torch.zeros(1, stem.channels, stem.patch, stem.patch * patches)
    raise ValueError(
        f"a length says how many tokens, frames or patches are read, and {type(stem).__name__} "
        "reads something else"
    )


@contextmanager
def planned_as_long() -> Iterator[None]:
    """No mask over all pairs of a short input: that is a matter of speed alone."""
    few, plan.FEW_PAIRS = plan.FEW_PAIRS, 0
    try:
        yield
    finally:
        plan.FEW_PAIRS = few


def _sdpa(q: Any, k: Any, v: Any, *rest: Any, out_shape: Any = None, **_: Any) -> int:
    """FLOPs of torch's attention on a CPU, which its counter does not know."""
    batch, heads, n, width = q
    causal = len(rest) > 1 and rest[1]
    pairs = n * (n + 1) // 2 if causal else n * k[2]
    return 2 * batch * heads * pairs * (width + v[3])


def _sdpa_backward(grad: Any, q: Any, k: Any, v: Any, out: Any, *rest: Any, **_: Any) -> int:
    """The same backward: scores again, then gradients of values, weights, queries and keys."""
    batch, heads, n, width = q
    causal = len(rest) > 2 and rest[2]
    pairs = n * (n + 1) // 2 if causal else n * k[2]
    return 2 * batch * heads * pairs * (3 * width + 2 * v[3])


def counter() -> FlopCounterMode:
    """torch's counter of FLOPs, which also knows its attention on a CPU."""
    return FlopCounterMode(display=False, custom_mapping=_SDPA)


_SDPA = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _sdpa,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _sdpa_backward,
}
