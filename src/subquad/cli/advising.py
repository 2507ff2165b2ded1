"""`subquad bench --advise`: what fits the memory and is fastest here, for a task and a length."""

from typing import TYPE_CHECKING, Any

from subquad.cli.speed import named, size_of
from subquad.tasks import find_task

if TYPE_CHECKING:
    from subquad.bench.party import Party

__all__ = ["advised"]


def advised(given: Any) -> int:
    """Calibrate, print a table. ValueError for a task or length that there is not."""
    import torch

    from subquad.bench.advise import advise, markdown
    from subquad.bench.memory import available

    if given.length is None or given.task is None:
        raise ValueError("say for what: --advise --length N --task TASK")
    size = size_of(given)
    parties = _parties(given)
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    memory = available() if given.memory is None else given.memory * 2**30
    found = advise(parties, size, given.length, lambda said: print(said, flush=True))
    print(f"\n{markdown(found, memory)}\n")
    print(
        f"{given.task}, one row of {given.length:,} tokens, dim {size.dim}, architectures of "
        f"{size.layers} layers; memory: {memory / 2**30:.1f} GiB. Foreseen from shorter rows by "
        "counted growth: go by the order, measure with --lengths."
    )
    fitting = [one for one in found if not one.refused and one.held <= memory]
    for what, whole in (("architecture", True), ("mixer", False)):
        if best := next((one for one in fitting if one.party.whole is whole), None):
            print(f"fastest {what} that fits: {best.party.name}")
    if not fitting:
        print("nothing fits: take a shorter row, a smaller --dim or fewer --layers")
    return 0


def _parties(given: Any) -> list["Party"]:
    """What the task can be done with, as far as it was asked for."""
    from subquad.bench.parties import architectures, baseline, mixers

    task = find_task(given.task)
    causal = not task.looks_ahead
    pairs = {name: party for name, party in architectures().items() if name in task.archs}
    able = architectures(causal)
    whole = {name: party for name, party in able.items() if name in task.archs} or pairs
    layers = {name: party for name, party in mixers().items() if party.causal == causal}
    both = given.mixers is None and given.archs is None
    chosen = named("mixer", "all" if both else given.mixers, layers)
    chosen += named("architecture", "all" if both else given.archs, whole)
    return [baseline(causal, whole=False), *chosen]
