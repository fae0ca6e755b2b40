"""Config that refuses unknown keys, files that appear whole or not at all, digests and moments."""

import json
import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from interp import InterpError
from interp.core.config import Config
from interp.core.digests import tensors_digest
from interp.core.errors import nearest
from interp.core.files import new_folder, read_json, sha256_json, write_json
from interp.core.moments import StreamingMoments


class Inner(Config):
    items: int = Field(3, ge=1)
    names: tuple[str, ...] = Field((), strict=False)


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
        ("name: 3", [], "name: .*string"),
        ("name: a\ninner: {items: 0}", [], r"inner.items: .*greater than or equal to 1 \(got 0\)"),
        ("name: a\ninner: {items: '2'}", [], "inner.items"),
        ("inner: {}", [], "name: Field required"),
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


def test_a_folder_appears_whole_and_with_the_umasks_permissions(tmp_path):
    previous = os.umask(0o022)
    try:
        with new_folder(tmp_path / "deep" / "out") as staging:
            (staging / "sub").mkdir()
            write_json(staging / "sub" / "a.json", {"b": 1})
            assert not (tmp_path / "deep" / "out").exists()
    finally:
        os.umask(previous)
    file = tmp_path / "deep" / "out" / "sub" / "a.json"
    assert read_json(file) == {"b": 1}
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o644, 0o755)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


@pytest.mark.parametrize("problem", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_folder_that_failed_is_not_there(tmp_path, problem):
    with pytest.raises(problem), new_folder(tmp_path / "out") as staging:
        (staging / "half").write_text("x")
        raise problem
    assert list(tmp_path.iterdir()) == []


def test_broken_json_is_named(tmp_path):
    file = tmp_path / "a.json"
    for text in ("{", "\xff"):
        file.write_text(text, encoding="latin-1")
        with pytest.raises(InterpError, match=r"a.json: not valid JSON"):
            read_json(file)
    with pytest.raises(ValueError, match="Out of range"):
        write_json(file, float("nan"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_a_json_digest_ignores_order_and_survives_a_round_trip(value):
    backwards = dict(reversed(value.items()))
    assert sha256_json(value) == sha256_json(backwards) == sha256_json(json.loads(json.dumps(value)))
    assert sha256_json(value) != sha256_json({**value, "one more key": 1})


def test_a_tensor_digest_sees_name_shape_and_value():
    x = torch.arange(6.0)
    digests = {
        tensors_digest(named.items())
        for named in (
            {"a": x},
            {"b": x},
            {"a": x.view(2, 3)},
            {"a": x + 1},
            {"a": x, "b": x},
            {"a": x.sum()},
            {"b": x.sum()},
        )
    }
    assert len(digests) == 7
    assert tensors_digest([("a", x), ("b", 2 * x)]) == tensors_digest([("b", 2 * x.double()), ("a", x.bfloat16())])


@given(st.integers(2, 50), st.integers(1, 7), st.integers(0, 99))
def test_streaming_moments_equal_numpy(n, size, seed):
    x = np.random.default_rng(seed).normal(5, 2, (n, 3))
    moments = StreamingMoments()
    for start in range(0, n, size):
        moments.update(torch.tensor(x[start : start + size]))
    np.testing.assert_allclose(moments.mean.numpy(), x.mean(0), rtol=1e-9)
    np.testing.assert_allclose(moments.variance.numpy(), x.var(0, ddof=1), rtol=1e-9)


def test_nearest_names_close_ones_or_what_there_is():
    assert nearest("lama", ["llama", "gpt2"]) == "did you mean llama?"
    assert nearest("zzz", ["llama", "gpt2"]) == "known: gpt2, llama"
