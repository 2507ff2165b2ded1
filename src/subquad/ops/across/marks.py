"""Marked (global) tokens over several processes: all get the marked ones, summaries come back.

    columns   every query looks at the marked keys of all processes, which are gathered
    rows      every process looks, for the marked queries of all, at its own keys; the summaries,
              a log-sum-exp and an output for each, merge into one

Beltagy et al., Longformer, https://arxiv.org/abs/2004.05150, section 3.1, over processes. Sends
O(P K (D + Dv)) numbers a head for at most K marks in a row and process, whatever the length.

Axes: B batch, N tokens of this process, H heads, K marked tokens of a process, P processes,
J = P K, D head width.
"""

import torch
from torch import Tensor, distributed

from subquad.ops.across.ranks import AllSum, Gather, Ranks
from subquad.ops.marked import marked, rows
from subquad.ops.partial import EMPTY, Partial, Scoring, Where
from subquad.ops.pattern import Coords, Pattern

__all__ = ["by_marks"]


def by_marks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    at: Coords,
    valid: Tensor | None,
    scoring: Scoring,
    ranks: Ranks,
) -> list[Partial]:
    """Partials of q (B, H, N, D) over pairs of which the query or the key is marked.

    k (B, H, N, D), v (B, H, N, Dv). Marks (B, 1, N) are alike in all heads. No partials where
    nothing is marked in any process.
    """
    assert at.mark is not None
    mark = at.mark[:, 0] if valid is None else at.mark[:, 0] & valid
    mark = mark.expand(q.shape[0], -1)
    most = mark.sum(-1).max() if mark.numel() else mark.new_zeros((), dtype=torch.int64)
    count = int(ranks.reduce(most, distributed.ReduceOp.MAX))
    if not count:
        return []
    slots, real = _slots(mark, count)
    picked = slots[:, None, :, None].expand(-1, q.shape[1], -1, -1)
    both = [_take(t, picked) for t in (q, k, v)]
    every = Gather.apply(torch.cat(both, -1), ranks)
    q_all, k_all, v_all = every.split((q.shape[3], k.shape[3], v.shape[3]), -1)
    places, known = _places(at, slots, real, ranks)
    here = Coords(at.pos, at.label, mark[:, None])
    columns = marked(q, k_all, v_all, pattern, Where(here, places, known), scoring)
    others = ~mark if valid is None else ~mark & valid
    read = rows(q_all, k, v, known[:, None], pattern, Where(places, here, others), scoring)
    mine = _merged(read, ranks).narrow(2, ranks.rank * count, count)
    return [columns, _put(mine, picked, real, mark)]


def _slots(mark: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Slots (B, K) of the marked tokens in order, and which of them are any."""
    n = mark.shape[1]
    slots = (~mark).to(torch.uint8).sort(stable=True).indices[:, :count]
    real = mark.gather(1, slots)
    lacking = (0, max(0, count - n))
    return (torch.nn.functional.pad(t, lacking) for t in (slots, real))  # type: ignore[return-value]


def _take(t: Tensor, picked: Tensor) -> Tensor:
    """Tokens (B, H, K, W) of t (B, H, N, W)."""
    if not t.shape[2]:  # a process without tokens has nothing to pad with but zeros
        return t.sum() + t.new_zeros(*picked.shape[:3], t.shape[3])
    return t.gather(2, picked.expand(-1, -1, -1, t.shape[3]))


def _places(at: Coords, slots: Tensor, real: Tensor, ranks: Ranks) -> tuple[Coords, Tensor]:
    """Coordinates (B, 1, J) of the gathered tokens, and which of them are any (B, J)."""
    start = ranks.starts[ranks.rank]
    # padding stands at the end of its process, so that positions do not fall
    pos = torch.where(real, slots + start, start + max(ranks.tokens, 1) - 1)
    facts = [pos, real.to(torch.int64)]
    if at.label is not None:
        label = at.label[:, 0].expand(len(slots), -1)
        facts.append(label.gather(1, slots) if ranks.tokens else torch.zeros_like(slots))
    pos, known, *labels = torch.cat(ranks.gather(torch.stack(facts)), -1)
    known = known.bool()
    return Coords(pos[:, None], labels[0][:, None] if labels else None, known[:, None]), known


def _merged(part: Partial, ranks: Ranks) -> Tensor:
    """Partials over the keys of all processes as one: output and log-sum-exp (B, H, J, Dv + 1)."""
    assert part.lse is not None
    most = ranks.reduce(part.lse, distributed.ReduceOp.MAX)
    weight = (part.lse - most).exp()[..., None]
    sums = AllSum.apply(torch.cat((weight * part.out, weight), -1), ranks)
    total = sums[..., -1:]
    return torch.cat((sums[..., :-1] / total, most[..., None] + total.log()), -1)


def _put(rows: Tensor, picked: Tensor, real: Tensor, mark: Tensor) -> Partial:
    """Rows (B, H, K, Dv + 1) in the slots that they were taken from; all others are empty."""
    rows = rows.where(real[:, None, :, None], 0.0)
    blank = rows.new_zeros(*rows.shape[:2], max(mark.shape[1], 1), rows.shape[3])
    whole = blank.scatter_add(2, picked.expand_as(rows), rows)[:, :, : mark.shape[1]]
    lse = torch.where(mark[:, None], whole[..., -1], EMPTY)
    return Partial(whole[..., :-1], lse)
