"""Put a window, then random features, into a model of transformers, and take them out again.

python examples/swap.py --model gpt2 --length 512     (a folder or a name of the hub)

Without --model it is a small GPT-2 with random weights, so that nothing is downloaded.
"""

import argparse

import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

import subquad as sq
from subquad.hf import restore, swap
from subquad.hf.swapping import Features


def fresh():
    """A small GPT-2 that was never trained."""
    config = GPT2Config(vocab_size=256, n_embd=64, n_layer=2, n_head=4, n_positions=1024)
    return GPT2LMHeadModel(config)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--window", type=int, default=64)
    given = parser.parse_args()
    torch.manual_seed(0)
    model = fresh() if given.model is None else AutoModelForCausalLM.from_pretrained(given.model)
    model.eval()
    ids = torch.randint(model.config.vocab_size, (1, given.length))
    with torch.no_grad():
        before = model(ids).logits
        for mixer in (sq.Window(given.window, given.window), Features("relu", 64)):
            swap(model, mixer)
            moved = (model(ids).logits - before).norm() / before.norm()
            print(f"{mixer!s:<24} logits move by {moved:.1%}; not trained to recover")
            model.generate(ids[:, :8], max_new_tokens=4, do_sample=False)
        restore(model)
        print("restored, to the last bit:", torch.equal(model(ids).logits, before))


if __name__ == "__main__":
    main()
