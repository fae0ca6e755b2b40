"""Lenses: after the last layer they are the model; files of other tools are read as these compute, or refused."""

import hashlib
import json

import numpy as np
import pytest
import tiny_models
import torch

import interp
from interp import InterpError
from interp.attribution import Lens, fit_tuned_lens
from interp.attribution._lens_files import unembedding_hash
from interp.core.files import write_tensors
from interp.models import Site

WORDS = "w5 w9 w77 w12 w99"
LAST = Site("resid_post", 2)


@pytest.mark.parametrize("name", sorted(tiny_models.CONFIGS))
def test_after_the_last_layer_a_lens_reads_what_the_model_says(name):
    """With every scale and cap that a family has set to a value that shows."""
    model = tiny_models.build(name)
    for owner, option, value in (
        (model.hf, "logits_scaling", 4.0), (model.config, "logits_scaling", 4.0),
        (model.config, "final_logit_softcapping", 0.5),
    ):  # fmt: skip
        if hasattr(owner, option):
            setattr(owner, option, value)
    reading = Lens().read(model, WORDS, top=tiny_models.VOCABULARY)
    chances = model.logits(WORDS)[0].softmax(-1)
    torch.testing.assert_close(reading.probability[-1], chances.gather(-1, reading.top[-1]), atol=1e-6, rtol=0)
    entropy = torch.distributions.Categorical(chances).entropy()
    torch.testing.assert_close(reading.entropy[-1], entropy, atol=1e-5, rtol=0)
    assert reading.divergence[-1].abs().max() < 1e-6
    assert reading.divergence[0].min() > 1e-6, "control: earlier layers say something else"
    assert [token.strip() for token in reading.tokens] == WORDS.split()


def test_an_inner_layer_is_read_as_if_the_later_ones_did_nothing(tiny):
    """What later layers add is set to zero: the model's own logits are then the lens' reading."""
    model = tiny("llama")
    reading = Lens().read(model, WORDS, "resid_post.0", top=5)
    with model.hooked([(f"{kind}.{layer}", lambda x: 0 * x) for kind in ("attn_out", "mlp_out") for layer in (1, 2)]):
        chances = model.logits(WORDS)[0].softmax(-1)
    torch.testing.assert_close(reading.probability[0], chances.topk(5).values, atol=1e-6, rtol=0)


def test_a_padded_prompt_reads_as_itself(tiny):
    model = tiny("llama")
    alone = Lens().read(model, WORDS)
    padded = Lens().read(model, torch.cat([torch.zeros(1, 3, dtype=torch.long), model.to_tokens(WORDS)], dim=1))
    assert padded.tokens == alone.tokens
    torch.testing.assert_close(padded.entropy, alone.entropy, atol=1e-5, rtol=0)


def test_a_model_that_computes_its_logits_otherwise_is_refused(tiny):
    model = tiny("gpt2")
    refusal = pytest.raises(InterpError, match="gpt2 computes its logits in another way")
    with tiny_models.cubed_logits(model), refusal:
        Lens().read(model, WORDS)


def test_numbers_that_are_not_finite_are_refused_by_the_name_of_their_layer(tiny):
    model, width = tiny("llama"), tiny("llama").d_model
    with (
        tiny_models.at_layer(model, 1, lambda x: x * torch.nan),
        pytest.raises(InterpError, match="logits of the model"),
    ):
        Lens().read(model, WORDS)
    lens = Lens("tuned", {Site("resid_post", 1): torch.full((width, width), torch.nan)}, {}, model.reference)
    with pytest.raises(InterpError, match=r"tuned lens at resid_post\.1 are NaN"):
        lens.read(model, WORDS)


def test_bad_prompts_sites_and_models_are_refused(tiny):
    model = tiny("llama")
    for call, message in (
        (lambda: Lens().read(model, ""), "prompt 0 is empty"),
        (lambda: Lens().read(model, [WORDS, WORDS]), "one prompt at a time, not 2"),
        (lambda: Lens().read(model, WORDS, "resid_post.7"), "resid_post.7"),
        (lambda: Lens().read(model, WORDS, "mlp_post.1"), "not in the residual stream's basis"),
        (lambda: Lens().read(model, WORDS, top=500), "the vocabulary has 128 tokens"),
        (lambda: Lens().direction(model, 128, "resid_post.1"), "token 128 is not in the vocabulary"),
        (lambda: Lens().save("x"), "nothing to save"),
    ):
        with pytest.raises(InterpError, match=message):
            call()
    matrix = torch.zeros(model.d_model, model.d_model)
    lens = Lens("tuned", {Site("resid_post", 1): matrix}, {}, model.reference)
    with pytest.raises(InterpError, match=r"not fitted at resid_post\.0.*resid_post\.1"):
        lens.read(model, WORDS, "resid_post.*")
    with pytest.raises(InterpError, match="tuned lens was made for tiny llama 0"):
        lens.read(tiny("llama", seed=1), WORDS)


