"""Latents: a stack that reads a long input once and thinks about its last positions.

    z_i = read(x_i; x_0 .. x_i)              one causal cross-attention, for every i
    y_p = think(z_a .. z_p) at p             causal layers over the latents a .. p, a = anchor(p)

Anchors depend on the position alone (`nn.groups`), so every cut of a stream agrees. z is the same
under every anchor: to cross one is to think again about the z that are kept.

Reading costs O(N^2) where every output is wanted, O(N L) for the last ones; thinking costs O(L^2)
for each group of positions. The state grows with N, by the keys and values that `read` keeps.

Hawthorne et al., Perceiver AR, https://arxiv.org/abs/2202.07765.

Axes: B batch, N tokens, T kept z, R windows, W latents of a window, C model width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from subquad.nn.blocks import Block
from subquad.nn.context import Context, take
from subquad.nn.groups import Groups
from subquad.nn.mixer import check_state
from subquad.nn.past import Past, Seen
from subquad.nn.read import Read
from subquad.nn.stacks import Decoder
from subquad.nn.state import register, select

__all__ = ["LatentStack", "Latents"]

#: latents that are thought about at once, in windows side by side
SIDE_BY_SIDE = 1 << 13


@register
@dataclass(frozen=True, kw_only=True)
class Tail(Past):
    """The z (B, T, C) that the next groups begin with."""

    z: Tensor
    kept: ClassVar[tuple[str, ...]] = ("z",)

    def windows(self, row: Tensor, first: Tensor, width: int) -> tuple[Tensor, Context]:
        """z (R, W, C) and context of `width` slots from `first` (R,) on, of the rows `row` (R,).

        What lies beyond the last slot repeats it, at later positions.
        """
        slot = first[:, None] + torch.arange(width, device=first.device)
        pos = self.pos[row, :1] + slot
        row, slot = row[:, None], slot.clamp(max=max(self.count - 1, 0))
        label = None if self.label is None else self.label.mT[row, slot].mT
        return self.z[row, slot], Context(pos, label=label)


@register
@dataclass(frozen=True)
class Latents:
    """The state: what `read` keeps, the tail, and the layers' states since the anchor."""

    read: Past
    tail: Tail
    layers: tuple


