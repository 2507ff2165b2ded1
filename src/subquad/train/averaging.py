"""Checkpoint averaging: the mean of the weights at the last reports, kept if it scores no worse.

    w = (w_1 + ... + w_K) / K        w_K: at the last report

As in Vaswani et al., 2017, section 6.1, https://arxiv.org/abs/1706.03762. The weights of a report
lie in RUN/averaging until K more have come; a resumed run drops those behind its checkpoint.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from subquad.train.atomic import write_files
from subquad.train.checkpoint import reading

if TYPE_CHECKING:
    from subquad.train.loop import Loop

__all__ = ["Averaging", "average"]

_NAME = "weights-{:09}.safetensors"


class Averaging(TrainerCallback):
    """Keeps the weights of the last `most` reports in a folder; of none, it does nothing."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most = folder, most

    @property
    def kept(self) -> dict[int, Path]:
        """Step -> file, in the order of steps."""
        files = sorted(self.folder.glob("weights-*.safetensors"))
        return {int(file.stem.removeprefix("weights-")): file for file in files}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._drop([step for step in self.kept if step > state.global_step])

    def on_evaluate(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        if not self.most or not state.is_world_process_zero:
            return
        from safetensors.torch import save_file

        self.folder.mkdir(exist_ok=True)
        with write_files(self.folder, "weights") as part:
            named = {name: p.detach().contiguous() for name, p in model.named_parameters()}
            save_file(named, part / _NAME.format(state.global_step))
        self._drop([*self.kept][: -self.most])

    def _drop(self, steps: list[int]) -> None:
        files = self.kept
        for step in steps:
            files[step].unlink()


def average(loop: "Loop", kept: Averaging) -> dict[str, Any]:
    """Score the mean, and let it be the run's weights if it is no worse; facts of the run then."""
    files, before = kept.kept, loop.state.best_metric
    if loop.pace.stopped_by is not None or not kept.most or len(files) < 2:
        return {}
    mean_of([*files.values()], loop.model)
    # the mean is no report: `evaluate` would log it as one, and keep it in place of the last
    numbers = loop.measure()
    metric = numbers[loop.task.metric]
    steps = ", ".join(f"{step:,}" for step in files)
    worse = before is not None and (metric < before) == loop.task.greater_is_better
    if worse and metric != before:
        said = f"the mean of the weights at steps {steps} scores {metric:.4f}, so it is not kept"
        return {"protocol": f"{loop.protocol}; {said}"}
    loop.save_best()
    return {
        "best_step": None,  # of no step alone
        "numbers": dict(numbers),
        "protocol": f"{loop.protocol}; weights are the mean of those at steps {steps}",
    }


@torch.no_grad()
def mean_of(files: list[Path], model: nn.Module) -> None:
    """Give a model the mean of the weights in files. ValueError for weights of another model."""
    from safetensors.torch import load_file

    sums: dict[str, Tensor] = {}
    for file in files:
        with reading(file):
            for name, weight in load_file(file).items():
                sums[name] = sums.get(name, 0) + weight.double()
    for name, p in model.named_parameters():
        if name not in sums or sums[name].shape != p.shape:
            raise ValueError(f"{files[0].parent} holds weights of another model: no {name}")
        p.copy_(sums[name] / len(files))
