"""Read without end in memory that does not grow, and get what the whole would have given.

python examples/stream.py --arch local --tokens 5000
"""

import argparse

import torch

import subquad as sq
from subquad.model import build


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="local", choices=list(sq.ARCHS))
    parser.add_argument("--tokens", type=int, default=5000)
    parser.add_argument("--piece", type=int, default=100)
    given = parser.parse_args()
    torch.manual_seed(0)
    model = build(given.arch, vars(sq.ARCHS[given.arch].PRESETS["tiny"]), vocab_size=256).eval()
    if not model.streams:
        raise SystemExit(f"{given.arch} looks ahead, so it cannot stream")
    print("its state", "is bounded" if model.bounded else "grows with what was read")
    ids = torch.randint(256, (1, given.tokens))
    state, last = model.init_state(1), None
    with torch.no_grad():
        for number, piece in enumerate(ids.split(given.piece, 1), 1):
            last, state = model(piece, state=state)
            if number & (number - 1) == 0:  # 1, 2, 4, 8, ...
                print(f"{number * given.piece:9,} tokens  {sq.nn.nbytes(state):12,} bytes")
        whole, _ = model(ids)
    apart = (last - whole[:, -last.shape[1] :]).abs().max()
    print(f"the last piece and the whole differ by {apart:.1e} at most")


if __name__ == "__main__":
    main()
