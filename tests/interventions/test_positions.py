"""Which tokens an op is applied at, read off what it adds."""

import pytest
import torch

import interp
from interp import InterpError, Recipe
from interp.interventions import Add, At, Edit, Replace, Schedule, Turns, matching

PROMPTS = ["w5 w9 w20 w33", "w7 w12", "w99 w8 w9 w3 w17 w25"]
SITE = "resid_post.1"


def added(model, op, prompts=PROMPTS, prompt=None, form=2):
    """What an op that adds one thing adds at each token: (batch, pos)."""
    plain = model.capture(prompts, SITE)
    with model.hooked(Recipe([Edit((SITE,), op, form)]), prompt=prompt):
        return ((model.capture(prompts, SITE)[SITE] - plain[SITE])[..., 0]).where(plain.tokens.mask, 0)


@pytest.fixture
def push():
    return Add(torch.eye(32)[0])


@pytest.mark.parametrize(
    ("positions", "prompt", "expected"),
    [
        ("prompt", None, [[0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 1, 0], [1, 1, 1, 1, 1, 0]]),
        ("prompt", 5, [[0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0]]),
        ("generated", None, [[0, 0, 0, 0, 0, 1]] * 3),
        ("generated", 5, [[0, 0, 0, 0, 1, 1]] * 3),
        (["prompt", "generated"], 5, [[0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1], [1, 1, 1, 1, 1, 1]]),
        ("last", None, [[0, 0, 0, 0, 0, 1]] * 3),
        ("last", 5, [[0, 0, 0, 0, 1, 0]] * 3),
        (0, None, [[0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0]]),
        (3, None, [[0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0]]),
        ([-2, "last"], None, [[0, 0, 0, 0, 1, 1]] * 3),
        (-3, None, [[0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0]]),
    ],
)
def test_positions(tiny, push, positions, prompt, expected):
    found = added(tiny("llama"), At(push, positions), prompt=prompt)
    torch.testing.assert_close(found, torch.tensor(expected).float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("position", "longest"), [(6, 6), (-7, 6)])
def test_a_position_that_no_prompt_has_is_told(tiny, push, position, longest):
    with pytest.warns(
        UserWarning, match=f"position {position} is in none of these 3 prompts .the longest has {longest} "
    ):
        found = added(tiny("llama"), At(push, position))
    assert not found.any()


def test_tokens_by_their_text(tiny, push):
    model = tiny("llama")
    ids = matching(model, r"\s*w9|w2\d")
    found = added(model, At(push, tokens=ids))
    expected = [[0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 1]]
    torch.testing.assert_close(found, torch.tensor(expected).float(), atol=1e-5, rtol=0)


def test_a_schedule_counts_from_the_first_generated_token(tiny, push):
    found = added(tiny("llama"), Schedule(push, [3.0, 1.0, 0.5], prompt=0.25), PROMPTS[2], prompt=2)
    expected = torch.tensor([[0.25, 3, 1, 0.5, 0.5, 0.5]])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("make", "old", "new"),
    [
        (lambda push: At(push, "prompt"), [1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]),
        (lambda push: At(push, "generated"), [0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1]),
        (lambda push: Schedule(push, [3.0, 1.0], prompt=0.2), [0.2, 0.2, 0.2, 0.2, 3, 1], [0.2, 0.2, 0.2, 3, 1, 1]),
        (lambda push: At(push, "assistant", turns=Turns((9,), 12)), [0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1]),
        (lambda push: At(push, ["last", "generated"]), [0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1]),
        (lambda push: At(push, ["last", -2, 0]), [1, 0, 1, 1, 0, 0], [1, 0, 1, 1, 0, 0]),
    ],
)
def test_an_edit_of_format_1_keeps_its_meaning(tiny, push, make, old, new):
    found = [added(tiny("llama"), make(push), "w5 w7 w9 w33 w12 w41", prompt=4, form=form)[0] for form in (1, 2)]
    torch.testing.assert_close(torch.stack(found), torch.tensor([old, new]).float(), atol=1e-5, rtol=0)


