"""Audits: paired, tested, corrected, with baselines beside; killed ones go on; changed files are refused."""

import hashlib
import json
import time
from dataclasses import replace

import processes
import pytest
import tiny_models
import torch

import interp
from interp import Add, InterpError, Project, Recipe
from interp.auditing._random_recipes import randomise
from interp.auditing.auditor import Audit, audit, suite_digest
from interp.auditing.behaviours import Behaviour, Scores
from interp.auditing.conditions import ModelCondition, ScoreCache
from interp.auditing.scoring.choices import text_loss
from interp.auditing.statistics.comparison import compare_scores
from interp.auditing.statistics.significance import holm
from interp.cli.audit import _notes
from interp.views.report_page import Report, write_report

WORDS = [" ".join(f"w{(7 * i + 3 * j) % 100 + 5}" for j in range(6)) for i in range(40)]


def direction(seed=0):
    return torch.randn(32, generator=torch.Generator().manual_seed(seed))


def recipe(scale=1.0):
    return Recipe([("writers", Project(direction(), scale))])


@pytest.fixture
def model():
    return tiny_models.build("llama", seed=1)


def word_chosen(name="prefers", kind="harm", **described):
    """1 where w7 is likelier to come next than w9."""

    def measure(model):
        ids = [model.tokens(word).ids[0, -1] for word in ("w7", "w9")]
        logits = model.logits([model.render(text, chat=False) for text in WORDS], last=1)[:, 0]
        return Scores(tuple((logits[:, ids[0]] > logits[:, ids[1]]).double().tolist()), tuple(WORDS))

    return Behaviour(name, kind, "w7 is preferred to w9", tuple(WORDS), measure, **described)


def suite():
    return [word_chosen(), text_loss("loss", WORDS), word_chosen("kept", "protected")]


def test_rows_are_paired_comparisons_corrected_over_the_suite(model):
    made = audit(model, recipe(), suite(), seed=3)
    before, after = ModelCondition(model), ModelCondition(model, recipe())
    expected = [compare_scores(before.scores(b).values, after.scores(b).values, b.groups, b.unit, 3) for b in suite()]
    for row, comparison in zip(made.rows, expected, strict=True):
        for name in ("before", "after", "difference", "p", "effect", "detectable", "n_groups", "missing", "constant"):
            assert getattr(row, name) == getattr(comparison, name), name
    assert [row.p_holm for row in made.rows] == list(holm([c.p for c in expected]))
    assert made["loss"].difference.estimate != 0, "control"
    assert made["loss"].better == -made["loss"].difference.estimate
    assert (made["prefers"].kind, made["loss"].unit, made["loss"].n_groups) == ("harm", "nats", 40)


def test_it_names_what_it_was_made_of(model):
    behaviours, edit = suite(), recipe()
    made = audit(model, edit, behaviours, instruction="w5")
    assert made.before.digest == made.after.digest == model.digest
    assert (made.recipe, made.suite, made.seed, made.instruction) == (edit.digest, suite_digest(behaviours), 0, "w5")
    assert made.suite == suite_digest(behaviours[::-1]) != suite_digest(behaviours[1:])
    assert {"torch", "interp"} <= set(made.versions)
    assert [row.digest for row in made.rows] == [behaviour.digest for behaviour in behaviours]


def test_the_baselines_are_random_edits_and_an_instruction(model):
    behaviours, edit = suite(), recipe()
    made = audit(model, edit, behaviours, instruction="w5 w6", seed=2)
    random, prompt = made.baselines
    drawn = [ModelCondition(model, randomise(edit, model, 2000 + number)) for number in range(5)]
    for behaviour in behaviours:
        plain = ModelCondition(model).scores(behaviour).values
        scores = [condition.scores(behaviour) for condition in drawn]
        assert [one[behaviour.name] for one in random.each] == pytest.approx([one.mean for one in scores])
        change = sum(one.mean for one in scores) / 5 - sum(plain) / len(plain)
        assert random.changes[behaviour.name].estimate == pytest.approx(change, abs=1e-9)
        told = ModelCondition(model, None, "w5 w6").scores(behaviour)
        assert prompt.scores[behaviour.name] == pytest.approx(told.mean)
    assert prompt.scores["prefers"] != made["prefers"].before.estimate, "control: the instruction is read"
    assert audit(model, edit, behaviours, baselines=()).baselines == ()
    with pytest.raises(InterpError, match="unknown baseline 'randon'; did you mean random"):
        audit(model, edit, behaviours, baselines=["randon"])
    with pytest.raises(InterpError, match="the random baseline needs the recipe"):
        audit(model, model, behaviours, baselines=["random"])


