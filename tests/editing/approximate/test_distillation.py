"""Recipes that have no fold, distilled: the KL that remains, the merge, its verification, and its undoing."""

import json
import shutil
import sys

import pytest
import torch
from distilling import FRESH, QUICK, TEXTS, gated, kl, row
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from interp import Add, InterpError, Project, Recipe
from interp.cli import app
from interp.core.files import sha256_file
from interp.editing.approximate.distillation import distil
from interp.editing.approximate.low_rank_factors import FACTORS, Distilled
from interp.editing.certificate.manifest import MANIFEST
from interp.editing.certificate.verifier import verify
from interp.editing.export.adapter import LoraAdapter, export_adapter
from interp.editing.export.exporter import export
from interp.editing.export.restoring import undo
from interp.editing.fold.steps import fold
from interp.editing.options import FoldOptions
from interp.interventions.gate import Gate, Reads


@pytest.fixture(scope="module")
def distilled(tiny):
    model = tiny("llama")
    return distil(gated(model), model, TEXTS, rank=8, steps=120, lr=0.03, batch_size=16)


@pytest.fixture(scope="module")
def exported(tiny, distilled, tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("distilled") / "out", tiny("llama")
    return folder, export(gated(model), model, folder, undo=True, distilled=distilled)


def test_a_gated_edit_is_distilled_to_a_fraction_of_its_effect(tiny, distilled):
    model, recipe = tiny("llama"), gated(tiny("llama"))
    with pytest.raises(InterpError, match="acts at some tokens only"):
        fold(recipe, model.config, model.hf.state_dict(), tied=False)
    tokens = model.tokens(FRESH)
    plain = model.logits(tokens)
    with model.hooked(recipe):
        hooked = model.logits(tokens)
    with distilled.running(model):
        found = model.logits(tokens)
    assert kl(plain, hooked) > 0.01, "control: the edit matters"
    assert kl(hooked, found) < 0.25 * kl(hooked, plain)
    assert distilled.record.effect_kl == pytest.approx(kl(hooked, plain), rel=0.2)
    assert distilled.record.share < 0.25
    torch.testing.assert_close(model.logits(tokens), plain, rtol=0, atol=0)


def test_held_out_figures_are_those_of_the_held_out_documents(tiny):
    """Computed once more, one document at a time, from logits alone."""
    model = tiny("gpt2")
    recipe, texts = gated(model), TEXTS[:20]
    found = distil(recipe, model, texts, held_out=0.25, **QUICK)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0)).tolist()
    kls, effects = [], []
    for number in order[:5]:
        plain = model.logits(texts[number])[0]
        with model.hooked(recipe):
            hooked = model.logits(texts[number])[0]
        with found.running(model):
            kls.append(kl(hooked, model.logits(texts[number])[0]))
        effects.append(kl(hooked, plain))
    record = found.record
    assert (record.documents, record.held_out_documents, record.held_out_tokens) == (15, 5, 5 * 14)
    assert record.effect_kl != pytest.approx(record.kl)
    assert record.kl == pytest.approx(sum(kls) / 5, rel=1e-3)
    assert record.effect_kl == pytest.approx(sum(effects) / 5, rel=1e-3)


def test_without_a_step_everything_remains_and_more_rank_and_steps_leave_less(tiny):
    model = tiny("llama")
    none = distil(gated(model), model, TEXTS, rank=4, steps=0)
    some = distil(gated(model), model, TEXTS, rank=4, steps=15, lr=0.03)
    assert none.record.share == 1.0
    assert some.record.share < 0.8
    assert some.losses[-1] < 0.7 * some.losses[0]


def test_the_same_seed_gives_the_same_factors_and_the_model_is_left_alone(tiny):
    model = tiny("llama")
    before = {name: x.clone() for name, x in model.hf.state_dict().items()}
    first, again, other = (distil(gated(model), model, TEXTS[:40], seed=seed, **QUICK) for seed in (0, 0, 1))
    assert first.record == again.record != other.record
    assert all(torch.equal(x, before[name]) for name, x in model.hf.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.hf.parameters())
    layers = {int(name.split(".")[2]) for name in first.pairs}
    assert layers == {1, 2}, "before the recipe's first site nothing has to change"


