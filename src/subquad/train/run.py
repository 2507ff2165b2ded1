"""Run: what `subquad.load` gives back for a run folder."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from subquad.model import build
from subquad.tasks import find_task
from subquad.tasks.task import Task
from subquad.train.folder import read_facts

__all__ = ["Run", "load"]


class Run:
    """A trained model with its task. `facts` is what run.json says; `model` is a
    transformers model, in eval mode.
    """

    def __init__(self, folder: Path, model: Any, task: Task, facts: dict[str, Any]) -> None:
        self.folder, self.model, self.task, self.facts = folder, model, task, facts

    def __repr__(self) -> str:
        return f"Run({self.folder}: {self.facts['arch']}, {self.facts['task']})"

    def _use(self, verb: str, name: str = "") -> Any:
        method = getattr(self.task, name or verb, None)
        if method is None:
            raise ValueError(f"a run of the task {self.task.name} cannot {verb}")
        return method

    def generate(self, prompt: str | bytes = "", **how: Any) -> str:
        """Continue the prompt: max_new_tokens=200, temperature=1.0, top_p=1.0, seed=None."""
        return self._use("generate")(self.model, prompt, **how)

    def compose(self, prompt: str | bytes = "", out: Path | None = None, **how: Any) -> str:
        """What `subquad generate` does: whole documents as text, or written to `out`."""
        return self._use("generate", "compose")(self.model, prompt, out, **how)

    def predict(self, inputs: Any, **how: Any) -> Any:
        """What the task predicts for an input; for `lm` its bits per byte and what may follow."""
        return self._use("predict")(self.model, inputs, **how)

    def predict_all(self, inputs: Iterable[Any]) -> Iterator[Any]:
        """What the task predicts for inputs that may belong together: `match` ranks the pictures
        among them for each text; other tasks answer each by itself."""
        self._use("predict")
        return self.task.predict_all(self.model, inputs)

    def stream(self, items: Iterable[Any]) -> Iterator[Any]:
        """What comes of items as they come, at once, in bounded memory: for `lm` the
        log-probabilities (V,) behind each; for `asr` the text that waves (S,) at 16 kHz add."""
        return self._use("stream")(self.model, items)

    def hear(self, source: Path | Callable[[int], bytes]) -> tuple[str, Iterator[dict[str, Any]]]:
        """How late text may come, in words, and the text of a recording, or of what `source(most)`
        reads from a pipe of samples, as it comes."""
        return self._use("hear")(self.model, source)


def load(folder: str | Path, **changed: Any) -> Run:
    """The run in a folder. ValueError if it is none, damaged, or of another format version.

    `changed` are fields of its architecture to take in place of those it was trained with, such as
    a longer memory. ValueError for an unknown field, with the nearest name, or if weights would
    have other shapes.
    """
    folder = Path(folder)
    facts = read_facts(folder)
    kind = find_task(facts["task"])
    if not (folder / "model.safetensors").is_file():
        raise ValueError(f"{folder} holds no weights yet: no report was reached in training")
    logging.disable_progress_bar()
    with _damage(folder):
        task = kind.load(folder, facts["task_facts"])
        config = kind.model_class.config_class.from_pretrained(folder, local_files_only=True)
    config = _with(config, changed, folder) if changed else config
    with _damage(folder):
        model, seen = kind.model_class.from_pretrained(
            folder, config=config, output_loading_info=True, local_files_only=True
        )
    # the tied head is not written, so it is not missing
    wrong = {k: sorted(map(str, seen[k])) for k in ("missing_keys", "unexpected_keys") if seen[k]}
    if wrong:
        what = "; ".join(f"{k.replace('_', ' ')} {', '.join(v[:3])}" for k, v in wrong.items())
        raise ValueError(f"{folder} is damaged: its weights do not fit its config: {what}")
    return Run(folder, model.eval(), task, facts)


@contextlib.contextmanager
def _damage(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever readers of JSON, safetensors or tokenizers make of damage
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{folder} is damaged: {type(error).__name__}: {reason}") from error


def _with(config: Any, changed: dict[str, Any], folder: Path) -> Any:
    """The configuration with some fields of the architecture changed."""
    before = config.model
    after = type(config).from_dict({**config.to_dict(), "model": {**before, **changed}})
    old, new = _shapes(config), _shapes(after)
    other = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    if other:
        name = other[0]
        said = ", ".join(f"{k} {v} in place of {before[k]}" for k, v in changed.items())
        raise ValueError(
            f"{said} does not fit the weights of {folder}: {name} is {old.get(name, 'not')} there "
            f"and {new.get(name, 'not')} then; what can change are fields that leave weights alone"
        )
    return after


def _shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of all weights by name, without memory for them."""
    with torch.device("meta"):
        made = build(**config.parts())
    return {name: tuple(t.shape) for name, t in made.state_dict().items()}
