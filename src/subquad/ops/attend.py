"""`attend`: attention over a pattern, as easy to call as torch's scaled_dot_product_attention.

    out_i = sum_j softmax_j(scale q_i . k_j + what distance adds) v_j   over allowed, valid keys j

The pattern is taken apart into disjoint parts, each is given to the engine that runs it best
(`subquad.ops.plan`), and the parts merge by log-sum-exp. A named engine runs alone or raises.

Axes: B batch, N queries, M keys, H heads, G key heads, D head width.
"""

import torch
from torch import Tensor

from subquad.ops.lowering import split_heads, without
from subquad.ops.partial import Distance, Scoring, Where, merge
from subquad.ops.pattern import Coords, Pattern
from subquad.ops.plan import Engine, plan

__all__ = ["Engine", "attend", "check"]


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    *,
    valid: Tensor | None = None,
    where: tuple[Coords, Coords] | None = None,
    distance: Distance | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    seed: Tensor | None = None,
    engine: Engine | None = None,
) -> Tensor:
    """Attention of q over the keys that `pattern` allows.

    q: (B, H, N, D).  k: (B, G, M, D) and v: (B, G, M, Dv), where G divides H (grouped queries).
    valid: (B, M), True where a key exists; contents of the others are never read.
    where: coordinates of queries and keys. Default: positions 0..M-1, the queries at the last N.
        Positions must increase along each row.
    distance: what distance adds to scores (a Position lowers to it).
    scale: default 1 / sqrt(D).
    dropout: rate at which normalised weights are dropped; `seed`, an int64 scalar, fixes which.
    engine: run this one alone (`subquad.ops.band.band`, ...) instead of choosing.

    Returns (B, H, N, Dv); a query that looks at nothing gets zeros. ValueError where shapes do not
    fit, or the named engine cannot run the pattern.
    """
    check(q, k, v, valid)
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout must be at least 0 and below 1, not {dropout}")
    q, k, v = _autocast(q, k, v)
    shared = q.shape[1] // k.shape[1]
    if valid is not None:
        gone = ~valid[:, None, :, None]
        k, v = k.masked_fill(gone, 0.0), v.masked_fill(gone, 0.0)
    if shared > 1:
        k, v = (t.repeat_interleave(shared, 1) for t in (k, v))
    if where is not None:
        _check_where(q, k, where)
    at = Where(*(where or _plain(q, k)), valid)
    if dropout > 0 and seed is None:
        seed = torch.randint(2**31, (), device=q.device)
    rate = 1.0 / q.shape[-1] ** 0.5 if scale is None else scale
    marks = at.q.mark is not None and at.k.mark is not None
    labels = at.q.label is not None and at.k.label is not None
    outs, groups = [], split_heads(pattern, q.shape[1])
    # split, for its gradient is one tensor; each slice's would be as large as all heads
    sizes = [last - first for first, last, _ in groups]
    cuts = (t.split(sizes, 1) if len(groups) > 1 else [t] for t in (q, k, v))
    for (first, last, part), qs, ks, vs in zip(groups, *cuts, strict=True):
        rest = without(part, labels=labels, marks=marks)
        if rest is None or k.shape[2] == 0:
            outs.append(v.new_zeros(*qs.shape[:-1], v.shape[-1]))
            continue
        added = None if distance is None else distance.heads(first, last)
        scoring = Scoring(rate, added, dropout, _lane(seed, first))
        outs.append(_run(qs, ks, vs, rest, at.heads(first, last), scoring, engine))
    return outs[0] if len(outs) == 1 else torch.cat(outs, 1)


def _run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    where: Where,
    scoring: Scoring,
    engine: Engine | None,
) -> Tensor:
    if engine is not None:
        return engine(q, k, v, pattern, where, scoring).out
    parts = plan(q, k, pattern, where, scoring)
    done = [part.engine(q, k, v, part.pattern, where, scoring) for part in parts]
    return merge(done).out.to(v.dtype)


def _plain(q: Tensor, k: Tensor) -> tuple[Coords, Coords]:
    n, m = q.shape[2], k.shape[2]
    keys = torch.arange(m, device=k.device).view(1, 1, m)
    if n > m:
        raise ValueError(
            f"{n} queries and {m} keys: queries stand at the last keys, so there must be at "
            "least as many keys; pass `where` to place them yourself"
        )
    return (Coords(keys), Coords(keys)) if n == m else (Coords(keys[..., m - n :]), Coords(keys))


def _lane(seed: Tensor | None, first: int) -> Tensor | None:
    """Another stream of dropout for each group of heads."""
    return seed if seed is None or first == 0 else seed + 1_000_003 * first


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Inputs in the dtype of a surrounding autocast, as torch's own attention takes them."""
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind) or tensors[0].dtype == torch.float64:
        return tensors
    return tuple(t.to(torch.get_autocast_dtype(kind)) for t in tensors)


def _check_where(q: Tensor, k: Tensor, where: tuple[Coords, Coords]) -> None:
    for name, at, n in zip(("queries", "keys"), where, (q.shape[2], k.shape[2]), strict=True):
        for part, c in at._asdict().items():
            if c is None:
                continue
            lead = c.dim() == 3 and c.shape[0] in (1, q.shape[0]) and c.shape[1] in (1, q.shape[1])
            if not lead or c.shape[2] != n:
                raise ValueError(
                    f"where gives the {name} a {part} of shape {tuple(c.shape)}; it must be "
                    f"({q.shape[0]} or 1, {q.shape[1]} or 1, {n})"
                )


def check(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> None:
    """ValueError unless q (B, H, N, D), k (B, G, M, D), v (B, G, M, Dv), valid (B, M) fit."""
    if q.dim() != 4 or k.dim() != 4 or v.dim() != 4:
        raise ValueError(
            f"q, k, v must be (batch, heads, length, width), "
            f"not {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}"
        )
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"queries are {q.shape[-1]} wide and keys {k.shape[-1]}; they must agree")
    if k.shape[:3] != v.shape[:3]:
        raise ValueError(
            f"keys {tuple(k.shape)} and values {tuple(v.shape)} must agree but for the width"
        )
    if q.shape[0] != k.shape[0] or q.shape[1] % k.shape[1]:
        raise ValueError(
            f"queries have (batch, heads) {tuple(q.shape[:2])} and keys {tuple(k.shape[:2])}: the "
            "batches must agree, and the heads of the keys divide those of the queries"
        )
    if valid is not None and (valid.dtype != torch.bool or valid.shape != k.shape[::2][:2]):
        raise ValueError(
            f"valid must be bool of shape {(k.shape[0], k.shape[2])}, True for keys to use, "
            f"not {valid.dtype} of shape {tuple(valid.shape)}"
        )
