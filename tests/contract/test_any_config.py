"""Random configurations of every architecture: valid ones build, save, load as they were and run,
and invalid ones raise ValueError that names the field.

Fields are drawn by their types around the tiny preset. A configuration that is drawn may still be
no model (a width that heads do not divide); then `build` must say so in a ValueError.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
import torch
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

import subquad as sq
from subquad.archs import configure
from subquad.model import build, complete, load, save

CASES = 12  # of each kind, for each architecture
HOW = settings(max_examples=CASES, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
#: what fields of sizes may be; larger ones would be slow and no other
SIZES = st.integers(-2, 9) | st.sampled_from((16, 24, 32))
WORDS = ("", "layer", "rms", "layer:1e-12", "gelu", "swiglu", "pre", "post", "rotary", "alibi", "xl", "none", "full", "local", "kernel", "lsh")  # fmt: skip  # noqa: E501


def value(kind: Any) -> st.SearchStrategy[Any]:
    """A value of a field's type, not always a good one."""
    if get_origin(kind) in (Union, UnionType):
        return st.one_of([value(one) for one in get_args(kind)])
    if get_origin(kind) is tuple:
        return st.lists(value(get_args(kind)[0]), max_size=3)
    of = {
        int: SIZES,
        float: st.sampled_from((-1.0, 0.0, 0.1, 0.5, 1.0, 2.0, float("nan"))),
        bool: st.booleans(),
        str: st.sampled_from(WORDS),
        type(None): st.none(),
    }
    return of.get(kind, st.nothing())


@st.composite
def fields(draw: st.DrawFn, arch: str) -> dict[str, Any]:
    """The tiny preset with a few fields of other values."""
    config = sq.ARCHS[arch].Config
    plain = json.loads(json.dumps(vars(sq.ARCHS[arch].PRESETS["tiny"])))
    kinds = get_type_hints(config)
    drawn = {n: s for n, k in kinds.items() if not (s := value(k)).is_empty}
    for name in draw(st.lists(st.sampled_from(sorted(drawn)), min_size=1, max_size=3)):
        plain[name] = draw(drawn[name])
    return plain


@pytest.mark.parametrize("arch", sq.ARCHS)
@pytest.mark.no_poison
def test_a_config_is_a_model_that_comes_back_or_is_refused(arch: str):
    built: list[dict[str, Any]] = []
    ran: list[dict[str, Any]] = []

    @HOW
    @given(fields(arch))
    def check(plain: dict[str, Any]) -> None:
        try:
            model = build(arch, plain, vocab_size=11)
        except ValueError as refusal:
            event(f"refused: {str(refusal)[:40]}")
            return
        event("built")
        built.append(plain)
        full = complete(arch, plain, None, None)["model"]
        assert complete(arch, json.loads(json.dumps(full)), None, None)["model"] == full
        with tempfile.TemporaryDirectory() as folder:
            save(model, folder, {"arch": arch, "model": plain, "vocab_size": 11})
            again = load(folder)
        before, after = model.state_dict(), again.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(t, after[name]) for name, t in before.items())
        try:
            with torch.no_grad():
                out, _ = again.eval()(torch.arange(10).view(2, 5))
        except ValueError as refusal:  # fewer places than these, say
            event(f"refused to run: {str(refusal)[:40]}")
            return
        ran.append(plain)
        assert out.shape == (2, out.shape[1], 11)
        assert out.isfinite().all()

    check()
    assert built, "every configuration was refused, and nothing was checked"
    assert ran, "no model ran"


@pytest.mark.parametrize("arch", sq.ARCHS)
def test_values_of_another_type_are_refused_by_field(arch: str):
    kinds = get_type_hints(sq.ARCHS[arch].Config)
    names = st.sampled_from([f.name for f in dataclasses.fields(sq.ARCHS[arch].Config)])
    others = st.sampled_from(("x", -0.5, {}, {"a": 1}, [{}], [None], [["x"]]))

    @HOW
    @given(names, others)
    def check(name: str, other: Any) -> None:
        if isinstance(other, str) and "str" in str(kinds[name]):
            return
        if isinstance(other, float) and "float" in str(kinds[name]):
            return
        with pytest.raises(ValueError, match=rf"{arch}: {name} must be .*, not "):
            configure(arch, {name: other})

    check()


@pytest.mark.parametrize("arch", sq.ARCHS)
def test_sizes_that_cannot_be_are_refused_by_field(arch: str):
    known = {f.name for f in dataclasses.fields(sq.ARCHS[arch].Config)}
    for name in known & {"dim", "num_layers", "num_heads", "ffn_dim", "features"}:
        for size in (-1, 1 << 40):
            with pytest.raises(ValueError, match=rf"{name} is {size}; it must be at (least|most)"):
                configure(arch, {name: size})


@pytest.mark.parametrize("arch", sq.ARCHS)
def test_a_field_that_is_none_is_refused_by_name(arch: str):
    @HOW
    @given(st.text(min_size=1, max_size=8))
    def check(name: str) -> None:
        if name not in get_type_hints(sq.ARCHS[arch].Config):
            with pytest.raises(ValueError, match=f"{arch} has no field"):
                configure(arch, {name: 1})

    check()
