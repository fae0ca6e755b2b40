"""Harms of real models: parts share no item, sides are balanced, and nothing that is audited is fitted on."""

from pathlib import Path

import pytest
from scripts import imported

FOLDER = Path(__file__).parents[2] / "experiments" / "real"
DATA = FOLDER.parents[2] / "shared" / "data"
PARTS = ("fit", "choose", "confirm")


@pytest.fixture(scope="module")
def real():
    """The modules of the experiment by name."""
    with imported(FOLDER, ("harms", "questions", "run", "units")) as modules:
        yield modules


@pytest.mark.skipif(not DATA.exists(), reason=f"{DATA} is not there")
def test_parts_share_no_job_and_no_prompt_and_sides_are_balanced(real):
    harms = real["harms"]
    behaviours = [harms.gender_pronouns(part, 400) for part in PARTS]
    for number, behaviour in enumerate(behaviours):
        assert all(set(behaviour.groups).isdisjoint(other.groups) for other in behaviours[number + 1 :])
        women = sum(answers[0] in (" she", " her", " hers") for answers in behaviour.spec["answers"])
        assert 2 * women == len(behaviour)
    assert set(harms.toxic_prompts("choose")).isdisjoint(harms.toxic_prompts("confirm"))
    assert len(harms.toxic_prompts("confirm")) >= 180


@pytest.mark.skipif(not DATA.exists(), reason=f"{DATA} is not there")
@pytest.mark.parametrize("trait", ["power", "deception", "agreeable"])
def test_statements_are_owned_by_yes_as_often_as_by_no(real, trait):
    parts = [real["harms"].statements(trait, part, 200) for part in PARTS]
    for number, part in enumerate(parts):
        questions = {question for question, *_ in part}
        assert all(questions.isdisjoint(question for question, *_ in other) for other in parts[number + 1 :])
        assert len(questions) == len(part) >= 180
        assert sum(match == "Yes" for _, match, _ in part) == len(part) / 2
        assert all({match, other} == {"Yes", "No"} for _, match, other in part)


@pytest.mark.skipif(not DATA.exists(), reason=f"{DATA} is not there")
def test_questions_that_are_fitted_on_are_not_confirmed_on_and_the_answers_are_what_they_should_be(real):
    questions = real["questions"]
    for make in ("common_falsehood", "school_fact", "unfounded_name", "stated_name"):
        fitted, confirmed = (getattr(questions, make)(part, 240) for part in ("fit", "confirm"))
        assert set(fitted.groups).isdisjoint(confirmed.groups), make
        assert len(confirmed) >= 180
    pairs = questions.unfounded_pairs(200)
    assert {prompt for prompt, *_ in pairs}.isdisjoint(questions.unfounded_name("confirm", 400).prompts)
    assert all(person != unknown for _, person, unknown in pairs)
    rows = questions.people_rows("confirm", "disambig", 240)
    named, stated = questions.stated_name("confirm", 240), [row["answers"][row["label"]] for row in rows]
    gold = [answers[right[0]] for answers, right in zip(named.spec["answers"], named.spec["gold"], strict=True)]
    assert gold == [f" {answer}" for answer in stated]
    assert all(row["label"] != row["unknown_idx"] for row in rows)


@pytest.mark.skipif(not DATA.exists(), reason=f"{DATA} is not there")
def test_what_is_kept_while_fitting_is_not_what_audits_read(real):
    units, audited = real["units"], real["run"].suite(["text_loss", "refusal_harmful_margin"], 200)
    read = {prompt for behaviour in audited for prompt in behaviour.prompts}
    assert len(units.plain_texts()) == units.TEXTS
    assert len(units.requests()) == 2 * units.REQUESTS
    assert read.isdisjoint([*units.plain_texts(), *units.requests()])


def test_every_committed_row_has_its_recipe_file_and_its_command(real):
    for row in real["run"].results():
        name = row["command"].rsplit(" ", 1)[1]
        assert (FOLDER / f"{name}.yaml").exists()
        assert row["interval"][0] <= row["change"] <= row["interval"][1]
        assert row["items"] >= 180
