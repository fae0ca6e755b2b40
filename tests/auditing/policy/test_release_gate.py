"""The gate: an audit's file, whole and of this very recipe and model, or the decision stays open."""

import json
import pickle
import shutil
from dataclasses import replace

import audit_rows
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import interp
from interp import InterpError, Project, Recipe
from interp.auditing.policy.release_gate import decide_release, gate
from interp.auditing.policy.schema import Policy
from interp.cli.app import app
from interp.core.files import sha256_file, write_json
from interp.editing.certificate.manifest import MANIFEST, PROVENANCE, ExportManifest
from interp.editing.export.provenance import provenance_statement
from interp.editing.export.signatures import SIGNATURE
from interp.editing.options import FoldOptions
from interp.models.checkpoints import companions

RECIPE = Recipe([("writers", Project(torch.eye(32)[3:4]))])
POLICY = Policy(name="strict", target="toxicity", required=("refusal",))


def audit_of(model, recipe=RECIPE, after=None, refused=1.0, n=200):
    """Of the recipe's hooks on a model, or of a checkpoint."""
    scored = [
        ("toxicity", "harm", "rate", [1.0] * n, [0.0] * n),
        ("refusal", "protected", "rate", [1.0] * n, [refused] * n),
    ]
    return audit_rows.audit_of(scored, model, after, recipe.digest if recipe else "")


@pytest.fixture
def signing_keys(tmp_path):
    """Two pairs of files, each a private key and its public one."""
    pytest.importorskip("model_signing", reason="pip install 'interp[sign]'")
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    def pair(name):
        key, files = ec.generate_private_key(ec.SECP256R1()), (tmp_path / f"{name}.key", tmp_path / f"{name}.pub")
        files[0].write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()))
        public = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
        files[1].write_bytes(public)
        return files

    return pair("first"), pair("second")


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


def test_an_audit_by_hooks_never_allows_the_base_it_was_hooked_on(files):
    model, folder = files
    decided, why = outcome(gate(folder / "audit.json", POLICY, folder / "model"))
    assert decided == "inconclusive"
    assert "by hooks" in why[0]
    assert "interp export MODEL --recipe DIR" in why[0]
    claimed = replace(audit_of(model), edit="weights")
    claimed.save(folder / "claimed.json")
    decided, why = outcome(gate(folder / "claimed.json", POLICY, folder / "model"))
    assert decided == "inconclusive"
    assert "one model has two scores" in why[0]


def rehashed(folder, **changes):
    """The manifest and the provenance statement of a folder, made to fit what is in it."""
    manifest = ExportManifest.at(folder).model_copy(update=changes)
    names = [*manifest.files, *(path.name for path in folder.iterdir() if path.is_file())]
    digests = {name: sha256_file(folder / name) for name in names if name not in (MANIFEST, PROVENANCE, SIGNATURE)}
    weights = {name: digest for name, digest in digests.items() if name == "model.safetensors"}
    write_json(folder / PROVENANCE, provenance_statement(manifest, Recipe.load(folder / "interp_recipe"), weights))
    digests |= {PROVENANCE: sha256_file(folder / PROVENANCE)}
    write_json(folder / MANIFEST, manifest.model_copy(update={"files": digests}).model_dump())


def replaced_weights(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.down_proj.weight"] += 0.01
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def edited_config(folder):
    values = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", values | {"rms_norm_eps": 0.1})


def added_template(folder):
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }} nonsense")


@pytest.mark.parametrize("attack", [replaced_weights, edited_config, added_template])
def test_a_manifest_that_was_rewritten_proves_nothing(files, attack):
    _, folder = files
    interp.export(RECIPE, folder / "model", folder / "edited")
    rehashed(folder / "edited")
    assert gate(folder / "audit.json", POLICY, folder / "edited").allow, "control: rewritten as it was"
    attack(folder / "edited")
    rehashed(folder / "edited")
    ExportManifest.at(folder / "edited").check_files(folder / "edited")
    assert gate(folder / "audit.json", POLICY, folder / "edited").outcome == "inconclusive"


