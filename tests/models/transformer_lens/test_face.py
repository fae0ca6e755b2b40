"""TransformerLens' verbs do on the plain model what they do on TransformerLens' own, and raise where it is silent."""

import pytest
import tiny_models
import torch

from interp import InterpError
from interp.models.sites import Site

IDS = torch.randint(4, 128, (2, 9), generator=torch.Generator().manual_seed(1))
NAMES = ["blocks.1.hook_resid_post", "blocks.0.attn.hook_z", "blocks.2.hook_mlp_out"]


def theirs(model, **options):
    with tiny_models.eagerly(model):
        return model.bridge.run_with_cache(IDS, **options)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox"])
@pytest.mark.parametrize(
    "options",
    [
        {"names_filter": NAMES},
        {"names_filter": NAMES[0]},
        {"names_filter": lambda name: name.endswith("hook_mlp_out")},
        {"names_filter": NAMES[:2], "stop_at_layer": 2},
        {"names_filter": NAMES[:2], "stop_at_layer": -1},
        {"names_filter": NAMES, "pos_slice": (2, 5)},
        {"names_filter": NAMES, "pos_slice": -1},
        {"names_filter": NAMES, "pos_slice": [0, 3]},
        {"names_filter": ["blocks.1.attn.hook_pattern", NAMES[0]], "pos_slice": (1, 4)},
        {"names_filter": None, "stop_at_layer": 1},
    ],
)
def test_a_cache_is_transformerlens_cache(tiny, name, options):
    model = tiny(name)
    output, cache = theirs(model, **options)
    ours, own = model.run_with_cache(IDS, **options)
    torch.testing.assert_close(ours, output, atol=1e-5, rtol=1e-5)
    assert own.keys()
    assert set(own) <= set(cache), "theirs also has each site under its second name"
    for key in own:
        torch.testing.assert_close(own[key], cache[key], atol=1e-5, rtol=1e-5)


def test_the_cache_is_an_activation_cache_of_copies(tiny):
    model = tiny("llama")
    _, cache = model.run_with_cache(IDS[:1], ["resid_post.*", "embed"], remove_batch_dim=True)
    assert cache["resid_post", 1].shape == (9, 32)
    again = model.run_with_cache(IDS[:1], "resid_post.1")[1]["resid_post", 1][0].clone()
    cache["resid_post", 1].zero_()
    torch.testing.assert_close(model.capture(IDS[:1], "resid_post.1")["resid_post.1"][0], again)


def test_padding_and_recipes_reach_what_modules_compute(tiny):
    model, words = tiny("llama"), ["w5 w9 w77", "w8"]
    with model.hooked([("mlp_out.0", lambda x: 0 * x)]):
        _, cache = model.run_with_cache(words, "blocks.0.hook_mlp_out")
        assert not cache["mlp_out", 0].any()
        with pytest.raises(InterpError, match="which a recipe does not reach"):
            model.run_with_cache(IDS, "blocks.0.attn.hook_pattern")
    acts = model.capture(words, "resid_post.2")
    torch.testing.assert_close(model.run_with_cache(words, "resid_post.2")[1]["resid_post", 2], acts["resid_post.2"])
    with pytest.raises(InterpError, match="does not mask padding"):
        model.run_with_cache(words, "blocks.0.attn.hook_pattern")


def test_a_filter_needs_the_bridge_only_for_what_is_reached(tiny):
    """With padding, which the bridge refuses."""
    _, cache = tiny("llama").run_with_cache(
        ["w5 w9", "w8"], lambda name: name.endswith(("0.hook_mlp_out", "2.attn.hook_pattern")), stop_at_layer=1
    )
    assert list(cache) == ["blocks.0.hook_mlp_out"]


def test_the_weights_gradients_survive_a_failure_on_the_bridge(tiny):
    model = tiny("llama", seed=6)
    weight = next(model.hf.parameters())
    weight.grad = torch.ones_like(weight)
    with pytest.raises(IndexError):
        model.run_with_cache(IDS, "blocks.1.attn.hook_pattern", pos_slice=999)
    assert weight.grad is not None
    weight.grad = None


