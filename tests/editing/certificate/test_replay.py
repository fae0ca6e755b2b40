"""Replays: every bit agrees, and whatever was changed is found."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import interp
from interp import InterpError, Project, Recipe
from interp.editing.certificate.replay import replay
from interp.editing.certificate.verifier import verify
from interp.editing.export.exporter import export_streamed
from interp.models.checkpoints.checkpoint import Checkpoint

ROWS = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
RECIPE = Recipe([("writers", Project(ROWS))])


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_a_replay_finds_every_bit_and_whatever_was_changed(source, tmp_path, dtype):
    out = tmp_path / "out"
    export_streamed(RECIPE, source, out, dtype=dtype, shard_size=50_000)
    found = replay(out)
    assert found.tensors == found.identical > 20
    assert found.units == 0
    file = next(f for f in Checkpoint.open(out).opened if "model.layers.1.mlp.down_proj.weight" in f.entries)
    tensors = load_file(file.path)
    weight = tensors["model.layers.1.mlp.down_proj.weight"]
    for change, message in (
        (lambda: weight[3, 5].add_(4 * float(weight[3, 5].abs()) * torch.finfo(weight.dtype).eps), r"off by [34]\."),
        (lambda: weight[3, 5].mul_(float("nan")), "off by inf"),
        (lambda: tensors.pop("model.layers.1.mlp.down_proj.weight"), "is missing"),
    ):
        change()
        save_file(tensors, file.path, metadata={"format": "pt"})
        stored = out / "model.safetensors.index.json"
        named = json.loads(stored.read_text())
        named["weight_map"] = {k: v for k, v in named["weight_map"].items() if v != file.path.name or k in tensors}
        stored.write_text(json.dumps(named))
        with pytest.raises(InterpError, match=rf"model\.layers\.1\.mlp\.down_proj\.weight.*{message}"):
            replay(out)
    other = tmp_path / "other"
    export_streamed(Recipe([("writers", Project(ROWS[:1]))]), source, other)
    shutil.copytree(other / "interp_recipe", out / "interp_recipe", dirs_exist_ok=True)
    with pytest.raises(InterpError, match=r"is missing|is not what the recipe makes of the base"):
        replay(out)


def test_a_base_that_was_in_memory_is_loaded_as_it_was(source, tmp_path):
    interp.export(RECIPE, interp.load(source, dtype="bfloat16"), tmp_path / "out")
    assert replay(tmp_path / "out").units == 0
    assert verify(tmp_path / "out").faithful
    other = interp.load(source, dtype="float32")
    with pytest.raises(InterpError, match=r"bfloat16 .* gives torch\.float32"):
        replay(tmp_path / "out", other)