def test_a_checkpoint_is_audited_as_its_recipe_is(model, tmp_path):
    """The exported weights give what the hooks give, and bring the recipe for the random baseline along."""
    model.tokenizer.save_pretrained(tmp_path / "base")
    model.hf.save_pretrained(tmp_path / "base")
    base = interp.load(tmp_path / "base")
    interp.export(recipe(), base, tmp_path / "edited")
    edited = interp.load(tmp_path / "edited")
    by_weights, by_hooks = audit(base, edited, suite()), audit(base, recipe(), suite())
    for one, other in zip(by_weights.rows, by_hooks.rows, strict=True):
        assert one.after.estimate == pytest.approx(other.after.estimate, abs=1e-4)
    assert [b.name for b in by_weights.baselines] == ["random", "prompt"]
    assert by_weights.baselines == by_hooks.baselines
    assert by_weights.recipe == by_hooks.recipe
    assert by_weights.after.digest == edited.digest != base.digest


def test_other_tokenizers_are_refused(model):
    other = tiny_models.build("llama", seed=2)
    assert audit(model, other, suite(), baselines=()).rows, "control: an equal tokenizer of its own"
    other.tokenizer.add_tokens(["w999"])
    with pytest.raises(InterpError, match=r"different tokenizers \(1 entries of their vocabularies differ\)"):
        audit(model, other, suite(), baselines=())
    other = tiny_models.build("llama", seed=2)
    other.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    with pytest.raises(InterpError, match="their chat templates differ"):
        audit(model, other, suite(), baselines=())
    other.tokenizer = None
    with pytest.raises(InterpError, match="has none"):
        audit(model, other, suite(), baselines=())


def test_a_model_is_measured_as_it_is_once(model):
    calls = []
    whole = word_chosen().measure
    counting = replace(word_chosen(), measure=lambda model: calls.append(1) or whole(model))
    made = audit(model, None, [counting])
    assert (made.edited, made.after, made.baselines, len(calls)) == (False, made.before, (), 1)
    assert made["prefers"].before.estimate == pytest.approx(counting.scores(model).mean)
    assert audit(model, recipe(), [counting], baselines=()).edited, "control"


def test_a_scorer_that_is_constant_says_so(model):
    always = replace(word_chosen(), measure=lambda model: Scores((1.0,) * len(WORDS)))
    assert audit(model, recipe(), [always], baselines=())["prefers"].constant
    assert not audit(model, recipe(), [word_chosen()], baselines=())["prefers"].constant


def test_what_can_give_no_audit_is_refused_before_anything_is_measured(model):
    def measured(model):
        raise AssertionError("measured")

    alone = replace(text_loss("alone", WORDS), measure=measured)
    for one in (replace(alone, prompts=alone.prompts[:1]), replace(alone, groups=("one",) * len(WORDS))):
        with pytest.raises(InterpError, match="behaviour 'alone' has one item, or one group"):
            audit(model, recipe(), [one])
    with pytest.raises(AssertionError, match="measured"):
        audit(model, recipe(), [alone])  # control: it would have been
    with pytest.raises(InterpError, match="examples is -1"):
        audit(model, recipe(), [alone], examples=-1)
    single = replace(word_chosen(), prompts=(WORDS[0],), measure=lambda model: Scores((1.0,)))
    assert audit(model, recipe(), [single], baselines=())["prefers"].after.n == 1, "a rate's spread follows from it"


def test_missing_scores_are_counted_and_never_a_pass(model):
    def judged(model):
        return Scores((float("nan"), *word_chosen().measure(model).values[1:]))

    row = audit(model, recipe(), [replace(word_chosen(), measure=judged)])["prefers"]
    assert (row.missing, row.after.n) == (1, len(WORDS) - 1)