def test_an_export_says_how_it_was_distilled_and_verifies(tiny, distilled, exported):
    model, (folder, certificate) = tiny("llama"), exported
    told = json.loads((folder / MANIFEST).read_text())
    assert (told["status"], certificate.status) == ("approximate", "approximate")
    assert told["made"]["distilled"] == distilled.record.model_dump()
    assert certificate.kl < 0.3 * certificate.effect_kl
    assert certificate.tokens == 32 * 14, "on held-out documents"
    assert "distilled at rank 8 in 120 steps" in (folder / "README.md").read_text()
    again = verify(folder, model)
    assert again.kl == pytest.approx(certificate.kl, rel=1e-3)
    read = Distilled.load(folder / FACTORS)
    assert read.record == distilled.record
    assert all(
        torch.equal(x, y) for name in read.pairs for x, y in zip(read.pairs[name], distilled.pairs[name], strict=True)
    )


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("what", ["weights", "factors", "record"])
def test_what_was_tampered_with_is_found(tiny, exported, tmp_path, what, told):
    """Even where the manifest was made to agree with the changed file."""
    folder = tmp_path / "out"
    shutil.copytree(exported[0], folder)
    file = folder / ("model.safetensors" if what == "weights" else FACTORS)
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    if what == "record":
        metadata["distillation"] = metadata["distillation"].replace('"steps":120', '"steps":121')
    else:
        changed = next(name for name in tensors if "layers.2.mlp.down_proj" in name)
        tensors[changed][0, 0] += 0.01
    save_file(tensors, file, metadata=metadata)
    if told:
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest["files"][file.name] = sha256_file(file)
        (folder / MANIFEST).write_text(json.dumps(manifest))
    why = "not what the recipe makes|do not match its record|not the factors" if told else "SHA-256 differs"
    with pytest.raises(InterpError, match=why):
        verify(folder, tiny("llama"))


def test_a_distilled_export_can_be_undone(tiny, exported, tmp_path):
    model, (folder, _) = tiny("llama"), exported
    undo(folder, tmp_path / "original")
    original = load_file(tmp_path / "original" / "model.safetensors")
    edited = load_file(folder / "model.safetensors")
    state = model.hf.state_dict()
    assert max(float((edited[name] - x).abs().max()) for name, x in state.items()) > 0.01, "control"
    for name, x in state.items():
        unit = torch.finfo(x.dtype).eps * torch.maximum(x.abs(), edited[name].abs())
        assert ((original[name] - x).abs() <= unit).all(), name


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_factors_are_a_lora_adapter(tiny, tmp_path, architecture):
    model = tiny(architecture)
    found = distil(gated(model), model, TEXTS[:40], **QUICK, lr=0.03)
    model.hf.save_pretrained(tmp_path / "base")
    assert export_adapter(gated(model), model, tmp_path / "adapter", distilled=found) == LoraAdapter(2, True)
    adapted = pytest.importorskip("peft").PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"), str(tmp_path / "adapter")
    )
    tokens = model.tokens(FRESH[:4])
    logits = adapted(**tokens.model_inputs(model.device)).logits[tokens.mask]
    with found.running(model):
        torch.testing.assert_close(logits, model.logits(tokens)[tokens.mask], atol=1e-4, rtol=1e-4)


def test_a_recipe_saved_and_read_is_the_same_recipe_where_a_gate_reads_the_row_it_projects_out(tiny, tmp_path):
    direction = row(4)
    recipe = Recipe([("resid_post.1", Gate(Project(direction), Reads(direction, 0.0), per="token"))])
    recipe.save(tmp_path / "recipe")
    assert Recipe.load(tmp_path / "recipe").digest == recipe.digest


