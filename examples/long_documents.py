"""Find a word anywhere in a long document: one marked token looks at all, the others at a window.

python examples/long_documents.py --length 2000 --steps 200
"""

import argparse

import torch
from torch import nn

import subquad as sq
from subquad.model import Model
from subquad.nn.stems import TokenStem


def documents(count, length, words):
    """Random tokens; the label says which of two words was hidden among them."""
    ids = torch.randint(4, words, (count, length))
    label = torch.randint(2, (count,))
    ids[torch.arange(count), torch.randint(1, length, (count,))] = 1 + label
    ids[:, 0] = 0  # the marked token
    return ids, label


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--window", type=int, default=32)
    given = parser.parse_args()
    torch.manual_seed(0)
    arch, words, dim = sq.ARCHS["longformer"], 64, 64
    sizes = {"dim": dim, "num_layers": 2, "num_heads": 4, "ffn_dim": 128, "dropout": 0.0}
    config = arch.Config(**sizes, causal=False, windows=(given.window,))
    model = Model(TokenStem(nn.Embedding(words, dim)), arch.build(config), None)
    head = nn.Linear(dim, 2)
    mark = torch.zeros(16, given.length, dtype=torch.bool)
    mark[:, 0] = True
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=1e-3)
    for step in range(1, given.steps + 1):
        ids, label = documents(16, given.length, words)
        logits = head(model(ids, mark=mark)[0][:, 0])
        loss = nn.functional.cross_entropy(logits, label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0 or step == given.steps:
            right = (logits.argmax(-1) == label).float().mean()
            print(f"step {step:4}  loss {loss:.3f}  right {right:.0%}")


if __name__ == "__main__":
    main()
