"""What a run answers to requests: completions of a language model, predictions of other tasks.

Everything in a request is hostile until it is read: sizes and types are checked here, and a text
is never taken for the name of a file.
"""

import codecs
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subquad.tasks.sampling import continued
from subquad.train.run import Run

__all__ = ["FILES", "Ask", "Late", "Pieces", "predict", "read_completion"]

#: tasks whose rows are texts, and may be asked by JSON
_TEXTS = ("answer", "classify", "summarize", "tag", "translate")
#: tasks that answer a file which is the body: how its Content-Type begins, and what it is called
FILES = {
    "asr": ("audio/", "recording"),
    "caption": ("image/", "picture.png"),
    "forecast": ("text/csv", "series.csv"),
    "image": ("image/", "picture.png"),
}
#: fields of the completions interface that would change the text, and values that do not
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "best_of": (None, 1),
    "echo": (None, False),
    "logprobs": (None,),
    "suffix": (None, ""),
    "stop": (None, "", []),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logit_bias": (None, {}),
}
_KNOWN = ("prompt", "max_tokens", "temperature", "top_p", "seed", "stream", "model", "user")


class Late(Exception):  # noqa: N818 - no mistake of anyone's
    """The time of a request is over, or nobody waits for it any more."""


@dataclass(frozen=True)
class Ask:
    """A completion that was asked for."""

    prompt: str
    max_tokens: int
    temperature: float
    top_p: float
    seed: int | None
    stream: bool


def read_completion(body: Any, most: int) -> Ask:
    """The request of /v1/completions. ValueError names the first field that cannot be heeded."""
    if not isinstance(body, dict):
        raise ValueError("the body must be a JSON object")
    prompt = body.get("prompt", "")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise ValueError("prompt must be a text, or a list of one text")
    if any("\ud800" <= letter <= "\udfff" for letter in prompt):
        raise ValueError("prompt holds half of a surrogate pair, which is no text")
    for name, value in body.items():
        if name not in _KNOWN and name not in _NEUTRAL:
            raise ValueError(f"{name} is not known; known: {', '.join(_KNOWN)}")
        if value not in _NEUTRAL.get(name, (value,)):
            raise ValueError(f"{name} = {value!r} is not supported; leave it out")
    tokens = _number(body, "max_tokens", 16, int, 1, most)
    seed = body.get("seed")
    return Ask(
        prompt,
        tokens,
        _number(body, "temperature", 1.0, float, 0.0, 100.0),
        _number(body, "top_p", 1.0, float, 1e-6, 1.0),
        None if seed is None else _number(body, "seed", 0, int, 0, 2**63 - 1),
        bool(body.get("stream")),
    )


def _number(body: dict[str, Any], name: str, usual: Any, kind: type, low: Any, high: Any) -> Any:
    value = body.get(name)
    if value is None:
        return usual
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is {value!r}; it must be a number")
    if not low <= value <= high:  # first, for infinity is no whole number, nor a large one a float
        raise ValueError(f"{name} is {value}; it must lie between {low} and {high}")
    if kind(value) != value:
        raise ValueError(f"{name} is {value}; it must be a whole number")
    return kind(value)


class Pieces:
    """A streamer for generate(): the text so far grows, and is handed on as it does.

    The text of all pieces is that of all tokens decoded at once.
    """

    def __init__(self, run: Run, deadline: float, tell: Callable[[str], None]) -> None:
        self.words, self.deadline, self.tell = run.task.words, deadline, tell
        self.ids: list[int] = []
        self.read = 0  # tokens of the prompt
        self.cancelled = False
        self._sent = 0
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def put(self, tokens: Any) -> None:
        """Called by generate() with the prompt, then with each token. Late if time is over."""
        if not self.read:
            self.read = tokens.numel()
            return
        self.go_on()
        self.ids += tokens.reshape(-1).tolist()
        self._hand_on(final=False)

    def go_on(self) -> None:
        """Late if time is over, or nobody waits any more."""
        if self.cancelled or time.monotonic() > self.deadline:
            raise Late

    def end(self) -> None:
        """Called by generate() when it is done."""
        self._hand_on(final=True)

    def _hand_on(self, *, final: bool) -> None:
        raw = self.words.decode(self.ids)
        text = self._decode(raw[self._sent :], final)
        self._sent = len(raw)
        if text:
            self.tell(text)

    def run(self, run: Run, ask: Ask) -> str:
        """Complete; why it ended comes back, "length" or "stop"."""
        continued(
            run.model,
            run.task.words,
            ask.prompt.encode(),
            max_new_tokens=ask.max_tokens,
            temperature=ask.temperature,
            top_p=ask.top_p,
            seed=ask.seed,
            streamer=self,
            go_on=self.go_on,
        )
        return "length" if len(self.ids) >= ask.max_tokens else "stop"


def predict(run: Run, body: Any, deadline: float) -> Any:
    """What the run says to one input, or to each of a list: {"input": ...} of JSON, or the bytes
    of a file.

    ValueError for what the task cannot read. Late where it still hears, or has more to answer, when
    time is over: nobody waits for it, and others do.
    """

    def go_on(done: float = 0.0, of: float = 0.0) -> None:
        if time.monotonic() > deadline:
            raise Late

    def answer(row: Any) -> Any:
        go_on()
        return run.predict(row)

    run.task.report = go_on
    if isinstance(body, bytes):
        return {"answer": _of_file(run.task, body, answer)}
    if not isinstance(body, dict) or "input" not in body:
        raise ValueError('the body must be {"input": ...}')
    given = body["input"]
    if isinstance(given, list):
        return {"answers": [answer(_row(run.task, one)) for one in given]}
    return {"answer": answer(_row(run.task, given))}


def _of_file(task: Any, body: bytes, answer: Callable[[Any], Any]) -> Any:
    """The answer to a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILES[task.name][1]
        path.write_bytes(body)
        try:
            return answer(task.read(path))
        except ValueError as error:  # who has sent it knows of no such folder
            raise ValueError(str(error).replace(f"{folder}/", "")) from error


def _row(task: Any, given: Any) -> Any:
    """A row of a task, from a text or a JSON object. ValueError for other tasks and types."""
    if task.name == "forecast":
        if not isinstance(given, dict):
            raise ValueError("a series is a JSON object, as a line of a .jsonl file of series")
        return task.read(given)
    if task.name in FILES:
        kind, name = FILES[task.name]
        raise ValueError(f"send the {name} itself as the body, with Content-Type {kind}...")
    if task.name not in _TEXTS:
        raise ValueError(f"a run of the task {task.name} is not served by /predict")
    if not isinstance(given, str | dict):
        raise ValueError("an input is a text, or a JSON object with the fields of the task")
    return task.read(given)
