"""Prefix: latents that read the inputs before them under one norm, and themselves under another.

    z_i = x_i + attention(q(norm(x_i)); k(norm'(x_0 .. x_a-1)), k(norm(x_a .. x_i)))     a = anchor

An input so has one key before the anchor and another after it, and z depends on the anchor: to
cross one is to read again with the inputs that are kept.

Reading costs O(N^2 L / s) where every output is wanted, L latents and anchors s apart, O(N L) for
the last ones. The state grows with N, by the keys and values of the prefix.

Perceiver AR as https://github.com/krasserm/perceiver-io and
https://github.com/lucidrains/perceiver-ar-pytorch have it; the paper's own code has one norm for
all that is read (`subquad.nn.read`).

Axes: B batch, N tokens, M tokens seen, R windows, W latents of a window, H heads, C model width.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from subquad.nn.context import Context
from subquad.nn.latent import SIDE_BY_SIDE, LatentStack
from subquad.nn.past import KV, Past, Seen
from subquad.nn.read import Read
from subquad.nn.state import register

__all__ = ["PrefixRead", "PrefixStack", "before"]


class PrefixRead(Read):
    """Cross-attention from latents to the inputs before their anchor and to latents up to them.

    The first norm is that of latents, as queries and as keys; the second that of the prefix.
    `drop_inputs` hides inputs of the prefix alone, for latents are seen under their own norm.
    """

    def follow(
        self, x: Tensor, context: Context, prefix: KV, own: KV | None
    ) -> tuple[Seen, KV | None]:
        """What latents x (R, W, C) may look at, and the latents' keys with theirs.

        prefix: the inputs before the anchor.  own: the latents since then, None where x are all.
        """
        held = 0 if own is None else own.count
        (k, v, *_), after = self.mixer.remember(context.clean(self.norms[0](x)), context, own)
        if own is not None and held:
            told = Context(own.pos, own.valid, own.label)
            prefix = prefix.append(told, k=own.k, v=own.v)
            # empty slots before latents would break the row of positions
            prefix = prefix.trim(None, ragged=own.valid is not None)
        whole = prefix.append(context, k=k[:, :, held:], v=v[:, :, held:])
        seen = Seen(whole.k, whole.v, whole.coords(), whole.valid)
        if after is None:
            return seen, None
        assert isinstance(after, KV)
        return seen, after.trim(None, ragged=context.valid is not None)


@register
@dataclass(frozen=True)
class PrefixLatents:
    """The state: the keys and values of a prefix, the inputs that the next groups begin with, and
    since the anchor the latents' keys and the layers' states.
    """

    read: Past
    tail: Past
    layers: tuple


class PrefixStack(LatentStack):
    """A LatentStack whose latents are inputs, read again from every anchor by a `PrefixRead`.

    Output, training, `latents` and `stride` as there: each output is that of the whole model on the
    inputs up to it, cut into a prefix and latents at its anchor.
    """

    keeps: ClassVar[type] = PrefixLatents
    read: PrefixRead

    def enter(self, x: Tensor, context: Context, seen: Seen) -> Tensor:
        """The inputs (B, N, C) as they are, for what is read depends on the anchor."""
        return x

    def begin(self, batch: int) -> tuple:
        """The state of the read at an anchor, then those of the layers."""
        return (self.read.mixer.init_state(batch), *super().begin(batch))

    def think(
        self, z: Tensor, context: Context, seen: Seen, row: Tensor, layers: Any = None
    ) -> tuple[Tensor, Any]:
        """Features of the latents z (R, W, C) after they have read, and the states of `begin`."""
        own, rest = (None, None) if layers is None else (layers[0], layers[1:])
        anchor = context.pos[:, :1].sum(1).expand(z.shape[0])  # where there is no latent, 0
        if own is not None and own.count:  # else the first of them is at the anchor
            anchor = self.groups.anchor(anchor)
        looked, own = self.read.follow(z, context, before(seen, row, anchor), own)
        z = self.recompute(self.read, z, context, looked)
        y, rest = super().think(z, context, seen, row, rest)
        return y, None if layers is None else (own, *rest)

    def at_once(self, width: int, seen: Seen) -> int:
        """So few windows that their prefixes, which each has for itself, take no more memory."""
        return max(1, SIDE_BY_SIDE // max(width + seen.k.shape[2], 1))


def before(seen: Seen, row: Tensor, anchor: Tensor) -> KV:
    """The tokens before `anchor` (R,) that the rows `row` (R,) of a batch have seen.

    Where rows have fewer of them than others, empty slots stand at the left.
    """
    b, m = seen.k.shape[0], seen.k.shape[2]
    if m == 0:
        return KV(k=seen.k[row], v=seen.v[row], pos=seen.at.pos.expand(b, -1, -1)[row, 0])
    first = seen.at.pos[:, 0, :1].expand(b, 1)[row]
    fixed = torch.compiler.is_compiling()  # in a graph no width goes by numbers
    width = m if fixed else max((anchor[:, None] - first).flatten().tolist(), default=0)
    pos = anchor[:, None] + torch.arange(-max(width, 0), 0, device=row.device)
    # positions run on from slot to slot
    slot, row = pos - first, row[:, None]
    there, slot = slot >= 0, slot.clamp(0, m - 1)
    if seen.valid is not None:
        there = there & seen.valid[row, slot]
    k, v = (t.transpose(1, 2)[row, slot].transpose(1, 2) for t in (seen.k, seen.v))
    label = seen.at.label
    if label is not None:
        label = label.expand(b, -1, -1).mT[row, slot].mT
    whole = not fixed and bool(there.all())
    return KV(k=k, v=v, pos=pos, valid=None if whole else there, label=label)
