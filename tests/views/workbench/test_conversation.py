"""Replies are those of `generate`, follow strengths, and come back, token by token, from a recipe that was saved."""

import pytest
import torch
from sae_samples import autoencoder

import interp
from interp import Add, Direction, InterpError, Project, Recipe
from interp.attribution import Lens
from interp.interventions import At, Cap
from interp.models.sites import Site
from interp.search import RecipeFile
from interp.views import Conversation, tokens
from interp.views.workbench import conversation

FILE = RecipeFile.parse(
    {
        "directions": {"rude": {"contrast": "organism.hostility", "site": "resid_post.3", "pairs": 24}},
        "edits": [
            {"op": "Project", "sites": "writers", "direction": "rude", "strength": 0.9},
            {"op": "Cap", "sites": "resid_post.4", "direction": "rude", "high": 1.0},
        ],
    }
)
LENGTH = 10


@pytest.fixture(scope="module")
def model():
    return interp.load("organism")


@pytest.fixture(scope="module")
def hostile():
    return interp.organism.contrast("hostility", 4)[0][0].user


def vector(model, seed=0, scale=60.0):
    return Add(
        torch.nn.functional.normalize(torch.randn(192, generator=torch.Generator().manual_seed(seed)), dim=0), scale
    )


def recipe(model, seed=0):
    edits = [("resid_post.3", At(vector(model, seed), "generated")), ("resid_post.2", vector(model, seed + 1))]
    return Recipe(edits, model.reference)


def replies(side):
    return [reply.ids for reply in side.replies]


def test_replies_are_those_of_generate_over_several_turns(model, hostile):
    edit = recipe(model)
    talk = Conversation(model, {"edited": edit, "half": edit}, max_new_tokens=LENGTH)
    talk.set_strength("half", 0.5)
    seen = []
    talk.say(hostile, lambda side, text: seen.append((side, text)))
    talk.say("what is 2 plus 3?")
    for name, acting in (("unedited", ()), ("edited", edit), ("half", edit.scaled(0.5))):
        first, second = (reply.text for reply in talk.sides[name].replies)
        assert [first] == model.generate(model.chat(hostile), acting, max_new_tokens=LENGTH)
        turns = [("user", hostile), ("assistant", first), ("user", "what is 2 plus 3?")]
        prompt = model.chat([{"role": role, "content": content} for role, content in turns])
        assert [second] == model.generate(prompt, acting, max_new_tokens=LENGTH)
        streamed = [text for side, text in seen if side == name]
        assert streamed[-1] == first
        assert all(first.startswith(text) for text in streamed)
        assert len(streamed) > 3
    texts = {side.replies[0].text for side in talk.sides.values()}
    assert len(texts) > 1, "control: the edits do something"


@pytest.mark.parametrize("kind", ["file", "path", "recipe", "folder"])
def test_a_saved_recipe_gives_the_same_replies_token_by_token(model, hostile, tmp_path, kind):
    kinds = {
        "file": lambda: FILE,
        "path": lambda: tmp_path / "kinder.yaml",
        "recipe": lambda: recipe(model),
        "folder": lambda: "saved",
    }
    (tmp_path / "kinder.yaml").write_text(
        "directions: {rude: {contrast: organism.hostility, site: resid_post.3, pairs: 24}}\n"
        "edits: [{op: Project, sites: writers, direction: rude}]\nnote: an 'edit'\n"
    )
    recipe(model).save(tmp_path / "saved")
    talk = Conversation(model, {"the edit": kinds[kind]()}, folder=tmp_path, max_new_tokens=LENGTH)
    talk.say(hostile)
    before = replies(talk.sides["the edit"])
    talk.set_strength("the edit", -0.75)
    talk.say("what is 2 plus 3?")
    clicked = talk.sides["the edit"]
    assert replies(clicked)[:1] != before, "control: strengths matter"
    file = talk.save("the edit")
    assert file == tmp_path / "the-edit--0.75.yaml"
    again = Conversation(model, {"again": file}, max_new_tokens=LENGTH)
    assert again.sides["again"].strength == -0.75
    again.say(hostile)
    again.say("what is 2 plus 3?")
    assert replies(again.sides["again"]) == replies(clicked)
    built = RecipeFile.read(file).build(model, folder=tmp_path)
    assert built.exact_digest == clicked.edit.exact_digest
    assert model.generate(model.chat(hostile), built, max_new_tokens=LENGTH) == [clicked.replies[0].text]


def test_a_strength_that_moves_there_and_back_changes_nothing(model, hostile):
    talk = Conversation(model, {"edit": recipe(model)}, max_new_tokens=LENGTH)
    talk.say(hostile)
    talk.say("hello there.")
    there = replies(talk.sides["edit"])
    talk.set_strength("edit", 0.0)
    assert replies(talk.sides["edit"]) == replies(talk.sides["unedited"]) != there
    talk.set_strength("edit", 1.0)
    assert replies(talk.sides["edit"]) == there
    talk.clear()
    assert (talk.messages, replies(talk.sides["edit"])) == ((), [])