def test_missing_scores_are_counted_by_side_and_unequal_rates_are_said(model, tmp_path, capsys):
    """A judge that fails on 1 item of the unedited model, 3 of the edited one, and 2 of the instructed one."""

    def judged(lost):
        counts = iter(lost)

        def measure(model):
            gone = next(counts)
            return Scores(tuple(float("nan") if n < gone else x for n, x in enumerate(whole(model).values)))

        return replace(word_chosen(), measure=measure)

    whole = word_chosen().measure
    made = audit(model, recipe(), [judged((1, 3, 2))], baselines=["prompt"])
    row = made["prefers"]
    assert (row.missing, row.missing_before, row.missing_after, made.baselines[0].missing) == (3, 1, 3, {"prefers": 2})
    write_report(Report("r", made.before, audit=made, baselines=made.baselines), tmp_path / "page.html")
    page, notes = (tmp_path / "page.html").read_text(), "\n".join(_notes(made))
    for shown in (notes, page, row._repr_html_()):
        assert "1 before, 3 after; the rates differ" in shown
    assert "without a score 1 before, 2 under the prompt baseline; the rates differ" in notes
    assert "2 missing" in page
    made.save(tmp_path / "audit.json")
    assert Audit.read(tmp_path / "audit.json") == made
    alike = audit(model, recipe(), [judged((2, 2, 2))], baselines=["prompt"])
    assert [note.partition("items")[2] for note in _notes(alike)] == [" have no score (2 before, 2 after)"], "control"


