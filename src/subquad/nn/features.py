"""Feature maps: functions phi whose products stand in for the weights of attention.

    positive random features    phi(x) = F^(-1/2) exp(W x - |x|^2 / 2), phi(x).phi(y) ~ exp(x.y)
    generalised ReLU            phi(x) = relu(W x) + 1e-3
    elu + 1                     phi(x) = x + 1 for x > 0, else exp(x)

Choromanski et al., Rethinking Attention with Performers, https://arxiv.org/abs/2009.14794;
Katharopoulos et al., Transformers are RNNs, https://arxiv.org/abs/2006.16236.

O(N F D). Ours: how the rows of W are drawn is an argument (`orthogonal`, `independent`,
`regularised`, `hyperbolic`), they come from a seed and are saved, and only a training loop draws
them anew; no epsilon is added to the exponential.

Axes: F features, D head width.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as nnf
from torch import Generator, Tensor, nn

from subquad.ops.linear_chunk import RELU_OFFSET

__all__ = [
    "EluFeatures",
    "FeatureMap",
    "PositiveRandomFeatures",
    "ReLUFeatures",
    "hyperbolic",
    "independent",
    "orthogonal",
    "regularised",
]

# rows (F, D) of a projection from a CPU generator
Draw = Callable[[int, int, Generator], Tensor]


def independent(num_rows: int, width: int, generator: Generator) -> Tensor:
    """Independent normal rows."""
    return _normal(num_rows, width, generator)


def orthogonal(num_rows: int, width: int, generator: Generator) -> Tensor:
    """Rows orthogonal within blocks of D, each as long as a normal vector: less variance."""
    lengths = _normal(num_rows, width, generator).norm(dim=1, keepdim=True)
    return _directions(num_rows, width, generator) * lengths


def regularised(num_rows: int, width: int, generator: Generator) -> Tensor:
    """Orthogonal rows of length sqrt(D): the kernel SMREG, never above the softmax kernel."""
    return _directions(num_rows, width, generator) * width**0.5


def hyperbolic(num_rows: int, width: int, generator: Generator) -> Tensor:
    """Orthogonal rows and their negatives: exp(+Wx) and exp(-Wx). ValueError for odd F."""
    if num_rows % 2:
        raise ValueError(
            f"hyperbolic features come in pairs: {num_rows} is odd, take {num_rows + 1}"
        )
    half = orthogonal(num_rows // 2, width, generator)
    return torch.cat((half, -half))


class FeatureMap(nn.Module):
    """Base of the maps here: phi(x) = exp(log(x)), (..., D) to (..., F)."""

    def forward(self, x: Tensor, is_query: bool) -> Tensor:
        """phi(x) (..., F), non-negative."""
        return self.log(x).exp()

    def log(self, x: Tensor) -> Tensor:
        """The logarithm of phi(x), (..., F)."""
        raise NotImplementedError(f"{type(self).__name__} must define log")

    def lower(self) -> tuple[str, Tensor | None]:
        """What the chunk loop needs to form the features itself: a kind, and rows (F, D)."""
        raise NotImplementedError(f"{type(self).__name__} must define lower")


class _Projected(FeatureMap):
    """A map with rows drawn from a seed."""

    projection: Tensor

    def __init__(
        self,
        head_dim: int,
        num_features: int,
        *,
        seed: int = 0,
        rows: Draw = orthogonal,
        redraw_every: int | None = None,
    ) -> None:
        super().__init__()
        if head_dim < 1 or num_features < 1:
            raise ValueError(
                f"{num_features} features of rows of width {head_dim}; both must be at least 1"
            )
        self.head_dim, self.num_features = head_dim, num_features
        self.seed, self.rows, self.redraw_every = seed, rows, redraw_every
        # where torch makes parameters by default: a model may be built on the meta device
        self.register_buffer("projection", self.draw().to(torch.get_default_device()))

    def draw(self, seed: int | None = None) -> Tensor:
        """The rows (F, D) of a seed, default its own, float32 on the CPU: alike on any machine."""
        generator = Generator(device="cpu").manual_seed(self.seed if seed is None else seed)
        return self.rows(self.num_features, self.head_dim, generator).float()

    @torch.no_grad()
    def reset(self) -> None:
        """Write the rows of the seed into the buffer, for a model that was built on meta."""
        self.projection.copy_(self.draw())

    @torch.no_grad()
    def redraw(self, seed: int) -> None:
        """Take the rows of another seed. For training loops; forward never draws."""
        self.projection.copy_(self.draw(seed))

    def after_step(self, step: int) -> None:
        """Redraw every `redraw_every` optimizer steps: the rows follow from seed and step alone."""
        if self.redraw_every is not None and step % self.redraw_every == 0:
            self.redraw(self.seed + 1_000_003 * step)

    def extra_repr(self) -> str:
        rows = getattr(self.rows, "__name__", self.rows)
        return f"{self.head_dim}, {self.num_features}, seed={self.seed}, rows={rows}"

    def _project(self, x: Tensor) -> Tensor:
        return x @ self.projection.to(x.dtype).T


class PositiveRandomFeatures(_Projected):
    """Random features of the softmax kernel: phi(x).phi(y) is exp(x.y) in expectation.

    Attention gives x times D^(-1/4), so that the kernel is that of softmax attention.
    """

    def log(self, x: Tensor) -> Tensor:
        shift = x.square().sum(-1, keepdim=True) / 2
        return self._project(x) - shift - math.log(self.num_features) / 2

    def lower(self) -> tuple[str, Tensor | None]:
        return "exp", self.projection


class ReLUFeatures(_Projected):
    """The generalised kernel of the Performer: relu(Wx) + 1e-3."""

    def forward(self, x: Tensor, is_query: bool) -> Tensor:
        return nnf.relu(self._project(x)) + RELU_OFFSET

    def log(self, x: Tensor) -> Tensor:
        return self(x, True).log()

    def lower(self) -> tuple[str, Tensor | None]:
        return "relu", self.projection


class EluFeatures(FeatureMap):
    """elu(x) + 1, as many features as the head is wide; no projection, and no scale."""

    def forward(self, x: Tensor, is_query: bool) -> Tensor:
        # not elu(x) + 1, which loses every digit of a small feature
        return nnf.relu(x) + x.clamp_max(0).exp()

    def log(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x.clamp_min(0).log1p(), x)

    def lower(self) -> tuple[str, Tensor | None]:
        return "elu", None


def _normal(num_rows: int, width: int, generator: Generator) -> Tensor:
    size = (num_rows, width)
    return torch.randn(size, generator=generator, device="cpu", dtype=torch.float64)


def _directions(num_rows: int, width: int, generator: Generator) -> Tensor:
    """Unit rows (F, D): the orthogonal factors of normal blocks, the last one cut."""
    count = -(-num_rows // width)
    square = _normal(count * width, width, generator).view(count, width, width)
    q, r = torch.linalg.qr(square)
    # with signs that make the diagonal of r positive, q is uniform over rotations
    signs = r.diagonal(dim1=-2, dim2=-1).sign()
    return (q * signs[:, None, :]).mT.reshape(-1, width)[:num_rows]
