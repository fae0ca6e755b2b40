"""Neurons in place of a transcoder's latents: within their bound, exported, and refused with the reason."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from folding import IDS, gap, planned, reloaded
from safetensors.torch import load_file, save_file
from torch.nn.functional import silu
from transcoders import suppressed, transcoder
from transformers import AutoModelForCausalLM

import interp
from interp import InterpError, Project, Recipe
from interp.core.files import sha256_file
from interp.editing.export.adapter import export_adapter
from interp.editing.export.exporter import dry_run, export_streamed
from interp.editing.fold.transcoder_neurons import SILU_GAP, Neurons
from interp.editing.options import FoldOptions
from interp.interventions.latents import Suppress

GRAFTED = FoldOptions(approximate=True)


def missed(model, recipe, **choices):
    """What weights write at the recipe's site, less what hooks write there, by token; and the plan."""
    plan = planned(model, recipe, approximate=True, **choices)
    site = recipe.edits[0].op.site
    with model.hooked(recipe):
        hooked = model.capture(IDS, site)[site]
    written = reloaded(model, plan).capture(IDS, site)[site]
    return (written - hooked).double(), (model.capture(IDS, site)[site] - hooked).double(), plan


def test_silu_is_never_further_from_relu_than_the_bound():
    z = torch.linspace(-60, 60, 1_200_001, dtype=torch.float64)
    furthest = (silu(z) - z.relu()).abs().max()
    assert SILU_GAP - 1e-3 < furthest < SILU_GAP


@pytest.mark.parametrize("threshold", [0.0, 0.3])
@pytest.mark.parametrize("sharpness", [1.0, 4.0, 16.0, 64.0])
def test_neurons_keep_to_their_bound_on_every_input_and_nearly_reach_it(tiny, threshold, sharpness):
    """In float64, on a line of inputs that crosses a latent's threshold, so that the worst case is among them."""
    coder = transcoder(tiny("llama"), threshold=threshold)
    neurons = Neurons.of(Suppress(coder, 5, 0.25), sharpness)
    w, c = coder.W_enc[5].double(), coder.b_enc[5].double()
    pre = torch.linspace(-8, 8, 200_001, dtype=torch.float64)
    x = ((pre - c) / w.square().sum())[:, None] * w
    fired = torch.where(pre > threshold, pre, 0.0)
    off = (neurons(x) + 0.75 * fired[:, None] * coder.W_dec[5].double()).norm(dim=1)
    assert 0.6 * neurons.bound() < off.max() <= neurons.bound()
    for distance in (0.05, 0.5, 2.0):
        beyond = (pre - threshold).abs() >= distance
        assert off[beyond].max() <= neurons.bound(distance) <= neurons.bound()
    assert neurons.bound(40 / sharpness) < 1.001 * 0.75 * SILU_GAP / sharpness


