"""Control vectors: what `Add` adds, read back from a GGUF file."""

import pytest
import torch

from interp import Add, InterpError, Project, Recipe
from interp.editing.export.control_vector import export_control_vector, read_control_vector

IDS = torch.randint(4, 128, (3, 11), generator=torch.Generator().manual_seed(1))
ROWS = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
PROJECT = Recipe([("writers", Project(ROWS))])


def test_a_control_vector_is_what_add_adds_and_is_read_back(tiny, tmp_path):
    pytest.importorskip("gguf")
    model, file = tiny("llama"), tmp_path / "vector.gguf"
    recipe = Recipe([("resid_post.1-2", Add(ROWS[0], 2.0)), ("resid_post.2", Add(ROWS[1]))])
    assert export_control_vector(recipe, model, file) == [1, 2]
    found = read_control_vector(file)
    with model.hooked(recipe):
        expected = model.logits(IDS)
    with model.hooked([(f"resid_post.{layer}", lambda x, v=vector: x + v) for layer, vector in found.items()]):
        torch.testing.assert_close(model.logits(IDS), expected)
    assert (expected - model.logits(IDS)).abs().max() > 0.1, "control"
    with pytest.raises(InterpError, match="exists already"):
        export_control_vector(recipe, model, file)
    for wrong, message in (
        (PROJECT, "adds constants, and Project"),
        (Recipe([("resid_post.0", Add(ROWS[0]))]), r"resid_post\.1 and on\), not at resid_post\.0"),
        (Recipe([("mlp_out.1", Add(ROWS[0]))]), r"not at mlp_out\.1"),
        (Recipe([("resid_post.1", Add(ROWS[0], relative=True))]), "adds constants"),
    ):
        with pytest.raises(InterpError, match=message):
            export_control_vector(wrong, model, tmp_path / "other.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["vector.gguf"]
    (tmp_path / "none.gguf").write_bytes(b"GGUF nonsense")
    with pytest.raises(InterpError, match="not a GGUF file"):
        read_control_vector(tmp_path / "none.gguf")
