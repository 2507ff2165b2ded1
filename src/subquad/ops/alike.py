"""Hashed keys for queries of their own: which of the near keys got the label of a query.

    A_r(i) = the last w keys up to i that have, in round r, the label of query i
             (looking both ways: w on each side)
    A(i) = {i} and the union of A_r(i) over rounds

Kitaev, Kaiser, Levskaya, Reformer, https://arxiv.org/abs/2001.04451. There queries are keys (one
projection), and a token is left out of its own set; here the two were learnt apart, are hashed by
the same rotations, and a token's own key is one like any other.

O(N rounds (log N + window)) time and integers. A window slides within each bucket, so that nothing
depends on later keys; a pair that meets in several rounds counts once.

Axes: B batch, H heads, R rounds, N queries (the last tokens), M keys, K listed keys.
"""

import torch
from torch import Tensor

from subquad.ops.hashing import ABSENT

__all__ = ["alike"]


@torch.no_grad()
def alike(q_labels: Tensor, k_labels: Tensor, window: int, *, causal: bool) -> Tensor:
    """The slots of the keys that each query looks at, (B, H, N, K) int64, distinct, -1 for none.

    q_labels: (B, H, R, N) of the last N tokens.  k_labels: (B, H, R, M), ABSENT where no token
    exists.  window: keys of a bucket, on each side unless `causal`.
    K is 1 + R w, both ways 1 + 2 R w, with w = min(window, M).
    """
    n, m = q_labels.shape[-1], k_labels.shape[-1]
    if n == 0 or q_labels.shape[0] == 0:
        return k_labels.new_empty(*q_labels.shape[:2], n, 1, dtype=torch.int64)
    slots = torch.arange(m, device=k_labels.device)
    own = slots[m - n :]
    gone = k_labels[:, :, 0, m - n :, None] == ABSENT
    found = [own[:, None].expand(gone.shape).masked_fill(gone, -1)]
    step = torch.arange(min(window, m), device=slots.device)
    columns = -1 - step if causal else torch.cat((-1 - step, step))
    for mine, label in zip(q_labels.unbind(2), k_labels.unbind(2), strict=True):
        # keys by bucket and, within it, by place; those that do not exist after all others
        last = max(int(t.max()) for t in (mine, label)) + 1
        codes = (torch.where(label == ABSENT, last, label) * m + slots).sort(-1).values
        place = torch.searchsorted(codes, (mine * m + own).contiguous(), right=True)
        place = place.unsqueeze(-1) + columns
        inside = (place >= 0) & (place < m)
        code = codes.gather(-1, place.clamp(0, m - 1).flatten(2)).view(place.shape)
        same = inside & (code // m == mine.unsqueeze(-1))
        found.append((code % m).masked_fill(~same, -1))
    keys = torch.cat(found, -1).sort(-1, descending=True).values
    again = keys[..., 1:] == keys[..., :-1]
    keys[..., 1:] = keys[..., 1:].masked_fill(again, -1)
    return keys
