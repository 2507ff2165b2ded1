"""The head of BigBird's kind for answers: a feed-forward part and its norm before the labels.

    logits = V norm(x + mlp(x)) + c

Zaheer et al., 2020, https://arxiv.org/abs/2007.14062; the released code for question answering. The
question is told apart from the document by the kinds of tokens, and holds no answer.

Axes: B batch, N tokens, C model width, L labels.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from subquad.nn.choices import feed_forward, normalise

__all__ = ["AnswerHead", "AnswerHeadConfig"]


class AnswerHead(nn.Module):
    """Features (B, N, C) to one logit per label of each token (B, N, L), after one more layer."""

    #: how far below all others the logits of a question are: as in the released code
    BELOW = 1e6

    def __init__(
        self, dim: int, num_labels: int, *, mlp: nn.Module, norm: nn.Module, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.mlp, self.norm = mlp, norm
        self.dropout = nn.Dropout(dropout)
        self.label = nn.Linear(dim, num_labels)

    def forward(self, x: Tensor) -> Tensor:
        return self.label(self.norm(x + self.dropout(self.mlp(self.dropout(x)))))

    def without(self, logits: Tensor, asked: Tensor) -> Tensor:
        """Logits (B, N, L) with those of the question, `asked` (B, N) bool, below all others."""
        return logits - self.BELOW * asked.unsqueeze(-1)


@dataclass(frozen=True)
class AnswerHeadConfig:
    """Fields of a head for answers. `mlp`, `norm`: as in architectures; `ffn_dim`: its width."""

    num_labels: int = 2
    ffn_dim: int = 2048
    mlp: str = "gelu"
    norm: str = "layer"
    dropout: float = 0.0

    def build(self, dim: int, vocab_size: int) -> AnswerHead:
        """The head on features of this width."""
        return AnswerHead(
            dim,
            self.num_labels,
            mlp=feed_forward(self.mlp)(dim, self.ffn_dim),
            norm=normalise(self.norm)(dim),
            dropout=self.dropout,
        )
