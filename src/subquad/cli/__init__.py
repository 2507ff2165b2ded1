"""The command line: `subquad VERB ...`, one file per verb.

What a user did wrong is one line on stderr and exit code 2; `--debug` shows the trace instead.
"""

import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

__all__ = ["main"]

VERBS = {
    "train": "train a model for a task into a run folder",
    "eval": "score a run on held-out data, the protocol beside the number",
    "generate": "continue a text, or draw new pictures, proteins, music",
    "predict": "answer inputs: a label, tags, a span, a summary, a caption",
    "compare": "train several architectures on equal terms, and report",
    "convert": "a checkpoint of another library as ours, and back",
    "swap": "another attention inside a pretrained transformers model, and its recovery",
    "export": "a run's model as files that run without this library",
    "serve": "a run behind HTTP: completions as OpenAI's clients ask them, predictions",
    "bench": "speed, memory and break-even lengths here; advice; what a model costs",
    "show": "what each head looks at, a run's report, or a pattern, as pages and pictures",
    "list": "architectures, presets and tasks; or the facts of a run",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code comes back."""
    # `list` and `eval` are verbs here: once imported, those modules hide the functions
    words = [*(sys.argv[1:] if argv is None else argv)]
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read us, `head` say, has enough; what is left goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError) as error:
        if debug:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"subquad: error: {reason}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if debug or not _too_large(error):
            raise
        reason = str(error).strip().split("\n")[0]
        print(f"subquad: error: not enough memory for this: {reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if debug:
            raise
        print("subquad: stopped", file=sys.stderr)
        return 130


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if words[0] == "--version":
        from subquad import __version__

        print(f"subquad {__version__}")
        return 0
    verb, *rest = words
    if verb not in VERBS:
        near = get_close_matches(verb, VERBS, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"there is no command {verb!r}; {hint}known: {', '.join(VERBS)}")
    _quiet()
    return import_module(f"subquad.cli.{verb}").run(rest)


def _too_large(error: Exception) -> bool:
    """Is this how Python or torch says that memory does not suffice?"""
    said = ("can't allocate memory", "out of memory", "Storage size calculation overflowed")
    return isinstance(error, MemoryError) or any(words in str(error) for words in said)


def _usage() -> str:
    verbs = "\n".join(f"  {verb:<10}{says}" for verb, says in VERBS.items())
    return (
        "usage: subquad VERB [arguments]      subquad VERB --help says more\n\n"
        f"{verbs}\n\n"
        "--debug with any of them shows where an error arose; --version the version"
    )


def _quiet() -> None:
    """Libraries' remarks on stderr are not for users of a command; nor do they tell of one."""
    import warnings

    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
