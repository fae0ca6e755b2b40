"""Quantised checkpoints, dequantised on request: the values of transformers and of a slow version, to the bit."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import interp
from interp import InterpError, Project, Recipe
from interp.editing.certificate.replay import replay
from interp.editing.certificate.verifier import verify
from interp.editing.export.exporter import dry_run, export_streamed
from interp.editing.export.identity import checkpoint_digests
from interp.editing.export.sources import open_source
from interp.editing.export.weight_writer import compute_shard
from interp.editing.options import FoldOptions
from interp.models.checkpoints import dequantising

ROWS = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
RECIPE = Recipe([("writers", Project(ROWS))])
DEQUANTISE = FoldOptions(dequantise=True)
FP4 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]


def rewritten(model, folder, settings, change):
    """The model saved, its tensors changed, in two files; with a config that says that it is quantised."""
    model.hf.save_pretrained(folder)
    tensors = change(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    names = sorted(tensors, key=lambda name: (not name.endswith(("_scale_inv", "_scales")), name))
    parts = {f"model-{n}.safetensors": names[n::2] for n in (0, 1)}  # scales apart from their weights
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": settings}
    (folder / "config.json").write_text(json.dumps(config))
    return tensors


def plain(folder):
    return {piece.name: compute_shard(piece) for file in open_source(folder, True).files for piece in file}


def made_fp8(model, folder, kind, block=24):
    """A Llama whose attention and MLP weights are float8, in blocks by rows and columns (sides are 16 to 64)."""
    generator = torch.Generator().manual_seed(0)

    def scales(x):
        if kind == "tensor":
            return torch.rand(1, generator=generator) + 0.5
        grid = [math.ceil(side / block) for side in x.shape]
        if kind == "exponents":
            return torch.randint(120, 130, grid, generator=generator, dtype=torch.uint8)
        return (torch.rand(grid, generator=generator) + 0.5) / 8

    def change(tensors):
        for name in [name for name in tensors if "_proj" in name]:
            tensors[f"{name}_scale_inv"] = scales(tensors[name])
            tensors[name] = (8 * tensors[name]).to(torch.float8_e4m3fn)
        beside = {name for name, x in tensors.items() if x.dtype == torch.float32 and not name.endswith("_scale_inv")}
        return tensors | {name: tensors[name].to(torch.bfloat16) for name in beside}

    settings = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    settings |= {} if kind == "tensor" else {"weight_block_size": [block, block]}
    return folder, rewritten(model, folder, settings, change)


@pytest.fixture(params=["blocks", "tensor", "exponents"])
def fp8(tiny, tmp_path, request):
    return made_fp8(tiny("llama"), tmp_path / "fp8", request.param)


@pytest.fixture
def mxfp4(tiny, tmp_path):
    generator = torch.Generator().manual_seed(0)

    def change(tensors):
        for name in [name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
            experts, inputs, outputs = tensors.pop(name).shape
            shape = (experts, outputs, inputs // 32, 16)
            tensors[f"{name}_blocks"] = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
            tensors[f"{name}_scales"] = torch.randint(118, 126, shape[:-1], generator=generator, dtype=torch.uint8)
        return {name: x.to(torch.bfloat16) if x.dtype == torch.float32 else x for name, x in tensors.items()}

    folder = tmp_path / "mxfp4"
    return folder, rewritten(tiny("gpt_oss"), folder, {"quant_method": "mxfp4"}, change)


def test_fp8_is_value_times_the_scale_of_its_block(fp8):
    folder, tensors = fp8
    found = plain(folder)
    assert set(found) == {name for name in tensors if not name.endswith("_scale_inv")}
    for name, x in found.items():
        if "_proj" not in name:
            assert torch.equal(x, tensors[name])
            continue
        scale = tensors[f"{name}_scale_inv"]
        for row in range(x.shape[0]):
            by_row = scale if scale.numel() == 1 else scale[row // 24].repeat_interleave(24)[: x.shape[1]]
            by_row = 2 ** (by_row.float() - 127) if scale.dtype == torch.uint8 else by_row
            assert torch.equal(x[row], (tensors[name][row].float() * by_row).to(torch.bfloat16))


@pytest.mark.parametrize("block", [8, 16])
def test_fp8_is_what_transformers_makes_of_it(block, tmp_path, tiny):
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    _, tensors = made_fp8(tiny("llama"), tmp_path / "fp8", "blocks", block)
    found = plain(tmp_path / "fp8")
    for name in (name for name in found if "_proj" in name):
        theirs = Fp8Dequantize(None)._dequantize_one(tensors[name], tensors[f"{name}_scale_inv"], torch.bfloat16)
        assert torch.equal(found[name], theirs)


def test_mxfp4_is_what_transformers_makes_of_it_and_what_the_format_says(mxfp4):
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    folder, tensors = mxfp4
    found = plain(folder)
    for name in [name.removesuffix("_blocks") for name in tensors if name.endswith("_blocks")]:
        blocks, scales = tensors[f"{name}_blocks"], tensors[f"{name}_scales"]
        assert torch.equal(found[name], convert_moe_packed_tensors(blocks, scales))
        for place in ((0, 0, 0, 0), (1, 5, 0, 7), (3, 2, 0, 15)):
            expert, out, group, byte = place
            for half in (0, 1):
                nibble = int(blocks[place]) >> (4 * half) & 15
                value = (-1) ** (nibble >> 3) * FP4[nibble & 7] * 2.0 ** (int(scales[place[:-1]]) - 127)
                assert found[name][expert, 32 * group + 2 * byte + half, out] == value
    assert not {name for name in found if name.endswith(("_blocks", "_scales"))}


@pytest.mark.parametrize("kind", ["fp8", "mxfp4"])
def test_an_export_is_that_of_the_plain_checkpoint(kind, tmp_path, request, tiny):
    """Control: `verify` loads the base as transformers dequantises it."""
    made_here = kind == "fp8"
    folder, _ = made_fp8(tiny("llama"), tmp_path / "b", "blocks", 8) if made_here else request.getfixturevalue(kind)
    shutil.copytree(folder, tmp_path / "plain")
    for file in (tmp_path / "plain").glob("model*"):
        file.unlink()
    save_file(plain(folder), tmp_path / "plain" / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "plain" / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    export_streamed(RECIPE, folder, tmp_path / "out", fold=DEQUANTISE)
    export_streamed(RECIPE, tmp_path / "plain", tmp_path / "expected")
    found = {k: x for file in (tmp_path / "out").glob("model*.safetensors") for k, x in load_file(file).items()}
    expected = load_file(tmp_path / "expected" / "model.safetensors")
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    assert replay(tmp_path / "out").units == 0
    assert verify(tmp_path / "out").faithful
    origin = open_source(folder, True)
    pieces = {piece.name: piece for file in origin.files for piece in file}
    assert checkpoint_digests(origin, pieces).exact == interp.load(folder, dtype="bfloat16").digest, (
        "recipes know it by this"
    )
    assert interp.export(RECIPE, folder, tmp_path / "loaded", fold=DEQUANTISE).faithful


def test_quantised_checkpoints_are_refused_by_name_unless_asked(mxfp4, tmp_path, monkeypatch):
    folder, _ = mxfp4
    monkeypatch.setattr(dequantising, "find_spec", lambda name: None)
    with pytest.raises(InterpError, match=r"is quantised \(mxfp4\).*--dequantise"):
        export_streamed(RECIPE, folder, tmp_path / "out")
    assert dry_run(RECIPE, folder, fold=DEQUANTISE)[0].status == "exact"
    config = json.loads((folder / "config.json").read_text())
    made_from = "that it was made from"
    for method, words in (("gptq", made_from), ("awq", made_from), ("bitsandbytes", "pip install bitsandbytes")):
        (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": method}}))
        for choices in (FoldOptions(), DEQUANTISE):
            with pytest.raises(InterpError, match=rf"quantised \({method}\).*{words}"):
                export_streamed(RECIPE, folder, tmp_path / "out", fold=choices)
        with pytest.raises(InterpError, match=rf"quantised \({method}\).*{words}"):
            interp.load(folder)
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InterpError, match="is not quantised"):
        export_streamed(RECIPE, folder, tmp_path / "out", fold=DEQUANTISE)


def test_scales_that_do_not_fit_are_an_error(tiny, tmp_path):
    def change(tensors):
        name = "model.layers.0.mlp.down_proj.weight"
        tensors[name] = tensors[name].to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = torch.ones(5, 3)
        return tensors

    rewritten(tiny("llama"), tmp_path / "m", {"quant_method": "fp8"}, change)
    with pytest.raises(InterpError, match=r"down_proj\.weight has 32 along one side and 5 scales"):
        export_streamed(RECIPE, tmp_path / "m", tmp_path / "out", fold=DEQUANTISE)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_a_bitsandbytes_checkpoint_is_what_transformers_dequantises(kind, tiny, tmp_path):
    pytest.importorskip("bitsandbytes", reason="dequantises its own files: pip install 'interp[bitsandbytes]'")
    import transformers

    tiny("llama").hf.save_pretrained(tmp_path / "plain")
    settings = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind)
    auto = transformers.AutoModelForCausalLM
    auto.from_pretrained(tmp_path / "plain", quantization_config=settings).save_pretrained(tmp_path / "four")
    expected, ids = auto.from_pretrained(tmp_path / "four").dequantize(), torch.arange(4, 24)[None]
    model = interp.load(tmp_path / "four")
    with torch.no_grad():
        torch.testing.assert_close(model.logits(ids), expected(ids).logits, atol=1e-6, rtol=0)
    assert (model.logits(ids) - tiny("llama").logits(ids)).abs().max() > 0.01, "control: it was quantised"
    assert interp.export(RECIPE, tmp_path / "four", tmp_path / "edited").faithful
    assert "quantization_config" not in json.loads((tmp_path / "edited" / "config.json").read_text())
    assert verify(tmp_path / "edited").faithful
