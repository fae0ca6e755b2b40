"""Faults of texts: what others wrote is read within bounds, and shows as it is on screens and pages."""

import json
import os
import re
import resource
import time
from itertools import pairwise
from threading import Thread

import pytest
from fault_cases import fault
from jinja2.sandbox import ImmutableSandboxedEnvironment

import interp
from interp import Contrast, InterpError
from interp.core.config import plain_value
from interp.core.display import displayed, html_table, markdown, print_table, say
from interp.core.errors import note
from interp.core.files import read_json
from interp.core.inputs import bounded_call, parse_json
from interp.data import documents
from interp.data.contrast import Turn, TurnPair
from interp.editing.approximate.low_rank_factors import Distilled
from interp.views import Report, render_report

EVIL = "a\x1b[2J\x1b]0;title\x07\u202e</script><img onerror=x>\u2028\"'|![x](y)"


@fault(
    "terminal escapes and bidirectional controls in names, notes and labels",
    "stripped before they reach the screen",
)
def test_screen(capsys):
    say(EVIL)
    note(EVIL)
    print_table(False, [{EVIL: EVIL}], EVIL)
    print_table(False, [], EVIL)
    captured = capsys.readouterr()
    for text in (captured.out, captured.err, str(InterpError(EVIL)), repr(displayed([EVIL]))):
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "img onerror" in text


@fault("markup, quotes, U+2028 and escapes on HTML pages", "escaped in text and in embedded JSON")
def test_pages(tiny):
    model = tiny("llama").reference.model_copy(update={"name": EVIL})
    for text in (render_report(Report(title=EVIL, model=model, summary=EVIL)), html_table(EVIL, [EVIL], [[EVIL]])):
        assert "<img" not in text
        assert "\x1b" not in text
        assert "\u202e" not in text


@fault("markup, links, headings and tables in Markdown (model cards, READMEs)", "escaped")
def test_cards():
    text = markdown(EVIL + "\n# title")
    assert "<" not in text
    assert r"\[x\](y)" in text
    assert r"\|" in text
    assert r"\# title" in text
    assert "\x1b" not in text


@fault("a repeated key, or NaN, in JSON", "refused; the error names the key or the constant")
@pytest.mark.parametrize("text", ['{"n": 20, "n": 1000000000}', '{"n": NaN}', '{"n": -Infinity}'])
def test_json(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InterpError, match=r"a\.json: not valid JSON"):
        read_json(tmp_path / "a.json")


@fault("a repeated key among 100,000", "refused within a second; the error names the key")
def test_a_key_that_is_twice_among_many_is_found_in_time():
    began = time.perf_counter()
    with pytest.raises(InterpError, match="key 'z' is there twice"):
        parse_json("{" + "".join(f'"{n}":1,' for n in range(100_000)) + '"z":1,"z":2}', "a.json")
    assert time.perf_counter() - began < 20


@fault("3,000 nested brackets", "refused in JSON, JSONL and YAML: over the bound of 100 levels")
def test_nesting(tmp_path):
    text = "[" * 3000 + "]" * 3000
    (tmp_path / "a.json").write_text(text)
    (tmp_path / "a.jsonl").write_text(text)
    for read in (
        lambda: read_json(tmp_path / "a.json"),
        lambda: list(documents(tmp_path / "a.jsonl")),
        lambda: plain_value(text, "a.yaml"),
        lambda: plain_value("- " * 3000 + "a", "a.yaml"),
    ):
        with pytest.raises(InterpError, match="nested deeper than the bound, 100") as caught:
            read()
        assert "\n" not in str(caught.value)


@fault("YAML tags that construct objects", "refused; the error names the tag")
@pytest.mark.parametrize("tag", ["!evil", "!!python/object/apply:os.system", "!!set", "!!binary", "!!omap"])
def test_yaml_tags(tag):
    with pytest.raises(InterpError, match="could not determine a constructor"):
        plain_value(f"a: {tag} {{a}}", "a.yaml")


@fault("YAML aliases that expand to gigabytes, or contain themselves", "refused before they are expanded")
@pytest.mark.parametrize("level", ["[{}]", "{{<<: [{}]}}"])
def test_yaml_aliases(level):
    rows = [f"{b}: &{b} {level.format(', '.join([f'*{a}'] * 9))}" for a, b in pairwise("abcdefghij")]
    began = time.monotonic()
    with pytest.raises(InterpError, match="with its aliases written out, longer than the bound"):
        plain_value("\n".join(["a: &a {x: 1}", *rows]), "a.yaml")
    assert time.monotonic() - began < 5
    with pytest.raises(InterpError, match="a value that holds itself"):
        plain_value("a: &a [*a]", "a.yaml")


