"""Under the cache, padding, batches, beams and sampling, an op does what it does where all is computed anew.

The slow version is one pass over a prompt and its reply, without a cache and without padding.
"""

import copy
from contextlib import nullcontext
from functools import cache

import pytest
import torch
from sae_samples import autoencoder
from tiny_models import build
from torch.nn.functional import normalize
from transformers import CompileConfig, GenerationConfig, StaticCache

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
from interp.models.tokens import Tokens

NEW = 5
PROMPTS = ["w5 w9 w20 w33 w41", "w7 w12", "w99 w8 w64 w3 w17 w25 w6 w90"]
OTHERS = ("gpt2", "gemma2", "gpt_neox")


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


@cache
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
        "gates at many sites": [("resid_post.*", Gate(push, Reads(row, middle)))],
        "at a gate": [(site, At(Gate(push, Reads(row, middle)), tokens=range(60, 128)))],
        "a gate at": [("resid_post.2", Gate(At(push, "generated"), Reads(row, middle), site=site))],
        "schedule a gate": [(site, Schedule(Gate(push, Reads(row, middle), reduce="last"), [0.0, 1.0]))],
        "two": [(site, At(push, "prompt")), ("resid_post.0", Schedule(push, [0.5, 1.0]))],
    }
    for reduce in ("max", "mean", "last"):
        when = Reads(row, between(model, site, row, reduce))
        found[f"gate by {reduce}"] = [("resid_post.2", Gate(push, when, reduce=reduce, site=site))]
    return {name: Recipe(edits) for name, edits in found.items()}


NAMES = [
    "project", "erase", "low rank", "relative", "clamp", "boost", "zero a head", "mean of neurons", "resample",
    "knock out", "scale heads", "prompt", "generated", "last", "tokens", "schedule", "gate a token", "gate elsewhere",
    "gate by a latent", "gate generated", "gate by max", "gate by mean", "gate by last", "gates at many sites",
    "at a gate", "a gate at", "schedule a gate", "two",
]  # fmt: skip
# Those that go by a token's position, by its id, and by the whole prompt.
KINDS = {
    "positions": ["prompt", "generated", "last", "schedule", "resample", "two", "gate generated"],
    "ids": ["tokens"],
    "prompts": ["knock out", "gate by mean", "gates at many sites", "at a gate", "a gate at", "schedule a gate"],
}


def anew(model, prompt, recipe, new):
    """The logits that chose a prompt's new tokens, in one pass over the whole, without cache and padding."""
    asked = model.tokens(prompt).ids[0]
    whole = torch.cat([asked, new])[None]
    with model.hooked(recipe, prompt=len(asked)):  # with a mask: a reply may hold the token that pads
        return model.logits(Tokens(whole, torch.ones_like(whole, dtype=torch.bool)))[0, len(asked) - 1 : -1]


@cache
def unedited(model):
    """The logits of what the model writes by itself."""
    return quickly(model, PROMPTS, [])[1]


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


@pytest.mark.parametrize(  # Llama has every op, and each of the others a third of them
    ("architecture", "name"),
    [("llama", name) for name in NAMES] + [(OTHERS[number % 3], name) for number, name in enumerate(NAMES)],
)
def test_cached_and_padded_is_computed_anew(tiny, architecture, name):
    model = tiny(architecture)
    recipe = recipes(model)[name]
    ids, logits = quickly(model, PROMPTS, recipe)
    for row, prompt in enumerate(PROMPTS):
        slow = anew(model, prompt, recipe, ids[row])
        assert torch.equal(ids[row], slow.argmax(dim=1))
        torch.testing.assert_close(logits[row], slow, atol=2e-4, rtol=1e-3)
    plain = unedited(model)
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


@torch.no_grad()
def test_a_cache_filled_elsewhere_is_refused(tiny):
    model = tiny("llama")
    ids = model.tokens("w5 w9 w20").ids
    cache, longer = (model.hf(x, use_cache=True).past_key_values for x in (ids, ids.repeat(1, 3)))
    recipe = recipes(model)["generated"]
    with model.hooked(recipe), pytest.raises(InterpError, match="filled outside this block"):
        model.hf(ids[:, :1], past_key_values=cache)
    with model.hooked(recipe):  # not either if another prompt was read in between
        inside = model.hf(ids, use_cache=True).past_key_values
        model.hf(ids[:, :1], past_key_values=inside)  # control
        for other in (cache, longer, copy.deepcopy(inside)):
            with pytest.raises(InterpError, match="another cache than the last pass"):
                model.hf(ids[:, :1], past_key_values=other)