def test_a_behaviour_without_any_score_ends_the_audit_by_name_and_is_not_kept(model, tmp_path):
    """A judge that is down: once it is up, the same audit goes on."""
    up = word_chosen().measure
    down = replace(word_chosen(), measure=lambda model: Scores((float("nan"),) * len(WORDS)))
    with pytest.raises(InterpError, match=f"behaviour 'prefers': none of its {len(WORDS)} items has a score"):
        audit(model, recipe(), [down], baselines=(), cache=tmp_path)
    assert audit(model, recipe(), [replace(down, measure=up)], baselines=(), cache=tmp_path)["prefers"].missing == 0
    halves = iter([(0, len(WORDS) // 2), (len(WORDS) // 2, len(WORDS))])

    def half(model):
        start, stop = next(halves)
        return Scores(tuple(x if start <= i < stop else float("nan") for i, x in enumerate(up(model).values)))

    with pytest.raises(InterpError, match=r"behaviour 'prefers': none of .* both before and after"):
        audit(model, recipe(), [replace(down, measure=half)], baselines=())


def test_secret_replies_are_no_examples(model):
    shown = audit(model, recipe(), [word_chosen()], baselines=(), examples=3).examples
    assert len(shown) == 3
    assert audit(model, recipe(), [word_chosen(secret=True)], baselines=()).examples == ()


def test_an_audit_survives_its_file_and_a_changed_one_is_refused(model, tmp_path):
    file = tmp_path / "audit.json"
    made = audit(model, recipe(), suite())
    made.save(file)
    assert Audit.read(file) == made
    assert json.loads(file.read_text())["sha256"] == made.digest
    for change in (
        lambda plain: plain["rows"][0]["after"].update(estimate=0.0),
        lambda plain: plain["after"].update(digest="0" * 64),
        lambda plain: plain["rows"].pop(),
        lambda plain: plain["baselines"][0]["scores"].update(prefers=1.0),
        lambda plain: plain.update(seed=9),
    ):
        plain = json.loads(file.read_text())
        change(plain)
        (tmp_path / "changed.json").write_text(json.dumps(plain))
        with pytest.raises(InterpError, match="changed since it was written"):
            Audit.read(tmp_path / "changed.json")


def in_row(**values):
    return lambda plain: plain["rows"][0].update(values)


def in_side(side, **values):
    return lambda plain: plain["rows"][0][side].update(values)


def spliced(plain):
    """A row with its scores from an audit of another suite."""
    plain["rows"][0].update(name="other")
    plain["items"]["other"] = plain["items"].pop("prefers")


@pytest.fixture(scope="module")
def whole():
    """The text of an audit, with one baseline."""
    model = tiny_models.build("llama", seed=1)
    return json.dumps(audit(model, recipe(), [word_chosen()], baselines=["prompt"], instruction="w5").to_json())


def forged(plain):
    """`plain` under a digest that fits it; of NaN as Python writes it."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return json.dumps(plain | {"sha256": hashlib.sha256(text.encode()).hexdigest()})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (in_row(kind="foo"), "not an audit"),
        (in_row(kind=None), "not an audit"),
        (in_row(name=3), "not an audit"),
        (in_row(chance="x"), "not an audit"),
        (in_row(missing="a"), "not an audit"),
        (in_side("difference", low=True), "not an audit"),
        (in_side("difference", low=None), "not an audit"),
        (in_side("before", estimate=float("nan")), "not"),
        (in_side("after", high=float("nan")), "not"),
        (in_side("difference", low=-float("inf")), "not"),
        (in_row(p_holm=float("nan")), "not"),
        (lambda plain: plain.update(recipe=None), "not an audit"),
        (in_row(missing=-30), r"rows\.0\.missing is -30, but what was measured gives 0"),
        (in_side("after", n=0), r"rows\.0\.after\.n is 0, but what was measured gives 40"),
        (in_side("after", n=10**9), r"rows\.0\.after\.n is 1000000000"),
        (in_row(n_groups=10**9), r"rows\.0\.n_groups"),
        (in_side("after", low=0.1, high=0.1), r"rows\.0\.after\.low"),
        (in_side("difference", low=0.1, high=-0.9), r"rows\.0\.difference\.low"),
        (in_side("after", low=-7.0), r"rows\.0\.after\.low"),
        (in_side("after", estimate=0.99, high=1.0), r"rows\.0\.after\.estimate"),
        (in_row(p_holm=-1.0), r"rows\.0\.p_holm"),
        (in_row(p=0.0), r"rows\.0\.p is 0.0"),
        (in_row(kind="capability"), r"rows\.0\.digest"),
        (in_row(unit="margin"), r"rows\.0\..* but what was measured gives"),
        (in_row(statement="is kind"), r"rows\.0\.digest"),
        (in_row(chance=100.0), "chance is no rate below 1"),
        (in_row(digest="0" * 64), "its suite is not that of its behaviours"),
        (lambda plain: plain["rows"].append(plain["rows"][0]), "have the same name"),
        (lambda plain: plain["rows"].pop(), "its scores are of other behaviours"),
        (spliced, "its examples are of other behaviours|its suite is not"),
        (lambda plain: plain.update(suite="0" * 64), "its suite is not"),
        (lambda plain: plain.update(edit="none"), "not those of its edit"),
        (lambda plain: plain.update(recipe=""), "not those of its edit"),
        (lambda plain: plain["after"].update(digest="0" * 64), "not those of its edit"),
        (lambda plain: plain["items"]["prefers"]["arms"].update(after=["1 0"]), "differ in number"),
        (lambda plain: plain["items"]["prefers"]["arms"].update(after=["nan " * 39 + "1"]), "a finite number"),
        (lambda plain: plain["items"]["prefers"]["arms"].update(after=["7 " * 39 + "1"]), "rates go from 0 to 1"),
        (lambda plain: plain["items"]["prefers"]["arms"].update(after=["1 " * 39 + "1"]), r"rows\.0\.after\.estimate"),
        (lambda plain: plain["items"]["prefers"]["arms"].update(before=[]), "not an audit"),
        (lambda plain: plain["items"].clear(), "its scores are of other behaviours"),
        (
            lambda plain: plain["baselines"][0]["scores"].update(prefers=0.123),
            r"baselines\.0\.scores\.prefers is 0.123",
        ),
        (
            lambda plain: plain["baselines"][0]["changes"]["prefers"].update(low=-0.9),
            r"baselines\.0\.changes\.prefers\.low",
        ),
        (lambda plain: plain["baselines"].append(plain["baselines"][0] | {"name": "random"}), "not an audit"),
        (lambda plain: plain.update(format=2), "its format 2 has no scores"),
    ],
)
def test_what_does_not_follow_from_the_scores_is_refused_whatever_the_digest(whole, tmp_path, change, says):
    plain = json.loads(whole)
    change(plain)
    (tmp_path / "forged.json").write_text(forged(plain))
    with pytest.raises(InterpError, match=says):
        Audit.read(tmp_path / "forged.json")


def test_what_follows_from_the_scores_is_read(model, tmp_path):
    """The control: a file that was written elsewhere, of every unit, with clusters, missing scores and secrets."""

    def partly(model):
        return Scores((float("nan"), *word_chosen().measure(model).values[1:]))

    grouped = replace(text_loss("grouped", WORDS), groups=tuple(f"g{i % 11}" for i in range(len(WORDS))))
    suite = [replace(word_chosen(secret=True), measure=partly), grouped, word_chosen("kept", "protected")]
    made = audit(model, recipe(), suite, seed=2, instruction="w5")
    (tmp_path / "whole.json").write_text(forged(made.to_json()))
    assert Audit.read(tmp_path / "whole.json") == made
    assert made.items["prefers"].arms["before"][0][0] is None
    assert not any(word in json.dumps(made.to_json()["items"]) for word in WORDS)
    twice = (tmp_path / "whole.json").read_text()[:-1] + f', "seed": {made.seed}}}'
    (tmp_path / "twice.json").write_text(twice)
    with pytest.raises(InterpError, match="key 'seed' is there twice"):
        Audit.read(tmp_path / "twice.json")


def test_a_saved_audit_is_replaced_only_where_that_is_asked_for(model, tmp_path):
    made = audit(model, recipe(), [word_chosen()], baselines=())
    made.save(tmp_path / "audit.json")
    with pytest.raises(InterpError, match=r"exists already; .*overwrite=True"):
        replace(made, seed=1).save(tmp_path / "audit.json")
    assert Audit.read(tmp_path / "audit.json") == made
    replace(made, versions={}).save(tmp_path / "audit.json", overwrite=True)
    assert Audit.read(tmp_path / "audit.json").versions == {}


class Killed(BaseException):
    """What no handler catches."""


@pytest.fixture(scope="module")
def undisturbed():
    return audit(tiny_models.build("llama", seed=1), recipe(), suite())


@pytest.mark.parametrize("when", [0, 1, 4, 9])
def test_a_killed_audit_goes_on_to_the_same_result(model, undisturbed, tmp_path, when):
    """Killed inside its `when`-th measurement, and begun anew in another process (a cache of its own)."""
    counts = []

    def counted(behaviour):
        def measure(model):
            counts.append(behaviour.name)
            if len(counts) == when + 1:
                raise Killed
            return behaviour.measure(model)

        return replace(behaviour, measure=measure)

    behaviours = [counted(behaviour) for behaviour in suite()]
    with pytest.raises(Killed):
        audit(model, recipe(), behaviours, cache=ScoreCache(tmp_path))
    assert len(list(tmp_path.iterdir())) == when
    assert audit(model, recipe(), behaviours, cache=ScoreCache(tmp_path)) == undisturbed
    assert len(counts) == 8 * 3 + 1, "nothing that was finished was measured again"


def test_the_unedited_model_is_measured_once_for_all_edits(model, tmp_path):
    audit(model, recipe(), suite(), cache=tmp_path, baselines=("prompt",))
    before = len(list(tmp_path.iterdir()))
    audit(model, Recipe([("resid_post.1", Add(direction(), 2.0))]), suite(), cache=tmp_path, baselines=("prompt",))
    assert len(list(tmp_path.iterdir())) == before + 3


def test_a_process_that_is_killed_goes_on(tmp_path):
    """SIGKILL while the command runs; the same command then writes what an undisturbed one writes."""
    edit = Recipe([("writers", Project(torch.randn(interp.load("organism").d_model, generator=torch.Generator())))])
    edit.save(tmp_path / "recipe")
    command = ["from interp.cli.app import main; main()", "audit", "organism", "--recipe", tmp_path / "recipe"]
    command += ["--items", 4, "--baselines", "prompt", "--only", "hostility", "--only", "facts"]
    cache = tmp_path / "cache"
    words = [*command, "--out", tmp_path / "a.json", "--cache", cache]
    killed = processes.start(*words, output=tmp_path / "printed")
    while killed.is_alive() and len(list(cache.glob("*.json"))) < 3:
        time.sleep(0.02)
    killed.kill()
    killed.join()
    assert not (tmp_path / "a.json").exists()
    for name, folder in (("a.json", cache), ("b.json", tmp_path / "other")):
        processes.run(*command, "--out", tmp_path / name, "--cache", folder)
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()


def test_behaviours_of_one_name_and_none_are_refused(model):
    for behaviours in ([], [word_chosen(), word_chosen()]):
        with pytest.raises(InterpError, match="needs behaviours of different names"):
            audit(model, recipe(), behaviours)


def test_a_recipe_of_another_model_is_refused_before_anything_is_measured(tiny, tmp_path):
    loss = text_loss("loss", ["w5 w6 w7 w8", "w9 w10 w11"])
    edit = [("writers", Project(torch.eye(32)[:1]))]
    with pytest.raises(InterpError, match="the recipe was made for"):
        audit(tiny("llama"), Recipe(edit, model=tiny("llama", seed=1).reference), [loss], cache=tmp_path / "scores")
    assert not (tmp_path / "scores").exists()
    audit(tiny("llama"), Recipe(edit, model=tiny("llama").reference), [loss], baselines=[], cache=tmp_path / "scores")
    assert list((tmp_path / "scores").iterdir()), "control: scores of its own model are kept"