def test_what_can_not_be_distilled_is_refused(tiny, distilled, tmp_path):
    model = tiny("llama")
    recipe, exact = gated(model), Recipe([("writers", Project(row(1)))], model.reference)
    never = Recipe([("resid_post.1", Gate(Add(row(1)), Reads(row(2), 1e6), per="token"))])
    for asked, texts, options, message in [
        (recipe, TEXTS[:7], {}, "7 different documents; expected at least 8"),
        (recipe, TEXTS[:4] * 5, {}, "4 different documents"),
        (recipe, TEXTS, {"rank": 0}, "rank is 0"),
        (recipe, TEXTS, {"rank": 33}, "rank is 33, but .* has 32 inputs"),
        (recipe, TEXTS, {"steps": -1}, "steps -1"),
        (recipe, TEXTS, {"lr": 0.0}, "lr is 0.0"),
        (recipe, TEXTS, {"held_out": 1.0}, "held_out 1.0"),
        (recipe, TEXTS, {"context": 1}, "context is 1"),
        (recipe, TEXTS[:16], {"lr": 1e30}, "diverged at step"),
        (exact, TEXTS, {}, "folds into the weights exactly"),
        (never, TEXTS, {}, "changes nothing that is predicted"),
        (gated(tiny("llama", seed=1)), TEXTS, {}, "made for"),
    ]:
        with pytest.raises(InterpError, match=message):
            distil(asked, model, texts, **QUICK | options)
    assert distil(exact, model, TEXTS[:16], even_if_exact=True, **QUICK).record.share < 1
    with pytest.raises(InterpError, match="distilled from recipe"):
        export(exact, model, tmp_path / "out", distilled=distilled)
    with pytest.raises(InterpError, match="distilled on a model with weights"):
        export(Recipe(recipe.edits, None), tiny("llama", seed=1), tmp_path / "out", distilled=distilled)
    other = tiny("llama", seed=1)
    with pytest.raises(InterpError, match="distilled on a model with weights"), distilled.running(other):
        pass
    assert not (tmp_path / "out").exists()


def test_factors_that_bring_nothing_and_choices_of_how_to_fold_are_refused(tiny, distilled, tmp_path):
    """Control: what would have been written is no nearer to the hooked model than the plain one."""
    model, out = tiny("llama"), tmp_path / "out"
    none = distil(gated(model), model, TEXTS[:40], rank=2, steps=0)
    worse = distil(gated(model), model, TEXTS[:40], rank=2, steps=3, lr=1.0)
    assert worse.record.share > 1 == none.record.share
    for write in (export, export_adapter):
        for found in (none, worse):
            with pytest.raises(InterpError, match="no nearer to the hooked model than the plain one is"):
                write(gated(model), model, out, distilled=found)
        for name in ("rehost", "leave_embedding", "keep_norms", "compensate"):
            unread = name == "compensate" and write is export_adapter
            why = "without effect where the form is adapter" if unread else "distilled factors are merged as they are"
            with pytest.raises(InterpError, match=f"{name}: {why}"):
                write(gated(model), model, out, fold=FoldOptions(**{name: True}), distilled=distilled)
    assert not out.exists()


def test_the_command_line_distils_exports_and_verifies(tiny, tmp_path, monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["interp", *map(str, words), "--json"])
        with pytest.raises(SystemExit) as end:
            app.main()
        said = capsys.readouterr()
        return end.value.code, said.err if end.value.code else json.loads(said.out)

    model = tiny("llama")
    model.hf.save_pretrained(tmp_path / "base")
    model.tokenizer.save_pretrained(tmp_path / "base")
    Recipe(gated(model).edits).save(tmp_path / "recipe")
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[:16]))
    words = ["export", tmp_path / "base", "--recipe", tmp_path / "recipe", "--out", tmp_path / "out"]
    code, said = run(*words)
    assert code == 2
    assert "--distil" in said, "an edit without a fold is told of the way there is"
    code, said = run(*words, "--distil", tmp_path / "texts.jsonl", "--rank", 2, "--steps", 3)
    assert code == 0, said
    assert said["status"] == "approximate"
    assert said["distilled"].startswith("distilled at rank 2 in 3 steps")
    assert run("verify", tmp_path / "out")[0] == 0
    assert run(*words, "--distil", tmp_path / "texts.jsonl", "--streamed")[0] == 2
