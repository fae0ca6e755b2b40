"""The gate: an audit's file, whole and of this very recipe and model, or the decision stays open."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from huggingface_hub import ModelCard
from typer.testing import CliRunner

import interp
from interp import InterpError, Project, Recipe
from interp.auditing.auditor import Audit, AuditRow
from interp.auditing.policy.release_gate import decide_release, gate
from interp.auditing.policy.schema import Policy
from interp.auditing.statistics.comparison import compare
from interp.cli.app import app
from interp.core.files import sha256_file
from interp.editing.certificate.manifest import ExportManifest
from interp.editing.options import FoldOptions

RECIPE = Recipe([("writers", Project(torch.eye(32)[3:4]))])
POLICY = Policy(name="strict", target="toxicity", required=("refusal",))


def row(name, kind, before, after, n=200):
    found = compare([before] * n, [after] * n)
    return AuditRow(name, kind, "rate", f"{name} | <b>shown</b>", found.before, found.after, found.difference)


def audit_of(model, recipe=RECIPE, after=None, refused=1.0):
    """Of the recipe's hooks on a model, or of a checkpoint."""
    rows = (row("toxicity", "harm", 1.0, 0.0), row("refusal", "protected", 1.0, refused))
    return Audit(rows, model.identity, (after or model).identity, recipe=recipe.digest if recipe else "")


@pytest.fixture
def files(tiny, tmp_path):
    """A model on disk, its recipe, a policy, and a clean audit."""
    model = tiny("llama", seed=1)
    model.hf.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    RECIPE.save(tmp_path / "recipe")
    (tmp_path / "policy.yaml").write_text("name: strict\ntarget: toxicity\nrequired: [refusal]\n")
    audit_of(model).save(tmp_path / "audit.json")
    return model, tmp_path


def outcome(decision):
    return decision.outcome, [reason.text for reason in decision.unmet]


def test_an_audit_of_this_recipe_is_allowed_and_of_another_is_not(files):
    _, folder = files
    assert outcome(gate(folder / "audit.json", POLICY, recipe=RECIPE)) == ("allow", [])
    other = Recipe([("writers", Project(torch.eye(32)[4:5]))])
    decided, why = outcome(gate(folder / "audit.json", POLICY, recipe=other))
    assert decided == "inconclusive"
    assert f"not of this one, {other.digest[:12]}; audit again" in why[0]


def test_a_changed_audit_leaves_the_decision_open(files):
    _, folder = files
    values = json.loads((folder / "audit.json").read_text())
    values["rows"][1]["after"]["n"] = 2000
    (folder / "audit.json").write_text(json.dumps(values))
    decided, why = outcome(gate(folder / "audit.json", POLICY))
    assert decided == "inconclusive"
    assert "changed since it was written" in why[0]
    (folder / "none.json").write_text("[1]")
    assert gate(folder / "none.json", POLICY).outcome == "inconclusive"
    with pytest.raises(InterpError, match="no such file"):
        gate(folder / "absent.json", POLICY)
    with pytest.raises(InterpError, match="only allowed models are released"):
        decide_release(folder / "audit.json", POLICY, gate(folder / "audit.json", POLICY))


def test_a_checkpoint_is_the_audited_one_by_its_weights_or_by_base_and_recipe(files):
    model, folder = files
    interp.export(RECIPE, folder / "model", folder / "edited")
    edited = interp.load(folder / "edited")
    assert gate(folder / "audit.json", POLICY, folder / "edited").allow, "an exact fold of what was audited under hooks"
    audit_of(model, None, edited).save(folder / "of_weights.json")
    assert gate(folder / "of_weights.json", POLICY, folder / "edited").allow
    audit_of(model, None, model).save(folder / "of_base.json")
    assert gate(folder / "of_base.json", POLICY, folder / "edited").outcome == "inconclusive"
    assert gate(folder / "of_weights.json", POLICY, folder / "model").outcome == "inconclusive", "no manifest: weights"
    (folder / "edited" / "config.json").write_text("{}")
    decided, why = outcome(gate(folder / "audit.json", POLICY, folder / "edited"))
    assert decided == "inconclusive"
    assert "config.json: changed after the export" in why[0]


def respelled(source, target):
    """A copy of a checkpoint whose chat template is another."""
    shutil.copytree(source, target)
    (target / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }} nonsense{% endfor %}")
    return target


def test_a_copy_of_the_same_weights_with_other_settings_is_not_the_audited_one(files):
    model, folder = files
    other = respelled(folder / "model", folder / "other")
    assert interp.load(other).digest == model.digest, "control"
    audit_of(model, None, interp.load(folder / "model")).save(folder / "plain.json")
    assert gate(folder / "plain.json", POLICY, folder / "model").allow, "control"
    decided, why = outcome(gate(folder / "plain.json", POLICY, other))
    assert decided == "inconclusive"
    assert "the audit is of settings" in why[0]
    interp.export(RECIPE, other, folder / "of_other")
    decided, why = outcome(gate(folder / "audit.json", POLICY, folder / "of_other"))
    assert decided == "inconclusive"
    assert "the audit is of base's settings" in why[0]
    (folder / "model" / "chat_template.jinja").write_text((other / "chat_template.jinja").read_text())
    code, _, problem = export(folder, "--require", folder / "audit.json", "--policy", folder / "policy.yaml")
    assert (code, (folder / "out").exists()) == (1, False)
    assert "the decision is on a model with settings" in str(problem)


