"""`attend` over several processes, each of which holds a piece of the sequence.

The pattern is taken apart into disjoint parts, and each part sends what it must:

    finite reach          the tokens at the borders            B G (behind + ahead) (D + Dv)
    marked tokens         the marked ones and summaries        O(B H P K (2 D + Dv))
    anything else         keys and values, once round          B G N (P - 1) (D + Dv), causal half

numbers forward and process; backward sends two to three times as much. Partials merge by
log-sum-exp.

Axes: B batch, N tokens of this process, H heads, G key heads, K marked tokens, P processes,
D head width.
"""

import torch
from torch import Tensor

from subquad.ops.across.marks import by_marks
from subquad.ops.across.ranks import Ranks
from subquad.ops.across.ring import Facts, ring
from subquad.ops.across.window import windowed
from subquad.ops.attend import check
from subquad.ops.lowering import split_heads, terms, without
from subquad.ops.partial import Distance, Partial, Scoring, merge
from subquad.ops.pattern import Coords, Pattern
from subquad.ops.plan import needs_mark

__all__ = ["attend"]


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    ranks: Ranks,
    *,
    valid: Tensor | None = None,
    label: Tensor | None = None,
    mark: Tensor | None = None,
    distance: Distance | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attention of q over the keys of all processes that `pattern` allows.

    q (B, H, N, D), k (B, G, N, D), v (B, G, N, Dv), G dividing H: the tokens of this process, in
    order behind those of the processes before it.
    valid (B, N): True where a token exists.  label (B or 1, 1, N): which document it is of.
    mark (B or 1, 1, N): which tokens are marked.  scale: default 1 / sqrt(D).

    Returns (B, H, N, Dv). Patterns without a finite reach go round the ring and cost N P N pairs,
    also where one process would do with fewer. Scores are of q and k alone: turn these by
    `ranks.positions` (rotary) before. ValueError where shapes do not fit, for lengths that `ranks`
    does not know, and for a `distance` or `dropout` as one process has them.
    """
    _refuse(distance, dropout)
    check(q, k, v, valid)
    ranks.check(k.shape[2])
    ranks.check(q.shape[2])
    for name, given in (("label", label), ("mark", mark)):
        if given is not None and (given.dim() != 3 or given.shape[1:] != (1, k.shape[2])):
            raise ValueError(
                f"{name} is {tuple(given.shape)}; it must be ({q.shape[0]} or 1, 1, {k.shape[2]})"
            )
    if valid is not None:
        gone = ~valid[:, None, :, None]
        k, v = k.masked_fill(gone, 0.0), v.masked_fill(gone, 0.0)
    at = Coords(ranks.positions(q.device), label, mark)
    rate = 1.0 / q.shape[-1] ** 0.5 if scale is None else scale
    groups, outs = q.shape[1] // k.shape[1], []
    for first, last, part in split_heads(pattern, q.shape[1]):
        rest = without(part, labels=label is not None, marks=mark is not None)
        keys, values = k, v
        if (first, last) != (0, q.shape[1]):  # heads of a pattern need not be whole groups
            keys, values = (t.repeat_interleave(groups, 1)[:, first:last] for t in (k, v))
        parts = _parts(q[:, first:last], keys, values, rest, at, valid, Scoring(rate), ranks)
        outs.append(merge(parts).out.to(v.dtype))
    return outs[0] if len(outs) == 1 else torch.cat(outs, 1)


def _refuse(distance: Distance | None, dropout: float) -> None:
    """ValueError for what only one process can add to scores, or drop."""
    if distance is not None:
        raise ValueError(
            "what distance adds to scores (biases, tables, spans) is not spread over processes; "
            "positions that turn q and k are, by ranks.positions: use rotary ones"
        )
    if dropout:
        raise ValueError(
            f"dropout {dropout} of weights is not spread over processes, whose draws would not be "
            "those of one; leave it at 0, and drop outputs instead"
        )


def _parts(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern | None,
    at: Coords,
    valid: Tensor | None,
    scoring: Scoring,
    ranks: Ranks,
) -> list[Partial]:
    """Disjoint partials, in an order that is the same in every process."""
    parts = []
    for p in [] if pattern is None else terms(pattern):
        if needs_mark(p):
            keys, values = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
            parts += by_marks(q, keys, values, p, at, valid, scoring, ranks)
        elif None not in p.reach():
            parts.append(windowed(q, k, v, p, at, valid, scoring, ranks))
        else:
            parts.append(ring(q, k, v, p, _facts(at, valid, ranks), scoring, ranks))
    if parts:
        return parts
    blank = torch.zeros((), device=q.device) * v.sum()
    return [Partial(blank + q.new_zeros(*q.shape[:3], v.shape[-1]), None)]


def _facts(at: Coords, valid: Tensor | None, ranks: Ranks) -> Facts:
    """Coordinates and validity of all tokens, by process."""
    starts, longest = ranks.starts, max(ranks.lengths)

    def everywhere(t: Tensor) -> list[Tensor]:
        wide = t.to(torch.int64 if t.dtype == torch.int64 else torch.uint8)
        padded = torch.nn.functional.pad(wide, (0, longest - t.shape[-1]))
        found = zip(ranks.gather(padded), ranks.lengths, strict=True)
        return [part[..., :n].to(t.dtype) for part, n in found]

    device, blank = at.pos.device, [None] * ranks.size
    pos = [
        torch.arange(a, a + n, device=device).view(1, 1, -1)
        for a, n in zip(starts, ranks.lengths, strict=False)
    ]
    label = blank if at.label is None else everywhere(at.label)
    mark = blank if at.mark is None else everywhere(at.mark)
    known = None if valid is None else everywhere(valid)
    return Facts([Coords(*c) for c in zip(pos, label, mark, strict=True)], known)
