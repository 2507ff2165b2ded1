"""Adaptive input and softmax: rare words get narrower vectors, and are told apart only if needed.

    embed(w) = P_c E_c[w]                                  words fall in clusters c by their number
    p(w) = p(c | h) softmax(E_c P_c^T h + b_c)[w]          c = 0: its words stand beside the other
                                                           clusters in one softmax
Grave et al., 2017, https://arxiv.org/abs/1609.04309 (softmax); Baevski and Auli, 2019,
https://arxiv.org/abs/1809.10853 (input, tied); as Transformer-XL uses them, arXiv 1901.02860.

The loss forms the logits of the first cluster for every token, and those of another cluster for the
tokens whose target lies there. Log-probabilities of all words cost the whole table, as without.

Axes: B batch, N tokens, C model width, V vocabulary.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subquad.nn.losses import IGNORED, token_loss
from subquad.ops.partial import wide

__all__ = ["AdaptiveHead", "Tables", "share"]


class Tables(nn.Module):
    """A table of vectors for each cluster of words: an embedding, and the softmax's other half.

    Cluster c holds the words from `cutoffs[c - 1]` to below `cutoffs[c]`, in vectors of width
    dim // div_val^c, which `maps[c]` brings to `dim`; with `div_val` 1 there are no maps.
    ValueError for cutoffs that do not rise inside the vocabulary.
    """

    def __init__(
        self, vocab_size: int, dim: int, *, cutoffs: tuple[int, ...] = (), div_val: int = 1
    ) -> None:
        super().__init__()
        edges = (0, *cutoffs, vocab_size)
        if any(a >= b for a, b in pairwise(edges)):
            raise ValueError(
                f"cutoffs {list(cutoffs)} must rise from above 0 to below the {vocab_size} words "
                "of the vocabulary"
            )
        if div_val < 1 or dim // div_val ** len(cutoffs) < 1:
            raise ValueError(
                f"div_val {div_val} leaves no width to the last of {len(cutoffs) + 1} clusters in "
                f"a model {dim} wide; it must be at least 1, and small enough"
            )
        self.edges, self.dim, self.div_val = edges, dim, div_val
        widths = [dim // div_val**c for c in range(len(cutoffs) + 1)]
        self.words = nn.ModuleList(
            nn.Embedding(b - a, width)
            for (a, b), width in zip(pairwise(edges), widths, strict=True)
        )
        self.maps = nn.ModuleList(
            nn.Linear(width, dim, bias=False) for width in (widths if div_val > 1 else [])
        )

    def forward(self, ids: Tensor) -> Tensor:
        """The vectors of words, (...) to (..., C)."""
        cluster = self.clusters(ids)
        out = torch.zeros((), device=ids.device)
        for c, words in enumerate(self.words):
            inside = cluster == c
            found = words(torch.where(inside, ids - self.edges[c], 0))
            found = self.maps[c](found) if self.maps else found
            out = torch.where(inside.unsqueeze(-1), found, out)
        return out

    def clusters(self, ids: Tensor) -> Tensor:
        """The cluster of each word; what is outside the vocabulary counts to the nearest."""
        edges = torch.tensor(self.edges[1:-1], device=ids.device, dtype=ids.dtype)
        return torch.bucketize(ids.contiguous(), edges, right=True)

    def scores(self, c: int, x: Tensor) -> Tensor:
        """What features (..., C) have in common with the words of cluster c: (..., words)."""
        return F.linear(self.narrow(c, x), _weight(self.words[c]))

    def narrow(self, c: int, x: Tensor) -> Tensor:
        """Features (..., C) as wide as the words of cluster c, by the transpose of its map."""
        return F.linear(x, _weight(self.maps[c]).mT) if self.maps else x


class AdaptiveHead(nn.Module):
    """Features (B, N, C) to log-probabilities (B, N, V), and their loss without forming them all.

    ValueError as `Tables`.
    """

    def __init__(
        self, dim: int, vocab_size: int, *, cutoffs: tuple[int, ...] = (), div_val: int = 1
    ) -> None:
        super().__init__()
        self.tables = Tables(vocab_size, dim, cutoffs=cutoffs, div_val=div_val)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        # how likely each further cluster is, beside the words of the first
        self.clusters = nn.Linear(dim, len(cutoffs)) if cutoffs else None

    def tie(self, embedding: nn.Embedding | Tables) -> None:
        """Take the tables of an embedding, and its maps but the first's, as Transformer-XL does.

        ValueError for an embedding with other clusters.
        """
        ours = self.tables
        if not isinstance(embedding, Tables):
            raise ValueError(
                f"an adaptive head cannot share the {type(embedding).__name__} of the stem: give "
                "both kind 'adaptive', or set tie_word_embeddings to False"
            )
        if (embedding.edges, embedding.div_val) != (ours.edges, ours.div_val):
            raise ValueError(
                f"the stem's clusters {embedding.edges} with div_val {embedding.div_val} and the "
                f"head's {ours.edges} with {ours.div_val} must agree to be shared"
            )
        shared = (ours.words, embedding.words), (ours.maps[1:], embedding.maps[1:])
        for mine, theirs in (pair for both in shared for pair in zip(*both, strict=True)):
            share(mine, theirs)

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities, in float32 or wider."""
        first = self._first(x).log_softmax(-1)
        count = self.tables.edges[1]
        parts = [first[..., :count]]
        for c in range(1, len(self.tables.words)):
            inside = self._scores(c, x).log_softmax(-1)
            parts.append(inside + first[..., count + c - 1, None])
        return torch.cat(parts, -1)

    def loss(self, x: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """The mean of -log p(target) in nats over targets (B, N) that are not -100.

        ValueError for label smoothing, which speaks of all words at every token.
        """
        if label_smoothing:
            raise ValueError(
                f"label smoothing of {label_smoothing} needs every word at every token, which the "
                "adaptive softmax spares; set it to 0, or leave cutoffs out"
            )
        if targets.shape != x.shape[:-1]:
            raise ValueError(
                f"targets are {tuple(targets.shape)} and features {tuple(x.shape[:-1])}; each "
                "position needs one target"
            )
        scored = targets != IGNORED
        rows, wanted = x[scored], targets[scored]
        cluster = self.tables.clusters(wanted)
        begin = self.tables.edges[1]
        goals = torch.where(cluster == 0, wanted, begin + cluster - 1)
        total = self._total(self._first, rows, goals)
        for c in range(1, len(self.tables.words)):
            # also where none lies there: every parameter takes part in every step
            some = cluster == c
            scores = partial(self._scores, c)
            total = total + self._total(scores, rows[some], wanted[some] - self.tables.edges[c])
        return total / len(rows)

    def _total(self, project: Callable[[Tensor], Tensor], rows: Tensor, goals: Tensor) -> Tensor:
        return token_loss(rows, project, goals, vocab_size=self.tables.edges[1], reduction="sum")

    def _first(self, x: Tensor) -> Tensor:
        """Logits (..., words + clusters) of the first cluster's words, then of the others."""
        words = self._scores(0, x)
        if self.clusters is None:
            return words
        others = self.clusters(self.tables.narrow(0, x))
        return torch.cat((words, others.to(words.dtype)), -1)

    def _scores(self, c: int, x: Tensor) -> Tensor:
        """Logits (..., words) of cluster c among themselves, in float32 or wider."""
        a, b = self.tables.edges[c : c + 2]
        logits = self.tables.scores(c, x) + self.bias[a:b]
        return logits.to(wide(logits.dtype))


def share(mine: nn.Module, theirs: nn.Module) -> None:
    """Give a module the weight of another, which says how it is drawn."""
    mine.weight = theirs.weight
    if hasattr(theirs, "init_std"):
        mine.init_std = theirs.init_std


def _weight(module: nn.Module) -> Tensor:
    assert isinstance(module.weight, Tensor)
    return module.weight