class LatentStack(Decoder):
    """The stack of Perceiver AR: `read`, then blocks over at most `latents` positions.

    In eval mode, with a state, and on at most `latents` tokens every position has its own anchor.
    In training on more, as in the paper, one anchor serves the whole crop: only the outputs of the
    last `latents` tokens come back, right-aligned, with zeros before a shorter row's first.

    `latents` and `stride` (default half of the latents) are no part of the weights. More latents
    than tokens make a plain decoder. ValueError as `nn.groups.Groups`.
    """

    #: its state
    keeps: ClassVar[type] = Latents

    def __init__(
        self,
        read: Read,
        blocks: Sequence[Block],
        dim: int,
        norm: nn.Module | None = None,
        *,
        latents: int,
        stride: int | None = None,
    ) -> None:
        super().__init__(blocks, dim, norm)
        self.groups = Groups(latents, max(1, latents // 2) if stride is None else stride)
        self.read = read

    def forward(self, x: Tensor, context: Context, state: Any = None) -> tuple[Tensor, Any]:
        """Features (B, N, C), or of the last tokens alone; and the state if one came in.

        ValueError for a state of another kind, or of other latents.
        """
        if state is not None:
            check_state(self, state, self.keeps)
        x, context, n = context.clean(x), replace(context, mark=None), x.shape[1]
        if state is None and self.training and n > self.groups.latents:
            return self._crop(x, context), None
        if state is not None and n == 0:
            return x, state
        seen, read = self.read.inputs(x, context, None if state is None else state.read)
        skip = self._skip(context, n, streams=state is not None)
        last = n - skip if context.last is None else min(context.last, n - skip)
        context = context.rows(torch.arange(skip, n, device=x.device)) if skip else context
        z = self.enter(x[:, skip:], context, seen)
        after = None
        if state is None or read is None:
            y = self._whole(z, context, seen, skip)
        else:
            # behind an anchor that all rows pass nothing counts but what `read` keeps
            kept = self.init_state(x.shape[0]) if skip else state
            y, tail, layers = self._piece(z, context, seen, kept, fresh=skip > 0)
            after = self.keeps(read, tail, layers)
        return y[:, n - skip - last :], after

    def init_state(self, batch: int) -> Any:
        read = self.read.mixer.init_state(batch)
        z = read.k.new_zeros(batch, 0, self.out_dim)
        return self.keeps(read, Tail(z=z, pos=read.pos), self.begin(batch))

    def init_memory(self, batch: int) -> Any:
        raise ValueError(
            "latents are trained on crops, which carry nothing from one to the next: "
            "train without a memory"
        )

    def enter(self, x: Tensor, context: Context, seen: Seen) -> Tensor:
        """What is kept of inputs x (B, N, C), the last ones seen, to think with them: z."""
        return self.recompute(self.read, x, context, seen)

    def begin(self, batch: int) -> tuple:
        """The layers' states at an anchor."""
        return super().init_state(batch)

    def think(
        self, z: Tensor, context: Context, seen: Seen, row: Tensor, layers: Any = None
    ) -> tuple[Tensor, Any]:
        """Features of latents (R, W, C) that see each other alone, and the layers' states.

        They are of the rows `row` (R,) of the batch whose inputs are `seen`.
        """
        return super().forward(z, context, layers)

    def at_once(self, width: int, seen: Seen) -> int:
        """How many windows of this width are thought about side by side."""
        return max(1, SIDE_BY_SIDE // max(width, 1))

    def _crop(self, x: Tensor, context: Context) -> Tensor:
        """The outputs of each row's last tokens, (B, L, C), all from one anchor."""
        n, k = x.shape[1], self.groups.latents
        if context.valid is not None:
            # to the right, so that all rows end at the last slot
            order = context.valid.to(torch.int8).argsort(dim=1, stable=True)
            empty = (~context.valid).sum(1, keepdim=True)
            pos = context.pos[:, :1] - empty + torch.arange(n, device=x.device)
            label = None if context.label is None else take(context.label.mT, order).mT
            x, context = take(x, order), Context(pos, take(context.valid, order), label)
        seen, _ = self.read.inputs(x, context, None)
        context = context.rows(torch.arange(n - k, n, device=x.device))
        z = self.enter(x[:, n - k :], context, seen)
        rows = torch.arange(len(z), device=z.device)
        return context.clean(self.think(z, context, seen, rows)[0])

    def _skip(self, context: Context, n: int, *, streams: bool) -> int:
        """How many slots lie before the anchors of all outputs that are wanted."""
        if context.last is None or context.valid is not None or context.last >= n:
            return 0
        starts = context.pos[:, 0].tolist() if streams else [0]
        first = n - max(context.last, 1)
        return max(0, min((self.groups.anchor(p + first) - p for p in starts), default=0))

    def _whole(self, z: Tensor, context: Context, seen: Seen, skip: int) -> Tensor:
        """Outputs (B, N, C): all groups side by side. The first z stands at position `skip`."""
        (b, n), stride = z.shape[:2], self.groups.stride
        first, width = skip // stride, min(self.groups.latents, n)
        count = self.groups.of(skip + n - 1) - first + 1
        source = Tail(z=z, pos=context.pos.expand(b, n), label=context.label)
        window = torch.arange(b * count, device=z.device)
        row, slot = window // count, window % count * stride
        # in a graph all at once, for there their number is not known
        some = b * count if torch.compiler.is_compiling() else self.at_once(width, seen)
        parts = zip(row.split(some), slot.split(some), strict=True)
        y = torch.cat([self.think(*source.windows(r, s, width), seen, r)[0] for r, s in parts])
        at = torch.arange(n, device=z.device)
        group = (self.groups.of(at + skip) - first).clamp(min=0)
        return y.reshape(b, count * width, self.out_dim)[:, group * (width - stride) + at]

    def _piece(
        self, z: Tensor, context: Context, seen: Seen, state: Latents, *, fresh: bool
    ) -> tuple[Tensor, Tail, Any]:
        """Outputs (B, N, C) of the next tokens of a stream, and its tail and layers after them."""
        (b, n), at, layers, outs = z.shape[:2], z.device, state.layers, []
        real = torch.full((b,), n) if context.valid is None else context.valid.sum(1).cpu()
        piece = self.groups.piece(context.pos[:, 0].expand(b).cpu(), real, fresh=fresh)
        spare = self.groups.latents - self.groups.stride
        least = 0 if fresh else min(spare, max(piece.start.tolist(), default=0))
        if not least <= state.tail.count <= spare:
            raise ValueError(
                f"the state keeps {state.tail.count} inputs for the next anchor and this model "
                f"{spare}: it is that of another number of latents or stride"
            )
        source, ragged = state.tail.append(context, z=z), context.valid is not None
        stay = max(piece.stay.tolist(), default=0)
        if stay:
            told = context.rows(torch.arange(stay, device=at))
            rows = torch.arange(b, device=at)
            y, layers = self.think(z[:, :stay], _first(told, piece.stay), seen, rows, layers)
            outs.append(y.flatten(0, 1))
        new = self.groups.windows(piece)
        slot = new.group * self.groups.stride - piece.start[new.row] + state.tail.count
        width = max(new.real.tolist(), default=0)
        every = torch.arange(len(slot)).split(self.at_once(width, seen)) if len(slot) else ()
        for some in every:
            row = new.row[some].to(at)
            window, told = source.windows(row, slot[some].to(at), width)
            told = _first(told, new.real[some])
            y, made = self.think(window, told, seen, row, self.begin(len(some)))
            outs.append(y.flatten(0, 1))
            ends = new.final[some].nonzero()[:, 0].to(at)
            layers = _renew(layers, row[ends], select(made, ends), b)
        tail = source.trim(spare, ragged=ragged)
        formed = torch.cat((*outs, z.new_zeros(1, self.out_dim)))
        return formed[self.groups.places(piece, n, stay, width).to(at)], tail, layers


def _first(context: Context, real: Tensor) -> Context:
    """A context of whose rows only the first `real` (B,) tokens exist."""
    n = context.pos.shape[-1]
    if bool((real >= n).all()):
        return replace(context, valid=None)
    valid = torch.arange(n) < real[:, None]
    return replace(context, valid=valid.to(context.pos.device))


def _renew(layers: tuple, rows: Tensor, made: Any, batch: int) -> Any:
    """States of layers, those of the rows `rows` of the batch being `made`."""
    if len(rows) in (0, batch):
        return made if len(rows) else layers
    leaf = {"is_leaf": lambda x: isinstance(x, Past)}
    return pytree.tree_map(lambda old, new: old.renew(rows, new), layers, made, **leaf)
