"""Plans as JSON holds them: by the name of each attention module, what stands in for softmax."""

from typing import Any

from subquad.hf.swapping.hashes import Hashes
from subquad.hf.swapping.replacements import Exact, Features, Looks, Replacement
from subquad.nn.choices import choose, fill

__all__ = ["REPLACEMENTS", "Plan", "from_json", "plain_plan", "told_plan"]

Plan = dict[str, Replacement]

REPLACEMENTS = {made.kind: made for made in (Exact, Looks, Features, Hashes)}


def from_json(told: dict[str, Any]) -> Replacement:
    """The replacement that `to_json` described. ValueError for an unknown kind or field."""
    given = dict(told)
    kind = choose("replacement", given.pop("kind", None), REPLACEMENTS)
    return fill(kind.kind, kind, given)


def plain_plan(plan: Plan) -> dict[str, dict[str, Any]]:
    """A plan as JSON holds it."""
    return {name: one.to_json() for name, one in plan.items()}


def told_plan(told: dict[str, dict[str, Any]]) -> Plan:
    """The plan that `plain_plan` described."""
    return {name: from_json(one) for name, one in told.items()}
