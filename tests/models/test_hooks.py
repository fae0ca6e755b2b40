"""Hooks leave with their block, whatever happens inside."""

from functools import partial

import pytest
import torch

from interp import InterpError
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
