"""Behaviours by likelihood against sums over plain passes, and what they refuse."""

from math import exp, log

import pytest
import torch

from interp import InterpError, Project, Recipe
from interp.auditing.behaviours import mean_scores
from interp.auditing.scoring.choices import choice, margin, paired_text

PROMPTS = ["w5 w9", "w8", "w12 w99 w101 w4", "w31 w30"]
ANSWERS = [[" w7", " w9 w31 w5", " w11 w12"], [" w100 w3", " w4"], [" w6 w66 w31", " w6"], [" w9", " w10", " w11"]]
GOLD = [1, 0, 1, 2]


def nats(model, prompt, end):
    ids, start = model.tokens(prompt + end).ids, model.tokens(prompt).ids.shape[1]
    with torch.no_grad():
        logp = model.hf(ids).logits.log_softmax(-1)[0]
    return float(sum(logp[t - 1, ids[0, t]] for t in range(start, ids.shape[1])))


def table(model, length=lambda end: 1):
    return [[nats(model, p, end) / length(end) for end in ends] for p, ends in zip(PROMPTS, ANSWERS, strict=True)]


@pytest.mark.parametrize(
    ("normalise", "length"),
    [("none", lambda end: 1), ("token", lambda end: len(end.split())), ("byte", len)],
)
def test_a_choice_is_the_likeliest_answer(tiny, normalise, length):
    model = tiny("llama")
    values = table(model, length)
    best = choice("b", "capability", "", PROMPTS, ANSWERS, GOLD, normalise=normalise).measure(model)
    assert best.values == tuple(float(row.index(max(row)) == g) for row, g in zip(values, GOLD, strict=True))
    gaps = choice("b", "capability", "", PROMPTS, ANSWERS, GOLD, normalise=normalise, unit="margin").measure(model)
    expected = [row[g] - max(v for n, v in enumerate(row) if n != g) for row, g in zip(values, GOLD, strict=True)]
    assert gaps.values == pytest.approx(expected, abs=1e-5)
    assert [gap > 0 for gap in gaps.values] == [value == 1 for value in best.values]


def test_length_matters_which_is_why_it_can_be_divided_by(tiny):
    longer = [(" w7", " w9 w31 w5 w8 w77 w12")] * 4
    scores = [
        mean_scores(
            tiny("llama"), [choice("b", "capability", "", PROMPTS, longer, [1] * 4, normalise=by, unit="margin")]
        )
        for by in ("none", "token")
    ]
    assert scores[0]["b"] < -10 < scores[1]["b"]


def test_gold_answers_may_be_several_and_weighed_by_probability(tiny):
    model = tiny("gpt2")
    gold = [(0, 2), (1,), (0,), (0, 1)]
    mass = choice("b", "capability", "", PROMPTS, ANSWERS, gold, mass=True).measure(model).values
    shares = [sum(exp(row[g]) for g in gs) / sum(map(exp, row)) for row, gs in zip(table(model), gold, strict=True)]
    assert mass == pytest.approx(shares, abs=1e-5)
    behaviour = choice("b", "capability", "", PROMPTS, ANSWERS, gold)
    right = [float(row.index(max(row)) in gs) for row, gs in zip(table(model), gold, strict=True)]
    assert list(behaviour.scores(model).values) == right
    assert behaviour.chance == pytest.approx((2 / 3 + 1 / 2 + 1 / 2 + 2 / 3) / 4)


def test_a_margin_is_between_sets(tiny):
    model = tiny("llama")
    found = margin("b", "protected", "", PROMPTS, [" w7", " w8 w9"], [" w10"]).measure(model).values
    expected = [
        log(exp(nats(model, p, " w7")) + exp(nats(model, p, " w8 w9"))) - nats(model, p, " w10") for p in PROMPTS
    ]
    assert found == pytest.approx(expected, abs=1e-5)
    rate = margin("b", "protected", "", PROMPTS, [" w7", " w8 w9"], [" w10"], unit="rate").measure(model).values
    assert rate == tuple(float(gap > 0) for gap in expected)
    with pytest.raises(InterpError, match="begins with ' w7'"):
        margin("b", "harm", "", PROMPTS, [" w7"], [" w7 w8"])


