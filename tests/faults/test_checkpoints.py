"""Faults of checkpoints: what is damaged, leaves its folder, or would run code is refused before it is loaded."""

import json
import logging
import pickle
import struct
from functools import partial
from io import StringIO

import numpy as np
import pytest
import tiny_gguf
import torch
from fault_cases import fault
from safetensors.torch import load_file, save_file

import interp
from interp import InterpError
from interp.models.checkpoints.checkpoint import Checkpoint
from interp.models.checkpoints.safetensors_file import TensorFile

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory):
    """A tiny checkpoint: config.json and the bytes of its weights."""
    folder = tmp_path_factory.mktemp("saved")
    tiny("llama").hf.save_pretrained(folder)
    return (folder / "config.json").read_bytes(), (folder / "model.safetensors").read_bytes()


@pytest.fixture
def folder(saved, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_bytes(saved[0])
    (tmp_path / "model" / "model.safetensors").write_bytes(saved[1])
    return tmp_path / "model"


def refused(folder, message):
    with pytest.raises(InterpError, match=message) as caught:
        Checkpoint.open(folder)
    assert "\n" not in str(caught.value)


def with_header(folder, change):
    """The weights with another header."""
    file = folder / "model.safetensors"
    content = file.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


@fault("a weight file that was cut short", "refused; the error says so")
def test_truncated(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    refused(folder, "it was cut short")


@fault("a header whose stated length exceeds the file", "refused before it is read")
def test_oversized_header(folder):
    file = folder / "model.safetensors"
    file.write_bytes(struct.pack("<Q", 1 << 60) + file.read_bytes()[8:])
    refused(folder, "its header would have")


@fault("tensors that overlap", "refused; the error names the tensor")
def test_overlapping(folder):
    def change(header):
        names = [name for name in header if name != "__metadata__"]
        header[names[1]]["data_offsets"] = header[names[0]]["data_offsets"]

    with_header(folder, change)
    refused(folder, "not a valid safetensors file")


@fault(
    "offsets that are past the end of the file, negative, or not whole numbers", "refused; the error names the tensor"
)
@pytest.mark.parametrize("offset", [10**12, -1, 0.5, "0", None])
def test_out_of_range(folder, offset):
    with_header(folder, lambda header: header["lm_head.weight"].update(data_offsets=[0, offset]))
    refused(folder, "lm_head.weight")


@fault("a flipped bit in weights that interp saved", "refused: the record beside them has their SHA-256")
def test_bit_flipped(autoencoder, tmp_path):
    file = tmp_path / "sae" / "sae.safetensors"
    autoencoder.save(tmp_path / "sae")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(InterpError, match=r"sae\.safetensors"):
        interp.SparseAutoencoder.load(tmp_path / "sae")


@pytest.fixture
def autoencoder(tiny):
    from interp.activations import SiteColumns
    from interp.sae import TopK

    model = tiny("llama")
    rows, site = torch.eye(32)[:4], SiteColumns(site="resid_post.1", model=model.reference, width=32)
    return interp.SparseAutoencoder(rows, torch.zeros(4), rows, torch.zeros(32), TopK(k=1), (site,), (site,))


def indexed(folder, name, tensors=None):
    """An index that has every tensor in one file of this name."""
    file = TensorFile.open(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"weight_map": dict.fromkeys(tensors or file.entries, name)}
    (folder / INDEX).write_text(json.dumps(index))


@fault("an index that names files with `..` or absolute paths", "refused; the error gives the name")
@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a/../../x.safetensors", "x.bin"])
def test_index_that_leaves_the_folder(folder, name):
    indexed(folder, name)
    refused(folder, "which is not a safetensors file in the folder")


@fault("a weight file that is a link out of the folder", "refused; the error gives the link's target")
def test_link_that_leaves_the_folder(folder, tmp_path):
    (folder / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (folder / "model.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    refused(folder, "is a link out of the folder")


@fault(
    "tensors that are missing from the index, or not in the file that it names", "refused; the error names the tensor"
)
@pytest.mark.parametrize("tensors", [["lm_head.weight"], ["absent.weight"]])
def test_index_that_disagrees(folder, tensors):
    indexed(folder, "model-00001-of-00001.safetensors", tensors)
    refused(folder, "index")


@fault("pickled weights", "refused without `allow_pickle=True`; nothing in them runs")
def test_pickles(folder, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    refused(folder, "a pickle can run code")
    assert not (tmp_path / "ran").exists()


@fault("`auto_map`: code that comes with a checkpoint", "refused without `trust_remote_code=True`")
def test_code_without_consent(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Evil"}}))
    refused(folder, "auto_map")


@fault("arrays of Python objects, or names with `..`, in an npz file (zip slip)", "refused; nothing is run or unpacked")
@pytest.mark.parametrize("name", ["W_enc", "../../W_enc"])
def test_object_arrays(tiny, tmp_path, name):
    (tmp_path / "in").mkdir()
    np.savez(tmp_path / "in" / "params.npz", **{name: np.array([print], dtype=object)})
    with pytest.raises(InterpError, match=r"params\.npz"):
        interp.SparseAutoencoder.load(tmp_path / "in", tiny("llama"), "resid_post.1")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@fault(
    "a repeated key, or NaN, in config.json or the tokenizer's settings", "a repeated key is refused; NaN is accepted"
)
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_repeated_keys(folder, name):
    config = json.loads((folder / "config.json").read_text()) if name == "config.json" else {}
    (folder / name).write_text(json.dumps(config | {"limit": float("inf")}))
    Checkpoint.open(folder)
    (folder / name).write_text(json.dumps(config | {"limit": 1})[:-1] + ', "limit": 2}')
    refused(folder, f"{name}: not valid JSON .key 'limit' is there twice")


@fault("a round trip through float32, bfloat16 and float16", "values that the dtype can hold come back bit for bit")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_round_trips(folder, tmp_path, dtype):
    tensors = {name: x.to(dtype) for name, x in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    loaded = interp.load(folder)
    assert all(torch.equal(x, tensors[name].float()) for name, x in loaded.hf.state_dict().items())


@fault("mixtures of experts, grouped queries, tied embeddings", "the export computes what the hooks compute (1e-5)")
@pytest.mark.parametrize("name", ["mixtral", "llama", "gemma"])
def test_parity(tiny, tmp_path, name):
    model = tiny(name)
    recipe = interp.Recipe([("mlp_out.1", interp.Project(torch.eye(32)[:1]))])
    interp.export(recipe, model, tmp_path / "out")
    ids = torch.arange(4, 12)[None]
    with model.hooked(recipe):
        hooked = model(ids)
    exported = interp.load(tmp_path / "out")(ids)
    assert torch.allclose(hooked, exported, atol=1e-5)
    assert not torch.allclose(model(ids), exported, atol=1e-5)


@fault("a config with more layers than the file has tensors for", "refused before the model is built")
@pytest.mark.parametrize("layers", [10**9, 10**30])
def test_layers(folder, tmp_path, tiny, layers):
    config = json.loads((folder / "config.json").read_text())
    Checkpoint.open(folder)
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))
    refused(folder, f"says {layers:,} layers, but there are 30 tensors")
    (folder / "config.json").write_text(json.dumps({"text_config": config | {"num_hidden_layers": layers}}))
    refused(folder, "layers, but there are")
    pytest.importorskip("gguf", reason="pip install 'interp[gguf]'")
    stated = tiny_gguf.write(tiny("llama"), tmp_path / "a.gguf", change=lambda writer: writer.add_block_count(900))
    with pytest.raises(InterpError, match="says 900 layers, but there are"):
        interp.load(stated)


@fault("token ids, or a length, that are not numbers", "refused; the error names the file and the key")
@pytest.mark.parametrize("value", ["cpu", {"a": 1}, ["a"], 10**30])
def test_ids(folder, value):
    for name, key in (("generation_config", "eos_token_id"), ("tokenizer_config", "model_max_length")):
        for allowed in (None, 2, [2, 0]) if key == "eos_token_id" else (None, 2, 10**30):
            (folder / f"{name}.json").write_text(json.dumps({key: allowed}))
            Checkpoint.open(folder)
        if value != 10**30 or key == "eos_token_id":
            (folder / f"{name}.json").write_text(json.dumps({key: value}))
            refused(folder, f"{name}.json: {key} is")
        (folder / f"{name}.json").unlink()


@fault("terminal escapes in names of tensors", "stripped from errors and from the reports of transformers")
def test_names_of_tensors(folder, monkeypatch, request):
    report, logger = StringIO(), logging.getLogger("transformers")
    monkeypatch.setattr(logger, "handlers", [logging.StreamHandler(report)])
    request.addfinalizer(partial(logger.setLevel, logger.level))
    logger.setLevel(logging.WARNING)  # which its parts take over
    with_tensor = load_file(folder / "model.safetensors")
    with_tensor["\x1b[2Jextra\u202e.weight"] = with_tensor["lm_head.weight"].clone()
    save_file(with_tensor, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InterpError, match=r"no place for 1 of its tensors \(extra\.weight\)"):
        interp.load(folder)
    said = report.getvalue()
    assert "extra" in said, "control: transformers reports the name"
    assert "\x1b" not in said
    assert "\u202e" not in said
