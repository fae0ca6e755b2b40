"""Other tools' files give what those tools compute; what can't be said exactly is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
from planted import MADE_UP

from interp.activations.columns import SiteColumns
from interp.core.errors import InterpError
from interp.interventions import Clamp
from interp.sae import finetune, format_writers
from interp.sae.coder import SparseAutoencoder

D, F, K = 8, 50, 4


def _tensors(seed=0):
    g = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (D, F), "W_dec": (F, D), "b_enc": (F,), "b_dec": (D,), "threshold": (F,)}
    shapes |= {"b_gate": (F,), "b_mag": (F,), "r_mag": (F,)}
    found = {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}
    return found | {"threshold": found["threshold"].abs()}


X = 2 * torch.randn(300, D, generator=torch.Generator().manual_seed(5))


def _top(pre, k=K, rank=None):
    """The k largest by rank, as each tool writes it."""
    chosen = (pre if rank is None else rank).topk(k, dim=1).indices
    return torch.zeros_like(pre).scatter(1, chosen, pre.gather(1, chosen).relu())


def _saelens_says(kind, t, shifted, rescaled):
    """SAELens' own formulas, from its documentation of each architecture."""
    x = X - t["b_dec"] if shifted else X
    if kind == "gated":
        on = x @ t["W_enc"] + t["b_gate"] > 0
        acts = on * (x @ (t["W_enc"] * t["r_mag"].exp()) + t["b_mag"]).relu()
    else:
        pre = x @ t["W_enc"] + t["b_enc"]
        if kind == "topk":
            norms = t["W_dec"].norm(dim=1)
            acts = _top(pre * norms) / norms if rescaled else _top(pre)
        else:
            acts = pre.relu() * (pre > t["threshold"]) if kind == "jumprelu" else pre.relu()
    return acts @ t["W_dec"] + t["b_dec"]


def _write_saelens(folder, kind, shifted, rescaled, **extra):
    folder.mkdir()
    own = {
        "topk": ["b_enc"],
        "standard": ["b_enc"],
        "jumprelu": ["b_enc", "threshold"],
        "gated": ["b_gate", "b_mag", "r_mag"],
    }
    names = ["W_enc", "W_dec", "b_dec", *own.get(kind, [])]
    t = _tensors()
    safetensors.torch.save_file({name: t[name] for name in names}, folder / "sae_weights.safetensors")
    config = {
        "architecture": kind,
        "d_in": D,
        "d_sae": F,
        "apply_b_dec_to_input": shifted,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"hook_name": "blocks.0.hook_resid_post", "something_new": 1},
    }
    if kind == "topk":
        config |= {"k": K, "rescale_acts_by_decoder_norm": rescaled}
    (folder / "cfg.json").write_text(json.dumps(config | extra))
    return t


@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize(
    ("kind", "rescaled"), [("topk", True), ("topk", False), ("standard", False), ("jumprelu", False), ("gated", False)]
)
def test_saelens_files_give_what_saelens_computes(tmp_path, kind, rescaled, shifted):
    t = _write_saelens(tmp_path / "sae", kind, shifted, rescaled)
    sae = SparseAutoencoder.load(tmp_path / "sae", MADE_UP)
    assert str(sae.site) == "resid_post.0"
    torch.testing.assert_close(sae(X), _saelens_says(kind, t, shifted, rescaled), atol=1e-4, rtol=1e-5)
    if kind != "topk":
        torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(F))


@pytest.mark.parametrize(
    ("kind", "to"),
    [
        (kind, to)
        for kind in ("topk", "standard", "jumprelu", "gated")
        for to in ("saelens", "interp", "dictionary_learning", "gemma_scope")
        if (kind, to) != ("topk", "gemma_scope")  # which is refused, below
    ],
)
def test_what_is_written_is_read_back(tmp_path, kind, to):
    _write_saelens(tmp_path / "sae", kind, True, False)
    sae = SparseAutoencoder.load(tmp_path / "sae", MADE_UP)
    format_writers.write_autoencoder(sae, tmp_path / "again", to)
    site = None if to in ("saelens", "interp") else "resid_post.0"
    again = SparseAutoencoder.load(tmp_path / "again", MADE_UP, site)
    torch.testing.assert_close(again(X), sae(X), atol=1e-5, rtol=1e-5)
    assert (again.site, again.nonlinearity) == (sae.site, sae.nonlinearity)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("kind", ["transcoder", "jumprelu_transcoder"])
