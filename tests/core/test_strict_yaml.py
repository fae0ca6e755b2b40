"""YAML, read so that nothing in it is passed over."""

import pytest
import yaml

from interp import InterpError
from interp.core.config import Config
from interp.core.strict_yaml import plain_value


class Limits(Config):
    drop: float = 0.1
    inner: dict[str, float] | None = None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("drop: .01\ndrop: 5\n", "a.yaml, line 2: key 'drop' is there twice"),
        ("inner: {a: 1.0, a: 2.0}\n", "a.yaml, line 1: key 'a' is there twice"),
        ("? [drop]\n: 5\n", "a.yaml, line 1: a key is a list"),
        ("drop: !foo 5\n", "a.yaml: not valid YAML: could not determine a constructor"),
        ("drop: 2020-13-45\n", "a.yaml: not valid YAML: month must be"),
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
