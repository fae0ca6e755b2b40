"""Attention patterns: they make the model's own outputs of heads, in every architecture; lengths are those written."""

import pytest
import tiny_models
import torch

from interp import InterpError, Recipe
from interp.attribution import attention_patterns
from interp.interventions import Knockout

IDS = torch.randint(4, 128, (1, 7), generator=torch.Generator().manual_seed(1))
VALUES = ["llama", "gpt2", "gpt_neox", "bloom", "falcon", "phi3", "gemma2", "granite", "gpt_oss"]


@pytest.mark.parametrize("name", sorted(tiny_models.CONFIGS.keys() - {"deepseek_v3"}))  # needs more heads to be eager
def test_a_token_attends_to_itself_and_before(tiny, name):
    """Also where Hugging Face's own switch leaves a mask out (Falcon); with sinks (gpt-oss) a part is attended to."""
    model = tiny(name)
    usual = model.config._attn_implementation
    weights = attention_patterns(model, IDS).weights
    sums = weights.sum(-1)
    assert model.config._attn_implementation == usual
    assert not weights.triu(1).any()
    assert weights.std() > 0.01, "control: they differ"
    assert sums.max() <= 1 + 1e-5
    assert name == "gpt_oss" or sums.min() > 1 - 1e-5


@pytest.mark.parametrize("name", VALUES)
def test_a_weighted_weight_is_the_length_of_what_is_written(tiny, name):
    """The first token attends to itself alone, so there it is the length of the head's whole result."""
    model = tiny(name)
    plain, weighted = (attention_patterns(model, IDS, [1], weigh).weights for weigh in (False, True))
    _, cache = model.run_with_cache(IDS, "z.*")
    first = cache["result", 1][0, 0].norm(dim=-1)
    torch.testing.assert_close(weighted[0, :, 0, 0], first, atol=1e-5, rtol=1e-4)
    lengths = weighted / plain.clamp(min=1e-9)
    later = lengths[0, :, -1]
    torch.testing.assert_close(lengths[0, :, 3, :4], later[:, :4], atol=1e-4, rtol=1e-3, msg="the same for each query")
    assert later.std() > 1e-3, "control: tokens differ"


def test_unknown_values_are_refused(tiny):
    for name in ("deepseek_v2", "gemma4"):
        with pytest.raises(InterpError, match="attention are no module's output; leave out value_weighted"):
            attention_patterns(tiny(name), IDS, [1], value_weighted=True)


@pytest.mark.parametrize(("name", "reason"), [("falcon_new", "leave out value_weighted"), ("deepseek_v3", "eager")])
def test_what_an_architecture_can_not_run_is_refused_by_its_name(tiny, name, reason):
    model = tiny(name)
    usual = model.config._attn_implementation
    with pytest.raises(InterpError, match=rf"{model.config.model_type}: .*{reason}"):
        attention_patterns(model, IDS, value_weighted=True)
    assert model.config._attn_implementation == usual


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_the_patterns_are_those_of_transformerlens(tiny, name):
    model = tiny(name)
    _, cache = model.run_with_cache(IDS)
    patterns = attention_patterns(model, IDS)
    for layer in range(3):
        torch.testing.assert_close(patterns.weights[layer], cache["pattern", layer][0], atol=1e-5, rtol=1e-4)
    assert patterns.layers == (0, 1, 2)
    assert patterns.tokens == tuple(f" w{token}" for token in IDS[0].tolist())


def test_a_recipe_applies(tiny):
    """Where an edge is cut, nothing is attended to; in the other heads everything stays in the first cut layer."""
    model = tiny("llama")
    before = attention_patterns(model, IDS)
    with model.hooked(Recipe([("z.1", Knockout("last", keys=3, heads=[2]))])):
        after = attention_patterns(model, IDS)
    assert before.weights[1, 2, -1, 3] > 0.01
    assert after.weights[1, 2, -1, 3] == 0
    torch.testing.assert_close(after.weights[1, [0, 1, 3]], before.weights[1, [0, 1, 3]], atol=1e-6, rtol=1e-5)


def test_the_largest_weights_are_listed(tiny):
    patterns = attention_patterns(tiny("llama"), IDS, [2, -3])
    (head, position, word, weight), second = patterns.top(2, query=4)
    place = patterns.place(*map(int, head.split(".")))
    assert weight == patterns.weights[place][4, position] == patterns.weights[:, :, 4, 1:].max() >= second[3]
    assert word == patterns.tokens[position]
    assert repr(patterns).startswith("AttentionPatterns(attention of tiny llama 0 from ' w")
    assert patterns.layers == (2, 0)
    assert len(patterns.top(99, query=1)) == 2 * 4, "later tokens are not listed"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: attention_patterns(m, ["w5 w9", "w8"]), "of one prompt, not of 2; call it for each"),
        (lambda m: attention_patterns(m, "w5 w9", [3]), "layer 3 is not in the model; expected 0 to 2"),
        (lambda m: attention_patterns(m, "w5 w9", []), "layers names no layer; leave it out for all"),
        (
            lambda m: attention_patterns(m, "w5 w9").top(query=2),
            "query 2 is not a position .* expected -2 to 1",
        ),
        (lambda m: attention_patterns(m, "w5 w9", [1]).place(0, 1), "expected a layer of 1 and a head from 0 to 3"),
    ],
)
def test_what_is_not_there_is_named(tiny, call, message):
    with pytest.raises(InterpError, match=message):
        call(tiny("llama"))
