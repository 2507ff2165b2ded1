"""Joint beam search: a text token by token, by CTC, a decoder and a language model together.

    score(h) = w log psi(h) + (1 - w) log p(h | x) + lm_weight log p_lm(h) + bonus units(h)

for a prefix h, psi its probability by CTC (`subquad.tasks.ctc.prefixes`), p that of a decoder which
attends to the frames; a text that ends has its own probability by CTC in place of psi, and the end
in p and p_lm. Kept are the best `width` prefixes of each length. A prefix gains nothing by growing,
but a bonus for each token, and no more tokens than frames; so the search ends as soon as no open
prefix can become better than the best text. Watanabe et al., 2017, section IV,
https://doi.org/10.1109/JSTSP.2017.2763455. Time O(S (N V + S + N) width) for S tokens.

Axes: K prefixes, N frames, V vocabulary, C model width.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subquad.nn.joint import JointHead
from subquad.nn.state import select
from subquad.tasks.ctc.beams import Beams, Found
from subquad.tasks.ctc.prefixes import Prefixes

__all__ = ["search"]


@dataclass(frozen=True)
class _Open:
    """Prefixes of one length: what each is, what was said of it, and what goes on from it.

    written (K,): nats of the decoder.  worth (K,): language model and bonus.
    """

    tokens: list[tuple[int, ...]]
    heard: list[Any]
    written: Tensor
    worth: Tensor
    prefixes: Prefixes
    state: tuple


@torch.no_grad()
def search(head: JointHead, outputs: Tensor, how: Beams) -> list[Found]:
    """The texts that outputs (N, C) may say, best first, at most `how.width`.

    `nats` of what is found are those of CTC alone. `how.least` is for a search without a decoder.
    """
    p = head(outputs).cpu()
    zero, empty = torch.zeros(1, dtype=torch.float64), Prefixes.empty(p, head.blank)
    now = _Open([()], [how.scorer.start()], zero, zero, empty, head.decoder.init_state(1))
    found: list[Found] = []
    memory: Tensor | None = outputs[None]
    while now.tokens:
        next_, state = head.follow(now.prefixes.last, len(now.tokens[0]), now.state, memory)
        memory, next_ = None, next_.double().cpu()
        found = sorted([*found, *_ended(head, now, next_, how)], key=lambda one: -one.score)
        found = found[: how.width]
        now, score = _longer(head, now, next_, state, how)
        if now.tokens:
            room = len(p) - len(now.tokens[0])
            if score + max(how.bonus, 0.0) * room <= found[0].score:
                break
    return found


def _ended(head: JointHead, now: _Open, next_: Tensor, how: Beams) -> list[Found]:
    """The prefixes as whole texts."""
    whole, written = now.prefixes.whole, now.written + next_[:, head.blank]
    both = (_joined(head, whole, written) + now.worth).tolist()
    found = []
    for tokens, heard, nats, score in zip(now.tokens, now.heard, whole.tolist(), both, strict=True):
        last, units = how.scorer.finish(heard)
        worth = how.lm_weight * last + how.bonus * units
        found.append(Found(tokens, nats, score + worth))
    return [one for one in found if one.nats > -torch.inf]


def _longer(
    head: JointHead, now: _Open, next_: Tensor, state: tuple, how: Beams
) -> tuple[_Open, float]:
    """The best prefixes with one more token, and the score of the first of them."""
    written = now.written[:, None] + next_
    both = _joined(head, now.prefixes.longer(), written) + now.worth[:, None]
    # a language model is asked about twice as many as can be kept
    best, tokens = both.topk(min(2 * how.width, both.shape[1]), 1)
    tried = []
    for row, (scores, names) in enumerate(zip(best.tolist(), tokens.tolist(), strict=True)):
        for score, token in zip(scores, names, strict=True):
            if score > -torch.inf:
                heard, nats, units = how.scorer.extend(now.heard[row], token)
                worth = how.lm_weight * nats + how.bonus * units
                tried.append((score + worth, row, token, heard, worth))
    tried = sorted(tried, key=lambda one: -one[0])[: how.width]
    rows = torch.tensor([one[1] for one in tried], dtype=torch.int64)
    names_ = torch.tensor([one[2] for one in tried], dtype=torch.int64)
    worth_ = torch.tensor([one[4] for one in tried], dtype=torch.float64)
    kept = _Open(
        [(*now.tokens[row], token) for _, row, token, _, _ in tried],
        [one[3] for one in tried],
        written[rows, names_],
        now.worth[rows] + worth_,
        now.prefixes.after(rows, names_),
        select(state, rows),
    )
    return kept, tried[0][0] if tried else -torch.inf


def _joined(head: JointHead, heard: Tensor, written: Tensor) -> Tensor:
    """Both nats, weighed; what CTC cannot say stays impossible, whatever its weight."""
    both = head.weight * heard + (1 - head.weight) * written
    return torch.where(heard > -torch.inf, both, -torch.inf)
