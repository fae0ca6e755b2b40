"""Sets of transcoders are read from folders of several tools, or refused with what is wrong."""

import pytest
import torch
import yaml
from safetensors.torch import save_file
from transcoder_sets import cross_layer, per_layer
from transcoders import transcoder

from interp import InterpError
from interp.attribution import load_transcoders
from interp.sae import write_autoencoder


def same(ours, theirs):
    assert (ours.reads, ours.writes) == (theirs.reads, theirs.writes)
    x = torch.randn(5, ours.d_in, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours.encode(x), theirs.encode(x))
    torch.testing.assert_close(ours(x), theirs(x))


def configured(folder, kind, reads="mlp.hook_in", writes="mlp.hook_out"):
    folder.mkdir(exist_ok=True)
    settings = {"model_kind": kind, "feature_input_hook": reads, "feature_output_hook": writes}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))


def test_a_folder_for_each_layer_of_interp_or_another_tool(tiny, tmp_path):
    model = tiny("llama")
    for coder in (coders := per_layer(model)):
        coder.save(tmp_path / "ours" / f"layer-{coder.reads[0].site[-1]}")
    (tmp_path / "ours" / "run").mkdir()
    for ours, theirs in zip(coders, load_transcoders(tmp_path / "ours", model), strict=True):
        same(ours, theirs)
    cross_layer(model).save(tmp_path / "clt")
    same(load_transcoders(tmp_path / "clt", model)[0], cross_layer(model))
    for layer in (2, 0):
        write_autoencoder(transcoder(model, layer), tmp_path / "saelens" / f"x{layer}", "saelens")
    read = load_transcoders(tmp_path / "saelens", model)
    assert [coder.reads[0].site for coder in read] == ["mlp_input.0", "mlp_input.2"]
    same(read[0], transcoder(model, 0))


def test_circuit_tracers_files(tiny, tmp_path):
    """Per layer and across layers, as its `to_safetensors` writes them; skip matrices as it multiplies by them."""
    model, skip = tiny("llama"), torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(4)) / 9
    configured(tmp_path / "set", "transcoder_set")
    for layer in range(3):
        coder = transcoder(model, layer, threshold=0.1)
        tensors = {name: getattr(coder, name) for name in ("W_enc", "b_enc", "b_dec")} | {"W_dec": 3 * coder.W_dec}
        save_file(
            tensors | {"activation_function.threshold": coder.threshold, "W_skip": skip[layer]},
            tmp_path / f"set/layer_{layer}.safetensors",
        )
    for layer, read in enumerate(load_transcoders(tmp_path / "set", model)):
        x, coder = torch.randn(4, 32), transcoder(model, layer, threshold=0.1)
        pre = x @ coder.W_enc.T + coder.b_enc
        torch.testing.assert_close(read(x), pre * (pre > 0.1) @ (3 * coder.W_dec) + x @ skip[layer].T)
    configured(tmp_path / "clt", "cross_layer_transcoder", "hook_resid_mid", "hook_mlp_out")
    ours = cross_layer(model, "resid_mid")
    decoder = ours.W_dec.reshape(3, 20, 3, 32)
    for n in range(3):
        part = slice(20 * n, 20 * n + 20)
        encoder = {
            f"W_enc_{n}": ours.W_enc[part],
            f"b_enc_{n}": ours.b_enc[part],
            f"threshold_{n}": ours.threshold[part],
        }
        save_file(
            encoder | {f"b_dec_{n}": ours.b_dec[32 * n : 32 * n + 32].clone()}, tmp_path / f"clt/W_enc_{n}.safetensors"
        )
        save_file({f"W_dec_{n}": decoder[n, :, n:].contiguous()}, tmp_path / f"clt/W_dec_{n}.safetensors")
    same(load_transcoders(tmp_path / "clt", model)[0], ours)


def test_what_is_no_set_is_refused(tiny, tmp_path):
    model = tiny("llama")
    for folder, kind, reads, message in (
        ("a", "transcoders", "hook_resid_mid", "model_kind is 'transcoders'; expected transcoder_set"),
        ("b", "transcoder_set", "hook_resid_mid", "files of the layers"),
        ("c", "transcoder_set", "ln2.hook_normalized", "before the gain of the norm"),
        ("d", "transcoder_set", "hook_nothing", "unknown site"),
    ):
        configured(tmp_path / folder, kind, reads)
        with pytest.raises(InterpError, match=message):
            load_transcoders(tmp_path / folder, model)
    save_file({"W_enc": torch.ones(2, 32)}, tmp_path / "b/layer_0.safetensors")
    with pytest.raises(InterpError, match="no tensor 'b_enc'"):
        load_transcoders(tmp_path / "b", model)
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(InterpError, match=r"no autoencoder there|no such file"):
            load_transcoders(path, model)
    transcoder(tiny("llama", 1)).save(tmp_path / "other" / "x")
    with pytest.raises(InterpError, match="this SAE"):
        load_transcoders(tmp_path / "other", model)


@pytest.mark.parametrize("name", ["W_enc", "b_enc", "W_dec", "b_dec", "W_skip"])
def test_a_cross_layer_tensor_of_another_shape_is_refused_by_name(tiny, tmp_path, name):
    configured(tmp_path, "cross_layer_transcoder")
    for layer in range(3):
        shapes = {"W_enc": (20, 32), "b_enc": (20,), "W_dec": (20, 3 - layer, 32), "b_dec": (32,), "W_skip": (32, 32)}
        if layer == 1:
            shapes[name] = (7, *shapes[name][1:])
        tensors = {key: torch.ones(shape) for key, shape in shapes.items()}
        save_file({f"W_dec_{layer}": tensors.pop("W_dec")}, tmp_path / f"W_dec_{layer}.safetensors")
        save_file({f"{key}_{layer}": x for key, x in tensors.items()}, tmp_path / f"W_enc_{layer}.safetensors")
    with pytest.raises(InterpError, match=rf"{name}_1 has the shape \(7,.*; expected \((20|32),"):
        load_transcoders(tmp_path, tiny("llama"))