def test_heat_and_trace_are_what_is_read_under_the_edit(model, hostile):
    direction = Direction.of(vector(model).vector, "resid_post.4", model)
    by = {"it": direction, "loss": "loss", "lens": (Lens(), "resid_post.3"), "norm": "resid_post.2"}
    edit = Recipe([("writers", Project(direction))])
    talk = Conversation(model, {"edit": edit}, by, max_new_tokens=LENGTH)
    talk.say(hostile)
    talk.say("hello there.")
    for name, acting in (("unedited", []), ("edit", edit)):
        side, seen = talk.sides[name], 0
        for reply, prompt in zip(side.replies, prompts(model, talk, name), strict=True):
            ids = model.tokens(prompt).unpadded()[0]
            assert reply.prompt == len(ids)
            for what, reading in by.items():
                with model.hooked(acting):
                    whole = tokens(model, [ids + list(reply.ids)], reading).values
                heat = reply.heat[what]
                torch.testing.assert_close(heat.values, whole[len(ids) :][: len(heat.tokens)], rtol=1e-4, atol=1e-4)
                assert reply.asked[what] == pytest.approx(float(whole[seen : len(ids)].nanmean()), abs=1e-3)
            assert "".join(heat.tokens) == reply.text
            seen = len(ids) + len(reply.ids)
    trace = talk.trace("it")
    assert [len(means) for means in trace.values()] == [4, 4]
    assert max(map(abs, trace["edit"])) < 1e-2 < max(map(abs, trace["unedited"]))


def test_nothing_is_read_where_nothing_is_asked_for(model, hostile, monkeypatch):
    edits, read = {"edit": recipe(model)}, []
    with_loss, plain = Conversation(model, edits, max_new_tokens=LENGTH), None
    values = conversation.token_values
    monkeypatch.setattr(conversation, "token_values", lambda *all: read.append(all) or values(*all))
    plain = Conversation(model, edits, by={}, max_new_tokens=LENGTH)
    plain.say(hostile)
    assert (plain.by, read) == ({}, [])
    with_loss.say(hostile)
    assert len(read) == 2, "control"
    assert replies(plain.sides["edit"]) == replies(with_loss.sides["edit"])
    assert plain.sides["edit"].replies[0].heat == {}


def prompts(model, talk, name):
    turns = []
    for message, reply in zip(talk.messages, talk.sides[name].replies, strict=True):
        turns.append({"role": "user", "content": message})
        yield model.chat(turns)
        turns.append({"role": "assistant", "content": reply.text})


def test_a_direction_is_pushed_as_far_as_neutral_text_allows_and_is_read(model):
    direction = Direction.of(vector(model).vector, "resid_post.3", model)
    talk = Conversation(model, {"push": direction, "edit": recipe(model)})
    (edit,) = talk.sides["push"].recipe.edits
    ends = [abs(Add.auto(model, direction, sign=sign, relative=True).scale) for sign in (-1, 1)]
    assert (edit.sites, edit.op.scale, edit.op.relative) == (("resid_post.3",), min(ends), True)
    assert talk.by == {"push": direction}
    assert Conversation(model, {"edit": recipe(model)}).by == {"loss": "loss"}


def test_a_model_without_a_template_talks_too(tiny):
    model = tiny("llama")
    talk = Conversation(model, {}, max_new_tokens=4)
    talk.say("w5 w9")
    talk.say("w7")
    first, second = talk.sides["unedited"].replies
    assert model.generate("w5 w9", max_new_tokens=4) == [first.text]
    assert model.generate(f"w5 w9\n\n{first.text}\n\nw7", max_new_tokens=4) == [second.text]


def test_what_cannot_be_done_is_said_and_changes_nothing(model, tiny, tmp_path):
    talk = Conversation(model, {"edit": FILE}, folder=tmp_path, max_new_tokens=LENGTH)
    talk.say("hello there.")
    before = talk.messages, replies(talk.sides["edit"])
    for call, problem in (
        (lambda: talk.say(""), "an empty message has nothing to reply to"),
        (lambda: talk.say("word " * 3000), "context"),
        (lambda: talk.set_strength("edt", 1.0), "no edit is called 'edt'; did you mean edit"),
        (lambda: talk.set_strength("unedited", 1.0), "no edit is called 'unedited'"),
        (lambda: talk.set_strength("edit", float("inf")), "strength is inf; expected a finite number"),
        (lambda: talk.save("edit", "there.json"), "expected a name that ends in .yaml"),
        (lambda: talk.save("edit", tmp_path.parent / "there.yaml"), "are relative to .*; save it in that folder"),
    ):
        with pytest.raises(InterpError, match=problem):
            call()
    assert (talk.messages, replies(talk.sides["edit"])) == before
    talk.save("edit", "once.yaml")
    text = (tmp_path / "once.yaml").read_text()
    with pytest.raises(InterpError, match=r"once.yaml exists"):
        talk.save("edit", "once.yaml")
    assert (tmp_path / "once.yaml").read_text() == text


def test_recipes_and_readings_of_another_model_are_refused(model, tiny, tmp_path):
    other = tiny("llama")
    direction = Direction(torch.ones(1, 32), Site("resid_post", 1), -1, "given", other.reference, data="")
    foreign = Recipe([("resid_post.1", Cap(direction, high=1.0))])
    for recipes, by in (
        ({"edit": foreign}, None),
        ({"edit": direction}, None),
        ({}, {"it": direction}),
        ({}, {"it": (autoencoder(other), 3)}),
    ):
        with pytest.raises(InterpError, match=r"tiny llama|d_model|width"):
            Conversation(model, recipes, by)
    with pytest.raises(InterpError, match=r"no/such"):
        Conversation(model, {"edit": "no/such.yaml"})
    with pytest.raises(InterpError, match="'unedited' is the model as it is"):
        Conversation(model, {"unedited": foreign})
    with pytest.raises(InterpError, match="beam search"):
        Conversation(model, {}, num_beams=2)