def test_a_manifest_that_does_not_say_what_was_left_out_proves_nothing(files):
    _, folder = files
    (folder / "model" / "chat_template.jinja").write_text("Be safe. {{ messages[0]['content'] }}")
    audit_of(interp.load(folder / "model")).save(folder / "safe.json")
    interp.export(RECIPE, folder / "model", folder / "edited")
    assert gate(folder / "safe.json", POLICY, folder / "edited").allow, "control"
    (folder / "edited" / "chat_template.jinja").unlink()
    kept = ExportManifest.at(folder / "edited").files
    kept.pop("chat_template.jinja")
    rehashed(folder / "edited", left_out=None, files=kept)
    assert interp.verify(folder / "edited").faithful, "an older export brought only some files along"
    decided, why = outcome(gate(folder / "safe.json", POLICY, folder / "edited"))
    assert decided == "inconclusive"
    assert "made again from the base" in why[0]
    assert "but not all" in why[0]


def test_a_folder_that_is_called_organism_is_not_the_organism(files, tiny, monkeypatch):
    model, folder = files
    audit_of(model, None, interp.load("organism")).save(folder / "organism.json")
    monkeypatch.chdir(folder)
    assert gate("organism.json", POLICY, "organism").allow, "control: the bundled one"
    shutil.copytree("model", "organism")
    decided, why = outcome(gate("organism.json", POLICY, "organism"))
    assert decided == "inconclusive"
    assert "the audit is of weights" in why[0]


def test_an_export_without_its_base_needs_it_or_a_signature(files, tiny, signing_keys):
    _, folder = files
    (private, public), (_, other) = signing_keys
    interp.export(RECIPE, folder / "model", folder / "edited", sign=private)
    (folder / "model").rename(folder / "moved")
    decided, why = outcome(gate(folder / "audit.json", POLICY, folder / "edited"))
    assert decided == "inconclusive"
    assert "a manifest alone does not prove" in why[0]
    assert gate(folder / "audit.json", POLICY, folder / "edited", base=folder / "moved").allow
    words = ["gate", folder / "audit.json", "--policy", folder / "policy.yaml", "--checkpoint", folder / "edited"]
    assert run(*words, "--base", folder / "moved")[0] == run(*words, "--key", public)[0] == 0
    assert run(*words)[0] == run(*words, "--key", other)[0] == 2
    second = tiny("llama", seed=2)
    second.hf.save_pretrained(folder / "second")
    second.tokenizer.save_pretrained(folder / "second")
    decided, why = outcome(gate(folder / "audit.json", POLICY, folder / "edited", base=folder / "second"))
    assert decided == "inconclusive"
    assert "the audit is of base's weights" in why[0]
    replaced_weights(folder / "edited")
    rehashed(folder / "edited")
    decided, why = outcome(gate(folder / "audit.json", POLICY, folder / "edited", key=public))
    assert decided == "inconclusive"
    assert "its signature does not hold" in why[0]


@pytest.mark.parametrize(
    "name",
    ["modeling_llama.py", "custom_generate/generate.py", "consolidated.safetensors", "model.gguf",
     "adapter_config.json", "pytorch_model.bin", "tokenizer_config.json", "onnx/model.onnx", "sub/model.safetensors",
     "hook.PY", "hook.so", "Model.SAFETENSORS", "rust_model.OT", "interp_probes.safetensors", "interp_recipe/hook.py",
     "openvino_model.xml", "processor_config.json", "hf_quant_config.json", "tekken.json", "tokenizer.model", "x"],
)  # fmt: skip
def test_what_others_would_load_or_run_but_no_digest_covers_is_not_allowed(files, tiny, name):
    _, folder = files
    audit_of(tiny("llama", seed=2), None, interp.load(folder / "model")).save(folder / "plain.json")
    for harmless in ("README.md", "LICENSE", "vocab.json", "images/curve.png", "eval_results.json", ".gitattributes"):
        (folder / "model" / harmless).parent.mkdir(exist_ok=True)
        (folder / "model" / harmless).write_text("{}")
    assert gate(folder / "plain.json", POLICY, folder / "model").allow, "control"
    file = folder / "model" / name
    file.parent.mkdir(exist_ok=True)
    values = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(values | {"auto_map": {"AutoTokenizer": ["a/b--c.D", None]}}))
    decided, why = outcome(gate(folder / "plain.json", POLICY, folder / "model"))
    assert decided == "inconclusive"
    assert (file.name in why[0]) or "an adapter" in why[0]


