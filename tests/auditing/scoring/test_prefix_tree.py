"""Answers side by side and through the cache against one plain pass over each text, with and without recipes."""

from contextlib import contextmanager, nullcontext
from random import Random

import pytest
import torch
from tiny_models import at_layer

from interp import InterpError, Project, Recipe
from interp.auditing.scoring.likelihoods import answer_logprobs
from interp.interventions import Add, At, Gate, Knockout, Reads, Schedule

ARCHITECTURES = [
    "llama",
    "gpt2",
    "gpt_neo",
    "gemma2",
    "gemma3",
    "gpt_neox",
    "bloom",
    "cohere2",
    "mixtral",
    "falcon",
    "deepseek_v2",
]


def drawn(items=8, seed=0):
    """Prompts of many lengths, and one to four answers each that share nothing, some words, or all but an end."""
    rng = Random(seed)

    def words(n):
        return "".join(f" w{rng.randrange(4, 128)}" for _ in range(n))

    prompts = [words(rng.randint(1, 25)).strip() for _ in range(items)]
    heads = [words(rng.randint(0, 2)) for _ in prompts]
    answers = [[head + words(rng.randint(1, 6)) for _ in range(rng.randint(1, 4))] for head in heads]
    answers[3] = [" w7", " w7 w8", " w7 w8 w9"]
    return prompts, answers


def slow(model, prompt, answer, recipe=()):
    ids, start = model.tokens(prompt + answer).ids, model.tokens(prompt).ids.shape[1]
    with model.hooked(recipe, prompt=start), torch.no_grad():
        logp = model.hf(ids, use_cache=False).logits.log_softmax(-1)[0]
    return float(sum(logp[t - 1, ids[0, t]] for t in range(start, ids.shape[1])))


def flat(found):
    return [value for item in found for value in item.nats]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_answer_is_as_likely_as_in_a_plain_pass_over_its_text(tiny, architecture):
    model, (prompts, answers) = tiny(architecture), drawn()
    found = answer_logprobs(model, prompts, answers)
    expected = [slow(model, prompt, end) for prompt, ends in zip(prompts, answers, strict=True) for end in ends]
    assert flat(found) == pytest.approx(expected, abs=2e-5)
    assert [item.tokens for item in found] == [tuple(len(end.split()) for end in ends) for ends in answers]
    assert [item.bytes for item in found] == [tuple(map(len, ends)) for ends in answers]
    assert found[0].normalised("token") == pytest.approx(
        [n / t for n, t in zip(found[0].nats, found[0].tokens, strict=True)]
    )
    others = answer_logprobs(model, drawn(seed=1)[0], answers)
    assert max(abs(a - b) for a, b in zip(flat(found), flat(others), strict=True)) > 0.02, "control: prompts matter"


def recipes(model):
    row = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    site = "resid_post.1"
    return {
        "everywhere": Recipe([("writers", Project(row))]),
        "prompt": Recipe([(site, At(Add(3 * row), "prompt"))]),
        "generated": Recipe([(site, At(Add(3 * row), "generated"))]),
        "last": Recipe([(site, At(Add(3 * row), "last"))]),
        "schedule": Recipe([(site, Schedule(Add(3 * row), [1.0, 0.5, 0.0]))]),
        "gate": Recipe([(site, Gate(Add(3 * row), Reads(row, -1.0), reduce="last"))]),
        "knockout": Recipe([("z.1", Knockout("generated", "last"))]),
    }


@pytest.mark.parametrize("name", list(recipes(type("Wide", (), {"d_model": 2}))))
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_a_recipe_acts_as_in_a_plain_pass(tiny, architecture, name):
    model, (prompts, answers) = tiny(architecture), drawn()
    recipe, plain = recipes(model)[name], flat(answer_logprobs(model, prompts, answers))
    with model.hooked(recipe):
        found = flat(answer_logprobs(model, prompts, answers))
    pairs = [(prompt, end) for prompt, ends in zip(prompts, answers, strict=True) for end in ends]
    assert found == pytest.approx([slow(model, *pair, recipe) for pair in pairs], abs=5e-5)
    assert max(abs(a - b) for a, b in zip(found, plain, strict=True)) > 0.01, "control: the recipe does something"
    assert flat(answer_logprobs(model, prompts, answers)) == plain, "and nothing of it stays"


@contextmanager
def counted(model):
    """Of each pass: the positions read, and then those unembedded."""
    seen = []
    modules = [model.hf.get_input_embeddings(), model.hf.get_output_embeddings()]
    handles = [
        module.register_forward_hook(lambda m, a, out: seen.append(out.shape[:-1].numel())) for module in modules
    ]
    try:
        yield seen
    finally:
        [handle.remove() for handle in handles]


def test_each_beginning_is_read_once_and_only_what_predicts_is_unembedded(tiny):
    model, (prompts, answers) = tiny("llama"), drawn(items=6)
    prompts = ["w5 w9 w11 w4 " + prompt for prompt in prompts]
    pairs = [(prompt, end) for prompt, ends in zip(prompts, answers, strict=True) for end in ends]
    texts = [model.tokens(prompt + end).ids[0].tolist() for prompt, end in pairs]
    starts = [model.tokens(prompt).ids.shape[1] for prompt, _ in pairs]
    read = {tuple(ids[:n]) for ids in texts for n in range(1, len(ids))}
    predicting = {tuple(ids[:n]) for ids, start in zip(texts, starts, strict=True) for n in range(start, len(ids))}
    for recipe in (None, recipes(model)["everywhere"]):
        with counted(model) as seen, model.hooked(recipe) if recipe else nullcontext():
            answer_logprobs(model, prompts, answers)
        assert seen == [len(read), len(predicting)], "all of it fits into one row"
    with counted(model) as seen, model.hooked(recipes(model)["last"]):
        answer_logprobs(model, prompts, answers)
    assert sum(seen[0::2]) > len(read), "control: by position, each prompt is read by itself"


def test_items_fill_several_rows_and_passes(tiny):
    """More than a row's and a pass's worth, the longest as long as the context."""
    model, (prompts, answers) = tiny("llama"), drawn(items=150)
    prompts[7] = " ".join(["w7"] * (64 - max(len(end.split()) for end in answers[7])))
    with counted(model) as seen:
        found = answer_logprobs(model, prompts, answers)
    assert len(seen) > 2
    expected = [slow(model, prompt, end) for prompt, ends in zip(prompts, answers, strict=True) for end in ends]
    assert flat(found) == pytest.approx(expected, abs=2e-5)


def test_what_cannot_be_scored_is_named(tiny):
    model = tiny("llama")
    with pytest.raises(InterpError, match="item 2: answer 1, '', adds no token"):
        answer_logprobs(model, ["w5", "w6"], [[" w7", " w8"], [" w7", ""]])
    with pytest.raises(InterpError, match=r"item 2: its text has 69 tokens but the model's context is 64"):
        answer_logprobs(model, ["w5", "w6 " * 69], [[" w7"], ["w7"]])
    with pytest.raises(InterpError, match="1 prompts and 0 lists"):
        answer_logprobs(model, ["w5"], [])
    with at_layer(model, 1, lambda x: x * float("nan")), pytest.raises(InterpError, match=r"item 1, answer 0.*NaN"):
        answer_logprobs(model, ["w5"], [[" w7", " w8"]])
