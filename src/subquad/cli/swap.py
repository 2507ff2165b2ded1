"""subquad swap MODEL DEST --mixer NAME [--positions N] [--distill DATA --steps N]"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from subquad.cli.parser import Parser, add_flags, fields_of
from subquad.nn.choices import choose

__all__ = ["run"]

MIXERS = ("exact", "window", "pattern", "favor", "relu", "elu", "linear", "learned", "lsh")
#: what stands first in each row; BERT calls it cls
GLOBALS = ("first", "cls")


def run(argv: list[str]) -> int:
    """Swap the attention of a model in a folder, train it to recover, and write it."""
    import transformers

    from subquad.hf.swapping import Exact, extend_positions, plan_of, swap
    from subquad.hf.swapping.attention import attentions
    from subquad.hf.swapping.beside import model_of, tokenizer_of
    from subquad.hf.swapping.trial import check_runs, runs_on

    transformers.utils.logging.disable_progress_bar()
    given = _parser().read(argv)
    dest = Path(given.dest)
    if dest.exists():
        raise ValueError(f"{dest} is there already; name a folder that is not")
    mixer = _mixer(given)
    model, left = model_of(given.model)
    if left:
        some = ", ".join(left[:10]) + (", ..." if len(left) > 10 else "")
        print(f"left out: {len(left)} tensors that are none of a {type(model).__name__}'s: {some}")
    tokenizer = tokenizer_of(given.model)
    report: dict[str, Any] = {"model": Path(given.model).name, "mixer": mixer.to_json()}
    recovering = _Recovering(given, model, tokenizer) if given.distill is not None else None
    if recovering:
        report |= recovering.before()
    if given.positions is not None:
        old, new = extend_positions(model, given.positions)
        if tokenizer:
            tokenizer.model_max_length = new
        print(f"{old:,} positions, repeated to {new:,}")
        report["positions"] = [old, new]
    if recovering:
        recovering.goal.against(model)
    layers, short = range(len(attentions(model))), runs_on(model)
    swap(model, mixer, layers=_layers(given, layers))
    if given.exact_every:
        swap(model, Exact(), layers=[i for i in layers if i % given.exact_every == 0])
    check_runs(model, short)
    for name, one in plan_of(model).items():
        print(f"{name}: {one}")
    if recovering:
        report |= recovering.run(model)
    _write(dest, model, tokenizer, given.model, report)
    print(f"model: {dest}")
    return 0


class _Recovering:
    """What is measured of a model before it is swapped, after, and once it has recovered.

    A model with fewer places than the context is measured before on as many tokens as it takes;
    beyond them an encoder's teacher is itself, with its positions repeated.
    """

    def __init__(self, given: Any, model: Any, tokenizer: Any) -> None:
        from subquad.hf.swapping.positions import places
        from subquad.train.goals import goal_of
        from subquad.train.recover import Recovery

        if tokenizer is None:
            raise ValueError(f"--distill is text, and {given.model} has no tokenizer to read it")
        told = {k: v for k, v in fields_of(Recovery, given).items() if v is not None}
        self.how = Recovery(**told)
        kind = goal_of(model)
        table = places(model)
        longest = table or getattr(model.config, "max_position_embeddings", 512)
        context = min(512, longest) if given.context is None else given.context
        if table is not None and context > (given.positions or table):
            raise ValueError(
                f"--context {context} is more than the {given.positions or table} positions of the "
                f"model; --positions {context} repeats them"
            )
        data = None if given.distill == "stdlib" else given.distill
        lengths = {context, min(context, table or context)}
        goals = {n: kind(tokenizer, data, n, rows=64, seed=self.how.seed) for n in lengths}
        self.goal, self.first = goals[max(lengths)], goals[min(lengths)]
        self.model = model

    def before(self) -> dict[str, Any]:
        """The original, on rows that it has places for."""
        self.first.against(self.model)
        found = self.first.measure(self.model)
        print(f"{'before':<10}{found:.4f} {self.first.metric}, {self.first.context} tokens")
        return {"before": found, "context before": self.first.context}

    def measure(self, when: str) -> float:
        found = self.goal.measure(self.model)
        print(f"{when:<10}{found:.4f} {self.goal.metric}")
        return found

    def run(self, model: Any) -> dict[str, Any]:
        from subquad.train.recover import layer_errors, recover

        self.model = model
        swapped, errors = self.measure("swapped"), layer_errors(model, self.goal)
        self.model = recover(model, self.goal, self.how, print)
        recovered, later = self.measure("recovered"), layer_errors(self.model, self.goal)
        print(f"{'layer':<44}{'error':>10}{'recovered':>11}")
        for name, error in errors.items():
            print(f"{name:<44}{error:>10.4f}{later[name]:>11.4f}")
        return {
            "metric": self.goal.metric,
            "swapped": swapped,
            "recovered": recovered,
            "context": self.goal.context,
            "layer errors": {"swapped": errors, "recovered": later},
        }


def _mixer(given: Any) -> Any:
    from subquad.hf.swapping import Exact, Features, Hashes, Looks

    choose("mixer", given.mixer, dict.fromkeys(MIXERS))
    first = given.globals is not None
    if first:
        choose("--global", given.globals, dict.fromkeys(GLOBALS))
    if given.mixer == "exact":
        return Exact()
    if given.mixer in ("window", "pattern"):
        window = 256 if given.window is None else given.window
        pattern = f"Window({window}, {window})"
        if given.mixer == "pattern":
            if given.pattern is None:
                raise ValueError(
                    '--mixer pattern wants --pattern, as in "Window(64) | Strided(64)"'
                )
            pattern = given.pattern
        return Looks(pattern, first)
    if first:
        raise ValueError(f"--global is for windows and patterns; {given.mixer} has no pattern")
    if given.mixer == "lsh":
        window = 32 if given.window is None else given.window
        return Hashes(given.rounds, tuple(given.buckets), window, given.seed or 0)
    # the linear Transformer's features are elu + 1
    features = Features("elu" if given.mixer == "linear" else given.mixer)
    return replace(features, num_features=given.features, seed=given.seed or 0)


def _layers(given: Any, every: range) -> list[int] | None:
    if given.exact_every is not None and given.exact_every < 1:
        raise ValueError(f"--exact-every is {given.exact_every}; it counts layers from 1 on")
    if given.layers is None:
        return None
    return list(given.layers)


def _write(dest: Path, model: Any, tokenizer: Any, source: str, report: dict[str, Any]) -> None:
    """The whole folder, or none of it."""
    from subquad.hf.swapping.beside import copy_processors
    from subquad.train.atomic import finish_folder, reporting

    dest.parent.mkdir(parents=True, exist_ok=True)
    part = dest.with_name(f".{dest.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with reporting("the swapped model", dest.parent):
            model.save_pretrained(part)
            if tokenizer:
                tokenizer.save_pretrained(part)
            copy_processors(source, part)
            (part / "swap.json").write_text(json.dumps(report, indent=2) + "\n")
            finish_folder(part, dest)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _parser() -> Parser:
    from subquad.train.recover import Recovery

    parser = Parser(
        "subquad swap", "Another attention inside a pretrained model, and its recovery."
    )
    parser.add_argument("model", type=str, help="a folder of transformers, or a hub id")
    parser.add_argument("dest", type=str, help="the folder that is written; it must not exist")
    parser.add_argument("--mixer", type=str, default="window", help=", ".join(MIXERS))
    parser.add_argument(
        "--window",
        type=int | None,
        default=None,
        help="tokens on each side, 256; of lsh: keys of a bucket, 32",
    )
    parser.add_argument("--rounds", type=int, default=4, help="hashes of lsh")
    parser.add_argument("--buckets", type=list[int], default=[16], help="of lsh, as even factors")
    parser.add_argument("--pattern", type=str | None, default=None, help="of --mixer pattern")
    parser.add_argument(
        "--global",
        dest="globals",
        type=str | None,
        default=None,
        help="first (or cls): the first token sees all, and all see it",
    )
    parser.add_argument("--features", type=int, default=256, help="of favor and relu, for a head")
    parser.add_argument(
        "--layers", type=list[int] | None, default=None, help="only these, as [0,2]"
    )
    parser.add_argument(
        "--exact-every",
        type=int | None,
        default=None,
        help="keep the attention of every n-th layer",
    )
    parser.add_argument(
        "--positions", type=int | None, default=None, help="places for so many tokens"
    )
    parser.add_argument(
        "--distill", type=str | None, default=None, help="text to recover on; stdlib: Python's own"
    )
    parser.add_argument("--context", type=int | None, default=None, help="tokens of a row of it")
    add_flags(parser, Recovery)
    return parser
