"""Exports: plain transformers loads them, they do what the hooks do, and nothing half-written is left behind."""

import json
import shutil

import pytest
import tiny_models
import torch
from folding import ablation, rows
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import interp
from interp import Add, InterpError, Project, Recipe
from interp.editing import dry_run, export_streamed
from interp.editing.fold import steps
from interp.editing.fold.plan import Plan
from interp.editing.fold.steps import fold
from interp.models.checkpoints.checkpoint import Checkpoint
from interp.models.losses import kl_divergence

IDS = torch.randint(4, 128, (3, 11), generator=torch.Generator().manual_seed(1))
FOLDABLE = [
    "llama", "mistral", "ministral", "qwen2", "qwen3", "smollm3", "granite", "phi3", "phi", "cohere", "cohere2",
    "gemma", "glm", "nemotron", "olmo", "seed_oss", "stablelm", "stablelm_parallel", "starcoder2", "gpt2", "gpt_neo",
    "gptj", "gpt_neox", "gpt_neox_sequential", "opt", "falcon", "falcon_new", "falcon_sequential",
]  # fmt: skip


def logits(folder):
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(IDS).logits


@pytest.mark.parametrize(
    ("name", "recipe"),
    [(name, ablation()) for name in FOLDABLE if name not in ("granite", "gpt_neox", "gptj")]
    + [(name, ablation(0.4, k=3)) for name in ("llama", "granite", "gpt_neox")]
    + [(name, ablation(sites=("mlp_out.1", "attn_out.0-1"))) for name in ("llama", "gptj")],
)
def test_exported_weights_do_what_the_hooks_do(tiny, tmp_path, name, recipe):
    model = tiny(name)
    certificate = interp.export(recipe, model, tmp_path / "out")
    with model.hooked(recipe):
        hooked = model.logits(IDS)
    effect = (hooked - model.logits(IDS)).abs().max()
    gap = (logits(tmp_path / "out") - hooked).abs().max()
    assert effect > 1e-2
    assert gap < 1e-5 * hooked.abs().max()
    assert certificate.faithful
    assert certificate.max_abs_logit_diff < 1e-4
    if recipe.edits[0].op.scale == 1:
        assert certificate.leak < 1e-6
    else:
        assert certificate.leak is None


def test_the_float64_identity_and_the_forgotten_bias(tiny):
    """In float64 the fold is an identity; leaving a writer's bias out breaks it by far more."""
    model = tiny("gpt_neox")
    recipe = ablation(k=2)
    plan = fold(recipe, model.config, model.hf.state_dict(), tied=False)
    assert any(name.endswith("dense.bias") for name in plan.changes)
    hf = type(model.hf)(model.config).double()
    hf.load_state_dict({name: plan.apply(name, x.double()) for name, x in model.hf.state_dict().items()})
    wide = interp.HookedModel(type(model.hf)(model.config).double())
    wide.hf.load_state_dict(model.hf.state_dict())
    with wide.hooked([(e.sites[0], e.op) for e in recipe.edits]):
        hooked = wide.logits(IDS)
    exact = (interp.HookedModel(hf).logits(IDS) - hooked).abs().max()
    state = model.hf.state_dict()
    hf.load_state_dict({n: (x if n.endswith(".bias") else plan.apply(n, x.double())) for n, x in state.items()})
    without_biases = (interp.HookedModel(hf).logits(IDS) - hooked).abs().max()
    assert exact < 1e-12
    assert without_biases > 1e-3


@pytest.mark.parametrize("name", ["gpt2", "smollm3"])
def test_ties_that_the_config_leaves_to_its_default_are_seen(saved, tmp_path, name):
    source = saved(name)
    config = json.loads((source / "config.json").read_text())
    config.pop("tie_word_embeddings", None)
    (source / "config.json").write_text(json.dumps(config))
    assert interp.load(source).config.tie_word_embeddings, "control: the class ties by default"
    certificate = interp.export(ablation(), source, tmp_path / "out")
    assert certificate.max_abs_logit_diff < 1e-4
    assert "lm_head.weight" in load_file(tmp_path / "out" / "model.safetensors")


