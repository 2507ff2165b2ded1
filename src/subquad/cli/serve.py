"""subquad serve RUN [--host 127.0.0.1] [--port 8000] [limits]

A run behind HTTP: /v1/completions and /v1/models as OpenAI's clients ask them, of a language model,
streamed or whole; /predict of the other tasks, {"input": a text, or a row, or a list of them}, or
a file as the body: a recording (Content-Type audio/...), a picture (image/...), or a table of
series (text/csv); /health. SIGTERM lets what was begun end, then exits with 0.
"""

import asyncio
import contextlib
import signal
from pathlib import Path
from typing import Any

from subquad.cli import overrides
from subquad.cli.parser import Parser
from subquad.cli.serving.app import App, Limits
from subquad.train.folder import read_facts
from subquad.train.run import load

__all__ = ["run"]


def run(argv: list[str]) -> int:
    """Serve until SIGTERM or SIGINT."""
    argv, words = overrides.split(argv)
    given = _parser().read(argv)
    source = Path(given.run)
    changed = overrides.read(words, read_facts(source))  # before anything slow
    for name in ("max_bytes", "seconds", "max_waiting", "max_tokens"):
        if given[name] <= 0:
            raise ValueError(f"--{name.replace('_', '-')} is {given[name]}; it must be above 0")
    try:
        import uvicorn
    except ImportError as error:
        raise ValueError('serving needs uvicorn: pip install "subquad[serve]"') from error
    limits = Limits(given.max_bytes, given.seconds, given.max_waiting, given.max_tokens)
    app = App(load(source, **changed), source.resolve().name, limits)
    config = uvicorn.Config(
        app,
        host=given.host,
        port=given.port,
        log_level="warning",
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=int(given.seconds) + 1,
    )
    return asyncio.run(_serve(uvicorn.Server(config), given.host))


async def _serve(server: Any, host: str) -> int:
    """Run a server of uvicorn; signals end it without its raising them again."""
    server.capture_signals = contextlib.nullcontext
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, setattr, server, "should_exit", True)
    told = asyncio.ensure_future(_tell(server, host))
    try:
        await server.serve()
    except SystemExit as error:  # how uvicorn says that it cannot listen, which it has printed
        raise ValueError(f"cannot listen on {host}:{server.config.port}") from error
    finally:
        told.cancel()
    return 0


async def _tell(server: Any, host: str) -> None:
    """Print the address once it answers; port 0 has become a free one."""
    while not server.started:
        await asyncio.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    print(f"serving on http://{host}:{port}; SIGTERM or Ctrl-C ends it", flush=True)


def _parser() -> Parser:
    parser = Parser("subquad serve", f"A run behind HTTP. {overrides.HELP}.")
    parser.add_argument("run", type=str, help="the run folder")
    parser.add_argument(
        "--host", type=str, default="127.0.0.1", help="0.0.0.0 lets other machines in"
    )
    parser.add_argument("--port", type=int, default=8000, help="0: a free one, printed")
    parser.add_argument("--max-bytes", type=int, default=1 << 24, help="of a request")
    parser.add_argument("--seconds", type=float, default=60.0, help="that a request may take")
    parser.add_argument(
        "--max-waiting", type=int, default=64, help="requests that may wait; others get 503"
    )
    parser.add_argument("--max-tokens", type=int, default=2048, help="of a completion")
    return parser