def test_a_direction_is_the_gradient_of_what_the_lens_reads(tiny):
    """With the final norm's gain, it is that gradient but for the part along the stream, which the norm takes out."""
    model, site = tiny("llama"), Site("resid_post", 1)
    matrix = 0.1 * torch.randn(model.d_model, model.d_model, generator=torch.Generator().manual_seed(0))
    lens = Lens("jacobian", {site: matrix}, {}, model.reference)
    stream = model.capture(WORDS, site, positions=-1)[site][0, 0].requires_grad_()
    moved = stream + matrix @ stream
    norm = model.hf.model.norm
    scale = (moved.square().mean() + norm.variance_epsilon).sqrt().detach()
    (gradient,) = torch.autograd.grad(norm.weight * moved / scale @ model.W_U[:, 7], stream)
    direction = lens.direction(model, 7, site, gain=True)
    expected = torch.nn.functional.normalize(gradient, dim=0)
    torch.testing.assert_close(direction.rows[0], expected, atol=1e-6, rtol=0)
    row = torch.nn.functional.normalize(model.W_U[:, 7].detach() @ (torch.eye(model.d_model) + matrix), dim=0)
    torch.testing.assert_close(lens.direction(model, 7, site).rows[0], row, atol=1e-6, rtol=0)
    assert (row - expected).norm() > 1e-3, "control: the gain matters"
    before = lens.logits(model, stream.detach(), site)[7]
    with model.hooked([(site, interp.Add(direction, 1.0))]):
        after = lens.logits(model, model.capture(WORDS, site, positions=-1)[site][0, 0], site)[7]
    assert after > before


def tuned_lens_folder(folder, model, **config):
    """A folder as tuned-lens writes it, with translators that are not trivial."""
    folder.mkdir()
    draw = torch.Generator().manual_seed(3)
    width, state = model.d_model, {}
    for layer in range(model.n_layers):
        state[f"{layer}.weight"] = 0.1 * torch.randn(width, width, generator=draw)
        state[f"{layer}.bias"] = torch.randn(width, generator=draw)
    torch.save(state, folder / "params.pt")
    values = {
        "base_model_name_or_path": "tiny", "d_model": width, "num_hidden_layers": model.n_layers, "bias": True,
        "base_model_revision": None, "unembed_hash": unembedding_hash(model), "lens_type": "linear_tuned_lens",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(values | config))
    return state


def test_a_folder_of_tuned_lens_reads_as_its_formula_says(tiny, tmp_path):
    """Translator i is applied to hidden state i, and what it gives is added to that."""
    model = tiny("gpt_neox")
    state = tuned_lens_folder(tmp_path / "lens", model)
    lens = Lens.load(tmp_path / "lens", model)
    reading = lens.read(model, WORDS, top=4)
    assert [str(site) for site in reading.sites] == ["resid_pre.0", "resid_post.0", "resid_post.1", "resid_post.2"]
    hidden = model.hf(model.to_tokens(WORDS), output_hidden_states=True).hidden_states
    for layer in range(model.n_layers):
        h = hidden[layer][0]
        moved = h + h @ state[f"{layer}.weight"].T + state[f"{layer}.bias"]
        chances = model.hf.get_output_embeddings()(model.hf.gpt_neox.final_layer_norm(moved)).softmax(-1)
        torch.testing.assert_close(reading.probability[layer], chances.topk(4).values, atol=1e-5, rtol=0)
    assert reading.divergence[-1].max() < 1e-6, "the last layer has no translator"


def test_a_folder_for_another_model_is_refused_by_the_hash_unless_accepted(tiny, tmp_path):
    model, other = tiny("gpt_neox"), tiny("gpt_neox", seed=1)
    tuned_lens_folder(tmp_path / "lens", model)
    with pytest.raises(InterpError, match=r"trained for tiny, with the unembed_hash .* accept unembed_hash"):
        Lens.load(tmp_path / "lens", other)
    assert len(Lens.load(tmp_path / "lens", other, accept=["unembed_hash"]).weights) == 3
    tuned_lens_folder(tmp_path / "unnamed", model, unembed_hash=None)
    with pytest.raises(InterpError, match="accept unembed_hash"):
        Lens.load(tmp_path / "unnamed", model)
    with pytest.raises(InterpError, match=r"resid_post\.1\.weight is tensor.*expected finite numbers"):
        wrong = torch.load(tmp_path / "lens" / "params.pt") | {"2.weight": torch.ones(3, 3)}
        torch.save(wrong, tmp_path / "lens" / "params.pt")
        Lens.load(tmp_path / "lens", model)
    tuned_lens_folder(tmp_path / "kind", model, lens_type="mlp")
    with pytest.raises(InterpError, match="lens_type is 'mlp'"):
        Lens.load(tmp_path / "kind", model)


