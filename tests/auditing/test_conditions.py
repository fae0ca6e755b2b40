"""An audit is of a recipe only where that recipe was measured: under its hooks, or as its own exact fold.

Scores kept in a folder: found again under the same conditions only, and refused where they were changed.
"""

import json
import shutil
from dataclasses import replace

import pytest
import tiny_models
import torch

import interp
from interp import InterpError, Project, Recipe
from interp.activations.token_rows import reloader
from interp.auditing.auditor import audit
from interp.auditing.behaviours import Behaviour, Scores
from interp.auditing.conditions import ModelCondition, ScoreCache
from interp.auditing.policy.decision import Policy
from interp.auditing.policy.release_gate import gate
from interp.auditing.scoring.choices import choice, text_loss
from interp.core.files import sha256_json
from interp.editing.certificate.manifest import MANIFEST
from interp.editing.options import FoldOptions

SUITE = [text_loss("loss", [f"w{i} w{i + 1} w{i + 2}" for i in range(5, 25)])]
ASKED, OTHER = (Recipe([("writers", Project(torch.eye(32)[number]))]) for number in (3, 4))
POLICY = Policy(target="loss", target_at_most=1.0, loss_rise_at_most=100, items_at_least=2)


@pytest.fixture
def base(tmp_path):
    model = tiny_models.build("llama", seed=1)
    model.hf.save_pretrained(tmp_path / "base")
    model.tokenizer.save_pretrained(tmp_path / "base")
    return interp.load(tmp_path / "base")


@pytest.fixture
def exported(base, tmp_path):
    interp.export(OTHER, base, tmp_path / "edited")
    return tmp_path / "edited"


def measured(base, after, **options):
    return audit(base, after, SUITE, baselines=(), **options)


def of_this(made, folder):
    """What the gate says of the audit being of the recipe that is to be exported."""
    made.save(folder / "audit.json", overwrite=True)
    found = gate(folder / "audit.json", POLICY, recipe=ASKED).reasons
    return [
        reason.met for reason in found if "the audit is of recipe" in reason.text or "of this recipe" in reason.text
    ]


def test_hooks_and_exact_folds_are_of_their_recipe(base, exported, tmp_path):
    assert measured(base, OTHER).recipe == OTHER.digest
    assert measured(base, interp.load(exported)).recipe == OTHER.digest
    assert measured(base, interp.load(exported), recipe=OTHER).recipe == OTHER.digest
    assert of_this(measured(base, ASKED), tmp_path) == [True]
    assert of_this(measured(base, OTHER), tmp_path) == [None]


def test_another_recipe_than_the_checkpoints_own_is_refused(base, exported):
    with pytest.raises(InterpError, match=f"carries recipe {OTHER.digest[:12]}"):
        measured(base, interp.load(exported), recipe=ASKED)


def stripped(folder):
    for name in (MANIFEST, "interp_recipe/recipe.json", "interp_recipe/recipe.safetensors"):
        (folder / name).unlink()
    (folder / "interp_recipe").rmdir()


def test_a_claim_that_no_manifest_bears_out_serves_the_baselines_alone(base, exported, tmp_path):
    stripped(exported)
    made = audit(base, interp.load(exported), SUITE, recipe=ASKED, baselines=["random"])
    assert [one.name for one in made.baselines] == ["random"], "control: it is used"
    assert made.recipe == ""
    assert of_this(made, tmp_path) == [None]
    assert measured(base, base, recipe=ASKED).recipe == "", "nothing was measured of it"


def test_a_recipe_beside_no_edited_model_is_refused(base):
    with pytest.raises(InterpError, match="names the recipe of an edited model"):
        measured(base, OTHER, recipe=ASKED)


def test_a_fold_that_is_not_exact_or_whole_or_of_another_base_is_not_the_recipe(base, exported, tmp_path):
    loose = FoldOptions(approximate=True, keep_norms=True)
    interp.export(OTHER, base, tmp_path / "loose", fold=loose)
    assert measured(base, interp.load(tmp_path / "loose")).recipe == ""
    assert measured(tiny_models.build("llama", seed=2), interp.load(exported)).recipe == ""
    copy = shutil.copytree(exported, tmp_path / "copy")
    assert measured(base, interp.load(copy)).recipe == OTHER.digest, "control"
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")
    assert measured(base, interp.load(copy)).recipe == ""