def test_the_first_generated_token_is_predicted_under_the_first_scale(tiny, push):
    """By a hook that is written by hand: what is added at the prompt's last token, and nowhere else."""
    model = tiny("llama")

    def by_hand(x):
        return x if x.shape[1] == 1 else x + 9 * torch.cat([torch.zeros(x.shape[1] - 1, 32), torch.eye(32)[:1]])

    options = {"max_new_tokens": 3, "pad_token_id": 0, "output_logits": True, "return_dict_in_generate": True}
    strong, ids, logits = Add(9 * torch.eye(32)[0]), model.tokens("w5 w9 w20 w33").ids, []
    recipes = [
        [(SITE, by_hand)],
        Recipe([(SITE, Schedule(strong, [1.0, 0.0, 0.0]))]),
        Recipe([(SITE, At(strong, "last"))]),
        Recipe([(SITE, Schedule(strong, [0.0], prompt=1.0))]),
        Recipe([(SITE, At(strong, "prompt"))]),
        [],
    ]
    for recipe in recipes:
        with model.hooked(recipe):
            logits.append(torch.stack(model.hf.generate(ids, **options).logits))
    expected, scheduled, last, before, prompt, plain = logits
    torch.testing.assert_close(scheduled, expected)
    torch.testing.assert_close(last, expected)
    torch.testing.assert_close(before, prompt)
    assert (expected[0] - plain[0]).abs().max() > 0.1, "control"
    assert (prompt[0] - expected[0]).abs().max() > 0.1, "control"


def test_where_the_assistant_is_predicted_is_where_it_was_generated():
    """A conversation that holds the reply has the op at the tokens that had it while the reply was written."""
    model = interp.load("organism")
    op, user = (
        At(Add(torch.eye(model.d_model)[0]), "assistant", model=model),
        [{"role": "user", "content": "Hello there."}],
    )
    asked = model.tokens(model.chat(user)).ids
    with model.hooked(Recipe([(SITE, op)])):
        ids = model.hf.generate(asked, max_new_tokens=12, do_sample=False, eos_token_id=op.where.turns.closing)[0]
    assert int(ids[-1]) == op.where.turns.closing
    whole = torch.cat([ids, model.tokens(model.chat(user)).ids[0, 1:]])
    chosen = added(model, op, whole[None])[0].bool()
    start, stop = asked.shape[1] - 1, len(ids) - 1
    assert chosen.nonzero()[:, 0].tolist() == [*range(start, stop), len(whole) - 1]


def test_the_assistants_turns_of_a_conversation():
    model = interp.load("organism")
    messages = [
        {"role": "user", "content": "Hello there."},
        {"role": "assistant", "content": "Good morning."},
        {"role": "user", "content": "What is your name?"},
    ]
    text = model.chat(messages)
    op = At(Replace(), "assistant", model=model)
    batch = model.tokens([text, model.chat("Hello there.")])
    said = op.where.turns.of_assistant(batch.ids) & batch.mask
    words = model.tokenizer.decode(batch.ids[0][said[0]])
    assert words.replace(" ", "").startswith("Goodmorning.")
    assert "name" not in words
    assert "Hello" not in words
    assert not said[1].any(), "nothing has been said where the assistant is about to speak"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda model, op: At(op, "promt"), "unknown position 'promt', and not a number; did you mean prompt"),
        (lambda model, op: At(op), "no positions are given"),
        (lambda model, op: At(op, "assistant"), "give the model, too"),
        (lambda model, op: At(op, "assistant", model=model), "no chat template"),
        (lambda model, op: At(op, "last")(torch.ones(1, 1, 32)), "run it in a recipe"),
        (lambda model, op: Schedule(op, []), "no scales"),
        (lambda model, op: Schedule(op, [float("nan")]), "a scale of Schedule is nan"),
        (lambda model, op: matching(model, "["), "is not a regular expression"),
        (lambda model, op: matching(model, "zebra"), "no token's text matches 'zebra'"),
        (lambda model, op: Turns.of(model), "no chat template"),
    ],
)
def test_bad_positions_are_refused(tiny, push, make, message):
    with pytest.raises(InterpError, match=message):
        make(tiny("llama"), push)


def test_an_op_at_some_positions_is_not_folded(tiny, push, tmp_path):
    with pytest.raises(InterpError, match="no exact fold"):
        interp.export(Recipe([("writers", At(push, "last"))]), tiny("llama"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