def test_the_hash_of_an_unembedding_is_that_of_its_text_as_numpy_prints_it():
    """Of three rows and columns from each end, which does not depend on how numpy is set to print."""
    model = tiny_models.build("llama")
    values = [[(32 * row + column) % 7 for column in range(32)] for row in range(tiny_models.VOCABULARY)]
    model.hf.lm_head.weight.data = torch.tensor(values, dtype=torch.float32)
    ends = [f"[{a}. {b}. {c}. ... {d}. {e}. {f}.]" for a, b, c, *_, d, e, f in values]
    text = "[" + "\n ".join([*ends[:3], "...", *ends[-3:]]) + "]"
    with np.printoptions(edgeitems=5, precision=7, threshold=5):
        assert unembedding_hash(model) == hashlib.sha256(text.encode()).hexdigest()


class Payload:
    def __reduce__(self):
        return (open, ("ran", "w"))


def test_a_file_that_would_run_code_is_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"J": Payload()}, tmp_path / "lens.pt")
    with pytest.raises(InterpError, match="holds more than tensors"):
        Lens.load(tmp_path / "lens.pt", tiny("llama"))
    assert not (tmp_path / "ran").exists()


def test_a_file_of_a_jacobian_lens_is_read_after_each_block(tiny, tmp_path):
    model = tiny("llama")
    matrices = {layer: torch.randn(model.d_model, model.d_model).half() for layer in (0, 1)}
    content = {"J": matrices, "n_prompts": 5, "source_layers": [0, 1], "d_model": model.d_model}
    torch.save(content, tmp_path / "lens.pt")
    with pytest.raises(InterpError, match=r"does not say which model it is of.*accept model"):
        Lens.load(tmp_path / "lens.pt", model)
    lens = Lens.load(tmp_path / "lens.pt", model, accept=["model"])
    stream = model.capture(WORDS, "resid_post.1")["resid_post.1"]
    expected = model.unembed(stream @ matrices[1].float().T, norm=True)
    torch.testing.assert_close(lens.logits(model, stream, Site("resid_post", 1)), expected, atol=1e-4, rtol=1e-4)
    torch.save(content | {"J": matrices | {2: matrices[0]}}, tmp_path / "last.pt")
    with pytest.raises(InterpError, match=r"holds resid_post\.2, the last layer"):
        Lens.load(tmp_path / "last.pt", model, accept=["model"])


def test_a_saved_lens_reads_the_same_and_fits_its_model_alone(tiny, tmp_path):
    model = tiny("llama")
    lens = fit_tuned_lens(model, [f"{WORDS} w{number}" for number in range(20, 40)], steps=3, batch_size=16)
    lens.save(tmp_path / "lens")
    again = Lens.load(tmp_path / "lens", model)
    assert torch.equal(lens.read(model, WORDS).probability, again.read(model, WORDS).probability)
    assert (again.kind, again.data, again.settings) == (lens.kind, lens.data, lens.settings)
    with pytest.raises(InterpError, match="this lens was made for tiny llama 0"):
        Lens.load(tmp_path / "lens", tiny("llama", seed=1))
    with pytest.raises(InterpError, match="exists"):
        lens.save(tmp_path / "lens")
    matrix = torch.zeros(model.d_model, model.d_model)
    for name, message in (("resid_post.*.weight", "unknown site"), ("resid_post.1.bias", "a weight is missing")):
        write_tensors(tmp_path / "lens" / "lens.safetensors", {name: matrix if "weight" in name else matrix[0]})
        with pytest.raises(InterpError, match=message):
            Lens.load(tmp_path / "lens", model)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InterpError, match="no lens in it"):
        Lens.load(tmp_path / "empty", model)


def test_divergence_is_the_mean_over_tokens(tiny):
    model, texts = tiny("llama"), [WORDS, "w9 w8 w7 w6 w5", "w20 w30 w40 w50 w60"]
    measured = Lens().divergence(model, texts, "resid_post.0")
    by_text = [
        Lens().read(model, model.tokens(text, beginning="document"), "resid_post.0").divergence for text in texts
    ]
    assert measured[Site("resid_post", 0)] == pytest.approx(torch.cat(by_text, 1).mean().item(), abs=1e-5)
