"""Tables of converters: settings and changes that a side cannot say, each in one line."""

import pytest
import torch

from subquad.convert.changes import TurnHeads
from subquad.convert.fields import Field, Listed, Named, told
from subquad.convert.fields import there as settings
from subquad.convert.longformer import Repeated
from subquad.convert.paths import get, merged, put
from subquad.convert.perceiver import Squared
from subquad.convert.rows import Made, Row, back, there
from subquad.nn.position import Sinusoidal


@pytest.mark.parametrize(
    ("how", "theirs", "ours"),
    [(Listed(), 7, [7]), (Repeated(), [3, 3], [3]), (Squared(), 8, [8, 8])],
)
def test_settings_of_several(how, theirs, ours):
    assert how.there(theirs) == ours
    if not isinstance(how, Repeated):  # how many there were, their settings say
        assert how.back(ours) == theirs


def test_settings_that_cannot_be_said():
    with pytest.raises(ValueError, match=r"\[1, 2\] are several, and there is one for all layers"):
        Listed().back([1, 2])
    with pytest.raises(ValueError, match=r"\[1, 2\] differ by layer, and ours has one for all"):
        Repeated().there([1, 2])
    with pytest.raises(ValueError, match=r"\[8, 9\] is no square, as theirs is"):
        Squared().back([8, 9])


#: a rate that may be absent, its substitute likewise
RATE = Field("rate", "head.rate", otherwise=("other", 2), default=0.1)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({}, 0.1),
        ({"rate": None}, 0.1),
        ({"other": None}, 0.1),
        ({"other": 0.2}, 0.4),
        ({"rate": None, "other": 0.0}, 0.0),
        ({"rate": 0.3, "other": 0.2}, 0.3),
    ],
)
def test_a_setting_that_may_be_absent(theirs, ours):
    """What was not said is not said on the way back, unless it was changed here."""
    assert settings([RATE], theirs) == {"head": {"rate": ours}}
    if theirs:  # else there was none
        held = {name: value for name, value in theirs.items() if name == "rate" and value}
        assert told([RATE], {"head": {"rate": ours}}, theirs) == held
    assert told([RATE], {"head": {"rate": 0.7}}, theirs) == {"rate": 0.7}
    with pytest.raises(ValueError, match="its configuration has no rate"):
        settings([Field("rate", "head.rate")], {})


def test_a_list_that_ours_repeats():
    count = Field("count", "layers")
    kinds = Field("kinds", "kinds", Named({"x": "a", "y": "b"}), along="count")
    each = Field("kinds", "kinds", along="count")
    assert told([count, each], {"layers": 3, "kinds": ["a", "b"]}, {})["kinds"] == ["a", "b", "a"]
    assert told([count, each], {"layers": 1, "kinds": ["a", "b"]}, {})["kinds"] == ["a"]
    with pytest.raises(ValueError, match=r"kinds: .* is none of 'a', 'b'"):
        told([count, kinds], {"layers": 3, "kinds": ["a", "b"]}, {})


@pytest.mark.parametrize("base", [{}, {"rate": 0.2}])
def test_one_setting_there_has_one_value(base):
    both = [Field("rate", "model.rate"), Field("rate", "head.rate")]
    ours = {"model": {"rate": 0.2}, "head": {"rate": 0.2}}
    assert told(both, ours, base) == {"rate": 0.2}
    ours["head"]["rate"] = 0.3
    says = "rate is one setting there: head.rate would have it 0.3, and others 0.2"
    with pytest.raises(ValueError, match=says):
        told(both, ours, base)


def test_pairs_of_every_head():
    turn, sizes = TurnHeads("heads"), {"heads": 2}
    went = torch.arange(12.0)[:, None].expand(-1, 3)
    (ours,) = turn.there([went], 1, sizes)
    assert ours[:, 0].tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]
    assert torch.equal(turn.back([ours], 1, sizes)[0], went)
    with pytest.raises(ValueError, match=r"\(10, 3\) does not fall into pairs of 2 heads"):
        turn.there([went[:10]], 1, sizes)


def test_what_is_made_here_stays_here():
    rows = [Row("a", "b"), Made("drawn", lambda: torch.ones(2))]
    ours = there(rows, {"a": torch.zeros(1)}, {})
    assert ours["drawn"].tolist() == [1, 1]
    assert back(rows, ours, {}).keys() == {"a"}


def test_paths():
    settings = {"a": {"b": [4, 5]}, "c": 1}
    assert get(settings, "a.b.1") == 5
    assert merged(settings, {"a": {"d": 2}, "c": 3}) == {"a": {"b": [4, 5], "d": 2}, "c": 3}
    with pytest.raises(ValueError, match="x says 2, where ours has c 1 already"):
        put(settings, "c", 2, "x")


def test_sinusoids_of_fairseq():
    """As fairseq/modules/sinusoidal_positional_embedding.py has them: tokens count from 2."""
    rates = torch.exp(torch.arange(4).double() * -(torch.tensor(10000.0).double().log() / 3))
    angle = torch.arange(2, 9).double()[:, None] * rates
    found = Sinusoidal.fairseq(8)(torch.arange(7)[None])[0]
    wanted = torch.cat([angle.sin(), angle.cos()], 1).float()
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="need a width of at least 4, not 2"):
        Sinusoidal.fairseq(2)