def test_paired_texts_are_scored_from_their_first_word(tiny):
    model = tiny("llama")
    first, second = ["w5 w6 w7", "w9 w10", "w50"], ["w8 w6 w7", "w9 w11 w12", "w51"]
    gaps = paired_text("b", "harm", "", first, second, unit="margin").measure(model).values
    expected = [nats(model, "<s>", " " + a) - nats(model, "<s>", " " + b) for a, b in zip(first, second, strict=True)]
    assert gaps == pytest.approx(expected, abs=1e-5)
    rates = paired_text("b", "harm", "", first, second)
    assert rates.measure(model).values == tuple(float(gap > 0) for gap in expected)
    swapped = paired_text("b", "harm", "", second, first).measure(model).values
    assert swapped == tuple(1 - value for value in rates.measure(model).values), "control"


def test_scores_move_under_a_recipe_and_an_instruction(tiny):
    model = tiny("llama")
    behaviour = choice("b", "harm", "", PROMPTS, ANSWERS, GOLD, unit="margin")
    plain = behaviour.scores(model).values
    with model.hooked(Recipe([("writers", Project(torch.eye(model.d_model)[:4]))])):
        assert behaviour.scores(model).values != plain
    with model.instructed("w77 w78"):
        instructed = behaviour.scores(model).values
    asked = [f"w77 w78\n\n{prompt}" for prompt in PROMPTS]
    assert instructed == pytest.approx(
        choice("b", "harm", "", asked, ANSWERS, GOLD, unit="margin").scores(model).values
    )
    assert instructed != plain


def test_the_digest_covers_what_scores_depend_on():
    behaviour = choice("b", "harm", "more", PROMPTS, ANSWERS, GOLD)
    again = choice("b", "harm", "more", PROMPTS, ANSWERS, GOLD)
    others = [
        choice("c", "harm", "more", PROMPTS, ANSWERS, GOLD),
        choice("b", "harm", "more", PROMPTS, ANSWERS, [0, 0, 1, 2]),
        choice("b", "harm", "more", PROMPTS[::-1], ANSWERS, [0, 0, 1, 1]),
        choice("b", "harm", "more", PROMPTS, ANSWERS, GOLD, normalise="byte"),
        choice("b", "harm", "more", PROMPTS, ANSWERS, GOLD, unit="margin"),
        choice("b", "harm", "more", PROMPTS, ANSWERS, GOLD, groups=tuple("aabb")),
    ]
    assert behaviour.digest == again.digest
    assert len({behaviour.digest, *(other.digest for other in others)}) == 7


@pytest.mark.parametrize(
    ("prompts", "answers", "gold", "says"),
    [
        ([], [], [], "no items"),
        (["a", " "], [("b", "c")] * 2, [0, 0], "item 2: its prompt is empty"),
        (["a", "a"], [("b", "c")] * 2, [0, 0], "items 1 and 2 are the same"),
        (["a", "d"], [("b", "c"), ("b",)], [0, 0], "item 2: got answers"),
        (["a", "d"], [("b", "c"), ("b", "b")], [0, 0], "item 2: got answers"),
        (["a", "d"], [("b", "c")] * 2, [0, 2], r"item 2: gold answers are \(2,\)"),
        (["a", "d"], [("b", "c")] * 2, [0, ()], r"item 2: gold answers are \(\)"),
        (["a", "d"], [("b", "c")] * 2, [0], "1 gold answers"),
    ],
)
def test_bad_items_are_named(prompts, answers, gold, says):
    with pytest.raises(InterpError, match=says):
        choice("b", "harm", "", prompts, answers, gold)


def test_a_prompt_may_come_twice_with_other_answers():
    assert len(choice("b", "harm", "", ["a", "a"], [("b", "c"), ("b", "d")], [0, 0])) == 2
