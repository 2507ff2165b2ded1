"""Rows of labelled data that Python code holds by itself, from one file's source.

pieces      about 512 characters of code, cut after a line
tagged      words with what they are: keyword, definition, attribute, builtin, name, number,
            operator, string, comment. Words inside strings and comments stand alone, so that only
            what is before them tells them from code.
questions   what a function or class does, answered by the first line of its docstring; every eighth
            question is about one that the context does not define, and has no answer
summaries   a function without its docstring, and the docstring's first sentence
"""

import ast
import builtins
import io
import keyword
import random
import re
import textwrap
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from types import BuiltinFunctionType
from typing import Any

__all__ = ["pieces", "questions", "summaries", "tagged"]

Row = dict[str, Any]
_PIECE = (512, 1000)  # characters
_WORDS = (64, 256)  # of a row
_ROWS = 40  # of tagged words, of one file
_CONTEXT = 2000  # characters around an answer
_UNANSWERED = 8  # one question of so many
_SENTENCE = (10, 200)  # characters
_FUNCTION = (100, 4000)  # characters
_DEFINES = re.compile(r"\b(?:def|class) (\w+)")
_BUILTINS = {
    name for name, value in vars(builtins).items() if isinstance(value, type | BuiltinFunctionType)
}
_KINDS = {
    tokenize.NUMBER: "number",
    tokenize.OP: "operator",
    tokenize.STRING: "string",
    tokenize.COMMENT: "comment",
}


def pieces(source: str) -> Iterator[Row]:
    """{"text"}; what is left at the end, and around very long lines, is no piece."""
    held = ""
    for line in io.StringIO(source):
        held += line
        if len(held) >= _PIECE[0]:
            if len(held) <= _PIECE[1]:
                yield {"text": held}
            held = ""


def tagged(source: str) -> Iterator[Row]:
    """{"tokens", "tags"} of whole statements, the first of a file."""
    return islice(_statements(source), _ROWS)


def _statements(source: str) -> Iterator[Row]:
    words: list[tuple[str, str]] = []
    before = ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NEWLINE and len(words) >= _WORDS[0]:
            tokens, tags = zip(*words[: _WORDS[1]], strict=True)
            yield {"tokens": list(tokens), "tags": list(tags)}
            words = []
        if tag := _tag(token, before):
            words += [(word, tag) for word in token.string.split()]
        before = token.string


def _tag(token: tokenize.TokenInfo, before: str) -> str | None:
    """What a token is; None for the ends of lines and their like."""
    if token.type != tokenize.NAME:
        # since Python 3.12 the parts of an f-string are tokens
        parts = tokenize.tok_name[token.type].startswith("FSTRING")
        return "string" if parts else _KINDS.get(token.type)
    if keyword.iskeyword(token.string):
        return "keyword"
    if before in ("def", "class"):
        return "definition"
    if before == ".":
        return "attribute"
    return "builtin" if token.string in _BUILTINS else "name"


@dataclass(frozen=True)
class _Documented:
    """A function or class: where it and its docstring stand in the source, in characters."""

    name: str
    start: int
    end: int
    doc_start: int
    doc_end: int
    doc: str
    function: bool


def _documented(source: str) -> list[_Documented]:
    """In the order in which they stand."""
    lines = list(io.StringIO(source))
    begins = [0]
    for line in lines:
        begins.append(begins[-1] + len(line))

    def place(line: int, byte: int) -> int:
        return begins[line - 1] + len(lines[line - 1].encode()[:byte].decode())

    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if (doc := ast.get_docstring(node)) is None:
            continue
        string = node.body[0]
        found.append(
            _Documented(
                node.name,
                place(node.lineno, node.col_offset),
                place(node.end_lineno or 0, node.end_col_offset or 0),
                place(string.lineno, string.col_offset),
                place(string.end_lineno or 0, string.end_col_offset or 0),
                doc,
                not isinstance(node, ast.ClassDef),
            )
        )
    return sorted(found, key=lambda one: one.start)


def questions(source: str) -> Iterator[Row]:
    """{"question", "context", "answers"}; a name has one definition in its context."""
    documented = _documented(source)
    for number, one in enumerate(documented):
        first = one.doc.split("\n")[0].strip()
        start = source.find(first, one.doc_start, one.doc_end)
        if not _SENTENCE[0] <= len(first) <= _SENTENCE[1] or start < 0:
            continue
        begin, end = _around(source, one, start + len(first))
        context = source[begin:end]
        if end - begin > _CONTEXT or _definitions(one.name, context) != 1:
            continue
        name, answers = one.name, [{"text": first, "start": start - begin}]
        other = documented[(number + len(documented) // 2) % len(documented)].name
        if number % _UNANSWERED == _UNANSWERED - 1 and not _definitions(other, context):
            name, answers = other, []
        yield {"question": f"What does {name} do?", "context": context, "answers": answers}


def _around(source: str, one: _Documented, needed: int) -> tuple[int, int]:
    """Whole lines around a definition, which may stand anywhere in them."""
    free = max(_CONTEXT - (needed - one.start), 0)
    before = int(random.Random(f"{one.name} {one.start}").random() * free)
    begin = max(one.start - before, 0)
    if begin:  # on to the beginning of a line, which the definition's own is at the latest
        begin = min(source.find("\n", begin - 1) + 1, source.rfind("\n", 0, one.start) + 1)
    end = max(source.rfind("\n", needed, begin + _CONTEXT), source.find("\n", needed), needed)
    return begin, end


def _definitions(name: str, context: str) -> int:
    return _DEFINES.findall(context).count(name)


def summaries(source: str) -> Iterator[Row]:
    """{"text", "summary"} of functions that hold more than a docstring."""
    for one in _documented(source):
        first = " ".join(one.doc.split("\n\n")[0].split())
        summary = re.split(r"(?<=[.!?]) ", first)[0]
        line = source.rfind("\n", 0, one.start) + 1
        doc_line = source.rfind("\n", 0, one.doc_start) + 1
        after = source.find("\n", one.doc_end) + 1
        if not one.function or doc_line <= one.start or not 0 < after < one.end:
            continue
        body = source[after : source.find("\n", one.end) + 1 or None]
        text = textwrap.dedent(source[line:doc_line] + body).rstrip()
        if _fits(text, _FUNCTION) and _fits(summary, _SENTENCE):
            yield {"text": text, "summary": summary}


def _fits(text: str, bounds: tuple[int, int]) -> bool:
    return bounds[0] <= len(text) <= bounds[1]