PROMPTS = ("w5 w6", "w7 w8 w9", "w10 w11")


@pytest.fixture
def model():
    return tiny_models.build("llama", seed=1)


@pytest.fixture
def calls():
    return []


@pytest.fixture
def behaviour(calls):
    def measure(model):
        calls.append(model.render("x", chat=False))
        losses = text_loss("loss", PROMPTS).measure(model).values
        return Scores(losses, ("a", "b", "c"))

    return Behaviour("losses", "capability", "more is worse", PROMPTS, measure, unit="nats")


def same(first, second):
    return str(first) == str(second)


def recipe(seed=0):
    return Recipe([("writers", Project(torch.randn(32, generator=torch.Generator().manual_seed(seed))))])


def test_scores_survive_the_process(model, behaviour, calls, tmp_path):
    first = ScoreCache(tmp_path).scores(ModelCondition(model), behaviour)
    again = ScoreCache(tmp_path).scores(ModelCondition(model), behaviour)
    assert same(first, again)
    assert len(calls) == 1
    assert len(list(tmp_path.iterdir())) == 1, "no temporary file is left"


def test_scores_that_are_missing_are_measured_again_by_the_next_audit(model, behaviour, calls, tmp_path):
    """A judge was down for one item; in one audit the scores stay what they were."""
    whole = behaviour.measure
    partly = replace(
        behaviour, measure=lambda model: replace(found := whole(model), values=(*found.values[:2], float("nan")))
    )
    cache, condition = ScoreCache(tmp_path), ModelCondition(model)
    first = cache.scores(condition, partly)
    assert first.missing == 1
    assert same(cache.scores(condition, partly), first)
    assert len(calls) == 1
    assert ScoreCache(tmp_path).scores(condition, behaviour).missing == 0
    assert ScoreCache(tmp_path).get(condition, partly) is not None, "control: whole scores are kept"


def test_every_part_of_a_condition_counts(model, behaviour, calls, tmp_path):
    cache = ScoreCache(tmp_path)
    conditions = [
        ModelCondition(model),
        ModelCondition(model, recipe()),
        ModelCondition(model, recipe(1)),
        ModelCondition(model, None, "w5"),
    ]
    found = [cache.scores(condition, behaviour).values[:2] for condition in conditions]
    assert len(calls) == 4
    assert len(set(found[:3])) == 3, "control: the edits change the scores"
    assert calls[3] == "w5\n\nx", "the instruction was there when it was measured"
    assert cache.get(ModelCondition(model), replace(behaviour, statement="other")) is None
    with torch.no_grad():
        model.hf.lm_head.weight.mul_(1.5)
    assert cache.get(ModelCondition(model), behaviour) is None
    assert cache.scores(ModelCondition(model), behaviour).values[:2] not in found


def test_models_of_the_same_weights_and_other_settings_are_kept_apart(model, behaviour, calls, tmp_path):
    ScoreCache(tmp_path).scores(ModelCondition(model), behaviour)
    turned = tiny_models.build("llama", seed=1)
    turned.hf.config.rope_parameters["rope_theta"] = 100.0
    turned.hf.model.rotary_emb = type(turned.hf.model.rotary_emb)(turned.hf.config)
    assert turned.digest == model.digest, "control: the weights are the same"
    found = ScoreCache(tmp_path).scores(ModelCondition(turned), behaviour)
    assert len(calls) == 2
    assert found.values[:2] != ScoreCache(tmp_path).scores(ModelCondition(model), behaviour).values[:2]
    turned = tiny_models.build("llama", seed=1)
    turned.tokenizer.chat_template = "{{ messages[0]['content'] }} and so on"
    assert ScoreCache(tmp_path).get(ModelCondition(turned), behaviour) is None
    assert ScoreCache(tmp_path).get(ModelCondition(model), behaviour) is not None, "control"


