"""The regularised incomplete beta function, by which Student's t and counts are distributed.

    I_x(a, b) = x^a (1 - x)^b / (a B(a, b)) / (1 + d_1 / (1 + d_2 / (1 + ...)))

The continued fraction of DLMF 8.17.22 (https://dlmf.nist.gov/8.17), evaluated from the front
(Lentz); where x is large, 1 - I_(1-x)(b, a). About sqrt(max(a, b)) terms, in float64.
"""

import torch
from torch import Tensor

__all__ = ["incomplete_beta"]

TERMS = 20_000
TINY = 1e-300


def incomplete_beta(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """I_x(a, b) of a, b > 0 and 0 <= x <= 1, broadcast together; float64.

    ValueError where the fraction has not settled after 20,000 terms.
    """
    a, b, x = torch.broadcast_tensors(a.double(), b.double(), x.double())
    turned = x > (a + 1) / (a + b + 2)
    a, b, x = torch.where(turned, b, a), torch.where(turned, a, b), torch.where(turned, 1 - x, x)
    front = torch.xlogy(a, x) + b * torch.log1p(-x)
    front = (front + torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b)).exp() / a
    found = front / _fraction(a, b, x)
    return torch.where(turned, 1 - found, found)


def _fraction(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """1 + d_1 / (1 + d_2 / (1 + ...))."""
    total = upper = torch.ones_like(x)
    lower = torch.zeros_like(x)
    for term in range(1, TERMS):
        m, odd = divmod(term, 2)
        top = -(a + m) * (a + b + m) if odd else m * (b - m)
        d = top * x / ((a + term - 1) * (a + term))
        lower = 1 / _away(1 + d * lower)
        upper = _away(1 + d / upper)
        change = upper * lower
        total = total * change
        # what is NaN never settles, and need not
        if not bool(((change - 1).abs() >= 1e-14).any()):
            return total
    raise ValueError(
        f"I_x(a, b) has not settled after {TERMS} terms: a is up to {float(a.max()):g} and b up to "
        f"{float(b.max()):g}; scale what is counted"
    )


def _away(t: Tensor) -> Tensor:
    """t, but not 0."""
    return torch.where(t.abs() < TINY, TINY, t)