def test_generation_from_a_filled_cache_is_refused_to_what_needs_the_prompt(tiny):
    model = tiny("llama")
    ids = model.tokens("w5 w9 w20 w33").ids
    options = {"max_new_tokens": 3, "pad_token_id": 0, "return_dict_in_generate": True}
    for name, refused in (("generated", True), ("gate by max", True), ("project", False)):
        with model.hooked(recipes(model)[name]):
            out = model.hf.generate(ids, **options)
            with pytest.raises(InterpError, match="give it the whole text alone") if refused else nullcontext():
                model.hf.generate(out.sequences, past_key_values=out.past_key_values, **options)


@pytest.mark.parametrize(
    "option",
    [
        {"guidance_scale": 2.0},
        {"assistant_early_exit": 1},
        {"assistant_model": ...},
        {"penalty_alpha": 0.5, "top_k": 4},
    ],
)
def test_further_passes_are_refused_by_name(tiny, option):
    """Passes over other tokens, in between or instead, belong to no prompt that is known."""
    model = tiny("llama")
    options = {name: model.hf if value is ... else value for name, value in option.items()}
    ids, sizes = model.tokens("w5 w9 w20").ids, {"max_new_tokens": 3, "pad_token_id": 0}
    with model.hooked(recipes(model)["generated"]):
        with pytest.raises(InterpError, match=rf"generate with .*{next(iter(option))}"):
            model.hf.generate(ids, **sizes, **options)
        model.hf.generate(ids, **sizes)  # control
    if "guidance_scale" in option:  # control: an op that acts on every token alike runs
        with model.hooked(recipes(model)["project"]):
            model.hf.generate(ids, **sizes, **options)


def test_hooks_are_not_compiled_away(tiny, monkeypatch):
    """A static cache compiles the pass on an accelerator, and what was compiled before has no hooks."""
    model = tiny("llama")
    monkeypatch.setattr(model.hf, "get_compiled_call", lambda settings: pytest.fail("it compiles"))
    ids, everywhere = model.tokens("w5 w9 w20").ids, CompileConfig(backend="eager")
    everywhere._compile_all_devices = True
    options = {"max_new_tokens": 3, "pad_token_id": 0, "cache_implementation": "static", "compile_config": everywhere}
    for given in (options, {"generation_config": GenerationConfig(**options)}):
        with model.hooked(recipes(model)["generated"]):
            model.hf.generate(ids, **given)
        with pytest.raises(pytest.fail.Exception, match="it compiles"):
            model.hf.generate(ids, **given)  # control


def test_padding_may_be_anywhere_in_a_pass(tiny):
    """By a mask of columns or of edges, to the left, to the right or inside."""
    model = tiny("llama")
    ids = model.tokens("w5 w9 w20 w33 w41 w7").ids
    for gap in ([0, 1], [4, 5], [2]):
        mask = torch.ones_like(ids)
        mask[0, gap] = 0
        kept = mask[0].bool()
        edges = (mask[:, None, :] * torch.ones(6, 6).tril() * mask[:, :, None])[:, None].bool()
        for name in ("prompt", "generated", "last", "schedule"):
            with model.hooked(recipes(model)[name]):
                expected = model.logits(ids[:, kept])[0]
                positions = (mask.cumsum(1) - 1).clamp(min=0)
                for form in (mask, edges):
                    found = model.hf(ids, attention_mask=form, position_ids=positions).logits[0, kept]
                    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    with model.hooked(recipes(model)["last"], prompt=6), pytest.raises(InterpError, match="pad it on the left"):
        model.hf.generate(ids, attention_mask=torch.tensor([[1, 1, 1, 1, 0, 1]]), prefill_chunk_size=3, pad_token_id=0)


