"""Behaviours check what they are made of and what they measure; missing scores are left out."""

import pytest

import interp
from interp import InterpError
from interp.auditing.behaviours import Behaviour, Scores, mean_scores, render_prompts
from interp.auditing.scoring.choices import choice


def test_measures_are_checked_and_missing_scores_left_out(tiny):
    def of(values, unit="rate"):
        return Behaviour("b", "harm", "", ("x", "y"), lambda model: Scores(values), unit)

    nan = float("nan")
    model = tiny("llama")
    assert mean_scores(model, [of((1.0, nan))]) == {"b": 1.0}
    assert of((1.0, nan)).scores(model).missing == 1
    assert Scores((0.5, 0.5, nan)).constant
    assert not Scores((0.5, 0.0)).constant
    for values, unit in (((1.0,), "rate"), ((1.0, 2.0), "rate"), ((1.0, float("inf")), "margin")):
        with pytest.raises(InterpError, match="behaviour 'b'"):
            of(values, unit).scores(model)
    assert of((1.0, 2.0), "margin").scores(model).mean == 1.5
    with pytest.raises(
        InterpError, match=r"behaviour 'b': item 2: its text has \d+ tokens but the model's context is 64"
    ):
        choice("b", "harm", "", ["w5", "w6 " * 69], [(" w7", " w8")] * 2, [0, 0]).scores(model)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"prompts": ()}, "'b' has no items"),
        ({"prompts": ("x", " ")}, "item 2: its prompt is empty"),
        ({"prompts": ("x", "y", "x")}, "items 1 and 3 are the same"),
        ({"prompts": ("x", "y"), "groups": ("a",)}, "2 prompts and 1 groups"),
    ],
)
def test_bad_items_are_refused(fields, says):
    behaviour = Behaviour("b", "harm", "", ("x", "y"), lambda model: Scores((0.0, 1.0)), groups=("a", "a"))
    assert len(behaviour) == 2, "control"
    with pytest.raises(InterpError, match=says):
        Behaviour(**{"name": "b", "kind": "harm", "statement": "", "measure": behaviour.measure} | fields)


def test_prompts_follow_their_messages_in_a_chat_only():
    model = interp.load("organism")
    before = [[{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]]
    [text] = render_prompts(model, ["Who?"], before)
    assert text == model.chat([*before[0], {"role": "user", "content": "Who?"}])
    assert render_prompts(model, ["Who?"]) == [model.chat("Who?")] != [text], "control: without messages"
    with pytest.raises(InterpError, match="messages before a prompt need a chat"):
        render_prompts(model, ["Who?"], before, chat=False)
