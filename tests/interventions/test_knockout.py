"""Cut edges carry nothing: against attention computed by hand, and against what no path is left for.

The slow version replaces transformers' attention function by one written out here: all scores, a softmax over the keys
that are left, head by head. It is given whole sequences, no cache, no padding.
"""

import pytest
import torch
import transformers
from tiny_models import CONFIGS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from interp import InterpError, Recipe
from interp.editing.fold.steps import fold
from interp.interventions import At, Gate, Knockout, Positions, Reads, Replace, Schedule
from interp.models.hooked import HookedModel

NEW = 4
PROMPTS = ["w5 w9 w20 w33 w41", "w7 w12 w9", "w99 w8 w64 w3 w17 w25 w6 w90"]
HANDMADE = ("llama", "qwen3", "gemma2", "gpt2", "gpt_neox")
CUTS = {  # what a recipe cuts: queries, keys, heads, layers
    "last from the first": ("last", 0, None, "*"),
    "some heads": (["prompt", "generated"], [1, -2], [1, 3], "*"),
    "one layer": ("prompt", "prompt", [0], "1"),
    "the reply from the prompt": ("generated", "prompt", [2], "0-1"),
    "the reply from itself": ("generated", "generated", None, "*"),
    "by token": (Positions("generated", [9, 12, 17]), Positions(tokens=[9, 12, 20, 64]), None, "*"),
}


def recipe(name):
    queries, keys, heads, layers = CUTS[name]
    return Recipe([(f"z.{layers}", Knockout(queries, keys, heads))])


def members(which, ids, prompt, as_keys=False):
    """The places of a sequence that a choice names, by the words of its definition."""
    names, tokens = (which.names, which.tokens) if isinstance(which, Positions) else (which, [])
    found = set()
    for name in [names] if isinstance(names, str | int) else names:
        found |= {
            "prompt": set(range(prompt - 1)), "generated": set(range(prompt - 1, len(ids))), "last": {prompt - 1}
        }.get(name) or ({name % prompt} if isinstance(name, int) else set())  # fmt: skip
    end = prompt if as_keys else len(ids)
    return found | {place for place in range(end) if int(ids[place]) in tokens}


def by_hand(model, ids, prompt, name, monkeypatch):
    """Logits with edges cut, attention written out."""
    queries, keys, heads, layers = CUTS[name]
    queries, keys = members(queries, ids, prompt), members(keys, ids, prompt, as_keys=True)
    layers = {"*": {0, 1, 2}, "1": {1}, "0-1": {0, 1}}[layers]

    def attend(module, query, key, value, attention_mask, scaling=None, softcap=None, sliding_window=None, **rest):
        out = torch.zeros(*query.shape[:3], value.shape[-1])
        for head in range(query.shape[1]):
            shared = head // (query.shape[1] // key.shape[1])
            for q in range(query.shape[2]):
                left = [k for k in range(q + 1) if sliding_window is None or k > q - sliding_window]
                if module.layer_idx in layers and (heads is None or head in heads) and q in queries:
                    left = [k for k in left if k not in keys or k == q]
                scores = key[0, shared, left] @ query[0, head, q] * scaling
                scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
                out[0, head, q] = torch.softmax(scores, 0) @ value[0, shared, left]
        return out.transpose(1, 2), None

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "by hand", attend)
    before = model.hf.config._attn_implementation
    model.hf.config._attn_implementation = "by hand"
    try:
        with torch.no_grad():
            return model.hf(ids[None], use_cache=False).logits[0]
    finally:
        model.hf.config._attn_implementation = before


def quickly(model, prompts, edits, **options):
    """Hugging Face's generation: cached, left-padded, all prompts at once."""
    batch = model.tokens(prompts)
    inputs = {"input_ids": batch.ids, "attention_mask": batch.mask.long()}
    settings = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    with model.hooked(edits, prompt=batch.ids.shape[1]), torch.no_grad():
        out = model.hf.generate(
            **inputs, **settings | options, return_dict_in_generate=True, output_logits=True, eos_token_id=None
        )
    return out.sequences[:, batch.ids.shape[1] :], torch.stack(out.logits, 1)


@pytest.fixture(scope="module")
def eager():
    """A model that computes attention itself, with a mask of numbers."""
    torch.manual_seed(0)
    hf = transformers.AutoModelForCausalLM.from_config(CONFIGS["llama"](), attn_implementation="eager")
    return hf.float()


@pytest.mark.parametrize("architecture", HANDMADE)
@pytest.mark.parametrize("name", CUTS)
def test_it_is_attention_written_out_over_the_keys_left(tiny, architecture, name, monkeypatch):
    model = tiny(architecture)
    drawn, logits = quickly(model, PROMPTS, recipe(name))
    plain = quickly(model, PROMPTS, [])[1]
    for row, prompt in enumerate(PROMPTS):
        ids = model.tokens(prompt).ids[0]
        whole = torch.cat([ids, drawn[row]])
        slow = by_hand(model, whole, len(ids), name, monkeypatch)[len(ids) - 1 : -1]
        torch.testing.assert_close(logits[row], slow, atol=2e-4, rtol=1e-3)
    assert (logits - plain).abs().max() > 1e-3, "control: it does something"