@pytest.mark.parametrize(
    ("dtype", "threshold", "scale"),
    [(torch.bfloat16, 0.0, 1.0), (torch.float16, 0.0, 0.3), (torch.float32, 0.3, 1.0)],
)
def test_neurons_as_they_are_saved_keep_to_the_bound_and_what_rounding_adds(tiny, dtype, threshold, scale):
    coder = transcoder(tiny("llama"), threshold=threshold)
    sharpness = 1e5 if dtype == torch.float32 else 256.0
    neurons = Neurons.of(Suppress(coder, [3, 5, 7]), sharpness)
    x = 30 * torch.randn(20_000, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pre = x @ coder.W_enc[[3, 5, 7]].double().T + coder.b_enc[[3, 5, 7]].double()
    wanted = -torch.where(pre > threshold, pre, 0.0) @ coder.W_dec[[3, 5, 7]].double()
    beyond = ((pre - threshold).abs() > 0.1).all(1)
    reach = torch.cat([x, torch.ones(len(x), 1)], 1).norm(dim=1)[beyond]
    exact, off = ((made(x) - wanted).norm(dim=1)[beyond] for made in (neurons, neurons.rounded(dtype, scale)))
    bound, more = neurons.bound(0.1), neurons.rounding(dtype, scale)
    assert (exact <= bound).all()
    assert (off <= bound + more * reach).all()
    assert off.max() > bound, "control: rounding alone is more than the bound allows"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_thresholds_are_refused_in_16_bits_and_kept_in_float32(tiny, tmp_path, dtype):
    source = tmp_path / "source"
    copy.deepcopy(tiny("llama").hf).to(dtype).save_pretrained(source)
    model = interp.load(source)
    coder = replace(transcoder(model, threshold=1.0), b_enc=torch.full((40,), -1.0))
    recipe = Recipe([("mlp_out.1", Suppress(coder, [3, 5]))])
    with pytest.raises(InterpError, match=r"two neurons each at mlp_out\.1, of whose difference .* leaves nothing"):
        interp.export(recipe, source, tmp_path / "narrow", fold=GRAFTED)
    interp.export(recipe, source, tmp_path / "wide", dtype="float32", fold=GRAFTED)
    mlp = AutoModelForCausalLM.from_pretrained(tmp_path / "wide").model.layers[1].mlp
    x = torch.randn(4000, 32, generator=torch.Generator().manual_seed(0))
    pre = x @ coder.W_enc[[3, 5]].T + coder.b_enc[[3, 5]]
    wide = copy.deepcopy(model.hf.model.layers[1].mlp).float()
    with torch.no_grad():
        off = (mlp(x) - wide(x) + torch.where(pre > 1, pre, 0.0) @ coder.W_dec[[3, 5]]).norm(dim=1)
    assert off[((pre - 1).abs() > 0.1).all(1)].max() < Neurons.of(recipe.edits[0].op, 256.0).bound(0.1)
    narrow = Neurons.of(recipe.edits[0].op, 256.0).rounded(dtype)(x.double())
    wanted = -torch.where(pre > 1, pre, 0.0).double() @ coder.W_dec[[3, 5]].double()
    assert (narrow - wanted).norm(dim=1).max() > 0.1, "control: what 16 bits would have made of it"


@pytest.mark.parametrize("name", ["llama", "smollm3", "granite", "seed_oss", "qwen2", "mistral"])
def test_weights_write_what_hooks_write_within_the_bound(tiny, name):
    model, before = tiny(name), torch.inf
    recipe = suppressed(model)
    for sharpness in (4.0, 16.0, 64.0):
        off, effect, plan = missed(model, recipe, sharpness=sharpness, rehost=True)
        bound = Neurons.of(recipe.edits[0].op, sharpness).bound()
        assert off.norm(dim=-1).max() < bound + 1e-5
        assert off.norm(dim=-1).mean() < before / 2, "it shrinks with the sharpness"
        before = off.norm(dim=-1).mean()
        assert plan.status == "approximate"
        assert f"at most {bound:.2g}" in plan.items[0].reason
    assert effect.norm(dim=-1).max() > 10 * bound, "control: without the neurons the difference is large"


def test_thresholds_take_two_neurons_and_far_from_them_the_bound_is_small(tiny):
    model = tiny("llama")
    recipe = suppressed(model, threshold=0.3)
    op = recipe.edits[0].op
    off, effect, plan = missed(model, recipe, sharpness=1024.0)
    neurons = Neurons.of(op, 1024.0)
    read = model.capture(IDS, op.reads)[op.reads]
    pre = (read @ op.transcoder.W_enc[op.latents].T + op.transcoder.b_enc[op.latents]).double()
    far = ((pre - 0.3).abs() > 0.01).all(-1)
    assert plan.grown["model.layers.1.mlp.down_proj.weight"].blocks[0][0].shape == (32, 6)
    assert far.double().mean() > 0.8
    assert off.norm(dim=-1)[far].max() < neurons.bound(0.01) + 1e-5 < 0.002
    assert off.norm(dim=-1).max() <= neurons.bound()
    assert effect.norm(dim=-1).max() > 0.1
    with_relu, _, _ = missed(model, suppressed(model), sharpness=1024.0)
    with model.hooked(recipe):
        hooked = model.capture(IDS, op.site)[op.site]
    with model.hooked(suppressed(model)):
        other = model.capture(IDS, op.site)[op.site]
    assert (hooked - other).norm(dim=-1).max() > 0.05, "control: the thresholds matter"
    assert with_relu.norm(dim=-1).max() < 0.002


def test_ops_in_one_recipe_act_in_its_order_on_what_neurons_write(tiny):
    """A projection behind the graft takes its part of what the neurons write; one before it does not."""
    model, rows = tiny("granite"), torch.randn(2, 32, generator=torch.Generator().manual_seed(5))
    graft = suppressed(model).edits[0]
    for edits in (
        [graft, ("mlp_out.1", Project(rows))],
        [("mlp_out.1", Project(rows)), graft],
        [("writers", Project(rows)), graft, suppressed(model, latents=(20, 21), factor=2.0, layer=1).edits[0]],
        [suppressed(model, layer=0).edits[0], graft, (("resid_pre.*", "resid_mid.*", "resid_post.*"), Project(rows))],
    ):
        recipe = Recipe(edits)
        near, effect = gap(model, recipe, planned(model, recipe, approximate=True, sharpness=2.0**14))[:2]
        assert near < 1e-5 < 1e-3 < effect
    behind, before = [graft, ("mlp_out.1", Project(rows))], [("mlp_out.1", Project(rows)), graft]
    plan = planned(model, Recipe(behind), approximate=True, sharpness=2.0**14)
    first, last = (gap(model, Recipe(edits), plan)[0] for edits in (behind, before))
    assert first < 1e-5 < last, "control: the order matters"


def test_every_layer_grows_alike_by_neurons_of_zeros(tiny):
    model = tiny("llama")
    plan = planned(model, suppressed(model), approximate=True)
    after = reloaded(model, plan)
    assert after.config.intermediate_size == 128, "as even as it was: 64 and 3, made a multiple of 64"
    assert after.config.mlp_bias is True
    for layer in (0, 2):
        mlp, was = after.hf.model.layers[layer].mlp, model.hf.model.layers[layer].mlp
        assert torch.equal(mlp.down_proj.weight[:, :64], was.down_proj.weight)
        assert not mlp.down_proj.weight[:, 64:].any()
        assert not mlp.gate_proj.weight[64:].any()
        x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(mlp(x), was(x), atol=1e-6, rtol=1e-6)
    assert after.hf.model.layers[1].mlp.gate_proj.weight[64:67].any()


def test_it_is_exported_reloaded_and_verified(tiny, tmp_path):
    model = tiny("llama")
    source = tmp_path / "source"
    model.hf.save_pretrained(source, max_shard_size="40KB")
    model.tokenizer.save_pretrained(source)
    recipe = suppressed(interp.load(source), factor=0.5)
    with pytest.raises(InterpError, match=r"differs by at most 0\.0016.*allow it"):
        interp.export(recipe, source, tmp_path / "unasked")
    certificate = interp.export(recipe, source, tmp_path / "out", fold=GRAFTED)
    assert (certificate.status, certificate.faithful) == ("approximate", True)
    assert certificate.kl < 1e-5 < 1e-4 < certificate.effect_kl
    assert "sharpness 256" in certificate.ops[0].reason
    again = interp.verify(tmp_path / "out")
    assert again.kl == pytest.approx(certificate.kl, abs=1e-9)
    hf, report = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32, output_loading_info=True)
    assert not report["missing_keys"] | report["unexpected_keys"] | report["mismatched_keys"]
    with torch.no_grad():
        found = hf(IDS).logits
    held = interp.load(source)
    with held.hooked(recipe):
        hooked = held.logits(IDS)
    assert (found - hooked).abs().max() < 0.05 * (held.logits(IDS) - hooked).abs().max()
    streamed = export_streamed(recipe, source, tmp_path / "streamed", fold=GRAFTED)
    assert streamed.status == "approximate"
    _, estimate = dry_run(recipe, source, fold=GRAFTED)
    written = sum(file.stat().st_size for file in (tmp_path / "out").glob("model*.safetensors"))
    assert 0.9 * written < estimate.disk < written


