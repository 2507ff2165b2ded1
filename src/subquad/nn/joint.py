"""Joint: a CTC head, and beside it a decoder that writes the same transcript by attention.

    loss = w ctc(y, x) - (1 - w) sum_i log p(y_i | y_1 .. y_{i-1}, x)        in nats of a label
    score(y) = w log p_ctc(y | x) + (1 - w) log p(y | x)

Watanabe et al., 2017, Hybrid CTC/attention architecture for end-to-end speech recognition,
https://doi.org/10.1109/JSTSP.2017.2763455. CTC keeps attention to the order of time in training;
the decoder knows what goes with what. Time O(S (S + N)) beyond the CTC head for S labels.
Ours differs: the blank, which no transcript holds, begins and ends one.

Axes: B batch, N frames, S labels, C model width, V vocabulary.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from subquad.nn.attention import Attention, divide
from subquad.nn.blocks import PreNorm
from subquad.nn.context import Context
from subquad.nn.cross import CrossAttention
from subquad.nn.ctc import CTCHead
from subquad.nn.losses import IGNORED
from subquad.nn.mlp import MLP
from subquad.nn.position import Rotary
from subquad.nn.stacks import Decoder
from subquad.ops.partial import wide
from subquad.ops.patterns import Causal

__all__ = ["JointHead", "JointHeadConfig"]


class JointHead(CTCHead):
    """Features (B, N, C) to log-probabilities (B, N, V) of CTC, and to those of whole transcripts.

    `weight`: that of CTC in loss and score, the decoder has the rest.
    """

    def __init__(
        self,
        dim: int,
        vocab_size: int,
        decoder: nn.Module,
        *,
        blank: int = 0,
        weight: float = 0.3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(dim, vocab_size, blank=blank, dropout=dropout)
        if not 0 <= weight <= 1:
            raise ValueError(f"the weight of CTC is {weight}; it lies from 0 to 1")
        self.weight, self.decoder = weight, decoder
        self.words = nn.Embedding(vocab_size, dim)
        self.write = nn.Linear(dim, vocab_size)

    def loss(self, x: Tensor, log_probs: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        ctc = super().loss(x, log_probs, lengths, labels)
        count = (labels != IGNORED).sum().clamp(min=1)
        written = self.written(x, lengths, labels).sum() / count
        return self.weight * ctc - (1 - self.weight) * written

    def written(self, x: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        """log p(labels, end | features) of each row (B,), by the decoder.

        x (B, N, C); lengths (B,): how many of its features are real; labels (B, S), -100 behind.
        """
        said = labels != IGNORED
        known = labels.masked_fill(~said, self.blank)
        ends = known.new_full((len(known), 1), self.blank)
        given, wanted = torch.cat((ends, known), 1), torch.cat((known, ends), 1)
        valid = torch.cat((said.new_ones((len(said), 1)), said), 1)
        real = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        context = replace(Context.of(given, valid), memory=x, memory_valid=real)
        y, _ = self.decoder(context.clean(self.words(given)), context)
        logits = self.write(self.dropout(y))
        log_probs = logits.to(wide(logits.dtype)).log_softmax(-1)
        each = log_probs.gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
        return each.masked_fill(~valid, 0.0).sum(1)

    def follow(
        self, tokens: Tensor, place: int, state: tuple, x: Tensor | None = None
    ) -> tuple[Tensor, tuple]:
        """log p(next | transcript so far, features) (B, V) after tokens (B,) at a place, and the
        state of the decoder then.

        x (B, N, C): the features, all real, given with the first token, which is the blank, at
        place 0, and a fresh `decoder.init_state`; later None.
        """
        given = tokens.to(self.write.weight.device)[:, None]
        context = Context(torch.full_like(given[:1], place), memory=x)
        y, after = self.decoder(self.words(given), context, state)
        logits = self.write(self.dropout(y[:, 0]))
        return logits.to(wide(logits.dtype)).log_softmax(-1), after


@dataclass(frozen=True)
class JointHeadConfig:
    """Fields of a joint head: blank and dropout as for CTC, the weight of CTC, and the sizes of
    the decoder, which is as wide as the features."""

    blank: int = 0
    weight: float = 0.3
    num_layers: int = 2
    num_heads: int = 4
    ffn_dim: int = 1024
    dropout: float = 0.0

    def build(self, dim: int, vocab_size: int) -> JointHead:
        """The head on features of this width."""
        blocks = [self._block(dim) for _ in range(self.num_layers)]
        return JointHead(
            dim,
            vocab_size,
            Decoder(blocks, dim, nn.LayerNorm(dim)),
            blank=self.blank,
            weight=self.weight,
            dropout=self.dropout,
        )

    def _block(self, dim: int) -> PreNorm:
        heads, drop = self.num_heads, self.dropout
        turn = Rotary(divide(dim, heads))
        own = Attention(dim, heads, Causal(), position=turn, dropout=drop)
        cross = CrossAttention(dim, heads, dropout=drop)
        return PreNorm(dim, [own, cross], MLP(dim, self.ffn_dim), dropout=drop)
