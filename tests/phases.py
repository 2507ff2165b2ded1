"""Rows that begin at different times, for stacks whose streams have anchors."""

import torch

from subquad.nn.context import Context

STARTS = (0, 3, 4, 11)
SLOTS = 44


def stream_rows_of_their_own(made):
    """Each row (float64, width 32) streams, in cuts of several kinds, as it comes out alone."""
    starts = torch.tensor(STARTS)
    x = torch.randn(len(STARTS), SLOTS, 32, dtype=torch.float64)
    alone = [
        made(x[b : b + 1, s:], Context.of(x[b : b + 1, s:]))[0][0] for b, s in enumerate(starts)
    ]
    for sizes in ([1] * SLOTS, [13, 1, 20, 10], [SLOTS]):
        state, seen, outs, at = made.init_state(4), torch.zeros(4, dtype=torch.int64), [], 0
        for size in sizes:
            # padding on the right, as the model hands it down
            slots = at + torch.arange(size)
            real = (slots >= starts[:, None]).sum(1)
            order = (slots < starts[:, None]).to(torch.int8).argsort(dim=1, stable=True)
            piece = x[:, at : at + size].gather(1, order[..., None].expand(-1, -1, 32))
            valid = torch.arange(size) < real[:, None]
            # marked by NaN, which must go nowhere
            piece = piece.masked_fill(~valid[..., None], torch.nan)
            context = Context.of(piece, None if valid.all() else valid, seen)
            y, state = made(piece, context, state)
            outs.append([y[b, :r] for b, r in enumerate(real)])
            assert not y[~valid].any()
            seen, at = seen + real, at + size
        for b, wanted in enumerate(alone):
            found = torch.cat([out[b] for out in outs])
            torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
