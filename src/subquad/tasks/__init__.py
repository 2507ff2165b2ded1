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
        "mlm": (
            "subquad.tasks.mlm",
            "MaskedLanguageModel",
            "masked language model of text, pixels, proteins, music, by bits per hidden token",
        ),
        "classify": (
            "subquad.tasks.classify",
            "Classify",
            "one label for a document: reviews, topics, authors, by accuracy",
        ),
        "tag": (
            "subquad.tasks.tag",
            "Tag",
            "one label for each token of a row: parts of speech, names, by accuracy",
        ),
        "answer": (
            "subquad.tasks.answer",
            "Answer",
            "the span of a long document that answers a question, by F1 and exact match",
        ),
        "summarize": (
            "subquad.tasks.summarize",
            "Summarize",
            "a short text written of a long one, by ROUGE",
        ),
        "translate": (
            "subquad.tasks.translate",
            "Translate",
            "a sentence of one language written in another, by BLEU and chrF",
        ),
        "image": (
            "subquad.tasks.image",
            "Image",
            "one label for a picture, cut into patches, by accuracy",
        ),
        "caption": (
            "subquad.tasks.caption",
            "Caption",
            "a text written about a picture, by exact match and ROUGE",
        ),
        "match": (
            "subquad.tasks.match",
            "Match",
            "pictures found by texts and texts by pictures, by recall",
        ),
        "asr": (
            "subquad.tasks.asr",
            "Asr",
            "the text of recorded speech, by word error rate",
        ),
        "forecast": (
            "subquad.tasks.forecast",
            "Forecast",
            "quantiles of what comes next in series of numbers, by R0.5, R0.9, CRPS and MASE",
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