def test_stopping_behind_the_last_layer_gives_the_residual_stream(tiny):
    model = tiny("gpt2")
    last = model.capture(IDS, "resid_post.2")["resid_post.2"]
    for names in ("blocks.0.hook_mlp_out", "blocks.0.attn.hook_pattern"):
        output, _ = model.run_with_cache(IDS, names, stop_at_layer=3)
        torch.testing.assert_close(output, last, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.run_with_hooks(IDS, stop_at_layer=3), last)
    torch.testing.assert_close(
        model.run_with_hooks(IDS, stop_at_layer=0), model.capture(IDS, "resid_pre.0")["resid_pre.0"]
    )


@pytest.mark.parametrize("name", ["llama", "gpt2", "falcon", "granite", "opt"])
def test_gradients_are_the_losss_own(name):
    """In float64, against the loss's central difference along a random direction."""
    model, site = tiny_models.build(name), Site("mlp_out", 1)
    model.hf.double()
    _, cache = model.run_with_cache(IDS, "mlp_out.1", incl_bwd=True, return_type="loss")
    slope = cache[f"{site.hook_name}_grad"]
    push = torch.randn(slope.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(step):
        hook = (site.hook_name, lambda x, hook: x + step * push)
        return float(model.run_with_hooks(IDS, [hook], return_type="loss"))

    measured = (loss(1e-3) - loss(-1e-3)) / 2e-3
    assert abs(measured) > 1e-3
    assert abs(float((slope * push).sum()) - measured) < 1e-3 * abs(measured) + 1e-5
    assert all(weight.grad is None for weight in model.hf.parameters()), "the weights' own gradients are left alone"


def test_gradients_equal_transformerlens_gradients(tiny):
    model = tiny("llama")
    names = ["blocks.1.hook_resid_post", "blocks.0.attn.hook_pattern"]
    loss, cache = model.run_with_cache(IDS, names, incl_bwd=True, return_type="loss")
    _, plain = model.run_with_cache(IDS, names[0], incl_bwd=True, return_type="loss")
    assert loss.ndim == 0
    key = f"{names[0]}_grad"
    torch.testing.assert_close(cache[key], plain[key], atol=1e-6, rtol=1e-4)
    assert all(weight.grad is None for weight in model.hf.parameters())


def test_backward_hooks_see_and_change_gradients(tiny):
    model, seen = tiny("llama"), []
    with torch.enable_grad():
        note = [("mlp_out.1", lambda slope, hook: seen.append((hook.name, slope.shape)))]
        model.run_with_hooks(IDS, bwd_hooks=note, return_type="loss").backward()
    assert seen == [("blocks.1.hook_mlp_out", (2, 9, 32))]
    model.hf.zero_grad()
    with model.hooks(bwd_hooks=[("resid_post.0", lambda slope, hook: 0 * slope)]), torch.enable_grad():
        model.mean_loss(model.tokens(IDS)).backward()
    first, second = (model.hf.model.layers[i].mlp.down_proj.weight.grad for i in (0, 1))
    assert not first.any(), "no gradient passes the site"
    assert second.abs().max() > 0
    model.hf.zero_grad()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("W_Q", r"model\.bridge\.W_Q"),
        ("blocks", r"model\.bridge\.blocks"),
        ("parameters", r"model\.hf\.parameters"),
        ("add_hook", r"with model\.hooks\("),
        ("to_sting", "did you mean to_string"),
    ],
)
def test_an_attribute_that_is_elsewhere_is_named(tiny, name, hint):
    with pytest.raises(AttributeError, match=hint):
        getattr(tiny("llama"), name)
    if "bridge" in hint:
        assert getattr(tiny("llama").bridge, name) is not None


