"""Forms: what a row of labelled data holds for each task, and which rows are whole.

classify   {"text": str, "label": str}
tag        {"tokens": [str, ...], "tags": [str, ...]}, as many of each
answer     {"question": str, "context": str, "answers": [{"text": str, "start": int}, ...]}:
           context[start : start + len(text)] == text; no answers: it cannot be answered
summarize  {"text": str, "summary": str}
translate  {"text": str, "translation": str}
image      {"image": uint8 (H, W, C), "label": str}
caption    {"image": uint8 (H, W, C), "caption": str}, also for match

A row that lacks something is left out, with the reason; nothing is guessed, but for one thing: an
answer that is not where its start says, and stands in the context exactly once, is there.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "ANSWER",
    "CAPTION",
    "CLASSIFY",
    "FORMS",
    "IMAGE",
    "SUMMARIZE",
    "TAG",
    "TRANSLATE",
    "Form",
    "UnfitError",
]

Row = dict[str, Any]


class UnfitError(Exception):
    """A row that is left out; what it says is the reason, without anything of the row."""


@dataclass(frozen=True)
class Form:
    """What the rows of a task hold.

    fields: field -> names of columns taken for it, the first that is there.
    optional: those of `fields` that data may do without.
    whole: from the values of the fields, as they were found (None: missing), to a row; raises
        UnfitError.
    by: the field whose content decides to which part a row goes.
    inside: a column that may hold an object, whose names are then columns.
    """

    name: str
    fields: Mapping[str, tuple[str, ...]]
    whole: Callable[[Row], Row]
    by: str
    optional: frozenset[str] = frozenset()
    inside: str = ""

    def identity(self, row: Row) -> str:
        """Rows of one identity are never in two parts."""
        value = row[self.by]
        return value if isinstance(value, str) else getattr(value, "name", "") or json.dumps(value)


def _text(found: Row, field: str) -> str:
    value = found.get(field)
    if value is None:
        raise UnfitError(f"no {field}")
    if not isinstance(value, str):
        raise UnfitError(f"a {field} that is no text")
    if not value.strip():
        raise UnfitError(f"no {field}")
    return value


def _label(value: Any, field: str) -> str:
    """A label or tag as a string: 3 and 3.0 are "3"."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise UnfitError(f"no {field}")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int | float):
        raise UnfitError(f"a {field} that is neither text nor a number")
    if not (said := str(value).strip()):
        raise UnfitError(f"no {field}")
    return said


def _classified(found: Row) -> Row:
    return {"text": _text(found, "text"), "label": _label(found["label"], "label")}


def _list(found: Row, field: str) -> list:
    value = found.get(field)
    if isinstance(value, str):  # a cell of a table
        value = value.split()
    if not value:
        raise UnfitError(f"no {field}")
    if not isinstance(value, list | tuple):
        raise UnfitError(f"{field} that are no list")
    return list(value)


def _tagged(found: Row) -> Row:
    tokens, tags = _list(found, "tokens"), _list(found, "tags")
    if len(tokens) != len(tags):
        raise UnfitError("tokens and tags of different lengths")
    if not all(isinstance(token, str) and token for token in tokens):
        raise UnfitError("a token that is no text")
    return {"tokens": tokens, "tags": [_label(tag, "tag") for tag in tags]}


def _answered(found: Row) -> Row:
    question, context = _text(found, "question"), _text(found, "context")
    told = _told(found["answers"], found.get("start"))
    placed, reason = [], ""
    for text, start in told:
        try:
            placed.append({"text": text, "start": _place(context, text, start)})
        except UnfitError as error:
            reason = str(error)
    if told and not placed:
        raise UnfitError(reason)
    return {"question": question, "context": context, "answers": placed}


