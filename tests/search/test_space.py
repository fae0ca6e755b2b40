"""A space gives recipes without anything to choose, each value within its range, and chooses only what is used."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp import InterpError
from interp.search.space import choose

SPACE = {
    "strength": {"choice": {"flat": {"low": 0.5, "high": 1.0}, "kernel": {"width": {"low": 2, "high": 4}}}},
    "site": {"low": 3, "high": 5, "text": "resid_post.{}"},
    "scaled": [{"op": "Scale", "heads": {"subset": ["1.2", "3.4"]}}],
    "gate": {"maybe": {"low": -1.0, "high": 1.0}},
    "layers": {"band": [2, 9], "least": 3},
    "edits": [{"maybe": {"op": "Add"}}, {"op": "Cap", "low": -1.0, "high": 1.0}],
    "twice": [{"low": 0.0, "high": 1.0, "name": "x"}, {"low": 0.0, "high": 1.0, "name": "x"}],
}


class Recorder:
    """A trial that draws at random, and records what it was asked; a name has one value."""

    def __init__(self, seed):
        self.draw, self.asked = Random(seed), {}

    def suggest_categorical(self, name, choices):
        return self.asked.setdefault(name, self.draw.choice(choices))

    def suggest_int(self, name, low, high, **options):
        return self.asked.setdefault(name, self.draw.randint(low, high))

    def suggest_float(self, name, low, high, **options):
        return self.asked.setdefault(name, self.draw.uniform(low, high))


@given(st.integers(0, 10_000))
def test_every_point_is_in_the_space_and_is_asked_for_by_name(seed):
    trial = Recorder(seed)
    point = choose(SPACE, trial)
    assert point["site"] in ("resid_post.3", "resid_post.4", "resid_post.5")
    heads = [head for head in ("1.2", "3.4") if trial.asked[f"scaled.0.heads[{head}]"]]
    assert point["scaled"] == ([{"op": "Scale", "heads": heads}] if heads else []), "without heads there is no edit"
    assert ("gate" in point) == trial.asked["gate?"]
    first, last = map(int, point["layers"].split("-"))
    assert 2 <= first <= last - 2 <= 7
    assert point["edits"][-1] == {"op": "Cap", "low": -1.0, "high": 1.0}, "other keys beside low and high are no range"
    assert len(point["edits"]) == 1 + trial.asked["edits.0?"]
    assert point["twice"][0] == point["twice"][1] == trial.asked["x"]
    flat = isinstance(point["strength"], float)
    assert ("strength[flat]" in trial.asked, "strength[kernel].width" in trial.asked) == (flat, not flat)
    again = Recorder(seed)
    assert choose(dict(reversed(SPACE.items())), again) == point, "whatever the order of keys"


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        ({"choice": []}, "choice is"), ({"low": 2, "high": 1}, "low 2, high 1"),
        ({"low": 0, "high": 1, "log": True}, "log"),
        ({"low": "a", "high": 1}, "expected numbers"), ({"band": [3, 4], "least": 5}, "band"),
        ({"low": 1, "high": 2, "text": "resid_post.2"}, "number goes"), ({"low": 1, "high": 2, "log": "no"}, "true or"),
        ({"subset": "2.1"}, "subset is"), ({"subset": []}, "subset is"),
    ],
)  # fmt: skip
def test_a_range_without_meaning_is_refused_by_its_name(part, problem):
    with pytest.raises(InterpError, match=rf"a\.0: .*{problem}"):
        choose({"a": [part]}, Recorder(0))


def test_one_name_has_one_range():
    part = {"low": 0.5, "high": 1.0, "name": "s"}
    assert choose([part, dict(part)], Recorder(0))[0] == Recorder(0).suggest_float("s", 0.5, 1.0)
    with pytest.raises(InterpError, match="s names two parameters that differ"):
        choose([part, part | {"high": 2.0}], Recorder(0))