def test_transcoders_of_saelens_go_both_ways(tmp_path, kind, skip):
    t = _tensors() | {"W_skip": torch.randn(D, D, generator=torch.Generator().manual_seed(1))}
    named = kind.replace("transcoder", "skip_transcoder") if skip else kind
    _write_saelens(tmp_path / "sae", "jumprelu" if "jump" in kind else "standard", False, False, architecture=named)
    file = tmp_path / "sae" / "sae_weights.safetensors"
    stored = safetensors.torch.load_file(file) | ({"W_skip": t["W_skip"]} if skip else {})
    safetensors.torch.save_file(stored, file)
    with pytest.raises(InterpError, match="does not name the site that it writes; give writes="):
        SparseAutoencoder.load(tmp_path / "sae", MADE_UP)
    found = SparseAutoencoder.load(tmp_path / "sae", MADE_UP, writes="mlp_out.0")
    pre = X @ t["W_enc"] + t["b_enc"]
    acts = pre.relu() * (pre > (t["threshold"] if "jump" in kind else 0))
    expected = acts @ t["W_dec"] + t["b_dec"] + (X @ t["W_skip"].T if skip else 0)
    torch.testing.assert_close(found(X), expected, atol=1e-4, rtol=1e-5)
    format_writers.write_autoencoder(found, tmp_path / "again", "saelens")
    again = SparseAutoencoder.load(tmp_path / "again", MADE_UP)
    assert (again.reads, again.writes) == (found.reads, found.writes)
    torch.testing.assert_close(again(X), expected, atol=1e-4, rtol=1e-5)
    with pytest.raises(InterpError, match="is not an autoencoder of one site"):
        assert found.site