UNEVEN = ["w5 w9 w20 w33 w41", "w7", " ".join(f"w{number}" for number in range(44, 63))]
BEAMS = {"num_beams": 3, "length_penalty": 0.0}
MODES = {
    "static": {"cache_implementation": "static"},
    "a static cache of one's own": lambda hf: {"past_key_values": StaticCache(config=hf.config, max_cache_len=40)},
    "sampling": {"do_sample": True, "num_return_sequences": 3},
    "beams": BEAMS | {"num_return_sequences": 2},
    "beams in a static cache": BEAMS | {"cache_implementation": "static", "do_sample": True},
    "beams without a cache": BEAMS | {"use_cache": False},
    "chunks": {"prefill_chunk_size": 4},
    "chunks of one": {"prefill_chunk_size": 1, "cache_implementation": "static"},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
    "an assistant": lambda hf: {"assistant_model": build("llama", seed=5).hf},
    "embeddings": {},
}
REFUSED = {
    ("chunks", "prompts"): "Knockout needs the whole prompt, but this pass reads columns 0 to 3 of its 19",
    ("chunks of one", "prompts"): "Knockout needs the whole prompt",
    ("embeddings", "ids"): "tokens can't be matched",
    ("embeddings", "prompts"): "tokens can't be matched",
}


HYBRID = ["static", "beams in a static cache", "chunks of one", "prompt lookup"]  # where caches of windows differ


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("architecture", "mode"), [*(("llama", mode) for mode in MODES), *(("gemma2", mode) for mode in HYBRID)]
)
def test_every_way_to_generate_is_one_pass_over_the_whole(tiny, architecture, mode, kind):
    """The tokens that were generated, read in one pass without cache and padding, with the prompt's length given."""
    model = tiny(architecture)
    recipe = Recipe([edit for name in KINDS[kind] for edit in recipes(model)[name].edits])
    if refusal := REFUSED.get((mode, kind)):
        with pytest.raises(InterpError, match=refusal):
            generated(model, UNEVEN, recipe, mode)
        return
    alone = mode in ("prompt lookup", "an assistant")  # these take one prompt
    for prompts in [[prompt] for prompt in UNEVEN] if alone else [UNEVEN]:
        torch.manual_seed(0)
        whole, logits, scores = generated(model, prompts, recipe, mode)
        for row, ids in enumerate(whole):
            length = len(ids) - NEW
            with model.hooked(recipe, prompt=length):
                slow = model.logits(ids)[0, length - 1 : -1]
            if scores is not None:
                slow = slow.log_softmax(-1)[range(NEW), ids[length:]].sum()
            torch.testing.assert_close(logits[row] if scores is None else scores[row], slow, atol=5e-4, rtol=1e-3)


@pytest.mark.parametrize("op", ["gate by mean", "at a gate"])
def test_a_gate_of_sequences_needs_the_whole_prompt(tiny, op):
    """The evidence may be in the second chunk. A chunk that holds the prompt is as good as none."""
    model = tiny("llama")
    with pytest.raises(InterpError, match="a gate of sequences needs the whole prompt"):
        quickly(model, UNEVEN, recipes(model)[op], prefill_chunk_size=18)
    whole, chunk = (
        quickly(model, UNEVEN, recipes(model)[op], **options) for options in ({}, {"prefill_chunk_size": 19})
    )
    torch.testing.assert_close(chunk[1], whole[1])


def generated(model, prompts, recipe, mode):
    """Each row's prompt and reply, and the logits that its tokens are from, or their sum as log-probabilities."""
    batch, options = model.tokens(prompts), MODES[mode]
    inputs = {"input_ids": batch.ids, "attention_mask": batch.mask.long()}
    if mode == "embeddings":
        inputs["inputs_embeds"] = model.hf.get_input_embeddings()(inputs.pop("input_ids"))
    fixed = {"max_new_tokens": NEW, "min_new_tokens": NEW, "pad_token_id": 0, "eos_token_id": None}
    kept = {"return_dict_in_generate": True, "output_logits": True, "output_scores": True}
    with model.hooked(recipe):
        out = model.hf.generate(**inputs, **fixed, **kept, **(options(model.hf) if callable(options) else options))
    rows = len(out.sequences) // len(prompts)
    asked = batch.unpadded()
    whole = [torch.cat([torch.tensor(asked[row // rows]), new[-NEW:]]) for row, new in enumerate(out.sequences)]
    return whole, torch.stack(out.logits, 1), out.sequences_scores if "beams" in mode else None


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
