"""Hooks leave with their block, whatever happens inside."""

from functools import partial

import pytest
import torch
from shards import together
from transformers import AutoModelForCausalLM

import interp
from interp import Add, InterpError, Project, Recipe
from interp.interventions import Knockout
from interp.models.hooks import HookPoint, hook_function
from interp.models.sites import Site


def ids(batch=2, pos=9, seed=1):
    return torch.randint(4, 128, (batch, pos), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("problem", [RuntimeError, KeyboardInterrupt])
def test_hooks_are_removed_whatever_happens_inside(tiny, problem):
    model = tiny("llama")
    before = model.logits(ids())
    with pytest.raises(problem), model.hooked([("mlp_out.*", lambda x: 0 * x)]):
        assert not torch.allclose(model.logits(ids()), before), "control: the hook acts inside"
        raise problem
    assert torch.equal(model.logits(ids()), before)


def test_hooks_are_removed_when_one_of_them_fails(tiny):
    model = tiny("llama")
    before = model.logits(ids())
    with model.hooked([("mlp_out.0", lambda x: x[:, :1])]), pytest.raises(InterpError, match="returned shape"):
        model.logits(ids())
    assert torch.equal(model.logits(ids()), before)


class _Callable:
    def __call__(self, x, hook):
        return x * hook.layer()


def _plain(x):
    return 3 * x


def _second(x, at):
    return x * at.layer()


# At layer 3 each of these multiplies by 3.
HOOKS = {
    "plain": _plain,
    "with its hook": lambda x, hook: x * hook.layer(),
    "hook by keyword": lambda x, *, hook: x * hook.layer(),
    "hook with a default": lambda x, hook=None: x * hook.layer(),
    "second parameter": _second,
    "default": lambda x, factor=3: x * factor,
    "partial": partial(torch.mul, other=3),
    "partial of a hook": partial(lambda factor, x, hook: x * factor * hook.layer(), 1),
    "partial that has its hook": partial(_Callable(), hook=HookPoint(Site("mlp_out", 3))),
    "object": _Callable(),
    "method": _Callable().__call__,
    "module": torch.nn.Hardtanh(0, 3),
    "any arguments": lambda *args, **options: _plain(*args),
}


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_is_told_its_place_if_its_parameters_ask_for_it(name):
    x = torch.full((2,), 3.0) if name == "module" else torch.ones(2)
    adapted = hook_function(HOOKS[name], HookPoint(Site("mlp_out", 3)))
    assert adapted(x).tolist() == [3, 3]


def test_a_function_without_known_parameters_is_taken_as_it_is():
    point = HookPoint(Site("mlp_out", 3))
    for function in (torch.relu, torch.Tensor.neg, abs, _plain):
        assert hook_function(function, point) is function, "and so costs nothing per call"


def three(a, b, c):
    return a


WRONG = [(three, r"hook three\(a, b, c\) at .* takes other arguments"), (lambda: 1, "takes other arguments")]


@pytest.mark.parametrize(("function", "message"), WRONG)
@pytest.mark.parametrize("call", ["hooked", "hooks", "backward", "generate", "run_with_hooks"])
def test_a_wrong_hook_is_refused_at_the_call(tiny, function, message, call):
    model, pairs = tiny("llama"), [("mlp_out.1", function)]
    calls = {
        "hooked": lambda: model.hooked(pairs).__enter__(),
        "hooks": lambda: model.hooks(pairs).__enter__(),
        "backward": lambda: model.hooks(bwd_hooks=pairs).__enter__(),
        "generate": lambda: model.generate("w5", pairs, max_new_tokens=2),
        "run_with_hooks": lambda: model.run_with_hooks("w5", pairs),
    }
    with pytest.raises(InterpError, match=message):
        calls[call]()


def test_a_hook_that_returns_no_tensor_is_named(tiny):
    with pytest.raises(InterpError, match=r"a hook at model.layers.1.mlp returned a tuple where"):
        tiny("llama").run_with_hooks("w5", [("mlp_out.1", lambda x: (x,))])


SPLIT = ("llama", "qwen3")
EDITS = {
    "stream": [("writers", Project(torch.linspace(-1, 1, 32))), ("resid_post.1", Add(torch.ones(32)))],
    "heads": [("z.1", lambda x: x * torch.arange(4.0)[:, None])],
    "neurons": [("mlp_post.2", lambda x: x * (torch.arange(64) % 3))],
}


def _readings(model):
    """Activations at all sites, logits under edits, a generation, and the digest."""
    texts, found = ["w5 w6 w7 w8", "w9 w10"], {}
    for site in model.sites:
        try:
            found[str(site)] = model.capture(texts, site)[site]
        except InterpError as problem:
            found[str(site)] = str(problem)
    for name, edits in EDITS.items():
        with model.hooked(edits):
            found[name] = model.logits(texts)
    return found | {"generated": model.generate(texts, max_new_tokens=5), "digest": model.digest}


@pytest.fixture(scope="module")
def split(tiny, tmp_path_factory):
    """The readings of each of two processes that have halves of a model, by architecture."""
    folder = tmp_path_factory.mktemp("split")
    for name in SPLIT:
        tiny(name).hf.save_pretrained(folder / name)

    def work(shard):
        found = {}
        for name in SPLIT:
            parts = AutoModelForCausalLM.from_pretrained(folder / name, tp_plan="auto", dtype=torch.float32)
            model = interp.load(parts, tokenizer=tiny(name).tokenizer)
            found[name] = _readings(model)
            with (
                pytest.raises(InterpError, match="attention masks can't be changed"),
                model.hooked(Recipe([("z.1", Knockout("last", 0, [1]))])),
            ):
                model.logits("w5 w6")
        return found

    return together(work, folder)


@pytest.mark.parametrize("name", SPLIT)
def test_a_model_split_over_processes_reads_and_edits_as_the_whole(tiny, split, name):
    expected = _readings(tiny(name))
    for found in (part[name] for part in split):
        for key, value in expected.items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(found[key], value, atol=1e-5, rtol=1e-5)
            else:
                assert found[key] == value


def test_an_offloaded_model_reads_and_edits_as_the_whole_but_has_no_digest(tiny, tmp_path):
    model = tiny("llama")
    model.hf.save_pretrained(tmp_path / "model")
    places = {"model.embed_tokens": "disk", "model.layers": "disk", "model.norm": "cpu", "model.rotary_emb": "cpu"}
    hf = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model",
        device_map=places | {"lm_head": "disk"},
        offload_folder=tmp_path / "disk",
        dtype=torch.float32,
    )
    offloaded = interp.load(hf, tokenizer=model.tokenizer)
    assert torch.equal(offloaded.logits(ids()), model.logits(ids()))
    assert torch.equal(offloaded.capture(ids(), "z.1")["z.1"], model.capture(ids(), "z.1")["z.1"])
    assert offloaded.generate("w5 w6", max_new_tokens=4) == model.generate("w5 w6", max_new_tokens=4)
    with pytest.raises(InterpError, match="is offloaded, so that the weights have no digest"):
        _ = offloaded.digest
