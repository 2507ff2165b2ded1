"""What one measured call does: forward, a training pass, or one token more of a stream.

    forward    without gradients, in eval mode
    training   forward and backward in training mode: gradients of inputs and weights; words have
               the loss of a language model over them, features a random gradient
    decode     the step of one token after N others, from a state made beforehand

Axes: N tokens, C model width, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.bench.count import counter
from subquad.bench.memory import peak
from subquad.bench.party import Made, Size

__all__ = ["WHAT", "Cost", "Work", "cost", "inputs", "work"]

#: the kinds of work that can be asked for
WHAT = ("forward", "training", "decode")


@dataclass(frozen=True)
class Work:
    """A call, and the bytes it cannot but move: inputs, weights, states, results, gradients."""

    run: Callable[[], object]
    moved: int


@dataclass(frozen=True)
class Cost:
    """What one call takes whatever the machine: FLOPs, and bytes held at once beyond its inputs."""

    flops: int
    peak: int


def inputs(made: Made, size: Size, length: int, dtype: torch.dtype) -> Tensor:
    """One row of what a party reads: words (1, N) or features (1, N, C)."""
    if made.reads_words:
        return torch.randint(0, size.words, (1, length))
    return torch.randn(1, length, size.dim).to(dtype)


def work(made: Made, x: Tensor, what: str) -> Work | None:
    """The call to measure; None where the party does not do that."""
    weights = sum(p.nbytes for p in made.module.parameters())
    if what == "training":
        return _training(made, x, weights)
    made.module.eval()
    if what == "decode":
        return None if made.follow is None else _decode(made, made.follow, x, weights)
    return Work(_quiet(lambda: made.call(x)), weights + 2 * x.nbytes)


def cost(run: Callable[[], object]) -> Cost:
    """Counted FLOPs and peak memory; runs twice."""
    with counter() as seen:
        run()
    return Cost(seen.get_total_flops(), peak(run))


def _decode(
    made: Made,
    follow: Callable[[Tensor], tuple[Callable[[], object], int]],
    x: Tensor,
    weights: int,
) -> Work:
    with torch.no_grad():
        step, state = follow(x)
    return Work(_quiet(step), weights + state)


def _training(made: Made, x: Tensor, weights: int) -> Work:
    made.module.train()
    leaves = [p for p in made.module.parameters() if p.requires_grad]
    if made.reads_words:

        def run() -> object:
            logits = made.call(x)
            # some give outputs for their last inputs alone, or none of words
            goals = x.new_zeros(logits.shape[:-1])
            F.cross_entropy(logits.flatten(0, -2).float(), goals.flatten()).backward()
            return _gradients(leaves)

        return Work(run, 2 * weights + x.nbytes)
    leaves.append(x.requires_grad_())
    with torch.no_grad():
        gradient = torch.randn_like(made.call(x))

    def both() -> object:
        made.call(x).backward(gradient)
        return _gradients(leaves)

    return Work(both, 2 * weights + 4 * x.nbytes)


def _gradients(leaves: Sequence[Tensor]) -> list[Tensor | None]:
    """What backward left, taken away; torch's counter cannot look into `torch.autograd.grad`."""
    found = [leaf.grad for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    return found


def _quiet(run: Callable[[], object]) -> Callable[[], object]:
    """The same without gradients."""

    def quiet() -> object:
        with torch.no_grad():
            return run()

    return quiet