@pytest.mark.parametrize("name", CUTS)
def test_cache_beams_and_eager_attention_change_nothing(tiny, eager, name):
    model = tiny("llama")
    for options in ({"num_beams": 3}, {}):
        cached, anew = (quickly(model, PROMPTS, recipe(name), use_cache=use, **options) for use in (True, False))
        assert torch.equal(cached[0], anew[0])
    eager.load_state_dict(model.hf.state_dict())
    with_numbers = quickly(HookedModel(eager, model.tokenizer), PROMPTS, recipe(name))
    torch.testing.assert_close(with_numbers[1], cached[1], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_what_nothing_attends_to_is_not_known_later(tiny, architecture):
    """Cut from all that follow, in all layers, a token has no path to them: another in its place changes nothing."""
    model = tiny(architecture)
    one, other = model.tokens(["w5 w9 w20 w33 w41 w8"]).ids, model.tokens(["w5 w9 w77 w33 w41 w8"]).ids
    cut = Recipe([("z.*", Knockout([3, 4, 5], keys=2))])
    with model.hooked(cut):
        torch.testing.assert_close(model.logits(one)[0, 3:], model.logits(other)[0, 3:], atol=1e-5, rtol=1e-5)
    assert (model.logits(one)[0, 3:] - model.logits(other)[0, 3:]).abs().max() > 1e-3, "control"
    with model.hooked(cut):
        assert (model.logits(one)[0, 2] - model.logits(other)[0, 2]).abs().max() > 1e-3, "itself it sees"


def test_beyond_a_sliding_window_columns_are_the_same(tiny):
    """The cache of a layer with a window keeps its last keys only: its first key is not the batch's first column."""
    model = tiny("gemma2")
    prompt = " ".join(f"w{number}" for number in range(20, 45))
    for keys in (12, -3, "generated"):
        edits = Recipe([("z.*", Knockout("generated", keys=keys))])
        cached, anew = (quickly(model, [prompt, "w7 w9"], edits, use_cache=use) for use in (True, False))
        assert torch.equal(cached[0], anew[0])
        torch.testing.assert_close(cached[1], anew[1], atol=2e-4, rtol=1e-3)
        assert (cached[1] - quickly(model, [prompt, "w7 w9"], [])[1]).abs().max() > 1e-3, "control"


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_nothing_cut_changes_nothing(tiny, architecture):
    """Not one bit: nothing is read that was written later, no token is 127, and no edge to itself is cut."""
    model = tiny(architecture)
    plain = model.logits(PROMPTS)
    for op in (Knockout(0, keys=-1), Knockout("prompt", Positions(tokens=[127])), Knockout(1, keys=1)):
        with model.hooked(Recipe([("z.*", op)])):
            assert torch.equal(model.logits(PROMPTS), plain)


def test_a_query_left_alone_sees_itself(tiny):
    """With every key cut, each head gives its own token's value."""
    model = tiny("llama")
    everywhere = ["prompt", "generated"]
    with model.hooked(Recipe([("z.*", Knockout(everywhere, keys=everywhere))])):
        acts = model.capture(PROMPTS, ["v.1", "z.1"])
        assert model.logits(PROMPTS)[acts.tokens.mask].isfinite().all()
    own = acts.tensors[model.resolve("v.1")[0]].repeat_interleave(2, dim=2)  # a value is shared by two heads
    torch.testing.assert_close(acts["z.1"][acts.tokens.mask], own[acts.tokens.mask])


def test_it_is_saved_and_read_and_works_beside_others(tiny, tmp_path):
    model = tiny("llama")
    edits = Recipe([("z.1", Replace(units=[0])), *recipe("by token").edits, *recipe("one layer").edits])
    edits.save(tmp_path / "recipe")
    again = Recipe.load(tmp_path / "recipe")
    assert again.digest == edits.digest
    assert torch.equal(quickly(model, PROMPTS, again)[1], quickly(model, PROMPTS, edits)[1])


def test_misuse_is_refused(tiny):
    model = tiny("llama")
    cut = Knockout("last", keys=0)
    with pytest.raises(InterpError, match="no exact fold"):
        fold(recipe("one layer"), model.config, model.hf.state_dict(), tied=False)
    row = torch.ones(32)
    for hold in (At, lambda op, where: Schedule(op, [1.0]), lambda op, where: Gate(op, Reads(row, 0.0))):
        with pytest.raises(InterpError, match="Knockout can't be inside another op"):
            hold(cut, "last")
    for edits, problem in (
        (("resid_post.1", cut), "put it at z"),
        (("z.1", Knockout("last", keys=0, heads=[4])), "head 4 does not exist"),
    ):
        with pytest.raises(InterpError, match=problem):
            Recipe([edits]).bind(model)
    with pytest.raises(InterpError, match=r"heads of Knockout are \[\]"):
        Knockout("last", keys=0, heads=[])
    with pytest.raises(InterpError, match="unknown position"):
        Knockout("lst", keys=0)
    with pytest.raises(InterpError, match="run it in a recipe"):
        cut(torch.zeros(1, 1, 4, 8))
