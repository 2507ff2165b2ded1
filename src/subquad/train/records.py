"""What training writes down as it goes: metrics.jsonl, TensorBoard events, lines or a bar."""

import json
import math
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from subquad.train.atomic import reporting, write_text
from subquad.train.pace import Pace

__all__ = ["Events", "Metrics", "Progress"]


class Metrics(TrainerCallback):
    """One JSON object per line; a resumed run drops the lines after its checkpoint."""

    def __init__(self, path: Path, pace: Pace, tokens_per_step: int) -> None:
        self.path, self.pace, self.tokens_per_step = path, pace, tokens_per_step
        self._last = (0, 0.0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._last = (state.global_step, self.pace.elapsed)
        if state.is_world_process_zero:
            kept = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
            kept = [line for line in kept if _step(line) <= state.global_step]
            write_text(self.path, "".join(f"{line}\n" for line in kept))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or "train_runtime" in logs:
            return
        now = (state.global_step, self.pace.elapsed)
        row = {"step": now[0], "tokens": now[0] * self.tokens_per_step, "seconds": round(now[1], 3)}
        if "loss" in logs and now[0] > self._last[0]:
            rate = (now[0] - self._last[0]) * self.tokens_per_step / (now[1] - self._last[1])
            row["tokens_per_second"] = round(rate, 1)
            self._last = now
        what = reporting("metrics.jsonl", self.path.parent)
        with what, open(self.path, "a", encoding="utf-8") as file:
            file.write(
                json.dumps({**row, **{k: v for k, v in logs.items() if k != "epoch"}}) + "\n"
            )


class Progress(TrainerCallback):
    """A bar with loss, tokens/s and time left on a terminal; a line per report elsewhere."""

    def __init__(self, pace: Pace, tokens_per_step: int, metric: str) -> None:
        from rich.console import Console

        self.pace, self.tokens_per_step, self.metric = pace, tokens_per_step, metric
        self.console = Console(stderr=True, highlight=False)
        self.bar: Any = None
        self.loss = ""
        self.score = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        if not state.is_world_process_zero:
            return
        self._start = (state.global_step, self.pace.elapsed, self.pace.fraction)
        if self.console.is_terminal:
            columns = (BarColumn(bar_width=12), TextColumn("{task.fields[says]}"))
            self.bar = Progress(*columns, console=self.console)
            self.row = self.bar.add_task("train", total=1.0, says="")
            self.bar.start()

    def _says(self, step: int) -> str:
        steps, seconds, fraction = self._start
        seconds = max(self.pace.elapsed - seconds, 1e-9)
        done = max(self.pace.fraction - fraction, 1e-9)
        left = max(0.0, 1 - self.pace.fraction) * seconds / done
        rate = (step - steps) * self.tokens_per_step / seconds
        pace = f"{rate:,.0f} tokens/s  {_clock(left)} left"
        return "  ".join(filter(None, (f"step {step:,}", self.loss, self.score, pace)))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar:
            self.bar.update(
                self.row, completed=self.pace.fraction, says=self._says(state.global_step)
            )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs:
            self.loss = f"loss {logs['loss']:.4f}"
        if (score := logs.get(f"eval_{self.metric}")) is not None:
            name = "" if self.bar else f"{self.metric.replace('_', ' ')} "
            self.score = f"valid {name}{score:.4f}"
            if state.is_world_process_zero and not self.bar:
                self.console.print(self._says(state.global_step), soft_wrap=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.close()

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.bar:
            self.bar.stop()


class Events(TensorBoardCallback):
    """TensorBoard events into a folder."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.folder = folder
        super().__init__(SummaryWriter(str(folder)))

    def on_log(self, *given: Any, **more: Any) -> None:
        with reporting(self.folder.name, self.folder.parent):
            super().on_log(*given, **more)


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf  # a line that was cut


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
