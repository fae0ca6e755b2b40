"""Capture, hooks, losses and generation of HookedModel, against the plain model and against TransformerLens."""

import copy
from functools import partial
from importlib.metadata import version

import pytest
import tiny_models
import torch

from interp import InterpError
from interp.models.hooked import HookedModel
from interp.models.sites import Site

ARCHITECTURES = list(tiny_models.CONFIGS)
WORDS = ["w5 w9 w77", "w8", "w12 w99 w101 w4 w66 w31 w7", "w100 w50"]


def ids(batch=2, pos=9, seed=1):
    return torch.randint(4, 128, (batch, pos), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_residual_stream_is_the_sum_of_what_is_written(tiny, name):
    model = tiny(name)
    acts = model.capture(ids(), model.sites)
    if name == "gemma4":
        pytest.skip("Gemma 4 adds per-layer inputs after its MLP and scales the sum, which no site covers")
    for layer in range(model.n_layers):
        written = acts[f"attn_out.{layer}"] + acts[f"mlp_out.{layer}"]
        assert written.norm() > 0.1
        torch.testing.assert_close(
            acts[f"resid_pre.{layer}"] + written, acts[f"resid_post.{layer}"], atol=1e-5, rtol=1e-5
        )
    if Site("resid_mid", 1) in model.sites:
        middle = acts["resid_pre.1"] + acts["attn_out.1"]
        torch.testing.assert_close(middle, acts["resid_mid.1"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_hidden_states_are_the_residual_sites(tiny, name):
    model = tiny(name)
    hidden = model.hf(ids(), output_hidden_states=True).hidden_states
    acts = model.capture(ids(), "resid_pre.*")
    for layer in range(model.n_layers):
        torch.testing.assert_close(acts[f"resid_pre.{layer}"], hidden[layer], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in tiny_models.NO_BRIDGE])
def test_every_site_and_intervention_equals_transformerlens(tiny, name):
    if version("transformer_lens") < "4" and name.startswith("cohere"):
        pytest.skip("before 4, TransformerLens gives Cohere other logits than the model's")
    model = tiny(name)
    with tiny_models.eagerly(model):
        _, cache = model.run_with_cache(ids(), names_filter=[site.hook_name for site in model.sites])
        acts = model.capture(ids(), model.sites)
        push = torch.Generator().manual_seed(3)
        plain = model.logits(ids())
        for site in model.sites:
            theirs = cache[site.hook_name].reshape(-1, *acts[site].shape[1:])
            torch.testing.assert_close(acts[site], theirs.expand_as(acts[site]), atol=1e-5, rtol=1e-5)
        for kind in dict.fromkeys(site.kind for site in model.sites):  # the layers of a kind in one pass
            hooks, reached = [], []
            for site in (site for site in model.sites if site.kind == kind):
                shift = torch.randn(acts[site].shape[1:], generator=push)  # softmax does not see one shift of all keys
                hooks.append((site.hook_name, partial(_shifted, shift=shift, reached=reached)))
            ours = model.run_with_hooks(ids(), hooks)
            assert sorted(reached) == sorted(site for site, _ in hooks)
            with torch.no_grad():
                reference = model.bridge.run_with_hooks(ids(), fwd_hooks=hooks)
            assert (ours - plain).abs().max() > 1e-3, f"the hooks at {kind} did nothing"
            if name == "opt" and kind == "mlp_input" and version("transformer_lens") < "4":
                torch.testing.assert_close(reference, plain, atol=1e-4, rtol=1e-4)  # its hook there moves nothing
            else:
                torch.testing.assert_close(ours, reference, atol=1e-4, rtol=1e-4)


def _shifted(x, hook, shift, reached):
    reached.append(hook.name)
    return x + shift


def test_the_bridge_does_not_answer_for_what_it_does_not_see(tiny):
    """It has no padding mask and no recipe; built inside a hooked block, it must not keep that block's hooks."""
    model = tiny("qwen2", seed=5)
    plain = model.logits(ids())
    with model.hooked([("mlp_out.*", lambda x: 0 * x)]):
        with pytest.raises(InterpError, match="a recipe does not reach"):
            model.run_with_cache(ids())
        assert model.bridge is not None
    torch.testing.assert_close(model.run_with_cache(ids())[0], plain, atol=1e-4, rtol=1e-4)
    with pytest.raises(InterpError, match="prompts of one length"):
        model.run_with_cache(WORDS)


def test_hook_functions_are_told_where_they_are(tiny):
    seen = []
    hooks = [("mlp_out.1", lambda x, hook: seen.append((hook.name, hook.layer())))]
    tiny("llama").run_with_hooks(ids(), hooks)
    assert seen == [("blocks.1.hook_mlp_out", 1)]


def test_the_bridge_leaves_the_plain_model_able_to_save(tiny, tmp_path):
    model = tiny("llama", seed=3)
    before = model.logits(ids())
    assert model.bridge is model.bridge
    model.hf.save_pretrained(tmp_path / "saved")
    torch.testing.assert_close(model.logits(ids()), before)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_padded_batch_equals_one_by_one(tiny, name):
    model = tiny(name)
    batch, together = model.tokens(WORDS), model.logits(WORDS)
    acts = model.capture(WORDS, "resid_post.2")
    for row, words in enumerate(WORDS):
        real = batch.mask[row]
        torch.testing.assert_close(together[row][real], model.logits(words)[0], atol=1e-5, rtol=1e-4)
        alone = model.capture(words, "resid_post.2")["resid_post.2"][0]
        torch.testing.assert_close(acts["resid_post.2"][row][real], alone, atol=1e-5, rtol=1e-4)


def test_loss_is_the_mean_over_real_tokens(tiny):
    model = tiny("qwen3")
    total, count = 0.0, 0
    for words in WORDS:
        tokens = model.tokens(words).ids
        if tokens.shape[1] > 1:
            out = model.hf(tokens, labels=tokens).loss.item()
            total, count = total + out * (tokens.shape[1] - 1), count + tokens.shape[1] - 1
    assert model.loss(WORDS) == pytest.approx(total / count, rel=1e-5)
    with pytest.raises(InterpError, match="at least two tokens"):
        model.loss("w8")


def test_generation_is_the_plain_models_own_and_obeys_a_recipe(tiny):
    model = tiny("llama")
    prompt = model.tokens("w12 w99 w101").ids
    plain = model.hf.generate(prompt, max_new_tokens=6, do_sample=False)[:, 3:]
    expected = model.tokenizer.decode(plain[0], skip_special_tokens=True)
    assert model.generate(["w12 w99 w101", "w8"], max_new_tokens=6)[0] == expected
    pushed = model.generate("w12 w99 w101", recipe=[("resid_post.2", lambda x: -x)], max_new_tokens=6)
    assert pushed[0] != expected


@pytest.mark.parametrize(
    "name",
    ["repetition_penalty", "suppress_tokens", "forced_eos_token_id", "sequence_bias", "return_dict_in_generate"],
)
def test_of_a_checkpoints_settings_generation_takes_the_ends_alone(name, tiny):
    model = tiny("llama")
    prompt = model.tokens("w12 w99 w101").ids
    reply = model.generate("w12 w99 w101", max_new_tokens=6)[0]
    first = int(model.logits(prompt)[0, -1].argmax())
    value = {
        "repetition_penalty": 5.0,
        "suppress_tokens": [first],
        "forced_eos_token_id": (first + 1) % 100,
        "sequence_bias": [[[first], -50.0]],
        "return_dict_in_generate": True,
    }[name]
    plain = model.hf.generate(prompt, max_new_tokens=6, do_sample=False)[:, 3:]
    setattr(model.hf.generation_config, name, value)
    try:
        assert model.generate("w12 w99 w101", max_new_tokens=6)[0] == reply
        control = model.hf.generate(prompt, max_new_tokens=6, do_sample=False)
        assert not torch.is_tensor(control) or control[:, 3:].tolist() != plain.tolist()
        assert getattr(model.hf.generation_config, name) == value, "the checkpoint's settings are not kept"
    finally:
        setattr(model.hf.generation_config, name, None)


def test_unknown_sites_name_the_nearest(tiny):
    model = tiny("llama")
    for wrong, right in [
        ("resid_pots.1", "resid_post.1"),
        ("blocks.1.hook_mlp_uot", "mlp_out.1"),
        ("mlp_out.9", "mlp_out.0"),
    ]:
        with pytest.raises(InterpError, match=right):
            model.capture(ids(), wrong)
    with pytest.raises(InterpError, match="unknown site"), model.hooked([("pos_embed", lambda x: x)]):
        pass
    with pytest.raises(InterpError, match="was not captured"):
        model.capture(ids(), "mlp_out.1")["mlp_out.2"]


def test_bad_prompts_are_named(tiny):
    model = tiny("llama")
    with pytest.raises(InterpError, match="no prompts"):
        model.capture([], "mlp_out.1")
    with pytest.raises(InterpError, match="prompt 1 is empty"):
        model.logits(["w5", ""])
    with pytest.raises(InterpError, match="prompt 1 has 65 tokens but the model's context is 64"):
        model.generate(["w5", "w5 " * 65])
    with pytest.raises(
        InterpError, match="prompt 1 has 60 tokens, and 5 new ones would exceed the model's context of 64"
    ):
        model.generate(["w5", "w5 " * 60], max_new_tokens=5)
    with pytest.raises(InterpError, match="no chat template"):
        model.chat("hello")
    with pytest.raises(InterpError, match="token id 9999 is not in the model's vocabulary"):
        model.logits(torch.tensor([[1, 9999]]))
    with pytest.raises(InterpError, match=r"type torch\.float32; expected integers"):
        model.logits(torch.ones(1, 2))


@pytest.mark.parametrize("write", [lambda w: w[:, 7].zero_(), lambda w: w[0, 0].mul_(1.001), lambda w: w[1].neg_()])
def test_a_digest_follows_the_weights(tiny, write):
    model = tiny("gpt2", seed=7)
    before, weight = model.reference, model.hf.get_parameter("transformer.h.1.mlp.c_proj.weight")
    values = weight.detach().clone()
    write(weight.data)  # which raises no version
    assert model.digest != before.digest
    weight.data.copy_(values)
    assert model.reference == before, "control: the same values again"
    with torch.inference_mode():
        write(weight)
    assert model.digest != before.digest
    weight.data.copy_(values)
    hf = copy.deepcopy(model.hf)
    assert HookedModel(hf.double()).digest == before.digest, "the same values in a wider type"
    rounded = HookedModel(hf.bfloat16()).reference
    assert rounded.digest != before.digest
    rounded.check(before, "an edit")  # which fits the model in whatever type it is stored
    digest = before.digest
    assert tiny("gpt2").digest != digest


@pytest.mark.parametrize("end", ["generation config", "tokenizer", "template"])
def test_a_reply_ends_at_any_of_the_ends(end, monkeypatch):
    """The model would write w6, then the end, then w7: of each end in turn, where the others are other tokens."""
    model = tiny_models.build("llama")
    model.hf.generation_config.eos_token_id = [3, 9]
    model.tokenizer.add_special_tokens({"eos_token": "w10", "additional_special_tokens": ["w11"]})
    model.tokenizer.chat_template = "{% for m in messages %}w12 {{ m.content }} w11 {% endfor %}"
    stop = {"generation config": 9, "tokenizer": 10, "template": 11}[end]
    written = iter([6, stop, 7, 7])

    def next_token(module, inputs, logits):
        return torch.nn.functional.one_hot(torch.tensor([[next(written)]]), logits.shape[-1]).float()

    handle = model.hf.lm_head.register_forward_hook(next_token)
    assert [text.split() for text in model.generate("w5", max_new_tokens=4)] == [["w6"]]
    handle.remove()
    assert next(written) == 7, "nothing was written behind it"


def test_what_is_decoded_loses_no_spaces():
    """`clean_up_tokenization_spaces` makes "w5 ." of "w5 ." in its tokenizers; replies keep what was written."""
    model = tiny_models.build("llama")
    model.tokenizer.add_tokens([" .", " n't"])
    model.tokenizer.clean_up_tokenization_spaces = True
    ids = model.tokenizer.convert_tokens_to_ids(["w5", " .", " n't"])
    from interp.models.chat_template import reply_texts

    shown = [*reply_texts([ids], model.tokenizer, []), model.to_string(ids)]
    assert shown == [model.tokenizer.decode(ids, clean_up_tokenization_spaces=False)] * 2
    assert model.tokenizer.decode(ids) != shown[0], "control"
