"""What others wrote is read within bounds; lines of JSONL keep their numbers, and errors name the line."""

import io
import json
import os
import signal
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

import interp
from interp.core.config import Config
from interp.core.errors import InterpError
from interp.core.files import lock_folder, read_json, read_tensors, sha256_file
from interp.core.inputs import (
    bound,
    bounded_call,
    bounded_lines,
    bounded_text,
    numbered_lines,
    parse_bytes,
    parse_json,
    parse_object,
)  # fmt: skip
from interp.models.checkpoints.safetensors_file import TensorFile


def test_blank_lines_count_and_are_left_out(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('\ufeff{"a": 1}\n\n  \n{"b": "\u2028"}', encoding="utf-8")
    places = [(place, parse_object(line, place)) for place, line in numbered_lines(file)]
    assert places == [(f"{file}, line 1", {"a": 1}), (f"{file}, line 4", {"b": "\u2028"})]


@given(st.dictionaries(st.text(), st.integers() | st.text()))
def test_an_object_is_what_json_says(values):
    assert parse_object(json.dumps(values), "here") == values


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"here: not valid JSON .* expected one object per line \(or skip it\)"),
        ("[" * 100_000, "here: not valid JSON"),
        ('{"a": ' + "9" * 5000 + "}", "here: not valid JSON"),
        ("[" * 200 + "]" * 200, "here: nested deeper than the bound, 100; raise it with --limit nesting="),
        ('{"a": NaN}', "NaN is no number of JSON"),
        ("3", "here: expected a JSON object, got int"),
        ('{"a": {"b": 1, "b": 1}}', r"key 'b' is there twice"),
    ],
)
def test_what_is_wrong_is_named(line, message):
    with pytest.raises(InterpError, match=message):
        parse_object(line, "here", hint=" (or skip it)")


@pytest.mark.parametrize("content", [None, b"\xff"])
def test_a_file_that_is_no_text_is_named(tmp_path, content):
    file = tmp_path / "a.jsonl"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InterpError, match=r"a.jsonl: cannot be read .* expected a text file of rows"):
        numbered_lines(file, "rows")


@given(st.lists(st.binary(max_size=12)))
def test_long_lines_are_cut_and_the_others_are_whole(lines):
    lines = [line.replace(b"\n", b"") for line in lines]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("INTERP_LIMITS", "line=5")
        read = list(bounded_lines(io.BytesIO(b"\n".join([*lines, b""]))))
    assert read == [(line + b"\n")[:6] for line in lines]


def test_bounds_are_set_by_name(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text('{"a": [[1]]}')
    default = bound("line")
    for settings, message in (
        ("file=4", r"a\.json: longer than the bound, 4; raise it with --limit file=… or INTERP_LIMITS"),
        ("line=1GB, nesting=2", r"a\.json: nested deeper than the bound, 2"),
        ("lines=4", r"limit 'lines=4' can't be read; expected NAME=SIZE; did you mean line"),
        ("line=many", "size 'many' can't be read"),
    ):
        monkeypatch.setenv("INTERP_LIMITS", settings)
        with pytest.raises(InterpError, match=message):
            read_json(tmp_path / "a.json")
    monkeypatch.setenv("INTERP_LIMITS", "line=1GB, nesting=3")
    assert (bound("line"), read_json(tmp_path / "a.json")) == (10**9, {"a": [[1]]})
    monkeypatch.delenv("INTERP_LIMITS")
    assert bound("line") == default == parse_bytes("32MB")


def test_files_of_other_programs_may_hold_constants():
    assert parse_json('{"a": [Infinity, NaN]}', "here", constants=True)["a"][0] == float("inf")


def rendered(template, words):
    """As transformers renders chat templates."""
    return ImmutableSandboxedEnvironment().from_string(template).render(words=words)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (f"{{% set x = range({10**5}) %}}" + "{% for i in x %}" * 4 + "{% endfor %}" * 4, "takes more seconds"),
        ("{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}", "recursion"),
        ("{{ 10 ** (10 ** 10) }}", "takes more seconds"),
        ("{{ 'a' * 10 ** 10 }}", "takes more memory"),
        ("{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}", "takes more"),
        ("{% for i in range(10 ** 12) %}{% endfor %}", "Range too big"),
        ("{{ words }", "unexpected '}'"),
    ],
)
def test_a_template_that_never_ends_is_ended(monkeypatch, template, message):
    monkeypatch.setenv("INTERP_LIMITS", "template=1")
    begun = time.monotonic()
    with pytest.raises(InterpError, match=message):
        bounded_call((rendered, template), rendered, template, ["a"])
    assert time.monotonic() - begun < 20
    texts = [bounded_call((rendered, "good"), rendered, "{{ words }}", [word]) for word in ("a", "b")]
    assert texts == ["['a']", "['b']"]


def test_the_process_that_renders_holds_no_lock_of_its_caller(tmp_path):
    with lock_folder(tmp_path, "busy"):
        bounded_call((rendered, "within a lock"), rendered, "{{ words }}", ["a"])
    with lock_folder(tmp_path, "busy"):
        pass


@pytest.fixture
def pipe(tmp_path):
    """A named pipe that nobody writes to; who opens it is interrupted after half a minute."""

    def interrupt(*_):
        raise TimeoutError("it was opened")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(30)
    os.mkfifo(tmp_path / "pipe")
    yield tmp_path / "pipe"
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("read", [
    read_json, read_tensors, sha256_file, Config.read, TensorFile.open, interp.auditing.Audit.read, interp.Policy.read,
])  # fmt: skip
def test_a_pipe_is_not_opened(pipe, read):
    with pytest.raises(InterpError, match=r"pipe is a pipe or device|pipe\.\w+"):
        read(pipe)


@pytest.mark.parametrize("name", ["processor_config.json", "tokenizer.json", "chat_template.jinja", "config.json",
    "tokenizer_config.json", "additional_chat_templates/tool.jinja", "model.safetensors", "vocab.txt"])  # fmt: skip
def test_a_pipe_in_a_models_folder_is_not_opened(pipe, tiny, tmp_path, name):
    folder = tmp_path / "model"
    tiny("llama").hf.save_pretrained(folder)
    tiny("llama").tokenizer.save_pretrained(folder)
    assert interp.load(folder).n_layers == 3, "control"
    (folder / name).unlink(missing_ok=True)
    (folder / name).parent.mkdir(exist_ok=True)
    pipe.rename(folder / name)
    with pytest.raises(InterpError, match=r"pipe or device|no config|no weights"):
        interp.load(folder)


def test_a_pipe_of_the_systems_is_read():
    out, inside = os.pipe()
    os.write(inside, b"text")
    os.close(inside)
    assert bounded_text(Path(f"/dev/fd/{out}"), "text") == "text"


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="/dev/shm can not be written to")
def test_a_pipe_among_users_files_in_memory_is_not_one_of_the_systems():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        os.mkfifo(Path(folder) / "pipe")
        with pytest.raises(InterpError, match="is a pipe or device"):
            bounded_text(Path(folder) / "pipe", "text")