def test_flat_settings_of_older_saelens_files_are_read(tmp_path):
    t = _write_saelens(tmp_path / "sae", "standard", True, False)
    old = {"hook_point": "blocks.0.hook_resid_post", "d_in": D, "d_sae": F, "activation_fn_str": "relu"}
    old |= {"normalize_activations": None, "hook_point_layer": 0, "finetuning_scaling_factor": True}
    (tmp_path / "sae" / "cfg.json").write_text(json.dumps(old))
    file = tmp_path / "sae" / "sae_weights.safetensors"
    factor = 1 + torch.rand(F, generator=torch.Generator().manual_seed(2))
    safetensors.torch.save_file(safetensors.torch.load_file(file) | {"scaling_factor": factor}, file)
    sae = SparseAutoencoder.load(tmp_path / "sae", MADE_UP)
    acts = ((X - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu() * factor
    torch.testing.assert_close(sae(X), acts @ t["W_dec"] + t["b_dec"], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("skip", [False, True])
def test_transcoders_of_sparsify_go_both_ways(tmp_path, skip):
    t = _tensors()
    (tmp_path / "sae").mkdir()
    named = {"encoder.weight": t["W_enc"].T.contiguous(), "encoder.bias": t["b_enc"], "W_dec": t["W_dec"]}
    W_skip = torch.randn(D, D, generator=torch.Generator().manual_seed(1))
    named |= {"b_dec": t["b_dec"]} | ({"W_skip": W_skip} if skip else {})
    safetensors.torch.save_file(named, tmp_path / "sae" / "sae.safetensors")
    config = {"activation": "topk", "k": K, "d_in": D, "num_latents": F, "transcode": True, "skip_connection": skip}
    (tmp_path / "sae" / "cfg.json").write_text(json.dumps(config))
    expected = _top((X @ t["W_enc"] + t["b_enc"]).relu()) @ t["W_dec"] + t["b_dec"] + (X @ W_skip.T if skip else 0)
    found = SparseAutoencoder.load(tmp_path / "sae", MADE_UP, "resid_mid.0", "mlp_out.0")
    torch.testing.assert_close(found(X), expected, atol=1e-4, rtol=1e-5)
    format_writers.write_autoencoder(found, tmp_path / "again", "sparsify")
    again = SparseAutoencoder.load(tmp_path / "again", MADE_UP, "resid_mid.0", "mlp_out.0")
    torch.testing.assert_close(again(X), expected, atol=1e-4, rtol=1e-5)
    with pytest.raises(InterpError, match="SAELens has no topk transcoders"):
        format_writers.write_autoencoder(found, tmp_path / "other", "saelens")


def test_sparsify_files_go_both_ways(tmp_path):
    t = _tensors()
    (tmp_path / "sae").mkdir()
    named = {
        "encoder.weight": t["W_enc"].T.contiguous(),
        "encoder.bias": t["b_enc"],
        "W_dec": t["W_dec"],
        "b_dec": t["b_dec"],
    }
    safetensors.torch.save_file(named, tmp_path / "sae" / "sae.safetensors")
    (tmp_path / "sae" / "cfg.json").write_text(json.dumps({"activation": "topk", "k": K, "d_in": D, "num_latents": F}))
    expected = _top(((X - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()) @ t["W_dec"] + t["b_dec"]
    sae = SparseAutoencoder.load(tmp_path / "sae", MADE_UP, "resid_post.0")
    torch.testing.assert_close(sae(X), expected, atol=1e-4, rtol=1e-5)
    format_writers.write_autoencoder(sae, tmp_path / "again", "sparsify")
    again = SparseAutoencoder.load(tmp_path / "again", MADE_UP, "resid_post.0")
    torch.testing.assert_close(again(X), expected, atol=1e-4, rtol=1e-5)
    with pytest.raises(InterpError, match=r"does not name the site that it reads; give site="):
        SparseAutoencoder.load(tmp_path / "sae", MADE_UP)


def _dictionary(kind):
    """The state of a dictionary_learning dictionary, and what it computes."""
    t = _tensors()
    shifted, linear = X - t["b_dec"], {"encoder.weight": t["W_enc"].T, "decoder.weight": t["W_dec"].T}
    pre = shifted @ t["W_enc"] + t["b_enc"]
    edge = torch.tensor(0.7)
    if kind == "AutoEncoder":
        return linear | {"encoder.bias": t["b_enc"], "bias": t["b_dec"]}, pre.relu()
    if kind == "AutoEncoderTopK":
        extra = {"encoder.bias": t["b_enc"], "b_dec": t["b_dec"], "k": torch.tensor(K), "threshold": edge}
        return linear | extra, _top(pre.relu())
    if kind == "BatchTopKSAE":
        extra = {"encoder.bias": t["b_enc"], "b_dec": t["b_dec"], "k": torch.tensor(K), "threshold": edge}
        return linear | extra, pre.relu() * (pre.relu() > edge)
    if kind == "GatedAutoEncoder":
        extra = {"decoder_bias": t["b_dec"], "gate_bias": t["b_gate"], "mag_bias": t["b_mag"], "r_mag": t["r_mag"]}
        u = shifted @ t["W_enc"]
        return linear | extra, (u + t["b_gate"] > 0) * (t["r_mag"].exp() * u + t["b_mag"]).relu()
    names = {name: t[name] for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
    if kind == "JumpReluAutoEncoder":
        plain = X @ t["W_enc"] + t["b_enc"]
        return names | {"threshold": t["threshold"]}, (plain * (plain > t["threshold"])).relu()
    return names | {"threshold": edge, "group_sizes": torch.tensor([20, 30])}, pre.relu() * (pre.relu() > edge)


@pytest.mark.parametrize(
    "kind",
    [
        "AutoEncoder",
        "AutoEncoderTopK",
        "BatchTopKSAE",
        "GatedAutoEncoder",
        "JumpReluAutoEncoder",
        "MatryoshkaBatchTopKSAE",
    ],
)
def test_dictionary_learning_files_give_what_it_computes(tmp_path, kind):
    state, acts = _dictionary(kind)
    torch.save(state, tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": kind, "k": K}, "buffer": {}}))
    t = _tensors()
    sae = SparseAutoencoder.load(tmp_path, MADE_UP, "resid_post.0")
    torch.testing.assert_close(sae(X), acts @ t["W_dec"] + t["b_dec"], atol=1e-4, rtol=1e-5)


def test_gemma_scope_files_give_what_they_say(tmp_path):
    t = _tensors()
    np.savez(tmp_path / "params.npz", **{n: t[n].numpy() for n in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")})
    pre = X @ t["W_enc"] + t["b_enc"]
    expected = (pre.relu() * (pre > t["threshold"])) @ t["W_dec"] + t["b_dec"]
    sae = SparseAutoencoder.load(tmp_path / "params.npz", MADE_UP, "resid_post.0")
    torch.testing.assert_close(sae(X), expected, atol=1e-4, rtol=1e-5)


def test_what_the_other_tools_lack_is_refused(tmp_path):
    _write_saelens(tmp_path / "topk", "topk", True, False)
    with pytest.raises(InterpError, match="Gemma Scope has no topk autoencoders"):
        format_writers.write_autoencoder(
            SparseAutoencoder.load(tmp_path / "topk", MADE_UP), tmp_path / "x", "gemma_scope"
        )
    sae = SparseAutoencoder.load(tmp_path / "topk", MADE_UP)
    elsewhere = replace(sae, writes=(SiteColumns(site="mlp_out.0", model=MADE_UP, width=D),))
    with pytest.raises(InterpError, match="dictionary_learning has no transcoders"):
        format_writers.write_autoencoder(elsewhere, tmp_path / "x", "dictionary_learning")
    assert not (tmp_path / "x").exists()


class _Evil:
    def __reduce__(self):
        return (print, ("run",))


def test_nothing_pickled_is_run(tmp_path, capsys):
    torch.save({"encoder.weight": _Evil()}, tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InterpError, match="holds more than tensors"):
        SparseAutoencoder.load(tmp_path, MADE_UP, "resid_post.0")
    np.savez(tmp_path / "params.npz", W_enc=np.array([_Evil()], dtype=object))
    with pytest.raises(InterpError, match="not a plain npz file"):
        SparseAutoencoder.load(tmp_path / "params.npz", MADE_UP, "resid_post.0")
    assert "run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "extra", "message"),
    [
        ("temporal", {}, "architecture 'temporal' can't be read; known: standard, gated, topk, jumprelu"),
        ("topk", {"normalize_activations": "layer_norm"}, "normalize_activations is 'layer_norm'"),
        ("topk", {"reshape_activations": "rows"}, "reshape_activations is 'rows'"),
        ("topk", {"metadata": {"hook_name": "blocks.0.hook_resid_pots"}}, "unknown site"),
    ],
)
def test_what_cannot_be_said_exactly_is_refused(tmp_path, kind, extra, message):
    _write_saelens(tmp_path / "sae", kind, True, False, **extra)
    with pytest.raises(InterpError, match=message):
        SparseAutoencoder.load(tmp_path / "sae", MADE_UP)


@pytest.mark.parametrize(
    "change",
    [{"k": None}, {"k": "3"}, {"k": 0}, {"k": F + 1}, {"metadata": None}, {"metadata": []}, {"architecture": ["topk"]}],
    ids=str,
)
def test_settings_of_any_type_are_refused_by_name(tmp_path, change):
    _write_saelens(tmp_path / "sae", "topk", True, False, **change)
    with pytest.raises(InterpError, match=r"SAELens|k is|architecture"):
        SparseAutoencoder.load(tmp_path / "sae", MADE_UP, "resid_post.0")


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x03\x04cut", b"plain text"])
def test_npz_files_that_are_none_are_refused(tmp_path, content):
    (tmp_path / "params.npz").write_bytes(content)
    with pytest.raises(InterpError, match="not a plain npz file"):
        SparseAutoencoder.load(tmp_path / "params.npz", MADE_UP, "resid_post.0")
    np.savez(tmp_path / "params.npz", **{n: np.array(1.0) for n in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")})
    with pytest.raises(InterpError, match=r"W_enc has shape \(\); expected two axes"):
        SparseAutoencoder.load(tmp_path / "params.npz", MADE_UP, "resid_post.0")
    np.savez(tmp_path / "params.npz", W_enc=np.array(["a"]))
    with pytest.raises(InterpError, match="not a plain npz file"):
        SparseAutoencoder.load(tmp_path / "params.npz", MADE_UP, "resid_post.0")


def test_broken_files_are_named(tmp_path):
    looked_for = r"looked for sae.json \(interp\); sae_weights.safetensors \(SAELens\); cfg.json and sae.safetensors"
    with pytest.raises(InterpError, match=f"no autoencoder there; {looked_for}"):
        SparseAutoencoder.load(tmp_path, MADE_UP)
    with pytest.raises(InterpError, match=f"absent: no such file or folder; {looked_for}"):
        SparseAutoencoder.load(tmp_path / "absent", MADE_UP)
    _write_saelens(tmp_path / "sae", "jumprelu", True, False)
    with pytest.raises(InterpError, match=r"the autoencoders are in folders of it \(sae\); give the path of one"):
        SparseAutoencoder.load(tmp_path, MADE_UP)
    with pytest.raises(InterpError, match=r"\(SAELens\) does not say which weights it was trained on; give the model"):
        SparseAutoencoder.load(tmp_path / "sae")
    file = tmp_path / "sae" / "sae_weights.safetensors"
    assert SparseAutoencoder.load(file, MADE_UP).site == SparseAutoencoder.load(tmp_path / "sae", MADE_UP).site
    whole = safetensors.torch.load_file(file)
    safetensors.torch.save_file({n: x for n, x in whole.items() if n != "threshold"}, file)
    with pytest.raises(InterpError, match=r"no tensor threshold; it holds W_dec"):
        SparseAutoencoder.load(tmp_path / "sae", MADE_UP)
    safetensors.torch.save_file(whole | {"b_enc": torch.zeros(F - 1)}, file)
    with pytest.raises(InterpError, match=r"its tensors do not go together \(The size of tensor"):
        SparseAutoencoder.load(tmp_path / "sae", MADE_UP)
    safetensors.torch.save_file(whole | {"W_more": torch.zeros(3)}, file)
    with pytest.raises(InterpError, match="holds W_more, which jumprelu does not use"):
        SparseAutoencoder.load(tmp_path / "sae", MADE_UP)
    safetensors.torch.save_file(whole | {"b_dec": torch.full((D,), torch.nan)}, file)
    with pytest.raises(InterpError, match="b_dec, b_enc hold NaN or infinite entries"):
        SparseAutoencoder.load(tmp_path / "sae", MADE_UP)
    safetensors.torch.save_file(whole, file)
    with pytest.raises(InterpError, match="format 'saelans' can't be written; did you mean saelens"):
        format_writers.write_autoencoder(SparseAutoencoder.load(tmp_path / "sae", MADE_UP), tmp_path / "x", "saelans")


def _place(model, folder, kind="standard", hook="blocks.1.hook_resid_post", **config):
    """A SAELens folder for a tiny model, and its tensors."""
    g = torch.Generator().manual_seed(3)
    rows = {name: torch.randn(shape, generator=g) for name, shape in {"W_enc": (32, 48), "W_dec": (48, 32)}.items()}
    biases = {"b_enc": torch.randn(48, generator=g), "b_dec": torch.randn(32, generator=g)}
    extra = {"k": 6} if kind == "topk" else {}
    if kind == "jumprelu":
        biases["threshold"] = torch.rand(48, generator=g)
    folder.mkdir()
    safetensors.torch.save_file(rows | biases, folder / "sae_weights.safetensors")
    values = {"architecture": kind, "d_in": 32, "d_sae": 48, "hook_name": hook, "model_name": model.name, **extra}
    (folder / "cfg.json").write_text(json.dumps(values | config))
    return rows | biases


def _centred_says(kind, t, x):
    """SAELens' formulas on what TransformerLens' centred model has, with the mean added back."""
    mean = x.mean(-1, keepdim=True)
    pre = (x - mean - t["b_dec"]) @ t["W_enc"] + t["b_enc"]
    acts = {"standard": pre.relu(), "topk": _top(pre, 6)}.get(kind)
    acts = pre * (pre > t.get("threshold", 0)) if acts is None else acts
    return acts, acts @ t["W_dec"] + t["b_dec"] + mean


CENTRED = [
    {"model_from_pretrained_kwargs": {"center_writing_weights": True}},
    {"metadata": {"model_from_pretrained_kwargs": {"center_writing_weights": True, "fold_ln": True}}},
    {"center_writing_weights": True},
    {"metadata": {"center_writing_weights": True}},
]


@pytest.mark.parametrize("says", CENTRED)
@pytest.mark.parametrize("kind", ["standard", "topk", "jumprelu"])
def test_an_autoencoder_of_a_centred_stream_reads_it_centred_and_puts_the_mean_back(tiny, tmp_path, kind, says):
    model = tiny("gpt2")
    t = _place(model, tmp_path / "sae", kind, **says)
    sae = SparseAutoencoder.load(tmp_path / "sae", model)
    x = model.capture(torch.arange(4, 24).view(2, -1), "resid_post.1")["resid_post.1"].flatten(0, 1) + 0.7
    acts, out = _centred_says(kind, t, x)
    norms = t["W_dec"].norm(dim=1) if kind != "topk" else 1
    torch.testing.assert_close(sae.encode(x), acts * norms, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(sae(x), out, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(sae.decode(sae.encode(x), x), out, atol=1e-4, rtol=1e-4)
    with pytest.raises(InterpError, match="give x=, the activations encoded"):
        sae.decode(sae.encode(x))
    (tmp_path / "sae" / "cfg.json").write_text((tmp_path / "sae" / "cfg.json").read_text().replace("true", "false"))
    plain = SparseAutoencoder.load(tmp_path / "sae", model)
    assert plain.W_skip is None
    assert (plain(x) - out).abs().max() > 0.1, "control: without the key it is another function"


def test_centring_is_carried_wherever_the_autoencoder_goes(tiny, tmp_path):
    """Through files, ops, fine-tuning and the measurement: FVU and loss are those of the centred reconstruction."""
    model = tiny("gpt2")
    _place(model, tmp_path / "sae", **CENTRED[0])
    sae = SparseAutoencoder.load(tmp_path / "sae", model)
    x = 1 + torch.randn(20, 32, generator=torch.Generator().manual_seed(0))
    for to in ("interp", "saelens"):
        format_writers.write_autoencoder(sae, tmp_path / to, to)
        torch.testing.assert_close(SparseAutoencoder.load(tmp_path / to, model)(x), sae(x), atol=1e-4, rtol=1e-5)
    assert json.loads((tmp_path / "saelens" / "cfg.json").read_text())["metadata"]["model_from_pretrained_kwargs"]
    for to in ("gemma_scope", "dictionary_learning"):
        with pytest.raises(InterpError, match="has no autoencoders with a skip connection"):
            format_writers.write_autoencoder(sae, tmp_path / to, to)
    op = Clamp(sae, [5])
    centred = op(x) - x
    torch.testing.assert_close(centred, op(x - x.mean(1, keepdim=True)) - (x - x.mean(1, keepdim=True)))
    texts = ["w4 w5 w6 w7 w8 w9"] * 4
    assert torch.equal(finetune(sae, model, texts, context=16, batch_size=2).sae.W_skip, sae.W_skip), "no copying"
    shifted = replace(sae, W_skip=sae.W_skip + torch.eye(32))
    with pytest.raises(InterpError, match="SAELens has no autoencoders with a skip connection"):
        format_writers.write_autoencoder(shifted, tmp_path / "shifted", "saelens")


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_the_key_does_nothing_in_models_whose_norms_keep_the_mean(tiny, tmp_path, name):
    model = tiny(name)
    t = _place(model, tmp_path / "sae", **CENTRED[0])
    sae = SparseAutoencoder.load(tmp_path / "sae", model)
    x = 1 + torch.randn(20, 32, generator=torch.Generator().manual_seed(0))
    expected = ((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu() @ t["W_dec"] + t["b_dec"]
    torch.testing.assert_close(sae(x), expected, atol=1e-4, rtol=1e-4)
    assert sae.W_skip is None


def test_it_does_nothing_inside_layers_and_is_refused_where_it_cannot_be_told(tiny, tmp_path):
    model = tiny("gpt2")
    _place(model, tmp_path / "z", hook="blocks.1.attn.hook_z", **CENTRED[0])
    assert SparseAutoencoder.load(tmp_path / "z", model).W_skip is None
    _place(tiny("bloom"), tmp_path / "bloom", **CENTRED[0])
    with pytest.raises(InterpError, match="whether that centres the stream of a bloom is not known here"):
        SparseAutoencoder.load(tmp_path / "bloom", tiny("bloom"))
    _place(model, tmp_path / "to", architecture="transcoder", apply_b_dec_to_input=False, **CENTRED[0])
    with pytest.raises(InterpError, match=r"the mean of mlp_out\.1 can't be told from resid_post\.1"):
        SparseAutoencoder.load(tmp_path / "to", model, writes="mlp_out.1")
    _place(model, tmp_path / "text", center_writing_weights="yes")
    with pytest.raises(InterpError, match="center_writing_weights is 'yes'; expected true or false"):
        SparseAutoencoder.load(tmp_path / "text", model)


REFUSED = [
    (
        {"hook_name": "blocks.1.hook_mlp_out"},
        "hook_name is 'blocks.1.hook_mlp_out', and the site given is resid_post.1",
    ),
    ({"hook_name": "blocks.1.ln2.hook_normalized"}, "before the gain of its norm, and the site given is resid_post.1"),
    ({"hook_name": "blocks.1.hook_resid_pre"}, "hook_name"),
    ({"model_name": "another"}, "model_name is 'another', and the model is tiny llama 0"),
    ({"metadata": {"prepend_bos": False}}, "prepend_bos is false"),
    ({"model_from_pretrained_kwargs": {"checkpoint_index": 3}}, "checkpoint_index is 3"),
    ({"input_scale": 2.0}, "input_scale is 2.0, a setting that is not known here"),
    ({"ista_steps": 5}, "ista_steps is 5, a setting that is not known here"),
]
CONFLICTS = [
    ({"d_in": 31}, "d_in is 31, but the tensors have 32"),
    ({"d_sae": 49}, "d_sae is 49, but the tensors have 48"),
    ({"hook_head_index": 0}, "hook_head_index is 0; expected none"),
    ({"metadata": {"hook_head_index": 2}}, "hook_head_index is 2; expected none"),
    ({"activation_fn": "tanh-relu"}, "activation_fn is 'tanh-relu'"),
    ({"activation_fn_kwargs": {"k": 3}}, "expected one k, for topk alone"),
    ({"rescale_acts_by_decoder_norm": True}, "expected one k, for topk alone"),
    ({"activation_fn": "topk", "k": 3, "activation_fn_kwargs": {"k": 4}}, "expected one k"),
    ({"normalize_activations": "constant_norm_rescale"}, "normalize_activations"),
    ({"model_kwargs": {"stop_at_layer": 2}}, "model_kwargs"),
]


@pytest.mark.parametrize(("config", "message"), [*REFUSED, *CONFLICTS], ids=str)
def test_what_speaks_of_another_place_or_function_is_refused_by_its_key(tiny, tmp_path, config, message):
    model = tiny("llama")
    _place(model, tmp_path / "sae", **config)
    with pytest.raises(InterpError, match=message):
        SparseAutoencoder.load(tmp_path / "sae", model, "resid_post.1")
    key = next(iter(config.get("metadata", config.get("model_from_pretrained_kwargs", config))))
    if (config, message) in REFUSED:
        assert SparseAutoencoder.load(tmp_path / "sae", model, "resid_post.1", accept=[key]).d_sae == 48
        with pytest.raises(InterpError, match="accept names frobnicate, which is not in doubt"):
            SparseAutoencoder.load(tmp_path / "sae", model, "resid_post.1", accept=[key, "frobnicate"])
    else:
        with pytest.raises(InterpError, match=message):
            SparseAutoencoder.load(tmp_path / "sae", model, "resid_post.1", accept=[key])


def test_what_decides_nothing_is_read_past_and_two_names_of_a_place_are_one(tiny, tmp_path):
    model = tiny("llama")
    harmless = {
        "lr": 4e-4,
        "l1_coefficient": 8e-5,
        "context_size": 128,
        "seqpos_slice": [None],
        "dtype": "torch.float32",
    }
    harmless |= {"noise_scale": 0.1, "finetuning_scaling_factor": False, "dead_feature_window": 5000, "tied": False}
    loading = {"model_from_pretrained_kwargs": {"fold_ln": True, "center_unembed": True, "n_devices": 1}}
    _place(model, tmp_path / "sae", hook="blocks.2.hook_resid_pre", prepend_bos=True, **harmless, **loading)
    assert str(SparseAutoencoder.load(tmp_path / "sae", model, "resid_post.1").site) == "resid_post.1"
    _place(model, tmp_path / "folded", hook="blocks.1.mlp.hook_in", **loading)
    with pytest.raises(
        InterpError, match="fold_ln is True in the model that it was trained on, which changes mlp_input"
    ):
        SparseAutoencoder.load(tmp_path / "folded", model)


def test_a_width_that_the_site_does_not_have_is_refused(tiny, tmp_path):
    _place(tiny("llama"), tmp_path / "sae", hook="blocks.1.mlp.hook_post")
    with pytest.raises(InterpError, match=r"has width 32 at mlp_post\.1, and the model 64 there"):
        SparseAutoencoder.load(tmp_path / "sae", tiny("llama"))


@pytest.mark.parametrize(
    ("trainer", "buffer", "message"),
    [
        ({"activation_dim": 31}, {}, "activation_dim is 31, but the tensors have 8"),
        ({"k": 3}, {}, "k is 3, but the tensors have 4"),
        ({"dict_class": "TiedAutoEncoder"}, {}, "dict_class 'TiedAutoEncoder' can't be read"),
        ({"layer": 3}, {}, r"submodule_name is 'resid_post\.3', and the site given is resid_post\.0"),
        ({"submodule_name": "mlp_out_layer_0"}, {}, r"submodule_name is 'mlp_out\.0'"),
        ({"lm_name": "EleutherAI/pythia-70m"}, {}, "lm_name is 'EleutherAI/pythia-70m'"),
        ({"gain": 2}, {}, "gain is 2, a setting that is not known here"),
        ({}, {"io": "in"}, "io is 'in', so it was trained on the input"),
    ],
)
def test_settings_of_dictionary_learning_that_speak_of_another_are_refused(tmp_path, trainer, buffer, message):
    torch.save(_dictionary("AutoEncoderTopK")[0], tmp_path / "ae.pt")
    known = {"lr": 1e-3, "layer": 0, "dict_class": "AutoEncoderTopK", "wandb_name": "x", "steps": 9, "k": K}
    for values, doubtful in ((trainer, True), ({}, False)):
        config = {"trainer": known | values, "buffer": {"ctx_len": 128, **(buffer if doubtful else {})}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        if doubtful:
            with pytest.raises(InterpError, match=message):
                SparseAutoencoder.load(tmp_path, MADE_UP, "resid_post.0")
        else:
            assert SparseAutoencoder.load(tmp_path, MADE_UP).d_sae == F, "control: its own place, which it names"


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"signed": True}, "signed is True"), ({"d_in": 9}, "d_in is 9"), ({"num_latents": 51}, "num_latents is 51")],
)
def test_settings_of_sparsify_are_known_or_refused(tmp_path, changed, message):
    t = _tensors()
    named = {"encoder.weight": t["W_enc"].T.contiguous(), "encoder.bias": t["b_enc"], "W_dec": t["W_dec"]}
    safetensors.torch.save_file(named | {"b_dec": t["b_dec"]}, tmp_path / "sae.safetensors")
    config = {"activation": "topk", "k": K, "d_in": D, "num_latents": 0, "expansion_factor": 32, "multi_topk": True}
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    assert SparseAutoencoder.load(tmp_path, MADE_UP, "resid_post.0").d_sae == F
    (tmp_path / "cfg.json").write_text(json.dumps(config | changed))
    with pytest.raises(InterpError, match=message):
        SparseAutoencoder.load(tmp_path, MADE_UP, "resid_post.0")
