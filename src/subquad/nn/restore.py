"""A row of additions between two streams, differentiated while keeping its last pair only.

    (a, b) -> (b, a + half(b))        undone by        (b', a') -> (a' - half(b'), b')

Backward goes through the row from its end: each half runs once more on its restored input, with the
random state and the labels of the first time, is subtracted and differentiated.

Axes: B batch, N tokens, C width of a stream.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.utils.checkpoint import get_device_states, set_device_states

from subquad.ops.partial import wide

__all__ = ["Half", "restoring"]


@dataclass(frozen=True)
class Half:
    """A function of one stream, part(x (B, N, C), labels), that is added to the other.

    `size`: it treats positions alone, so many at a time.
    """

    part: Callable[[Tensor, Tensor | None], Tensor]
    parameters: tuple[nn.Parameter, ...]
    decide: Callable[[Tensor], Tensor | None] = lambda x: None
    size: int | None = None

    def __call__(self, x: Tensor, labels: Tensor | None) -> Tensor:
        whole = _Whole(x.shape[1])
        for piece in self._pieces(x):
            whole.take(self.part(piece, labels))
        return whole.done()

    def undo(
        self,
        x: Tensor,
        sums: list[Tensor],
        labels: Tensor | None,
        grad: Tensor,
        found: dict[nn.Parameter, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """What stood before part(x) was added, and the gradient of x.

        sums: a list of the sum alone, which is taken out and not held to the end.  grad: its
        gradient.  Those of parameters are added to `found`.
        """
        totals = list(self._pieces(sums.pop()))
        before, dx = _Whole(x.shape[1]), _Whole(x.shape[1])
        for piece, g in zip(self._pieces(x), self._pieces(grad), strict=True):
            was, d = self._undo(piece, totals, labels, g, found)
            before.take(was)
            dx.take(d)
        return before.done(), dx.done()

    def _undo(
        self,
        x: Tensor,
        totals: list[Tensor],
        labels: Tensor | None,
        grad: Tensor,
        found: dict[nn.Parameter, Tensor],
    ) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            y = self.part(leaf, labels)
        before, grad, edge = totals.pop(0) - y.detach(), grad.to(y.dtype), get_gradient_edge(y)
        del y  # its memory, not its place in the graph
        wanted = (leaf, *self.parameters)
        dx, *given = torch.autograd.grad(edge, wanted, grad, allow_unused=True)
        for parameter, g in zip(self.parameters, given, strict=True):
            if g is not None:
                g = g.to(wide(g.dtype))
                found[parameter] = found[parameter] + g if parameter in found else g
        return before, torch.zeros_like(x) if dx is None else dx

    def _pieces(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split(self.size or max(x.shape[1], 1), 1)


def restoring(halves: Sequence[Half], x: Tensor) -> tuple[Tensor, Tensor]:
    """Both streams after a row of halves that starts from (x, x), each (B, N, C).

    It can be differentiated once; gradients of gradients raise.
    """
    parameters = tuple(dict.fromkeys(p for half in halves for p in half.parameters))
    return _Row.apply(halves, parameters, x, x, *parameters)


class _Row(torch.autograd.Function):
    # gradients come in a list, so that those no longer needed can be let go
    boxed_grads_call = True

    @staticmethod
    def forward(ctx, halves, parameters, a, b, *_):
        ctx.halves, ctx.parameters, ctx.numbers = halves, parameters, _autocasts(a)
        ctx.random, labels = [], []
        with _casting(ctx.numbers):
            for half in halves:
                labels.append(half.decide(b))
                ctx.random.append(_Random(b))
                a, b = b, a + half(b, labels[-1])
        # parameters only so that a change of one before backward is an error, as anywhere
        ctx.save_for_backward(a, b, *labels, *parameters)
        return a, b

    @staticmethod
    def backward(ctx, grads):
        if torch.is_grad_enabled():  # torch's own once_differentiable does not look into lists
            raise RuntimeError(
                "create_graph asks for gradients of gradients, and a reversible row is "
                "differentiated once; take another wiring"
            )
        a, b, *labels = ctx.saved_tensors
        ctx.maybe_clear_saved_tensors()
        # where both come as halves of one tensor, neither may hold the memory of the other
        db, da = grads.pop().contiguous(), grads.pop().contiguous()
        found: dict[nn.Parameter, Tensor] = {}
        steps = zip(ctx.halves, ctx.random, labels[: len(ctx.halves)], strict=True)
        for half, random, label in reversed(list(steps)):
            sums, b = [b], None  # what is undone need not be held while it is
            with _casting(ctx.numbers), random.again():
                before, d = half.undo(a, sums, label, db, found)
            a, b = before, a
            da, db = db, da + d
        given = [found[p].to(p.dtype) if p in found else None for p in ctx.parameters]
        return None, None, da, db, *given


def _autocasts(x: Tensor) -> list[tuple[str, torch.dtype, bool]]:
    """How autocast is set around us, for the device of x and for the CPU."""
    kinds = [kind for kind in {x.device.type, "cpu"} if torch.amp.is_autocast_available(kind)]
    return [(k, torch.get_autocast_dtype(k), torch.is_autocast_enabled(k)) for k in kinds]


@contextmanager
def _casting(settings: list[tuple[str, torch.dtype, bool]]) -> Iterator[None]:
    """Autocast as it was; without its cache, which would hold weights cast without a gradient."""
    with ExitStack() as stack:
        for kind, dtype, enabled in settings:
            stack.enter_context(torch.autocast(kind, dtype, enabled, cache_enabled=False))
        yield


class _Random:
    """The state of the random generators: torch's own, and that of the device of x."""

    def __init__(self, x: Tensor) -> None:
        self.kind = x.device.type
        self.host = torch.get_rng_state()
        self.devices, self.states = get_device_states(x)

    @contextmanager
    def again(self) -> Iterator[None]:
        """Draw once more what was drawn then; afterwards the generators are as before."""
        with torch.random.fork_rng(self.devices, device_type=self.kind):
            torch.set_rng_state(self.host)
            set_device_states(self.devices, self.states, device_type=self.kind)
            yield


class _Whole:
    """A tensor (B, N, C) that comes in pieces along N: each goes to its place at once, for pieces
    that wait to be joined are held twice, in blocks so small that the heap keeps them when freed.
    """

    def __init__(self, length: int) -> None:
        self.length, self.at = length, 0
        self.whole: Tensor | None = None

    def take(self, piece: Tensor) -> None:
        """The next piece (B, n, C)."""
        if self.whole is None:
            alone = piece.shape[1] == self.length
            size = (piece.shape[0], self.length, *piece.shape[2:])
            self.whole = piece if alone else piece.new_empty(size)
        if self.whole is not piece:
            self.whole[:, self.at : self.at + piece.shape[1]] = piece
        self.at += piece.shape[1]

    def done(self) -> Tensor:
        """All pieces, (B, N, C)."""
        assert self.whole is not None
        assert self.at == self.length
        return self.whole
