"""Configuration refuses unknown keys and ambiguous YAML by name, and settings that differ are named."""

import inspect
import pickle
from itertools import pairwise
from typing import Annotated

import pytest
import yaml
from pydantic import Field

from interp import InterpError
from interp.core.config import Config, differences, flatten, plain_value


class Inner(Config):
    items: int = Field(3, ge=1, description="how many")
    names: tuple[str, ...] = Field((), strict=False)


class Words(Config):
    name: str = Field("", max_length=8)
    some: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] | None = None


class Rate(Config):
    rate: float


class Outer(Config):
    name: str
    inner: Inner = Inner()


def test_config_reads_yaml_and_overrides(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("name: a\ninner: {items: 5, names: [x, y]}\n")
    assert Outer.read(file) == Outer(name="a", inner=Inner(items=5, names=("x", "y")))
    assert Outer.read(file, ["inner.items=9", "name=b"]).inner.items == 9
    assert Inner.of(["items=4"]).items == 4
    assert Rate.of(["rate=1e-3"]).rate == 1e-3, "YAML 1.1 alone would read a text"


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("name: a\nnaem: b", [], "unknown key 'naem'; did you mean name"),
        ("name: a\ninner: {itmes: 2}", [], "unknown key 'inner.itmes'; did you mean items"),
        ("name: 3", [], "name is 3; expected a text"),
        ("name: a\ninner: {items: 0}", [], "inner.items is 0; expected a whole number of at least 1"),
        ("name: a\ninner: {items: '2'}", [], "inner.items"),
        ("inner: {}", [], "name is missing; expected a text"),
        ("- a", [], "expected a mapping"),
        ("a: [", [], "not valid YAML"),
        ("name: a", ["inner.items"], "expected key=value"),
        ("name: a", ["name.sub=1"], "'name' is a value"),
        ("name: a", ["inner.itmes=1"], "unknown key 'inner.itmes'; did you mean items"),
    ],
)
def test_config_errors_name_key_and_source(tmp_path, text, overrides, message):
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(InterpError, match=message) as caught:
        Outer.read(file, overrides)
    assert overrides or "broken.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"name": "abcdefghi"}, "name is 'abcdefghi'; expected a text with at most 8 characters"),
        ({"some": []}, "some is [] (a list); expected a list of texts or None with at least 1 items"),
        ({"some": [2]}, "some.0 is 2; expected a text"),
        (
            {"some": ["x", 2], "name": 3},
            "name is 3; expected a text with at most 8 characters; some.1 is 2; expected a text",
        ),
    ],
)
def test_each_problem_is_said_once_and_in_the_units_of_its_kind(values, problem):
    with pytest.raises(InterpError) as caught:
        Words.parse(values)
    assert str(caught.value) == f"config: {problem}"


def test_help_lists_the_fields():
    assert inspect.getdoc(Inner).endswith(
        "Args:\n    items: how many [default: 3]\n    names: a list of texts [default: ()]"
    )
    assert str(inspect.signature(Outer)) == "(*, name, inner=Inner(items=3, names=()))"


def test_an_unknown_key_of_a_call_gets_the_nearest():
    with pytest.raises(InterpError, match=r"^Outer: unknown key 'naem'; did you mean name"):
        Outer(name="a", naem="b")
    outer = Outer(name="a", inner=Inner(items=5))
    assert pickle.loads(pickle.dumps(outer)) == outer
    assert outer.model_copy(update={"name": "b"}) == Outer(name="b", inner=Inner(items=5))


class Limits(Config):
    drop: float = 0.1
    inner: dict[str, float] | None = None


def bomb(level):
    """Nine anchors, each of which names the one before nine times."""
    names = "abcdefghij"
    pairs = pairwise(names)
    rows = [f"{name}: &{name} {level.format(', '.join([f'*{before}'] * 9))}" for before, name in pairs]
    return "\n".join(["a: &a {x: 1}", *rows])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("drop: .01\ndrop: 5\n", "a.yaml, line 2: key 'drop' is there twice"),
        ("inner: {a: 1.0, a: 2.0}\n", "a.yaml, line 1: key 'a' is there twice"),
        ("? [drop]\n: 5\n", "a.yaml, line 1: a key is a list"),
        ("drop: !foo 5\n", "a.yaml: not valid YAML: could not determine a constructor"),
        ("drop: 2020-13-45\n", "a.yaml: not valid YAML: month must be"),
        ("drop: !!set {a, b}\n", "a.yaml: not valid YAML: could not determine a constructor"),
        ("drop: !!bool nonsense\n", "a.yaml: not valid YAML"),
        ("drop: &a [*a]\n", "a.yaml, line 1: a value that holds itself"),
        ("drop: 1" + ":01" * 100_000, "a.yaml, line 1: a number of 300,001 characters"),
        ("drop: " + "[" * 3000 + "]" * 3000, r"a.yaml: not valid YAML: line 1: nested deeper than the bound, 100"),
        ("- " * 3000 + "x", r"a.yaml: not valid YAML: line 1: nested deeper than the bound, 100"),
        (bomb("[{}]"), "a.yaml: with its aliases written out, longer than the bound"),
        (bomb("{{<<: [{}]}}"), "a.yaml: with its aliases written out, longer than the bound"),
        ("drop: '" + "x" * 5_000_000 + "'", "a.yaml: longer than the bound, 4MB; raise it with --limit yaml="),
    ],
)
def test_what_would_be_taken_silently_is_refused_by_name(tmp_path, text, says):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InterpError, match=says):
        Limits.read(tmp_path / "a.yaml")
    with pytest.raises(InterpError, match="there twice"):
        Limits.of(["inner={a: 1.0, a: 2.0}"])


def test_the_rest_is_what_yaml_says():
    text = "a: &x {b: 1, c: [1, {b: 2}]}\nd: *x\ne: {<<: *x, b: 3}\n"
    assert plain_value(text, "t") == yaml.safe_load(text)
    assert plain_value("", "t") is None
    assert plain_value("a: 1e-3", "t") == {"a": 0.001}


def test_settings_that_differ_are_named_at_any_depth():
    before = {"sae": {"k": 4, "lr": 0.1}, "plans": [{"seed": 0}, {"seed": 1}], "sites": ["a"], "options": {}}
    assert differences(before, before) == []
    now = {"sae": {"k": 8, "lr": 0.1}, "plans": [{"seed": 0}, {"seed": 2}], "sites": ["b"], "options": {}, "new": 1}
    assert differences(before, now) == [
        "sae.k was 4 and is now 8",
        "plans.1.seed was 1 and is now 2",
        "sites was ['a'] and is now ['b']",
        "new was None and is now 1",
    ]
    assert flatten(before)["options"] == {}, "an empty group is a setting, too"
