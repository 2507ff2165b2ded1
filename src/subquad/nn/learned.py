"""Learned features: weights of attention that a pretrained model can be taught to imitate.

    phi_h(x) = [softmax(W_h x), softmax(-W_h x)]        W_h (D, D) for each head, the identity first

Zhang et al., The Hedgehog and the Porcupine, 2024, https://arxiv.org/abs/2402.04347 (section 4.2,
and appendix A for the negatives); Zhang et al., LoLCATs, 2024, https://arxiv.org/abs/2410.10254.
O(N D^2). Values lie in [0, 1], so nothing overflows.

Axes: B batch, N tokens, H heads, D head width.
"""

import torch
from torch import Tensor, nn

from subquad.nn.features import FeatureMap
from subquad.ops.partial import wide

__all__ = ["LearnedFeatures"]


class LearnedFeatures(FeatureMap):
    """The map above for (B, H, N, D): 2 D features. Trainable; queries and keys share it."""

    def __init__(self, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_heads, head_dim, head_dim))
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """The identity for each head."""
        identity = torch.eye(self.weight.shape[-1], device=self.weight.device)
        self.weight.copy_(identity.expand_as(self.weight))

    def log(self, x: Tensor) -> Tensor:
        turned = torch.einsum("bhnd,hed->bhne", x, self.weight.to(x.dtype))
        turned = turned.to(wide(x.dtype))
        return torch.cat((turned.log_softmax(-1), (-turned).log_softmax(-1)), -1).to(x.dtype)

    def lower(self) -> tuple[str, None]:
        """Evaluated as it is: its gradients reach W."""
        return "none", None

    def extra_repr(self) -> str:
        return ", ".join(str(size) for size in self.weight.shape[:2])
