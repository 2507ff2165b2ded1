"""A model of your own in which `subquad.attend` stands in for scaled_dot_product_attention.

python examples/own_model.py --length 4096 --window 128
"""

import argparse
import time

import torch
import torch.nn.functional as F
from torch import nn

import subquad as sq


class Block(nn.Module):
    """A plain pre-norm block; `look` is what attends."""

    def __init__(self, dim, heads, look):
        super().__init__()
        self.heads, self.look = heads, look
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x):
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        y = self.look(*(t.transpose(1, 2) for t in (q, k, v)))
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norms[1](x))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--window", type=int, default=128)
    given = parser.parse_args()
    torch.manual_seed(0)
    pattern = sq.Causal() & sq.Window(given.window)
    looks = {
        "torch, all earlier": lambda q, k, v: F.scaled_dot_product_attention(
            q, k, v, is_causal=True
        ),
        "ours, all earlier": lambda q, k, v: sq.attend(q, k, v, sq.Causal()),
        f"ours, {pattern}": lambda q, k, v: sq.attend(q, k, v, pattern),
    }
    block, x, found = Block(128, 4, None), torch.randn(1, given.length, 128), []
    for name, block.look in looks.items():
        start = time.perf_counter()
        with torch.no_grad():
            found.append(block(x))
        print(f"{name:<40}{time.perf_counter() - start:8.3f} s")
    print(f"the first two differ by {(found[0] - found[1]).abs().max():.1e} at most")


if __name__ == "__main__":
    main()
