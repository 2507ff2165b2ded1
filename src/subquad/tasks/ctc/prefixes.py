"""Prefixes: how probable by CTC it is that a text begins so, whatever follows.

For a prefix h, two rows of forward probabilities over n = 0 .. N frames: of all paths through n
frames that collapse to h and end in its last token, said_n, and of those that end in a blank,
silent_n. A further token c is said first at some frame,

    psi(h c)   = sum_n f_{n-1} p_n(c)      f = silent if c is h's last token, else silent + said
    said_n     = (said_{n-1} + f_{n-1}) p_n(c)   of h c
    silent_n   = (silent_{n-1} + said_{n-1}) p_n(blank)

psi is the probability of all texts that begin with h c; that of h itself is said_N + silent_N
(Watanabe et al., 2017, algorithm 2, https://doi.org/10.1109/JSTSP.2017.2763455). Time O(K N V) for
the next tokens of K prefixes. Ours differs: both recurrences are linear, so each is a cumulative
sum, said_n = P_n sum_{m<=n} f_{m-1} / P_{m-1} with P_n the product of p(c) up to frame n, in
logarithms and float64; a token less probable than exp(-1000) at a frame counts as that.

Axes: K prefixes, N frames, V vocabulary.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Prefixes"]

_NEVER = -torch.inf
_LEAST = -1e3  # nats: sums over frames stay finite, and exact to 1e-9


@dataclass(frozen=True)
class Prefixes:
    """Some prefixes of what frames with log-probabilities (N, V) say.

    last (K,): the last token of each, the blank for the empty one.  said, silent (K, N + 1): as
    above, in nats.
    """

    log_probs: Tensor
    blank: int
    last: Tensor
    said: Tensor
    silent: Tensor

    @classmethod
    def empty(cls, log_probs: Tensor, blank: int) -> "Prefixes":
        """The empty prefix alone."""
        p = log_probs.double().clamp(min=_LEAST)
        silent = F.pad(p[:, blank].cumsum(0), (1, 0))[None]
        return cls(p, blank, torch.tensor([blank]), torch.full_like(silent, _NEVER), silent)

    @property
    def whole(self) -> Tensor:
        """Nats (K,) of each prefix as the whole text."""
        return torch.logaddexp(self.said[:, -1], self.silent[:, -1])

    def longer(self) -> Tensor:
        """Nats (K, V) of all texts that begin with a prefix and one more token; -inf for the
        blank, which is none."""
        either = torch.logaddexp(self.said, self.silent)[:, :-1]
        found = (either[:, :, None] + self.log_probs).logsumexp(1)
        again = (self.silent[:, :-1] + self.log_probs[:, self.last].T).logsumexp(1)
        found.scatter_(1, self.last[:, None], again[:, None])
        found[:, self.blank] = _NEVER
        return found

    def after(self, rows: Tensor, tokens: Tensor) -> "Prefixes":
        """Prefixes `rows` (K',), each with one more token of `tokens` (K',)."""
        said, silent = self.said[rows], self.silent[rows]
        same = (tokens == self.last[rows])[:, None]
        begins = torch.where(same, silent, torch.logaddexp(said, silent))
        said = _paths(begins, self.log_probs[:, tokens].T)
        quiet = self.log_probs[:, self.blank].expand(len(rows), -1)
        return Prefixes(self.log_probs, self.blank, tokens, said, _paths(said, quiet))


def _paths(begins: Tensor, p: Tensor) -> Tensor:
    """y (K, N + 1) with y_0 = nothing, y_n = (y_{n-1} + begins_{n-1}) p_n, in nats; begins (K, N +
    1), p (K, N)."""
    product = p.cumsum(1)
    summed = (begins[:, :-1] - (product - p)).logcumsumexp(1)
    return F.pad(product + summed, (1, 0), value=_NEVER)
