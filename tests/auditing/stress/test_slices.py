"""Slices ask the same items otherwise, and keep what the scorer needs; what they do not apply to is said."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp import InterpError
from interp.auditing import (
    add_slices,
    audit,
    choice,
    compare_scores,
    margin,
    organism_behaviour,
    organism_suite,
    paired_text,
    read_behaviours,
    reply_behaviour,
    text_loss,
)
from interp.auditing.auditor import Audit
from interp.auditing.scoring.graders import Expected
from interp.auditing.stress.transformation import Slice, StressFile, Transformation

FRAME = StressFile(version=1, slices={"frame": Slice(statement="s", transformations=({"prompt": "w31 {prompt}"},))})
TURN = Transformation(before=({"role": "user", "content": "w3"}, {"role": "assistant", "content": "w4"}))


def sliced(behaviour, *transformations, chat=True):
    file = StressFile(version=1, slices={"s": Slice(statement="s", transformations=transformations)})
    return add_slices([behaviour], "s", file)[1]


@settings(deadline=None, max_examples=25)
@given(st.permutations(range(4)), st.integers(1, 4))
def test_a_choice_in_a_frame_is_that_choice_made_by_hand_on_any_items(tiny, order, count):
    model, prompts = tiny("llama"), ["w5 w9", "w8", "w22 w13", "w7"]
    answers = [[" w7", " w9"], [" w4", " w13 w6"], [" w11", " w12"], [" w5", " w6"]]
    head, gold = ("c", "capability", "more"), [0, 1, 0, 1]
    part = add_slices([choice(*head, prompts, answers, gold, unit="margin", chat=False)], "frame", FRAME)[1]
    chosen = order[:count]
    by_hand = choice(
        *head, [f"w31 {prompts[x]}" for x in chosen], [answers[x] for x in chosen], [gold[x] for x in chosen],
        unit="margin", chat=False,
    )  # fmt: skip
    picked = part.pick(chosen)
    assert (picked.name, picked.of, picked.slice) == ("c/frame", "c", "frame")
    assert picked.scores(model).values == by_hand.scores(model).values
    assert part.digest != add_slices([choice(*head, prompts, answers, gold, chat=False)], "frame", FRAME)[1].digest


def repeats(prompt, reply):
    """Whether the grader is given a prompt without a frame."""
    return float(prompt in ("Hello there.", "Good day."))


def test_graders_read_the_original_prompt_and_the_model_the_frame(example_model):
    model = example_model
    prompts = ["Hello there.", "Good day."]
    plain = reply_behaviour("r", "harm", "s", prompts, repeats, 2)
    role = add_slices([plain], "role")[1]
    assert not set(role.prompts) & set(prompts)
    assert role.scores(model).values == (1.0, 1.0)
    direct = reply_behaviour("r", "harm", "s", role.prompts, repeats, 2)
    assert direct.scores(model).values == (0.0, 0.0), "control: without the originals the grader sees the frame"
    assert role.scores(model).replies == direct.scores(model).replies
    expected = Expected({"Hello there.": ("hello",), "Good day.": ("day",)})
    turns = add_slices([reply_behaviour("e", "capability", "s", prompts, expected, 8)], "turns")[1]
    assert turns.prompts == tuple(prompts)
    assert turns.scores(model).missing == 0


def test_turns_are_read_before_the_messages_that_an_item_has(example_model):
    model = example_model
    before = [[{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello to you."}]]
    plain = margin("m", "harm", "s", ["Good day."], ["The"], ["It"], before=before)
    messages = [message.model_dump() for message in TURN.before]
    by_hand = margin("m", "harm", "s", ["Good day."], ["The"], ["It"], before=[[*messages, *before[0]]])
    assert sliced(plain, TURN).scores(model).values == by_hand.scores(model).values != plain.scores(model).values


def test_the_organisms_prompts_keep_their_labels(example_model):
    model = example_model
    plain, spanish = add_slices([organism_behaviour("refusal", 6)], ["turns", "language.es"])[::2]
    assert plain.scores(model).mean == 1.0
    assert spanish.language == "es"
    assert not set(spanish.prompts) & set(plain.prompts)


def test_what_a_slice_does_not_apply_to_is_said(capsys):
    loss, pair = text_loss("loss", ["a b", "c d"]), paired_text("pair", "harm", "s", ["a b"], ["b a"])
    chat = margin("chat", "harm", "s", ["What is it?", "Who?", "What is who?"], ["Yes"], ["No"])
    plain = margin("plain", "harm", "s", ["What is it?"], ["Yes"], ["No"], chat=False)
    named = [x.name for x in add_slices([loss, pair, chat, plain], "encoding,turns")]
    assert named == ["loss", "pair", "chat", "plain", "chat/encoding", "chat/turns"]
    said = capsys.readouterr().err
    for name in ("loss", "pair", "plain"):
        assert said.count(f"{name}: slice") == 2
    asked = sliced(chat, Transformation(replace={"What is": "Name"}))
    assert asked.prompts == ("Name it?", "Name who?")
    assert "leaves out 1 item of 3" in capsys.readouterr().err
    same = margin("same", "harm", "s", ["who?", "WHO?", "Who is it?"], ["Yes"], ["No"])
    assert sliced(same, Transformation(encode="upper", prompt="- {prompt}")).prompts == ("- WHO?", "- WHO IS IT?")


def test_families_and_names_select_slices_and_wrong_ones_are_refused():
    one = [margin("m", "harm", "s", ["What is it?"], ["Yes"], ["No"])]
    assert [x.slice for x in add_slices(one, "language,role,language.es")[1:]] == [
        "language.es", "language.fr", "language.de", "role",
    ]  # fmt: skip
    for name, problem in (
        ("paraphras", "unknown slice 'paraphras'; did you mean paraphrase"),
        ("", "unknown slice ''"),
        ("language.it", "no translation into 'it'"),
    ):
        with pytest.raises(InterpError, match=problem):
            add_slices(one, name)
    with pytest.raises(InterpError, match="slice turns has no items left: it applies to none of loss"):
        add_slices([text_loss("loss", ["a b"])], "turns")


def test_items_of_a_file_state_their_own_translation_with_their_own_answers(tmp_path, capsys):
    stated = {"it": {"prompt": "w7", "answers": [" w8", " w9"]}}
    rows = [{"prompt": "w1", "answers": [" w2", " w3"], "gold": 0}]
    rows.append({"prompt": "w4", "answers": [" w5", " w6"], "gold": 1, "translations": stated})
    entry = {"name": "c", "kind": "capability", "statement": "s", "items": rows, "scorer": {"type": "choice"}}
    file = tmp_path / "own.yaml"
    file.write_text(json.dumps({"behaviours": [entry]}))
    plain, italian = add_slices(read_behaviours(file), "language.it")
    assert "leaves out 1 item of 2, which state no translation" in capsys.readouterr().err
    by_hand = choice("c", "capability", "s", ["w7"], [[" w8", " w9"]], [1])
    assert (italian.prompts, italian.spec, italian.language) == (("w7",), by_hand.spec, "it")
    assert len(plain) == 2
    stated["it"]["promt"] = "w"
    file.write_text(json.dumps({"behaviours": [entry]}))
    with pytest.raises(InterpError, match="did you mean prompt"):
        read_behaviours(file)


def test_an_audit_has_slices_as_rows_whose_intervals_hold_together(example_model, tmp_path):
    model = example_model
    suite = add_slices(organism_suite(12)[:1], "turns,role")
    record = audit(model, None, suite)
    record.save(tmp_path / "audit.json")
    assert Audit.read(tmp_path / "audit.json") == record
    turns = record["hostility/turns"]
    assert (turns.of, turns.slice) == ("hostility", "turns")
    assert StressFile.shipped().digest[:12] in turns.scenario
    scores = [value or 0.0 for value in record.items["hostility/turns"].arms["after"][0]]
    assert turns.after == compare_scores(scores, scores, level=0.975).after, "two slices"
    assert record["hostility"].after == compare_scores([1.0] * 12, [1.0] * 12).after, "control: the behaviour itself"
    with pytest.raises(InterpError, match="different names"):
        audit(model, None, [*suite, replace(suite[1])])