@pytest.mark.parametrize(
    ("name", "call", "message"),
    [
        ("llama", lambda m: m.run_with_cache(IDS, "blocks.1.hook_resid_pots"), "did you mean .*hook_resid_post"),
        ("llama", lambda m: m.run_with_cache(IDS, ["blocks.9.hook_mlp_out"]), "unknown hook"),
        ("llama", lambda m: m.run_with_cache(IDS, []), "names no site"),
        ("llama", lambda m: m.run_with_cache(IDS, NAMES, stop_at_layer=1), "never fires: the model is stopped"),
        ("llama", lambda m: m.run_with_cache(IDS, NAMES, stop_at_layer=4), "expected 0 to 3"),
        ("llama", lambda m: m.run_with_cache(IDS, NAMES, remove_batch_dim=True), "2 prompts; expected one"),
        ("llama", lambda m: m.run_with_cache(IDS, NAMES, incl_bwd=True), "pass return_type='loss'"),
        ("llama", lambda m: m.run_with_cache(IDS, NAMES, return_type="lss"), "return_type is 'lss'; expected"),
        ("llama", lambda m: m.run_with_cache(IDS, NAMES[0], return_type="loss", stop_at_layer=2), "whole model"),
        ("llama", lambda m: m.run_with_cache(IDS[:, :1], NAMES, return_type="loss"), "at least two tokens"),
        ("llama", lambda m: m.run_with_cache(IDS, lambda name: False), "true for no name"),
        ("llama", lambda m: m.run_with_cache(m.to_tokens(["w5 w9", "w8"]), "blocks.0.attn.hook_pattern"), "padding"),
        ("llama", lambda m: m.run_with_hooks(IDS, [(lambda n: n == NAMES[0], print)], stop_at_layer=1), "never fires"),
        ("llama", lambda m: m.run_with_hooks(IDS, [("z.1", lambda x, hook: x.mT)]), "returned shape"),
        ("mixtral", lambda m: m.run_with_cache(IDS, "blocks.1.mlp.hook_post"), "would be the experts' output"),
        ("gpt_neox", lambda m: m.run_with_cache(IDS, "blocks.1.attn.hook_rot_q"), "never fires in gpt_neox"),
        ("llama", lambda m: m.run_with_hooks(IDS, [("blocks.1.hook_nothing", lambda x, hook: x)]), "unknown site"),
        ("llama", lambda m: m.run_with_hooks(IDS, [(lambda name: False, lambda x, hook: x)]), "true for no site"),
        ("llama", lambda m: m.run_with_hooks(IDS, [("mlp_out.2", print)], stop_at_layer=1), "never fires"),
        (
            "llama",
            lambda m: m.run_with_hooks(IDS, last=1, return_type="loss"),
            "last=1 chooses positions of",
        ),
        ("llama", lambda m: m(IDS, return_type="both"), "return_type is 'both'"),
    ],
)
def test_what_would_be_silent_raises(tiny, name, call, message):
    with pytest.raises(InterpError, match=message):
        call(tiny(name))


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi"])
def test_calling_it_and_its_weights_are_transformerlens(tiny, name):
    model = tiny(name)
    with tiny_models.eagerly(model):
        logits, loss = model.bridge(IDS), model.bridge(IDS, return_type="loss")
    ours = model(IDS)
    torch.testing.assert_close(ours, logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(IDS, return_type="loss"), loss, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(IDS, stop_at_layer=1), model.bridge(IDS, stop_at_layer=1), atol=1e-5, rtol=1e-5)
    for weight in ("W_E", "W_U", "b_U"):
        torch.testing.assert_close(getattr(model, weight), getattr(model.bridge, weight))
    assert model.W_U.data_ptr() == model.hf.get_output_embeddings().weight.data_ptr(), "a view"
    assert ours.requires_grad
    with torch.no_grad():
        assert not model(IDS).requires_grad
        assert torch.equal(model.run_with_hooks(IDS, last=3), model(IDS)[:, -3:])


def test_it_is_called_with_text_or_ids(tiny):
    model = tiny("llama")
    logits = model.logits(["w5 w9 w7", "w8"])
    for prompts in (["w5 w9 w7", "w8"], [[5, 9, 7], [8]], model.tokens([[5, 9, 7], [8]])):
        assert torch.equal(model(prompts), logits)
    assert torch.equal(model([5, 9]), model("w5 w9"))
    assert model("w5 w9", return_type=None) is None