def test_a_base_models_names_are_completed(saved, tmp_path):
    """The original GPT-2 names its tensors without the prefix that transformers adds at load."""
    source = saved("gpt2")
    tensors = load_file(source / "model.safetensors")
    bare = {name.removeprefix("transformer."): x for name, x in tensors.items()}
    save_file(bare, source / "model.safetensors", metadata={"format": "pt"})
    assert interp.export(ablation(), source, tmp_path / "out").max_abs_logit_diff < 1e-4


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_writer_that_was_missed_is_found_and_nothing_is_written(tiny, tmp_path, monkeypatch, name):
    apply = Plan.apply
    missed = "2.mlp.down_proj.weight" if name == "llama" else "2.mlp.c_proj.weight"

    def partly(plan, tensor_name, tensor, **options):
        return tensor if tensor_name.endswith(missed) else apply(plan, tensor_name, tensor, **options)

    monkeypatch.setattr(Plan, "apply", partly)
    with pytest.raises(InterpError, match="do not do what the recipe's hooks do"):
        interp.export(ablation(), tiny(name), tmp_path / "out")
    with pytest.raises(InterpError, match="do not do what the recipe's hooks do"):
        interp.export(ablation(0.5), tiny(name), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_leak_is_not_read_where_another_op_follows(tiny, tmp_path):
    recipe = Recipe([("writers", Project(rows())), ("mlp_out.1", Add(rows(1)[0]))])
    certificate = interp.export(recipe, tiny("gpt2"), tmp_path / "out")
    assert certificate.leak < 1e-6
    assert "mlp_out.1" not in certificate.leak_by_writer
    assert set(certificate.leak_by_writer) >= {"embed", "pos_embed", "mlp_out.0", "attn_out.1"}


def test_a_tied_unembedding_is_untied_and_kept(tiny, tmp_path):
    model = tiny("gpt2")
    assert model.config.tie_word_embeddings, "control: this model is tied"
    interp.export(ablation(), model, tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(written["lm_head.weight"], model.hf.lm_head.weight)
    assert not torch.allclose(written["lm_head.weight"], written["transformer.wte.weight"])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    only_mlp = ablation(sites="mlp_out.*")
    interp.export(only_mlp, model, tmp_path / "still-tied")
    assert "lm_head.weight" not in load_file(tmp_path / "still-tied" / "model.safetensors")


def test_a_folder_is_streamed_and_untouched_tensors_keep_their_bytes(saved, tmp_path):
    source = saved("llama", max_shard_size="20KB")
    assert len(Checkpoint.open(source).files) > 1
    recipe = ablation(sites="mlp_out.1")
    interp.export(recipe, source, tmp_path / "out", shard_size=30_000)
    before, after = (
        {name: file.read(name) for file in Checkpoint.open(folder).opened for name in file.entries}
        for folder in (source, tmp_path / "out")
    )
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["model.layers.1.mlp.down_proj.weight"]
    assert len(Checkpoint.open(tmp_path / "out").files) > 1
    assert interp.load(tmp_path / "out").tokenizer("w5 w6")["input_ids"] == [5, 6]


@pytest.mark.parametrize("name", ["gpt2", "granite", "llama"])
def test_an_addition_folds_into_a_bias_where_there_is_one(tiny, tmp_path, name):
    """Granite multiplies what its writers compute, which the bias makes up for; Llama's config has a flag for one."""
    recipe = Recipe([("mlp_out.1", Add(rows()[0], 0.5))])
    certificate = interp.export(recipe, tiny(name), tmp_path / "out")
    assert certificate.faithful
    assert certificate.effect_kl > 1e-5
    with pytest.raises(InterpError, match="needs a bias on its writer"):
        interp.export(recipe, tiny("phi3"), tmp_path / "no-slot")
    assert not (tmp_path / "no-slot").exists()


@pytest.mark.parametrize(
    ("name", "recipe", "message"),
    [
        ("llama", Recipe([("resid_post.1", Project(rows()))]), "no single tensor writes that site"),
        ("gemma2", ablation(sites="mlp_out.*"), "normalises what attention and MLP write"),
        ("llama", Recipe([("mlp_out.7", Project(rows()))]), "unknown site 'mlp_out.7'"),
    ],
)
def test_what_has_no_exact_fold_is_refused_and_nothing_is_left(tiny, tmp_path, name, recipe, message):
    with pytest.raises(InterpError, match=message):
        interp.export(recipe, tiny(name), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_bad_outputs_are_refused(saved, tiny, tmp_path):
    source = saved("llama")
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").write_text("")
    for out, message in [
        (tmp_path / "taken", "exists already"),
        (source, "own folder"),
        (source / "inside", "own folder or inside"),
        (tmp_path / "file" / "out", "cannot be written"),
    ]:
        with pytest.raises(InterpError, match=message):
            interp.export(ablation(), source, out)
    with pytest.raises(InterpError, match="dtype is 'float23'"):
        interp.export(ablation(), source, tmp_path / "out", dtype="float23")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "source-llama", "taken"]


@pytest.mark.parametrize("problem", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_export_leaves_nothing(tiny, tmp_path, monkeypatch, problem):
    def fail(*args, **kwargs):
        raise problem

    monkeypatch.setattr("interp.editing.export.exporter.certify", fail)
    with pytest.raises(problem):
        interp.export(ablation(), tiny("llama"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_overwriting_replaces_an_export_with_one_that_is_complete(saved, tiny, tmp_path, monkeypatch):
    source, out = saved("llama"), tmp_path / "out"
    interp.export(ablation(), source, out)
    before = (out / "model.safetensors").read_bytes()
    with pytest.raises(InterpError, match="pass overwrite=True to replace it"):
        interp.export(ablation(), source, out)
    with monkeypatch.context() as patched:
        patched.setattr("interp.editing.export.exporter.certify", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            interp.export(ablation(), source, out, dtype="bfloat16", overwrite=True)
    assert (out / "model.safetensors").read_bytes() == before
    for _ in range(2):
        assert interp.export(ablation(), source, out, dtype="bfloat16", overwrite=True).dtype == "BF16"
        assert interp.verify(out).faithful
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source-llama"]
    for model in (out, interp.load(out)):
        with pytest.raises(InterpError, match="the model's own folder"):
            interp.export(ablation(), model, out, overwrite=True)
    with pytest.raises(InterpError, match="own folder or inside it, or holds it"):
        interp.export(ablation(), source, tmp_path, overwrite=True)
    (tmp_path / "thesis").mkdir()
    with pytest.raises(InterpError, match="not overwritten"):
        interp.export(ablation(), source, tmp_path / "thesis", overwrite=True)


def test_a_narrower_type_is_certified_in_that_type(saved, tmp_path):
    certificate = interp.export(ablation(), saved("qwen2"), tmp_path / "out", dtype="bfloat16")
    assert certificate.dtype == "BF16"
    assert 1e-5 < certificate.leak < 1e-2
    assert certificate.max_abs_logit_diff > 1e-5, "rounding shows in the certificate"


def test_how_a_tokenizer_was_called_last_is_no_part_of_an_export(tmp_path):
    """Fast tokenizers keep how they padded and cut, and would write it into their file."""
    model = tiny_models.build("llama")
    for name, call in (("before", {"padding": True}), ("after", {"truncation": True, "max_length": 3})):
        model.tokenizer(["w5 w6", "w7"], **call)
        interp.export(ablation(), model, tmp_path / name)
    assert interp.verify(tmp_path / "before", base=model).faithful
    assert (tmp_path / "before" / "tokenizer.json").read_bytes() == (tmp_path / "after" / "tokenizer.json").read_bytes()
    assert json.loads((tmp_path / "after" / "tokenizer.json").read_text())["truncation"] is None


def test_verify_finds_weights_that_do_not_do_what_the_recipe_says(saved, tmp_path):
    """Control for the certificate: a checkpoint with consistent digests but without the edit is not faithful."""
    source, out = saved("llama"), tmp_path / "out"
    interp.export(ablation(), source, out)
    shutil.copyfile(source / "model.safetensors", out / "model.safetensors")
    manifest = json.loads((out / "interp_manifest.json").read_text())
    from interp.core.files import sha256_file

    manifest["files"]["model.safetensors"] = sha256_file(out / "model.safetensors")
    (out / "interp_manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InterpError, match=r"embed_tokens\.weight is not what the recipe makes of the base"):
        interp.verify(out)
    with pytest.raises(InterpError, match=r"embed_tokens\.weight is not what the recipe makes of the base"):
        interp.verify(out, base=interp.load(source))


@pytest.fixture
def plannings(monkeypatch):
    """How often a fold is computed."""
    counted, plan = [], steps._Folding.plan

    def counting(folding, tied):
        counted.append(folding)
        return plan(folding, tied)

    monkeypatch.setattr(steps._Folding, "plan", counting)
    return counted


@pytest.mark.parametrize("name", ["llama", "mixtral", "smollm3"])
def test_a_fold_is_planned_once(saved, tmp_path, plannings, name):
    """Also where transformers stacks a file's experts in memory, and where a tied table is parted."""
    source = saved(name)
    assert interp.export(ablation(), source, tmp_path / "out").faithful
    assert len(plannings) == 1
    assert interp.verify(tmp_path / "out").faithful
    assert len(plannings) == 2, "control: verifying a folder plans it once, too"
    export_streamed(ablation(), source, tmp_path / "streamed", undo=name != "mixtral", dtype="bfloat16")
    dry_run(ablation(), source)
    assert len(plannings) == 4


@pytest.mark.parametrize("name", ["gemma", "gemma2", "gemma3"])
def test_a_head_that_other_programs_would_tie_is_warned_of_and_can_stay_tied(tiny, tmp_path, name):
    """Their converters drop lm_head: then it is another model, whose figures the certificate and the card have."""
    model, recipe = tiny(name), Recipe([("writers", Project(rows()))])
    plan, _ = dry_run(recipe, model)
    assert any("tie the unembedding" in line and "--keep-tied" in line for line in plan.lines)
    untied = interp.export(recipe, model, tmp_path / "untied")
    card = (tmp_path / "untied" / "README.md").read_text()
    assert "Measured with the head tied: KL to the hooked model" in card
    tensors = load_file(tmp_path / "untied" / "model.safetensors")
    dropped = type(model.hf)(model.config)
    dropped.load_state_dict({n: x for n, x in tensors.items() if n != "lm_head.weight"}, strict=False)
    with model.hooked(recipe):
        hooked = model.logits(IDS).double()
    apart = kl_divergence(hooked, interp.HookedModel(dropped.eval()).logits(IDS).double()).mean()
    assert untied.kl < 1e-9 < untied.tied.kl
    assert 0.3 < untied.tied.kl / float(apart) < 3, "on other tokens"
    kept = interp.export(recipe, model, tmp_path / "kept", keep_tied=True)
    assert (kept.status, kept.faithful, kept.tied) == ("exact", True, None)
    assert "lm_head.weight" not in load_file(tmp_path / "kept" / "model.safetensors")
    assert interp.load(tmp_path / "kept").config.tie_word_embeddings
    assert (
        "Left out, so that the unembedding stays tied: what it does at embed"
        in (tmp_path / "kept" / "README.md").read_text()
    )
    assert "embed" not in interp.Recipe.load(tmp_path / "kept" / "interp_recipe").edits[0].sites
    assert interp.verify(tmp_path / "kept", model).faithful


@pytest.mark.parametrize("edits", [[("embed", Project(rows()))], [("resid_pre.0", Project(rows()))]], ids=str)
def test_what_acts_on_the_table_alone_does_not_keep_it_tied(tiny, tmp_path, edits):
    with pytest.raises(InterpError, match=r"nothing is left|is in the token table"):
        interp.export(Recipe(edits), tiny("gemma2"), tmp_path / "out", keep_tied=True)
    plan, _ = dry_run(Recipe(edits), tiny("llama"), keep_tied=True)
    assert plan.status == "exact", "control: an untied model has its own head"
    assert not plan.warning
