"""Patterns drawn at random, for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from subquad.ops.pattern import And, Minus, Or, Pattern
from subquad.ops.patterns import (
    Blocks,
    Causal,
    Chunks,
    Columns,
    Full,
    LogSteps,
    Marked,
    RandomBlocks,
    SameLabel,
    Segments,
    Strided,
    Window,
)

small = st.integers(0, 9)
size = st.integers(1, 9)
LEAVES: st.SearchStrategy[Pattern] = st.one_of(
    st.builds(Full),
    st.builds(Causal),
    st.builds(Window, small, small, st.integers(1, 4)),
    st.builds(lambda near, more: Window(near + more, -near), small, small),
    st.builds(Strided, size),
    st.builds(Blocks, size),
    st.builds(lambda w, s, more: Columns(w + s + more, w, s), size, small, small),
    st.builds(Segments, size, small),
    st.builds(Chunks, size, st.integers(0, 2), st.integers(0, 2)),
    st.builds(RandomBlocks, size, st.integers(1, 4), small),
    st.builds(LogSteps, small, st.none() | size),
    st.builds(SameLabel),
    st.builds(Marked),
)
ANY = st.recursive(
    LEAVES,
    lambda inner: st.one_of(*(st.builds(kind, inner, inner) for kind in (And, Or, Minus))),
    max_leaves=4,
)
