"""Under the cache, padding, batches, beams and sampling, an op does what it does where all is computed anew.

The slow version recomputes everything for each token without a cache, one prompt at a time and without padding.
"""

import pytest
import torch
from sae_samples import autoencoder
from torch.nn.functional import normalize

from interp import InterpError, Recipe
from interp.interventions import (
    Add,
    At,
    Clamp,
    Erase,
    Fires,
    Gate,
    Knockout,
    LowRank,
    Project,
    Reads,
    Replace,
    Resample,
    Scale,
    Schedule,
    bank,
)

NEW = 6
PROMPTS = ["w5 w9 w20 w33 w41", "w7 w12", "w99 w8 w64 w3 w17 w25 w6 w90"]
ARCHITECTURES = ("llama", "gpt2", "gemma2", "gpt_neox")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def often(model):
    """An autoencoder, and one of its latents that fires on some tokens."""
    sae = autoencoder(model)
    fired = sae.encode(model.capture(PROMPTS, "resid_post.1").at_tokens("resid_post.1")) > 0
    return sae, int(fired.float().mean(0).argmax())


def between(model, site, row, reduce):
    """A threshold that some of the prompts pass and some do not."""
    acts = [model.capture(prompt, site)[site][0] @ row for prompt in PROMPTS]
    scores = sorted(float({"max": x.max(), "mean": x.mean(), "last": x[-1]}[reduce]) for x in acts)
    return (scores[0] + scores[1]) / 2