def test_verify_finds_another_graft_than_the_recipes(tiny, tmp_path):
    model, source, out = tiny("llama"), tmp_path / "source", tmp_path / "out"
    model.hf.save_pretrained(source)
    recipe = suppressed(interp.load(source))
    interp.export(recipe, source, out, fold=GRAFTED)
    weights = load_file(out / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][:, 64] *= 1.01
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    manifest = json.loads((out / "interp_manifest.json").read_text())
    manifest["files"]["model.safetensors"] = sha256_file(out / "model.safetensors")
    (out / "interp_manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InterpError, match=r"layers\.1\.mlp\.down_proj\.weight is not what the recipe makes"):
        interp.verify(out)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_types_hold_neurons_as_well_as_the_rest(tiny, tmp_path, dtype):
    model = tiny("llama")
    certificate = interp.export(suppressed(model), model, tmp_path / "out", dtype=dtype, fold=GRAFTED)
    assert certificate.kl < 0.05 * certificate.effect_kl


def test_what_can_not_be_grafted_is_refused_with_the_reason(tiny, tmp_path):
    model = tiny("llama")
    for name, options, message in [
        ("llama", {"topk": True}, "each of which depends on the others"),
        ("llama", {"reads": "resid_mid"}, r"reads resid_mid\.1 and writes mlp_out\.1"),
        ("gpt2", {}, "gpt2 has no SwiGLU neurons"),
        ("gemma", {}, "gemma has no SwiGLU neurons"),
        ("qwen3", {}, "needs a bias on its writer, and qwen3 has none there"),
        ("qwen2", {}, "rehost"),
    ]:
        with pytest.raises(InterpError, match=message):
            interp.export(suppressed(tiny(name), **options), tiny(name), tmp_path / "out", fold=GRAFTED)
    with pytest.raises(InterpError, match="sharpness is 0"):
        interp.export(suppressed(model), model, tmp_path / "out", fold=FoldOptions(approximate=True, sharpness=0.0))
    with pytest.raises(InterpError, match="no undo patch"):
        interp.export(suppressed(model), model, tmp_path / "out", fold=GRAFTED, undo=True)
    with pytest.raises(InterpError, match="an adapter cannot"):
        export_adapter(suppressed(model), model, tmp_path / "out", fold=GRAFTED)
    assert not (tmp_path / "out").exists()
