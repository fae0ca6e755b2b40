"""Vectors in weights: native biases, biases by a config flag, the Llama class, and tables."""

import re

import pytest
import tiny_models
import torch
import transformers
from folding import IDS, PRE_NORM, gap, loaded, on_disk, planned, reloaded, rows, written

import interp
from interp import Add, InterpError, Recipe
from interp.interventions import Erase, LowRank
from interp.models.architectures.writers import bias_slots

NATIVE = ["gpt2", "gpt_neox", "phi", "gpt_oss", "opt", "granite", "starcoder2"]
FLAGGED = {"llama": "mlp_bias", "smollm3": "mlp_bias", "nemotron": "mlp_bias", "seed_oss": "mlp_bias", "falcon": "bias"}


def steering(site="resid_post.1"):
    return Recipe([(site, Add(rows()[0], 0.7))])


@pytest.mark.parametrize("name", [*NATIVE, *FLAGGED])
def test_a_vector_is_a_bias_of_what_a_block_wrote_last(tiny, name):
    model = tiny(name)
    plan = planned(model, steering())
    off, effect = gap(model, steering(), plan)
    assert off < 2e-6 < 0.1 < effect
    assert set(plan.config) == ({FLAGGED[name]} if name in FLAGGED else set())
    assert len(plan.changes) == 1, "the weights stay as they are"


@pytest.mark.parametrize("name", ["llama", "qwen3", "cohere", "gemma", "olmo", "seed_oss", "qwen3_moe", "deepseek_v3"])
def test_attention_has_a_flag_of_its_own(tiny, name):
    model, recipe = tiny(name), steering("attn_out.1")
    plan = planned(model, recipe)
    off, effect = gap(model, recipe, plan)
    assert off < 2e-6 < 0.1 < effect
    assert plan.config in ({"attention_bias": True}, {"attention_out_bias": True})
    new = [plan.apply(n, torch.zeros_like(on_disk(model)[0][weight][:, 0])) for n, weight in plan.created.items()]
    assert sum(bool(x.any()) for x in new) == 1, "all biases that come with the flag are there, and all but one are 0"


def test_a_parallel_block_has_two_places_for_a_vector(tiny):
    """Cohere has a flag for attention alone, and attention and MLP are added to the same stream."""
    plan = planned(tiny("cohere"), steering())
    off, effect = gap(tiny("cohere"), steering(), plan)
    assert off < 2e-6 < 0.1 < effect
    assert list(plan.changes) == ["model.layers.1.self_attn.o_proj.bias"]


def test_a_bias_without_its_flag_is_dropped_in_silence(tiny):
    """Why flags are set: transformers loads the checkpoint, warns at most, and computes what it did before."""
    model = tiny("llama")
    plan = planned(model, steering())
    with pytest.raises(AssertionError):
        loaded(written(model, plan), on_disk(model)[1])
    biased = {n: x for n, x in written(model, plan).items() if not n.endswith(".bias")}
    without = loaded(biased, on_disk(model)[1]).logits(IDS)
    with model.hooked(steering()):
        hooked = model.logits(IDS)
    assert (without - hooked).norm() > 0.5 * hooked.norm()


@pytest.mark.parametrize("name", ["qwen2", "mistral"])
@pytest.mark.parametrize("site", ["resid_post.1", "attn_out.2"])
def test_rehosting_as_llama_is_exact(tiny, name, site):
    model, recipe = tiny(name), steering(site)
    with pytest.raises(InterpError, match="save it under the Llama class"):
        planned(model, recipe)
    plan = planned(model, recipe, rehost=True)
    edited = reloaded(model, plan)
    assert type(edited.hf).__name__ == "LlamaForCausalLM"
    assert not {k for k, v in plan.config.items() if k not in edited.config.to_dict()} - {"dtype", "torch_dtype"}
    off, effect = gap(model, recipe, plan)
    assert off < 1e-5 < 0.1 < effect
    tensors = written(model, plan)
    bare = tensors | {n: torch.zeros_like(tensors[n]) for n in plan.created}
    # Not to the bit: two classes may multiply in another order.
    same = loaded(bare, on_disk(model)[1] | plan.config).logits(IDS)
    torch.testing.assert_close(same, model.logits(IDS), atol=2e-6, rtol=0)


def test_windows_and_own_settings_survive_rehosting_or_stop_it(tiny):
    config = transformers.MistralConfig(**tiny("mistral").config.to_dict() | {"sliding_window": 8})
    windowed = interp.HookedModel(transformers.MistralForCausalLM(config))
    with pytest.raises(InterpError, match="window of 8 tokens"):
        planned(windowed, steering(), rehost=True)
    odd = {"rope_parameters": {"rope_type": "default", "rope_theta": 77.0}, "rms_norm_eps": 3e-3, "hidden_act": "gelu"}
    torch.manual_seed(0)
    config = transformers.Qwen2Config(**tiny("qwen2").config.to_dict() | odd)
    model = interp.HookedModel(transformers.Qwen2ForCausalLM(config))
    off, effect = gap(model, steering(), planned(model, steering(), rehost=True))
    assert off < 1e-5 < 0.1 < effect


@pytest.mark.parametrize("name", PRE_NORM)
def test_flags_create_the_biases_that_transformers_wants(tiny, name):
    """The table of flags against the classes themselves, made on the meta device with the flag set."""
    config = tiny_models.CONFIGS[name]()
    for slot in bias_slots(config):
        made = {}
        for flag in (False, True):
            setattr(config, slot.flag, flag)
            with torch.device("meta"):
                hf = transformers.AutoModelForCausalLM.from_config(config)
            made[flag] = {n for n in hf.state_dict() if re.search(r"\.2\..*bias$", n)}
        found = {n.partition(".2.")[2].removesuffix(".bias") for n in made[True] - made[False]}
        present = {m for m in slot.modules if any(n.endswith(f".2.{m}.weight") for n in hf.state_dict())}
        assert found == present - {"mlp.gate_proj"} | ({"mlp.gate_proj"} & found)


def test_embeddings_take_vectors_whatever_they_are_multiplied_by_later():
    """Granite multiplies embeddings behind the site, Gemma in the table's module; constants are divided by it."""
    granite = transformers.GraniteConfig(
        **tiny_models._GROUPED, residual_multiplier=0.5, embedding_multiplier=12.0, attention_bias=True, mlp_bias=True
    )
    for config in (granite, tiny_models.CONFIGS["gemma"](), tiny_models.CONFIGS["gpt2"]()):
        torch.manual_seed(0)
        model = interp.HookedModel(transformers.AutoModelForCausalLM.from_config(config))
        for site in ("embed", "resid_pre.0", "resid_post.0"):
            if config.model_type == "gemma" and site == "resid_post.0":
                continue
            off, effect = gap(model, steering(site), planned(model, steering(site)))
            assert off < 2e-6 < 1e-2 < effect


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama"])
def test_affine_ops_at_writers_fold_where_every_writer_has_a_bias(tiny, name):
    low = LowRank(rows() / rows().norm(), rows(1), torch.ones(1))
    for op in (Erase(rows(k=2), rows(5, 2), rows(9)[0]), low):
        recipe = Recipe([("writers", op)])
        plan = planned(tiny(name), recipe)
        off, effect = gap(tiny(name), recipe, plan)
        assert off < 1e-5 < 1e-2 < effect
    with pytest.raises(InterpError, match="needs a bias on its writer"):
        planned(tiny("phi3"), recipe)