def test_tokens_follow_the_tokenizer_unless_told(tiny):
    model = tiny("llama")
    assert model.to_tokens(["w5 w9", "w8"]).tolist() == [[5, 9], [0, 8]]
    assert model.to_tokens("w5 w9", prepend_bos=True).tolist() == [[1, 5, 9]]
    assert model.to_tokens("<s> w5", prepend_bos=False).tolist() == [[5]]
    assert model.to_str_tokens("w5 w9", prepend_bos=True) == ["<s>", "w5", "w9"]
    assert model.to_str_tokens(torch.tensor([7])) == ["w7"]
    assert model.to_str_tokens(["w5 w9", "w8"]) == [["w5", "w9"], ["w8"]]
    assert model.to_str_tokens(model.to_tokens(["w5 w9", "w8"])) == [["w5", "w9"], ["w8"]]
    torch.testing.assert_close(model.logits(model.to_tokens(["w5 w9 w7", "w8"])), model.logits(["w5 w9 w7", "w8"]))
    assert model.loss(model.to_tokens(["w5 w9 w7", "w8 w6"])) == pytest.approx(model.loss(["w5 w9 w7", "w8 w6"]))
    assert model.to_string(model.tokens(["w5 w9", "w8"])) == model.to_string([[5, 9], [8]]) == ["w5 w9", "w8"]
    assert model.to_string(torch.tensor([5, 9])) == "w5 w9"
    assert model.to_string(5) == model.to_string(torch.tensor(5)) == "w5"
    assert model.to_single_token("w5") == 5
    with pytest.raises(InterpError, match=r"'w5 w9' is 2 tokens \('w5', 'w9'\); expected a text of one token"):
        model.to_single_token("w5 w9")
    assert set(model.hook_dict) == {site.hook_name for site in model.sites}
    assert model.cfg.n_layers == 3


def test_the_bridge_follows_edits_of_fused_weights(tiny):
    model = tiny("gpt_neox", seed=4)
    before = model.bridge
    assert model.bridge is before
    with torch.no_grad():
        model.hf.gpt_neox.layers[0].attention.query_key_value.weight.mul_(1.5)
    torch.testing.assert_close(model.run_with_cache(IDS)[0], model.logits(IDS), atol=1e-4, rtol=1e-4)
    assert model.bridge is not before


def test_compatibility_mode_has_weights_of_its_own(tiny):
    model = tiny("llama", seed=4)
    before = {name: x.clone() for name, x in model.hf.state_dict().items()}
    bridge = model.compatibility_bridge()
    with torch.no_grad():
        logits = bridge(IDS).log_softmax(-1)
    torch.testing.assert_close(logits, model.logits(IDS).log_softmax(-1), atol=1e-4, rtol=1e-4)
    assert all(torch.equal(x, before[name]) for name, x in model.hf.state_dict().items())


def test_nothing_is_returned_on_request(tiny):
    model = tiny("llama")
    output, cache = model.run_with_cache(IDS, ["resid_post.1"], return_type=None)
    assert output is None
    assert torch.equal(cache["blocks.1.hook_resid_post"], model.capture(IDS, "resid_post.1")["resid_post.1"])
    assert model.run_with_hooks(IDS, [("resid_post.1", lambda x, hook: None)], return_type=None) is None


@pytest.mark.parametrize("positions", [99, [0, 99]])
def test_positions_outside_are_refused(tiny, positions):
    with pytest.raises(InterpError, match="pos_slice has 99; expected whole numbers"):
        tiny("llama").run_with_cache(IDS, ["resid_post.1"], pos_slice=positions)


def test_numbers_below_one_are_refused(tiny):
    model = tiny("llama")
    with pytest.raises(InterpError, match="batch_size is 0; expected at least 1"):
        model.capture(IDS, "embed", batch_size=0)
    with pytest.raises(InterpError, match="max_new_tokens is 0"):
        model.generate(["w5"], max_new_tokens=0)
