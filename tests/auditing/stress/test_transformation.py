"""Transformations are data: what each does to a prompt, what it does not apply to, and what a file may not say."""

import base64
import codecs

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from interp import InterpError
from interp.auditing.stress.transformation import StressFile, Transformation

TEXTS = st.text(min_size=1).filter(str.strip)
SHIPPED = StressFile.shipped()


@given(TEXTS)
def test_an_encoded_prompt_can_be_decoded_so_nothing_is_lost(text):
    decode = {"rot13": lambda x: codecs.decode(x, "rot13"), "base64": lambda x: base64.b64decode(x).decode()}
    for encoding, back in decode.items():
        written = Transformation(encode=encoding, prompt="Reply to this: {prompt}").apply(text)
        assert written is None or back(written.removeprefix("Reply to this: ")) == text
    spaced = Transformation(encode="spaced").apply(text)
    assert spaced is None or spaced[::2] == text


@given(TEXTS, TEXTS)
def test_a_frame_holds_the_whole_prompt_and_only_a_leading_one_suits_plain_text(text, frame):
    whole = Transformation(prompt=f"{frame.replace('{prompt}', '')}|{{prompt}}")
    assert whole.apply(text) == whole.apply(text, chat=False) == whole.prompt.replace("{prompt}", text)
    assert Transformation(prompt="{prompt}" + "?").apply(text, chat=False) is None
    assert Transformation(before=({"role": "user", "content": "Hi."},)).apply(text, chat=False) is None


def test_words_are_replaced_or_it_does_not_apply():
    asked = Transformation(replace={"What is": "Tell me what is"})
    assert asked.apply("What is {a}?") == "Tell me what is {a}?"
    assert asked.apply("Where is it?") is None
    assert Transformation(encode="upper").apply("A 1") is None, "control: nothing changes"


def test_the_shipped_file_has_the_five_families_and_a_digest_that_follows_its_content(tmp_path):
    families = {name.partition(".")[0] for name in SHIPPED.slices}
    assert families == {"paraphrase", "role", "encoding", "turns", "language"}
    assert {part.language for part in SHIPPED.slices.values()} == {None, "es", "fr", "de"}
    values = SHIPPED.model_dump(mode="json", exclude_defaults=True)
    (tmp_path / "same.yaml").write_text(yaml.safe_dump(values))
    assert StressFile.read(tmp_path / "same.yaml").digest == SHIPPED.digest
    values["version"] = 2
    (tmp_path / "next.yaml").write_text(yaml.safe_dump(values))
    assert StressFile.read(tmp_path / "next.yaml").digest != SHIPPED.digest, "control"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("version: 1", "slices"),
        ("version: 1\nslices: {}", "slices"),
        ("version: 1\nslice: {}", "unknown key 'slice'; did you mean slices"),
        ("version: 1\nslices: {a: {statement: b, transformations: []}}", "transformations"),
        ("version: 1\nslices: {a: {statement: b, transformations: [{}]}}", "without a change"),
        ("version: 1\nslices: {a: {statement: b, transformations: [{prompt: c}]}}", "has to hold {prompt} once"),
        ("version: 1\nslices: {a: {statement: b, transformations: [{encode: rot12}]}}", "rot13"),
        ("version: 1\nslices: {a: {statement: b, transformations: [{replace: {'': c}}]}}", "empty text"),
        ("version: 1\nslices: {a: {statement: b, transformations: [{frame: c}]}}", "frame'"),
        ("version: 1\nslices: {a: {statement: b, transformations: [{before: [{role: x, content: c}]}]}}", "role"),
    ],
)
def test_a_file_with_wrong_fields_gives_one_line_with_its_place(tmp_path, text, problem):
    file = tmp_path / "stress.yaml"
    file.write_text(text)
    with pytest.raises(InterpError) as raised:
        StressFile.read(file)
    assert problem in str(raised.value)
    assert str(file) in str(raised.value)
    assert "\n" not in str(raised.value)
