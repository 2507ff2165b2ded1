"""Tiny models of latents that read their prefix under a norm of its own."""

import torch

import subquad as sq
from catalog import tiny
from subquad.archs import configure
from subquad.model import build

__all__ = ["fields", "large", "model", "stack", "tokens"]


def fields(latents=16, stride=None, **more):
    """Settings of the architecture."""
    return tiny("perceiver_ar") | {"read": "prefix", "latents": latents, "stride": stride} | more


def large(made):
    """Weights so large that every part matters; norms differ too."""
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return made.double().eval()


def stack(latents=7, stride=3, **more):
    """A backbone."""
    torch.manual_seed(7)
    config = configure("perceiver_ar", fields(latents, stride, **more))
    return large(sq.ARCHS["perceiver_ar"].build(config))


def model(latents=16, stride=None, **more):
    """A model over 50 words."""
    torch.manual_seed(7)
    return large(build("perceiver_ar", fields(latents, stride, **more), vocab_size=50))


def tokens(batch, length):
    """Random words (B, N)."""
    return torch.randint(0, 50, (batch, length))