def _told(answers: Any, start: Any) -> list[tuple[str, int | None]]:
    """(text, start or None) of each answer, in whichever of the usual spellings it is told."""
    if answers is None:
        raise UnfitError("no answers")
    if isinstance(answers, str):
        answers = {"text": [answers] if answers.strip() else [], "start": [start]}
    if isinstance(answers, dict):
        texts = answers.get("text")
        starts = answers.get("answer_start", answers.get("start"))
        if isinstance(texts, str):
            texts, starts = [texts], [starts]
        if not isinstance(texts, list | tuple):
            raise UnfitError("answers without texts")
        starts = list(starts) if isinstance(starts, list | tuple) else []
        starts += [None] * (len(texts) - len(starts))
        answers = [{"text": t, "start": s} for t, s in zip(texts, starts, strict=False)]
    if not isinstance(answers, list | tuple):
        raise UnfitError("answers that are no list")
    told = []
    for answer in answers:
        one = answer if isinstance(answer, dict) else {"text": answer}
        if not isinstance(text := one.get("text"), str) or not text.strip():
            raise UnfitError("an answer that is no text")
        told.append((text, _whole_number(one.get("answer_start", one.get("start")))))
    return told


def _whole_number(value: Any) -> int | None:
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _place(context: str, text: str, start: int | None) -> int:
    """Where an answer stands: at its start, or at the only place where it can be."""
    if start is not None and start >= 0 and context.startswith(text, start):
        return start
    if (first := context.find(text)) < 0:
        raise UnfitError("an answer that is not in its context")
    if context.find(text, first + 1) >= 0:
        raise UnfitError("an answer that is not at its start and more than once in its context")
    return first


def _texts(*fields: str) -> Callable[[Row], Row]:
    return lambda found: {field: _text(found, field) for field in fields}


def _pictured(found: Row) -> Row:
    return {"image": _picture(found), "label": _label(found["label"], "label")}


def _captioned(found: Row) -> Row:
    return {"image": _picture(found), "caption": _text(found, "caption")}


def _picture(found: Row) -> Any:
    if (picture := found["image"]) is None:
        raise UnfitError("no image")
    if not picture.there():
        raise UnfitError("an image file that is not there")
    return picture


_TEXT = ("text", "sentence", "document", "review", "content")
_LABEL = ("label", "labels", "class", "category", "target")
_IMAGE = ("image", "file", "path", "file_name", "filename", "image_path")

CLASSIFY = Form("classify", {"text": _TEXT, "label": _LABEL}, _classified, "text")
TAG = Form(
    "tag",
    {"tokens": ("tokens", "words"), "tags": ("tags", "ner_tags", "pos_tags", "labels")},
    _tagged,
    "tokens",
)
ANSWER = Form(
    "answer",
    {
        "question": ("question",),
        "context": ("context", "passage", "paragraph"),
        "answers": ("answers", "answer"),
        "start": ("answer_start", "start"),
    },
    _answered,
    "context",
    optional=frozenset({"start"}),
)
SUMMARIZE = Form(
    "summarize",
    {
        "text": ("text", "document", "article", "dialogue"),
        "summary": ("summary", "abstract", "highlights", "target"),
    },
    _texts("text", "summary"),
    "text",
)
TRANSLATE = Form(
    "translate",
    {
        "text": ("text", "source", "src"),
        "translation": ("translation", "target", "tgt", "trg"),
    },
    _texts("text", "translation"),
    "text",
    inside="translation",  # {"en": ..., "fr": ...}, as most sets of the hub have it
)
IMAGE = Form("image", {"image": _IMAGE, "label": _LABEL}, _pictured, "image")
CAPTION = Form(
    "caption", {"image": _IMAGE, "caption": ("caption", "text", "captions")}, _captioned, "image"
)

FORMS: Mapping[str, Form] = {
    "classify": CLASSIFY,
    "tag": TAG,
    "answer": ANSWER,
    "summarize": SUMMARIZE,
    "translate": TRANSLATE,
    "image": IMAGE,
    "caption": CAPTION,
    "match": CAPTION,
}
