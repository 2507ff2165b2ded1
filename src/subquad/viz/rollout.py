"""Rollout: what outputs owe to inputs through all layers, by the products of their matrices.

    R = prod_l (A_l + I) / 2,   A_l the mean over heads      (residuals carry half of a token)
    R = prod_l (A'_l + I),      A'_l = mean over heads of max(0, dy/dA * A)      (by gradient)

Abnar and Zuidema, 2020, https://arxiv.org/abs/2005.00928; Chefer, Gur, Wolf, 2021,
https://arxiv.org/abs/2103.15679. O(L N^2) time, O(G N) memory for G rows: rows of R are formed from
the last layer to the first, each by a product with a vector, so no N x N matrix is held.

Where a layer's keys are others than its queries (latents that read tokens, a decoder's look at its
source), half goes to them and half stays: what never leaves the latents is missing in the sum.
The paper's formula has the gradient of a class; here it is that of the likeliest output.
Low-rank layers are taken by tokens, as A = softmax(q (E k)^T) F; of windows side by side (Perceiver
AR) the one counts that the last output comes from, and earlier positions owe nothing.

Axes: B batch, N queries, M keys, H heads, G rows asked for, D head width.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subquad.nn.reversible import ReversibleDecoder, ReversibleEncoder
from subquad.viz.factors import pull
from subquad.viz.maps import by_rows
from subquad.viz.places import Place, places
from subquad.viz.seen import Inputs, Sight, call, joined

__all__ = ["gradients", "origin", "rollout", "weigher"]

_MEMORY = 1 << 28


def rollout(
    found: Sequence[Sight],
    *,
    block: int = 1,
    gradients: Sequence[Tensor] | None = None,
    memory: int = _MEMORY,
) -> np.ndarray:
    """What the last layer's queries owe to the keys of `origin`, (G, N): the mean of each `block`
    of queries, for every single key.

    gradients: those of the mixers' products (or matrices), from `gradients`; then they weigh.
    memory: bytes for rows of matrices.  ValueError for gradients where a layer has none.
    """
    start, goal = found[-1].queries_are, origin(found).keys_are
    count = found[-1].queries
    cell = torch.arange(count) // block
    first = torch.zeros(int(cell[-1]) + 1, count, dtype=torch.float64)
    first[cell, torch.arange(count)] = 1.0 / torch.bincount(cell)[cell].double()
    mass = {start: first}
    for number in reversed(range(len(found))):
        sight = found[number]
        rows = mass.get(sight.queries_are)
        if rows is None or rows.shape[1] != sight.queries:
            continue
        weigh = None if gradients is None else weigher(sight, gradients[number])
        moved = _through(sight, rows, weigh, memory)
        kept, gone = (rows, moved) if gradients is not None else (rows / 2, moved / 2)
        mass[sight.queries_are] = kept
        before = mass.get(sight.keys_are)
        mass[sight.keys_are] = gone if before is None else before + gone
    return mass[goal].numpy()


def origin(found: Sequence[Sight]) -> Sight:
    """The first layer that the last one's queries owe anything to, through all between."""
    first, reached = found[-1], {found[-1].queries_are}
    for sight in reversed(found):
        if sight.queries_are in reached:
            first = sight
            reached.add(sight.keys_are)
    return first


def _through(
    sight: Sight, mass: Tensor, weigh: Callable[[Tensor, Tensor], Tensor] | None, memory: int
) -> Tensor:
    """mass (G, N) times the mean over heads of the matrix: (G, M)."""
    out = torch.zeros(len(mass), sight.keys, dtype=torch.float64)
    heads = range(1, sight.heads + 1)
    for first, found in by_rows(sight, heads, range(sight.queries), memory):
        here = slice(first, first + found.shape[1])
        rows = torch.arange(here.start, here.stop)
        some = found if weigh is None else weigh(rows, found)
        out += mass[:, here] @ some.mean(0)
    return out