def test_scores_are_kept_by_rendered_prompts_whatever_the_templates_text_is(model, behaviour, tmp_path):
    def cached(template, date="2025-01-01"):
        model.tokenizer.chat_template, model.date = template, date
        return ScoreCache(tmp_path).get(ModelCondition(model), behaviour) is not None

    dated = "{{ strftime_now('%d %b') }} {{ messages[0].content }}"
    cached(dated)
    ScoreCache(tmp_path).scores(ModelCondition(model), behaviour)
    assert cached(dated)
    assert cached("{# the same prompts #}01 Jan {{ messages[0].content }}")
    assert not cached(dated, "2025-01-02")
    assert not cached("{{ messages[0].content }}"), "control"


def test_scores_of_answers_are_kept_by_how_the_template_writes_an_answer(model, tmp_path):
    asked = choice("c", "capability", "says w9", ["w5 w6"], [["w9", "w10"]], [0], unit="margin")

    def cached(answer, note=""):
        turn = "{% if message.role == 'user' %}w7 {{ message.content }} w8{% else %} " + answer + " w8{% endif %}"
        model.tokenizer.chat_template = "{% for message in messages %}" + turn + "{% endfor %}" + note
        return ScoreCache(tmp_path).get(ModelCondition(model), asked) is not None

    cached("{{ message.content }}")
    ScoreCache(tmp_path).scores(ModelCondition(model), asked)
    assert cached("{{ message.content }}", "{# another text #}")
    assert not cached("{{ message.content | upper }}")


def test_changes_below_bfloat16_are_kept_apart(model, behaviour, tmp_path):
    near = [Recipe([("resid_post.1", interp.Add(torch.full((32,), value)))]) for value in (1.0, 1.0001)]
    assert near[0].digest == near[1].digest, "control: the digest that rounds"
    cache = ScoreCache(tmp_path)
    cache.scores(ModelCondition(model, near[0]), behaviour)
    assert cache.get(ModelCondition(model, near[0]), behaviour) is not None
    assert cache.get(ModelCondition(model, near[1]), behaviour) is None
    weight = model.hf.get_parameter("model.layers.0.mlp.down_proj.weight")
    values = weight.detach().clone()
    weight.data.mul_(1.0001)
    changed = cache.get(ModelCondition(model, near[0].retarget(model)), behaviour)
    weight.data.copy_(values)
    assert changed is None


def test_types_are_kept_apart(behaviour, tmp_path):
    """A digest is that of the values in bfloat16, whichever type was loaded."""
    wide = tiny_models.build("llama", seed=1)
    wide.hf.to(torch.bfloat16).to(torch.float32)
    narrow = tiny_models.build("llama", seed=1)
    narrow.hf.to(torch.bfloat16)
    assert wide.digest == narrow.digest, "control"
    ScoreCache(tmp_path).scores(ModelCondition(wide), behaviour)
    assert ScoreCache(tmp_path).get(ModelCondition(narrow), behaviour) is None


def test_replies_of_secret_behaviours_are_not_kept(model, behaviour, tmp_path):
    secret = replace(behaviour, secret=True)
    assert ScoreCache(tmp_path).scores(ModelCondition(model), secret).replies == ()
    assert "replies" in json.loads(next(tmp_path.iterdir()).read_text())
    assert json.loads(next(tmp_path.iterdir()).read_text())["replies"] == []
    assert ScoreCache(tmp_path / "open").scores(ModelCondition(model), behaviour).replies == ("a", "b", "c"), "control"


def sealed(content):
    """Content under a digest that fits it."""
    return json.dumps(content | {"sha256": sha256_json(content)})


@pytest.mark.parametrize(
    "poison",
    [
        lambda content: json.dumps(content | {"values": [0.0, 0.0, 0.0]}),
        lambda content: json.dumps(content | {"sha256": None}),
        lambda content: json.dumps(content)[:-9],
        lambda content: "[1]",
        lambda content: sealed({"key": {}, "values": content["values"], "replies": []}),
        lambda content: sealed({"key": content["key"], "values": [0.0], "replies": []}),
        lambda content: sealed({"key": content["key"], "values": [None, None, None], "replies": []}),
        lambda content: sealed({"key": content["key"]}),
    ],
    ids=["value", "no digest", "truncated", "list", "of another condition", "too few", "none", "no values"],
)
def test_a_poisoned_file_is_named_and_measured_again(model, behaviour, calls, tmp_path, poison, capsys):
    first = ScoreCache(tmp_path).scores(ModelCondition(model), behaviour)
    file = next(tmp_path.iterdir())
    whole = file.read_text()
    file.write_text(poison(json.loads(whole)))
    cache = ScoreCache(tmp_path)
    assert cache.get(ModelCondition(model), behaviour) is None
    assert same(cache.scores(ModelCondition(model), behaviour), first)
    assert (file.read_text(), len(calls)) == (whole, 2)
    assert capsys.readouterr().err.count(f"{file}: not the scores that were stored") == 1
    ScoreCache(tmp_path).scores(ModelCondition(model), behaviour)
    assert (capsys.readouterr().err, len(calls)) == ("", 2), "control: a whole file is used, and nothing is said"


