"""The application behind `subquad serve`, an ASGI callable: requests in, answers of a run out.

One thread computes, for a model uses every core already; so many requests wait, and further ones
are told to come back (503). A body larger than the limit is refused before it is read (413), one
that comes too slowly is dropped (408), and what takes longer than the time limit ends with 504.
"""

import asyncio
import json
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from subquad.cli.serving.answers import FILES, Ask, Late, Pieces, predict, read_completion
from subquad.train.run import Run

__all__ = ["App", "Limits", "Refused"]

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


@dataclass(frozen=True)
class Limits:
    """body: bytes of a request.  seconds: from its first byte to its last answer.  waiting:
    requests that are computed or wait.  tokens: of one completion.
    """

    body: int
    seconds: float
    waiting: int
    tokens: int


class Refused(Exception):  # noqa: N818 - an answer like another
    """An answer that is a status and a reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class App:
    """Answers of one run. `name` is what it is called in /v1/models."""

    def __init__(self, run: Run, name: str, limits: Limits) -> None:
        self.run, self.name, self.limits = run, name, limits
        self.begun = int(time.time())
        self.worker = ThreadPoolExecutor(1, "model")
        self.waiting = 0

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """One connection's request, as ASGI has it."""
        if scope["type"] != "http":
            return
        try:
            await self._answer(scope, receive, send)
        except Refused as error:
            await _reply(send, error.status, _error(error.reason, error.status))
        except ValueError as error:
            await _reply(send, 400, _error(str(error), 400))
        except Exception:
            traceback.print_exc()
            await _reply(send, 500, _error("this failed; the server has printed why", 500))

    async def _answer(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        paths: dict[tuple[str, str], Callable[..., Awaitable[None]]] = {
            ("GET", "/health"): self._health,
            ("GET", "/v1/models"): self._models,
            ("POST", "/v1/completions"): self._complete,
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/predict"): self._predict,
        }
        method, path = scope["method"], scope["path"]
        if not any(path == known for _, known in paths):
            raise Refused(404, f"there is nothing at {path[:80]}")
        if (method, path) not in paths:
            raise Refused(405, f"{path} does not take {method[:20]}")
        await paths[method, path](scope, receive, send)

    async def _health(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await _reply(send, 200, {"status": "ok", "waiting": self.waiting})

    async def _models(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        one = {"id": self.name, "object": "model", "created": self.begun, "owned_by": "subquad"}
        await _reply(send, 200, {"object": "list", "data": [one]})

    async def _chat(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        raise Refused(400, "this run was trained on no chats: ask /v1/completions with a prompt")

    async def _predict(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        deadline = time.monotonic() + self.limits.seconds
        if self.run.task.name == "lm":
            raise Refused(400, "this run is a language model: ask /v1/completions")
        raw = await self._body(scope, receive, deadline)
        file, _ = FILES.get(self.run.task.name, ("", ""))
        sent = _header(scope, b"content-type").startswith((file, "application/octet-stream"))
        body = raw if file and sent else _json(scope, raw, file)
        await _reply(send, 200, await self._compute(predict, deadline, self.run, body, deadline))

    async def _complete(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        deadline = time.monotonic() + self.limits.seconds
        if self.run.task.name != "lm":
            raise Refused(400, f"this run does {self.run.task.name}: ask /predict")
        body = _json(scope, await self._body(scope, receive, deadline))
        ask = read_completion(body, self.limits.tokens)
        if (asked := body.get("model")) not in (None, self.name):
            raise Refused(404, f"there is no model {str(asked)[:80]!r}; there is {self.name!r}")
        name = f"cmpl-{uuid.uuid4().hex}"
        if ask.stream:
            await self._stream(send, receive, ask, deadline, name)
            return
        said: list[str] = []
        pieces = Pieces(self.run, deadline, said.append)
        why = await self._compute(pieces.run, deadline, self.run, ask)
        chunk = _chunk(name, self.begun, self.name, "".join(said), why)
        begun, count = pieces.read, len(pieces.ids)
        usage = {"prompt_tokens": begun, "completion_tokens": count, "total_tokens": begun + count}
        await _reply(send, 200, {**chunk, "usage": usage})

    async def _stream(
        self, send: Send, receive: Receive, ask: Ask, deadline: float, name: str
    ) -> None:
        """Server-sent events, a chunk for each piece of text; who hangs up ends it."""
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[str | None]()

        def tell(text: str) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, text)

        pieces = Pieces(self.run, deadline, tell)
        done = asyncio.ensure_future(self._compute(pieces.run, deadline, self.run, ask))
        done.add_done_callback(lambda _: queue.put_nowait(None))
        gone = asyncio.ensure_future(_until_gone(receive))
        gone.add_done_callback(lambda _: setattr(pieces, "cancelled", True))
        first = await queue.get()
        if first is None and done.exception() is not None:
            gone.cancel()
            raise done.exception() or Refused(500, "no reason known")
        await _start(send, 200, "text/event-stream")
        while first is not None:
            await _event(send, json.dumps(_chunk(name, self.begun, self.name, first, None)))
            first = await queue.get()
        error = done.exception()
        last = _chunk(name, self.begun, self.name, "", None if error else done.result())
        if error is not None:
            last = _error(str(error) or type(error).__name__, getattr(error, "status", 500))
        await _event(send, json.dumps(last))
        await _event(send, "[DONE]", more=False)
        gone.cancel()

    async def _compute(self, work: Callable[..., Any], deadline: float, *given: Any) -> Any:
        """work(*given) in the thread that computes. Refused if too many wait, or time is over."""
        if self.waiting >= self.limits.waiting:
            raise Refused(503, f"{self.waiting} requests wait already; try again later")
        self.waiting += 1
        loop = asyncio.get_running_loop()

        def begin() -> Any:
            if time.monotonic() > deadline:
                raise Late
            return work(*given)

        future = loop.run_in_executor(self.worker, begin)
        # counted until it is done, also where nobody waits for it any more
        future.add_done_callback(self._left)
        try:
            return await asyncio.wait_for(asyncio.shield(future), deadline - time.monotonic())
        except (TimeoutError, Late):
            raise Refused(504, f"it took longer than {self.limits.seconds:g} seconds") from None

    def _left(self, future: Any) -> None:
        self.waiting -= 1
        if not future.cancelled():
            future.exception()  # looked at, so that it is not logged as forgotten

    async def _body(self, scope: dict[str, Any], receive: Receive, deadline: float) -> bytes:
        most, parts, size = self.limits.body, [], 0
        if (told := _header(scope, b"content-length")).isdigit() and int(told) > most:
            raise Refused(413, f"the body has {told} bytes; the limit is {most}")
        while True:
            try:
                part = await asyncio.wait_for(receive(), deadline - time.monotonic())
            except TimeoutError:
                raise Refused(408, "the body came too slowly") from None
            if part["type"] == "http.disconnect":
                raise Refused(400, "the connection ended before the body did")
            parts.append(part.get("body", b""))
            size += len(parts[-1])
            if size > most:
                raise Refused(413, f"the body has more than {most} bytes")
            if not part.get("more_body"):
                return b"".join(parts)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _chunk(name: str, begun: int, model: str, text: str, why: str | None) -> dict[str, Any]:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": why}
    kind = {"id": name, "object": "text_completion", "created": begun, "model": model}
    return {**kind, "choices": [choice]}


def _error(reason: str, status: int) -> dict[str, Any]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    line = " ".join(reason.split())[:500]  # what was sent may be in it
    return {"error": {"message": line, "type": kind, "param": None, "code": status}}


def _json(scope: dict[str, Any], raw: bytes, file: str = "") -> Any:
    # pages of other origins cannot send this type without asking first, and are not answered
    if not _header(scope, b"content-type").startswith("application/json"):
        other = f", or a file, with Content-Type: {file}" if file else ""
        raise Refused(415, f"send JSON, with Content-Type: application/json{other}")
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the body is not JSON: {error}") from None


def _header(scope: dict[str, Any], name: bytes) -> str:
    return next((v for k, v in scope["headers"] if k == name), b"").decode("latin-1").lower()


async def _start(send: Send, status: int, kind: str, *more: tuple[bytes, bytes]) -> None:
    headers = [(b"content-type", kind.encode()), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _event(send: Send, text: str, *, more: bool = True) -> None:
    body = f"data: {text}\n\n".encode()
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _reply(send: Send, status: int, content: dict[str, Any]) -> None:
    body = json.dumps(content).encode()  # escaped: half of a surrogate pair has no UTF-8
    later = [(b"retry-after", b"1")] if status == 503 else []
    await _start(send, status, "application/json", (b"content-length", b"%d" % len(body)), *later)
    await send({"type": "http.response.body", "body": body})
