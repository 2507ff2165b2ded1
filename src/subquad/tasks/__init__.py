"""Tasks: each joins stem, head, data, loss and metric. `TASKS` is the only list of them.

Modules are imported on demand, because a task pulls in transformers.
"""

from importlib import import_module
from types import MappingProxyType
from typing import Any

from subquad.nn.choices import choose

__all__ = ["TASKS", "find_task"]

#: name -> (module, class, one line)
TASKS = MappingProxyType(
    {
        "lm": (
            "subquad.tasks.lm",
            "LanguageModel",
            "next-token language model of text (bits per byte), pixels, proteins, music",
        ),
        "synthetic": (
            "subquad.tasks.synthetic",
            "Synthetic",
            "copy, duplication or associative recall of made-up sequences, by accuracy",
        ),
    }
)


def find_task(name: str) -> Any:
    """The class of a task. ValueError with the nearest name if there is none."""
    module, title, _ = choose("task", name, TASKS)
    return getattr(import_module(module), title)