@fault("a line of 300 MB", "refused, or skipped with `skip_bad`; memory stays within the bound")
def test_long_line(tmp_path):
    with (tmp_path / "a.jsonl").open("wb") as file:
        file.truncate(300_000_000)
        file.seek(0, 2)
        file.write(b'\n{"text": "good"}\n')
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InterpError, match=r"line 1: longer than the bound, 32MB; raise it with --limit line="):
        list(documents(tmp_path / "a.jsonl"))
    assert list(documents(tmp_path / "a.jsonl", skip_bad=True)) == ["good"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB
    with pytest.raises(InterpError, match=r"a\.jsonl: longer than the bound, 100MB"):
        Contrast.read(tmp_path / "a.jsonl")


@fault("a document of 10 million characters", "refused as over the bound, from a file or from memory")
def test_long_document(tmp_path):
    text = "a " * 5_000_000
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": text}))
    for source in (tmp_path / "a.txt", tmp_path / "b.jsonl", [text], [[{"role": "user", "content": text}]]):
        with pytest.raises(InterpError, match="characters, longer than the bound, 5M"):
            list(documents(source))


def rendered(template):
    return ImmutableSandboxedEnvironment().from_string(template).render()


@fault("a chat template that never ends, or takes all memory", "its process is killed; the error names the bound")
@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(10 ** 12) %}{% endfor %}",
        "{% set x = range(99999) %}" + "{% for i in x %}" * 3 + "{% endfor %}" * 3,
        "{{ 'a' * 10 ** 10 }}",
    ],
)
def test_template(monkeypatch, template):
    monkeypatch.setenv("INTERP_LIMITS", "template=1")
    began = time.monotonic()
    with pytest.raises(InterpError, match=r"Range too big|takes more"):
        bounded_call((rendered, template), rendered, template)
    assert time.monotonic() - began < 10


READERS = {  # by the name of the pipe: what reads it
    "a.json": read_json,
    "a.jsonl": lambda file: list(documents(file)),
    "b.txt": lambda file: list(documents(file.parent)),
    "c.jsonl": lambda file: list(documents(f"hf:{file.parent}")),
    "factors.safetensors": Distilled.load,
    "processor_config.json": lambda file: interp.load(file.parent),
}


@fault("a pipe or a device in place of a file", "refused; the error names it")
@pytest.mark.parametrize("name", READERS)
def test_pipes(tiny, tmp_path, name):
    """The reader is a thread, since on a pipe it would wait for ever."""
    if "_" in name:
        tiny("llama").hf.save_pretrained(tmp_path)
    os.mkfifo(tmp_path / name)
    problems = []

    def read():
        try:
            READERS[name](tmp_path / name)
        except InterpError as problem:
            problems.append(str(problem))

    thread = Thread(target=read, daemon=True)
    thread.start()
    thread.join(10)
    assert [re.search(rf"{name} is a pipe or device", problem) is not None for problem in problems] == [True]


@fault("an empty set of prompts or items", "refused; the error names the file")
def test_empty_sets(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(InterpError, match=r"a\.jsonl"):
        Contrast.read(tmp_path / "a.jsonl")
    with pytest.raises(InterpError, match="empty"):
        list(documents(tmp_path / "a.jsonl"))


@fault("the same item twice in a behaviour", "refused; the error gives both line numbers")
def test_duplicate_items(tmp_path):
    entry = "name: a, kind: capability, statement: s, items: a.jsonl, scorer: {type: loss}"
    (tmp_path / "a.yaml").write_text(f"behaviours:\n  - {{{entry}}}\n")
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"text": "x"}\n')
    with pytest.raises(InterpError, match=r"line 2.*the same as line 1"):
        interp.suite(str(tmp_path / "a.yaml"))


@fault(
    "groups of a contrast that share a prompt",
    "refused when pairs are held out, so that no prompt is both fitted and held out",
)
def test_overlapping_sets():
    rows = (TurnPair(Turn("a"), Turn("b"), "x"), TurnPair(Turn("c"), Turn("a"), "y"))
    with pytest.raises(InterpError, match="groups 'x' and 'y' share a prompt"):
        Contrast(rows).split()