def weigher(sight: Sight, gradient: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """From rows (R,) and their weights to max(0, gradient * weights), by position."""
    factors = sight.factors
    assert factors is not None
    values = None if factors.values is None else factors.values()

    @torch.no_grad()
    def weigh(rows: Tensor, _: Tensor) -> Tensor:
        at = rows.to(sight.x.device)
        slope = gradient[:, at] if values is None else gradient[:, at] @ values.mT
        found = (slope * factors.weights(at)).clamp(min=0)
        return pull(found, factors.columns, sight.keys).double().cpu()

    return weigh


def gradients(model: nn.Module, inputs: Inputs, found: Sequence[Sight]) -> list[Tensor]:
    """d y / d product of each sight's mixer, (H, N, D); y is the likeliest output: of all labels,
    or of all words after the last token; of a forecast the value that the last token expects.

    ValueError for models that give neither.
    """
    outputs: list[tuple[Place, Tensor]] = []

    def noting(place: Place) -> Callable:
        def note(module: nn.Module, args: tuple, given: dict, out: Any) -> Any:
            y = out if isinstance(out, Tensor) else out[0]
            # an input that is zero gets the gradient of the output, whatever stands behind
            extra = torch.zeros_like(y, requires_grad=True)
            outputs.append((place, extra))
            return y + extra if isinstance(out, Tensor) else (y + extra, *out[1:])

        return note

    hooks = [p.module.register_forward_hook(noting(p), with_kwargs=True) for p in places(model)]
    was = model.training
    model.eval()
    try:
        with torch.enable_grad(), _kept(model):
            out = call(model, inputs)
            params = getattr(out, "params", None)
            y = _likeliest(out) if params is None else _expected(model, params)
            slopes = torch.autograd.grad(
                y, [extra for _, extra in outputs], allow_unused=True, materialize_grads=True
            )
    finally:
        model.train(was)
        for hook in hooks:
            hook.remove()
    of_each = joined([(place, slope) for (place, _), slope in zip(outputs, slopes, strict=True)])
    made = zip(found, of_each, strict=True)
    return [_of_product(sight, torch.cat(slopes)) for sight, (_, slopes) in made]


def _of_product(sight: Sight, slope: Tensor) -> Tensor:
    """From the gradient (windows or 1, N, C) of an output to that of the product (H, N, D)."""
    factors = sight.factors
    assert factors is not None
    assert factors.values is not None
    assert factors.output is not None
    row, first = factors.window or (0, 0)
    slope = slope[row : row + 1]
    with torch.enable_grad():
        if factors.product is None:
            values = factors.values()
            product = values.new_zeros(1, len(values), slope.shape[1], values.shape[-1])
        else:
            product = factors.product().detach()
        product.requires_grad_()
        (found,) = torch.autograd.grad(factors.output(product), product, slope)
    found = found[0, :, : sight.queries - first]
    return F.pad(found, (0, 0, first, sight.queries - first - found.shape[1]))


def _expected(model: Any, params: Tensor) -> Tensor:
    """The mean of the last step of a forecast, in units of its scale."""
    return model.likelihood.mean(params, params.new_ones(len(params)))[0, -1]


def _likeliest(out: object) -> Tensor:
    """The largest logit of labels, or of words after the last token."""
    logits = out if isinstance(out, Tensor) else getattr(out, "logits", None)
    if logits is None and isinstance(out, tuple):
        logits = out[0]
    if not isinstance(logits, Tensor) or logits.dim() not in (2, 3):
        raise ValueError(
            "this model gives no logits, so there is no likeliest output to take the gradient of; "
            "leave the gradient out"
        )
    return (logits[0] if logits.dim() == 2 else logits[0, -1]).max()


@contextmanager
def _kept(model: nn.Module) -> Iterator[None]:
    """Reversible stacks keep their activations, so that gradients reach what stands inside."""
    stacks = [m for m in model.modules() if isinstance(m, ReversibleDecoder | ReversibleEncoder)]
    for stack in stacks:
        stack.row = stack.plain  # type: ignore[method-assign]
    try:
        yield
    finally:
        for stack in stacks:
            del stack.row