def test_a_model_that_is_hooked_already_is_refused(model, behaviour):
    with model.hooked(recipe()), pytest.raises(InterpError, match="inside a hooked block"):
        ModelCondition(model).scores(behaviour)


def test_logits_that_are_nan_are_an_error(model):
    behaviour = text_loss("loss", PROMPTS)
    assert ModelCondition(model).scores(behaviour).missing == 0, "control"
    with torch.no_grad():
        model.hf.lm_head.weight[7] = float("nan")
    with pytest.raises(InterpError, match="gave NaN logits while 'loss' was measured"):
        ModelCondition(model).scores(behaviour)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "qwen2", "mixtral"])
def test_padding_is_no_nan(tiny, name):
    uneven = text_loss("loss", ("w5 w6", "w7 " * 30))
    assert ModelCondition(tiny(name)).scores(uneven).missing == 0


def test_workers_measure_what_one_process_does(base, tmp_path):
    """With the same recipe, instruction, dtype and chat template; behaviours may hold functions of any kind."""
    folder = tmp_path / "base"
    base.tokenizer.chat_template = "{% for m in messages %}{{ tone }} {{ m['content'] }} {% endfor %}w7"
    base.tokenizer.save_pretrained(folder)
    model = interp.load(folder, template={"tone": "w9"}, dtype="bfloat16")
    asked = choice("asked", "harm", "s", [f"w{i}" for i in range(5, 25)], [["w1", "w2"]] * 20, [0] * 20)
    own = Behaviour("own", "harm", "", ("w5", "w6"), lambda m: Scores((float(m.dtype == model.dtype), 0.0)))
    suite, options = [*SUITE, asked, own], {"baselines": ["random", "prompt"], "instruction": "w3"}
    one, two = (
        audit(model, ASKED, suite, cache=tmp_path / f"{workers}", workers=workers, **options) for workers in (1, 2)
    )
    assert two == one
    scores = [{file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("1", "2")]
    assert scores[0] == scores[1]
    assert len(scores[0]) == 3 * (2 + 5 + 1), "unedited, edited, five random recipes and the instruction"
    with model.hooked(ASKED), pytest.raises(InterpError, match="is inside a hooked block, and workers load it without"):
        audit(model, None, SUITE, workers=2)
    model.hf.get_output_embeddings().weight.data += 1
    with pytest.raises(InterpError, match=r"a worker loads the model from its files: .*; save a model that"):
        audit(model, ASKED, suite, workers=2, **options)


def test_workers_load_a_model_as_it_was_loaded(base, tmp_path):
    """With an adapter, with pickled weights, and without a tokenizer."""
    peft = pytest.importorskip("peft", reason="pip install 'interp[adapter]'")
    config = peft.LoraConfig(r=2, init_lora_weights=False, target_modules=["down_proj"])
    peft.get_peft_model(interp.load(tmp_path / "base").hf, config).save_pretrained(tmp_path / "adapter")
    adapted = interp.load(tmp_path / "base", adapter=tmp_path / "adapter")
    pickled = tmp_path / "pickled"
    shutil.copytree(tmp_path / "base", pickled)
    torch.save(base.hf.state_dict(), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    mute = tmp_path / "mute"
    shutil.copytree(tmp_path / "base", mute, ignore=shutil.ignore_patterns("tokenizer*"))
    models = [adapted, interp.load(pickled, allow_pickle=True), interp.load(mute)]
    assert models[2].tokenizer is None
    for model in models:
        again = reloader(model)()
        assert (again.digest, again.dtype) == (model.digest, model.dtype)
    assert adapted.digest != base.digest, "control"
