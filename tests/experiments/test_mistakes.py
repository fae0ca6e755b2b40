"""What a wrong call of a public name gives is an error that helps, for every name of the stubs."""

from pathlib import Path

import pytest
from scripts import importable

SCRIPT = Path(__file__).parents[2] / "experiments" / "mistakes.py"


@pytest.fixture(scope="module")
def mistakes():
    with importable(SCRIPT.parent):
        import mistakes

        yield mistakes


def test_every_public_name_has_mistakes(mistakes):
    listed, names = mistakes.table(), mistakes.public()
    own = {name for name, (_, value) in names.items() if list(mistakes.systematic(value))}
    assert own - set(listed) == set()
    assert {name.partition(".")[0] for name in listed} - set(names) == set(), "names that are no longer there"
    assert len(names) > 200


def test_every_wrong_call_gives_an_error_that_helps(mistakes, tmp_path):
    answers = mistakes.answers(tmp_path)
    assert [f"{answer.call}: {answer.words[:300]}" for answer in answers if not answer.good] == []
    assert len(answers) > 1400
    for call, words in [("len(3)", "TypeError: "), ("len('a')", "accepted: int"), ("+Path(3)", "TypeError: ")]:
        good, given = mistakes.judge(call, {"Path": Path})
        assert (good, given.startswith(words)) == (False, True), "control"