def test_weights_in_any_format_count_wherever_they_lie(files, tiny, tmp_path):
    """As they do for what accompanies a checkpoint; controls: the checkpoint's own, a card, a file of data."""
    _, folder = files
    audit_of(tiny("llama", seed=2), None, interp.load(folder / "model")).save(folder / "plain.json")
    unmeasured = [f"sub/x.{ending}" for ending in companions.ENDINGS] + [
        "x.BIN.index.json",
        "a\nb.pt",
        "data",
        "linked",
    ]
    for name in [*unmeasured, "README.md", "sub/rows.csv"]:
        (folder / "model" / name).parent.mkdir(exist_ok=True)
        (folder / "model" / name).write_text("plain") if name != "linked" else None
    (folder / "model" / "data").write_bytes(pickle.dumps({"W": 1}))
    (tmp_path / "elsewhere").mkdir()
    (folder / "model" / "linked").symlink_to(tmp_path / "elsewhere")
    decided, why = outcome(gate(folder / "plain.json", POLICY, folder / "model"))
    assert decided == "inconclusive"
    assert {text.partition(": was not measured")[0] for text in why} == {
        str(folder / "model" / name) for name in unmeasured
    }


@pytest.mark.parametrize(("chat", "recorded"), [
    ({"date": "2024-05-05"}, {"date": "2024-05-05"}),
    ({"template": {"thinks": False, "tools": ["a"]}}, {"template": '{"thinks": false, "tools": ["a"]}'}),
])  # fmt: skip
def test_the_date_and_variables_that_were_measured_are_those_that_are_compared(files, tiny, chat, recorded):
    _, folder = files
    template = "{{ strftime_now('%Y') }} {% if thinks %}{{ tools }}{% endif %}{{ messages[0]['content'] }}"
    (folder / "model" / "chat_template.jinja").write_text(template)
    then, today = interp.load(folder / "model", **chat), interp.load(folder / "model")
    assert then.identity.settings != today.identity.settings, "control"
    assert hash(then.identity) != hash(today.identity)
    made = audit_of(tiny("llama", seed=2), None, then)
    made.save(folder / "then.json")
    decision = gate(folder / "then.json", POLICY, folder / "model")
    assert decision.allow
    assert any("with others nothing was measured" in reason.text for reason in decision.reasons) == ("template" in chat)
    replace(made, after=today.identity.model_copy(update=recorded)).save(folder / "now.json")
    assert gate(folder / "now.json", POLICY, folder / "model").outcome == "inconclusive"
    audit_of(then).save(folder / "hooks.json")
    interp.export(RECIPE, folder / "model", folder / "edited")
    assert gate(folder / "hooks.json", POLICY, folder / "edited").allow


def test_a_quantisation_that_was_not_measured_is_not_allowed(files, tiny):
    _, folder = files
    audit_of(tiny("llama", seed=2), None, interp.load(folder / "model")).save(folder / "plain.json")
    config = json.loads((folder / "model" / "config.json").read_text())
    assert gate(folder / "plain.json", POLICY, folder / "model").allow, "control"
    write_json(folder / "model" / "config.json", config | {"quantization_config": {"quant_method": "fp8"}})
    decided, why = outcome(gate(folder / "plain.json", POLICY, folder / "model"))
    assert decided == "inconclusive"
    assert "quantised" in why[0]


def test_the_base_that_a_checkpoint_was_compared_with_is_checked_where_it_is_given(files, tiny):
    _, folder = files
    other = tiny("llama", seed=2)
    audit_of(other, None, interp.load(folder / "model")).save(folder / "plain.json")
    assert gate(folder / "plain.json", POLICY, folder / "model", base=other).allow
    assert gate(folder / "plain.json", POLICY, folder / "model", base=folder / "model").outcome == "inconclusive"


def respelled(source, target):
    """A copy of a checkpoint whose chat template is another."""
    shutil.copytree(source, target)
    (target / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }} nonsense{% endfor %}")
    return target


def test_a_copy_of_the_same_weights_with_other_settings_is_not_the_audited_one(files, tiny):
    model, folder = files
    other = respelled(folder / "model", folder / "other")
    assert interp.load(other).digest == model.digest, "control"
    audit_of(tiny("llama", seed=2), None, interp.load(folder / "model")).save(folder / "plain.json")
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
    old = replace(audit_of(model, None, model), before=model.reference, after=model.reference)
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
    loose = FoldOptions(approximate=True, keep_norms=True)
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
    shown = r"toxicity \| &lt;b>shown&lt;/b> | 200 | 1.000 \[0.981, 1.000\] | 0.000 \[0.000, 0.019\] |"
    assert f"| toxicity | harm | {shown}" in card
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
        "recipe": audit_of(model, None, model),
        "base": audit_of(tiny("llama", seed=2)),
    }
    made.get(why, audit_of(model)).save(folder / "audit.json", overwrite=True)
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