def amid(scores):
    """A threshold in the widest gap of the middle half of some scores, so that rounding moves none across it."""
    ordered = scores.sort().values[len(scores) // 4 : -(len(scores) // 4)]
    below = int(ordered.diff().argmax())
    return float(ordered[below] + ordered[below + 1]) / 2


def recipes(model):
    """One of each op and selector, strong enough to change what is written."""
    push, row = Add(8 * normalize(draw(32, seed=2), dim=0)), normalize(draw(32, seed=3), dim=0)
    site = "resid_post.1"
    seen = model.capture(PROMPTS, site).at_tokens(site)
    middle, cosine = (amid(x @ row) for x in (seen, normalize(seen, dim=1)))
    found = {
        "project": [("writers", Project(draw(2, 32)))],
        "erase": [(site, Erase(draw(1, 32), draw(1, 32, seed=4) / 9, draw(32)))],
        "low rank": [(site, LowRank(torch.eye(32)[:2], draw(2, 32), draw(2)))],
        "relative": [(site, Add(row, 3.0, relative=True))],
        "clamp": [(site, Clamp(autoencoder(model), [3, 7], value=9.0))],
        "boost": [(site, Clamp(autoencoder(model), list(range(9)), scale=5.0))],
        "zero a head": [("z.1", Replace(units=[1]))],
        "scale heads": [("z.*", Scale(torch.tensor([1.0, 0.0, 0.5, 2.0])))],
        "mean of neurons": [("mlp_post.*", Replace.mean(model, PROMPTS, "mlp_post.1", units=range(40)))],
        "resample": [("attn_out.1", Resample(bank(model, PROMPTS, "attn_out.1"), seed=1))],
        "knock out": [("z.*", Knockout(["prompt", "generated"], keys=["prompt", "generated"], heads=[0, 3]))],
        "prompt": [(site, At(push, "prompt"))],
        "generated": [(site, At(push, "generated"))],
        "last": [(site, At(push, ["last", 0, -2]))],
        "tokens": [(site, At(push, tokens=[9, 12, *range(60, 128)]))],
        "schedule": [(site, Schedule(push, [1.0, 0.0, 0.5], prompt=0.2))],
        "gate a token": [(site, Gate(push, Reads(row, middle), per="token"))],
        "gate elsewhere": [("resid_post.2", Gate(push, Reads(row, cosine, cosine=True), per="token", site=site))],
        "gate by a latent": [("resid_post.2", Gate(push, Fires(*often(model)), per="token"))],
        "gate generated": [(site, At(Gate(push, Reads(row, middle), per="token"), "generated"))],
    }
    for reduce in ("max", "mean", "last"):
        when = Reads(row, between(model, site, row, reduce))
        found[f"gate by {reduce}"] = [("resid_post.2", Gate(push, when, reduce=reduce, site=site))]
    return {name: Recipe(edits) for name, edits in found.items()}


NAMES = [
    "project", "erase", "low rank", "relative", "clamp", "boost", "zero a head", "mean of neurons", "resample",
    "knock out", "scale heads", "prompt", "generated", "last", "tokens", "schedule", "gate a token", "gate elsewhere",
    "gate by a latent", "gate generated", "gate by max", "gate by mean", "gate by last",
]  # fmt: skip


def slowly(model, prompt, recipe):
    """Greedy tokens and the logits that chose them, everything computed anew for each."""
    ids = model.tokens(prompt).ids
    width, logits = ids.shape[1], []
    for _ in range(NEW):
        with model.hooked(recipe, prompt=width):
            logits.append(model.logits(ids)[0, -1])
        ids = torch.cat([ids, logits[-1].argmax()[None, None]], dim=1)
    return ids[0, width:], torch.stack(logits)


def quickly(model, prompts, recipe, **options):
    """Hugging Face's generation: cached, left-padded, all prompts at once."""
    batch = model.tokens(prompts)
    inputs = {"input_ids": batch.ids, "attention_mask": batch.mask.long()}
    with model.hooked(recipe, prompt=batch.ids.shape[1]), torch.no_grad():
        settings = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
        out = model.hf.generate(
            **inputs, **settings | options, return_dict_in_generate=True, output_logits=True, eos_token_id=None
        )
    return out.sequences[:, batch.ids.shape[1] :], torch.stack(out.logits, 1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", NAMES)
def test_cached_and_padded_is_computed_anew(tiny, architecture, name):
    model = tiny(architecture)
    recipe = recipes(model)[name]
    ids, logits = quickly(model, PROMPTS, recipe)
    for row, prompt in enumerate(PROMPTS):
        expected, slow = slowly(model, prompt, recipe)
        assert torch.equal(ids[row], expected)
        torch.testing.assert_close(logits[row], slow, atol=2e-4, rtol=1e-3)
    plain = quickly(model, PROMPTS, [])[1]
    changed = [float((logits[row] - plain[row]).abs().max()) > 1e-3 for row in range(len(PROMPTS))]
    assert any(changed), "control: the recipe does something"
    if name.startswith("gate by m") or name == "gate by last":
        assert not all(changed), "control: the gate is shut for a prompt of the same batch"


@pytest.mark.parametrize("name", NAMES)
def test_without_a_cache_it_is_the_same(tiny, name):
    model = tiny("llama")
    recipe = recipes(model)[name]
    cached, anew = (quickly(model, PROMPTS, recipe, use_cache=cache) for cache in (True, False))
    assert torch.equal(cached[0], anew[0])
    torch.testing.assert_close(cached[1], anew[1], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_beams_are_what_they_are_for_each_prompt_alone(tiny, name):
    model = tiny("llama")
    recipe = recipes(model)[name]
    together = quickly(model, PROMPTS, recipe, num_beams=3)[0]
    for row, prompt in enumerate(PROMPTS):
        assert torch.equal(together[row], quickly(model, [prompt], recipe, num_beams=3)[0][0])
        anew = quickly(model, [prompt], recipe, num_beams=3, use_cache=False)[0][0]
        assert torch.equal(together[row], anew)


def test_sampling_draws_from_what_is_computed_anew(tiny):
    model = tiny("llama")
    recipe = recipes(model)["generated"]
    torch.manual_seed(0)
    drawn, logits = quickly(model, PROMPTS, recipe, do_sample=True, top_k=0)
    batch = model.tokens(PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        ids = torch.cat([model.tokens(prompt).ids[0], drawn[row]])
        with model.hooked(recipe, prompt=int(batch.lengths[row])):
            slow = model.logits(ids)[0, -NEW - 1 : -1]
        torch.testing.assert_close(logits[row], slow, atol=2e-4, rtol=1e-3)


def test_the_model_says_itself_where_its_prompts_end(tiny):
    """`generate` needs no hint, in a block or by itself, with batches of different widths."""
    model = tiny("llama")
    for name in ("prompt", "generated", "last"):
        recipe = recipes(model)[name]
        options = {"max_new_tokens": NEW, "batch_size": 1}
        expected = model.generate(PROMPTS, recipe, **options)
        assert expected == model.generate(PROMPTS, recipe, **options, use_cache=False)
        assert expected == model.generate(PROMPTS, recipe, max_new_tokens=NEW)
        with model.hooked(recipe):
            assert expected == model.generate(PROMPTS, **options)
        assert expected != model.generate(PROMPTS, **options), "control"


def test_a_cache_filled_elsewhere_is_refused(tiny):
    model = tiny("llama")
    ids = model.tokens("w5 w9 w20").ids
    cache = model.hf(ids, use_cache=True).past_key_values
    recipe = recipes(model)["generated"]
    with model.hooked(recipe), pytest.raises(InterpError, match="filled outside this block"):
        model.hf(ids[:, :1], past_key_values=cache)


@pytest.mark.parametrize("name", NAMES)
def test_every_op_is_saved_and_read(tiny, tmp_path, name):
    model = tiny("llama")
    recipe = recipes(model)[name]
    recipe.save(tmp_path / "recipe")
    again = Recipe.load(tmp_path / "recipe")
    assert again.digest == recipe.digest
    torch.testing.assert_close(quickly(model, PROMPTS, again)[1], quickly(model, PROMPTS, recipe)[1])


def test_names_are_all_of_them(tiny):
    assert set(NAMES) == set(recipes(tiny("llama")))
