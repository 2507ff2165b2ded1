"""A language model of bytes, trained by a plain PyTorch loop, that then writes.

python examples/language_model.py --arch performer --steps 300 --text book.txt
"""

import argparse
from pathlib import Path

import torch

import subquad as sq
from subquad.hf import SubquadConfig, SubquadForCausalLM


def batch(data, size, length):
    """Windows of the data, and the byte that follows each."""
    starts = torch.randint(len(data) - length, (size,))
    return torch.stack([data[i : i + length] for i in starts])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="performer", choices=list(sq.ARCHS))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--text", type=Path, default=Path(__file__))
    given = parser.parse_args()
    torch.manual_seed(0)
    data = torch.frombuffer(bytearray(given.text.read_bytes()), dtype=torch.uint8).long()
    given.length = min(given.length, len(data) - 1)
    sizes = {"dim": given.dim, "num_layers": 2, "num_heads": 4, "ffn_dim": 2 * given.dim}
    model = SubquadForCausalLM(SubquadConfig(arch=given.arch, model=sizes, vocab_size=256))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(1, given.steps + 1):
        ids = batch(data, 8, given.length)
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 20 == 0 or step == given.steps:
            bits = loss.item() / torch.log(torch.tensor(2.0)).item()
            print(f"step {step:4}  {bits:.3f} bits a byte, in training")
    prompt = data[None, :16]
    ids = model.eval().generate(prompt, max_new_tokens=100, do_sample=True, temperature=0.8)
    print(bytes(ids[0].tolist()).decode(errors="replace"))


if __name__ == "__main__":
    main()