def test_an_audit_that_states_no_settings_leaves_the_decision_open(files):
    model, folder = files
    old = replace(audit_of(model, None), before=model.reference, after=model.reference)
    old.save(folder / "old.json")
    decided, why = outcome(gate(folder / "old.json", POLICY, folder / "model"))
    assert decided == "inconclusive"
    assert "the audit is of settings unknown" in why[0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("protected_drop_at_most: .inf\n", "protected_drop_at_most is inf; expected a number.*finite"),
        ("protected_drop_at_most: .nan\n", "protected_drop_at_most is nan; expected"),
        (
            "tiers: [{name: a, thresholds: [{every: harm, at_most: .inf}]}]\n",
            "at_most is inf; expected a number.*finite",
        ),
        ("protected_drop_at_most: .01\nprotected_drop_at_most: 5\n", "key 'protected_drop_at_most' is there twice"),
    ],
)
def test_a_policy_whose_limit_is_none_or_is_there_twice_is_refused(tmp_path, text, says):
    file = tmp_path / "policy.yaml"
    file.write_text(f"target: toxicity\n{text}")
    with pytest.raises(InterpError, match=says):
        Policy.read(file)
    file.write_text("target: toxicity\nprotected_drop_at_most: .01\n")
    assert Policy.read(file).protected_drop_at_most == 0.01, "control"


def test_hooks_say_nothing_of_a_fold_that_is_not_exact(files):
    _, folder = files
    loose = FoldOptions(approximate=True, leave_embedding=True)
    interp.export(RECIPE, folder / "model", folder / "loose", fold=loose)
    decided, why = outcome(gate(folder / "audit.json", POLICY, folder / "loose"))
    assert decided == "inconclusive"
    assert "the fold is approximate" in why[0]


def run(*words):
    done = CliRunner().invoke(app, [str(word) for word in words])
    return done.exit_code, done.output, done.exception


def export(folder, *more):
    return run("export", folder / "model", "--recipe", folder / "recipe", "--out", folder / "out", *more)


def test_an_export_that_needs_an_audit_keeps_the_decision_and_its_inputs(files):
    _, folder = files
    code, said, _ = export(folder, "--require", folder / "audit.json", "--policy", folder / "policy.yaml")
    assert code == 0, said
    kept = ExportManifest.at(folder / "out").release
    assert (kept.outcome, kept.policy, kept.recipe) == ("allow", "strict", RECIPE.digest)
    assert kept.audit_sha256 == sha256_file(folder / "audit.json")
    assert kept.policy_sha256 == POLICY.digest
    assert any("refusal: drops by at most" in reason for reason in kept.reasons)
    card = ModelCard.load(folder / "out" / "README.md").text
    assert kept.audit_sha256 in card
    assert (
        "| toxicity | harm | toxicity \\| &lt;b>shown&lt;/b> | 200 | 1.000 [0.981, 1.000] | 0.000 [0.000, 0.019] |"
        in card
    )
    assert "Decision under the policy strict: **allow**." in card
    assert interp.verify(folder / "out").faithful
    assert (
        run("gate", folder / "audit.json", "--policy", folder / "policy.yaml", "--checkpoint", folder / "out")[0] == 0
    )


@pytest.mark.parametrize("why", ["deny", "tampered", "recipe", "base"])
def test_an_export_that_is_not_allowed_writes_nothing(files, tiny, why):
    model, folder = files
    made = {
        "deny": audit_of(model, refused=0.0),
        "recipe": audit_of(model, None),
        "base": audit_of(tiny("llama", seed=2)),
    }
    made.get(why, audit_of(model)).save(folder / "audit.json")
    if why == "tampered":
        text = (folder / "audit.json").read_text()
        (folder / "audit.json").write_text(text.replace('"n": 200', '"n": 2000'))
    before = sorted(folder.iterdir())
    code, said, problem = export(folder, "--require", folder / "audit.json", "--policy", folder / "policy.yaml")
    if why == "base":
        assert isinstance(problem, InterpError)
        assert "audit the recipe on this model" in str(problem)
    else:
        assert (code, said.splitlines()[-1]) == ((1, "deny") if why == "deny" else (2, "inconclusive"))
    assert sorted(folder.iterdir()) == before


def test_require_goes_with_a_policy_and_with_a_certified_checkpoint(files):
    _, folder = files
    for words in (["--require", "a.json"], ["--policy", "release"], ["--safeguard", "x"]):
        assert "go together" in str(export(folder, *words)[2])
    asked = ["--require", folder / "audit.json", "--policy", folder / "policy.yaml"]
    for words in (["--streamed"], ["--dry-run"], ["--form", "adapter"]):
        assert "is for checkpoints that are certified" in str(export(folder, *asked, *words)[2])


def test_safeguards_that_are_stated_are_kept(files):
    _, folder = files
    tier = {"name": "some", "ceilings": [{"every": "harm", "at_most": 0.5}], "safeguards": ["filtered outputs"]}
    (folder / "policy.yaml").write_text(json.dumps({"tiers": [tier]}))
    asked = ["--require", folder / "audit.json", "--policy", folder / "policy.yaml"]
    assert export(folder, *asked)[0] == 1
    assert export(folder, *asked, "--safeguard", "filtered outputs")[0] == 0
    kept = ExportManifest.at(folder / "out").release
    assert (kept.tier, kept.safeguards) == ("some", ("filtered outputs",))
    assert "Safeguards stated to be in place: filtered outputs." in (folder / "out" / "README.md").read_text()
