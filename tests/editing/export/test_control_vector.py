"""Control vectors: what `Add` adds, read back from a GGUF file."""

import base64
import json

import numpy as np
import pytest
import torch
from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from interp import Add, InterpError, Project, Recipe
from interp.editing.export.control_vector import (
    export_control_vector,
    export_interp_engine,
    export_vllm_lens,
    read_control_vector,
)
from interp.interventions import Cap, Scale

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


class SteeringVector(BaseModel):
    """What vllm-lens documents of its class: the fields, the decoding, and what is added at a layer's output."""

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")
    activations: torch.Tensor
    layer_indices: list[int]
    scale: float = 1.0
    norm_match: bool = False
    position_indices: list[int] | None = None

    @field_validator("activations", mode="before")
    @classmethod
    def decoded(cls, value):
        raw = np.frombuffer(base64.b64decode(value["data"]), np.dtype(value["dtype"]))
        return torch.from_numpy(raw.reshape(value["shape"]).copy())

    @model_validator(mode="after")
    def shaped(self):
        assert self.activations.ndim in (2, 3)
        assert len(self.activations) == len(self.layer_indices)
        return self

    def at(self, row):
        return lambda x: x + self.scale * self.activations[row]


def test_the_fields_of_vllm_lens_do_what_add_does(tiny, tmp_path, run):
    model, file = tiny("llama"), tmp_path / "steer.json"
    recipe = Recipe([("resid_post.0-2", Add(ROWS[0], 2.0)), ("resid_post.2", Add(ROWS[1]))])
    assert export_vllm_lens(recipe, model, file) == [0, 1, 2]
    vector = SteeringVector.model_validate(json.loads(file.read_text()))
    with model.hooked(recipe):
        expected = model.logits(IDS)
    with model.hooked([(f"resid_post.{layer}", vector.at(row)) for row, layer in enumerate(vector.layer_indices)]):
        torch.testing.assert_close(model.logits(IDS), expected)
    assert (expected - model.logits(IDS)).abs().max() > 0.1, "control"
    with pytest.raises(InterpError, match="adds constants, and Project"):
        export_vllm_lens(PROJECT, model, tmp_path / "other.json")
    model.hf.save_pretrained(tmp_path / "model")
    recipe.save(tmp_path / "recipe")
    words = ["export", tmp_path / "model", "--recipe", tmp_path / "recipe", "--form", "vllm-lens"]
    assert run(*words, "--out", tmp_path / "again.json")[0] == 0
    assert (tmp_path / "again.json").read_bytes() == file.read_bytes()
    assert run(*words, "--out", tmp_path / "third.json", "--keep-norms")[0] == 2


STEERED = {
    "added, then projected": [("resid_post.0-1", Add(ROWS[0], 2.0)), ("resid_post.1", Project(ROWS[:2]))],
    "a share": [("resid_pre.1", Project(ROWS[1], 0.5)), ("resid_pre.1", Add(ROWS[0]))],
    "capped": [("resid_mid.1", Cap(ROWS[2], 0.5, 1.0))],
    "writers": [("writers", Project(ROWS[1]))],
}


def _documented(operation):
    """What interp-engine documents of its methods, on one vector each."""
    stated = operation["vector"]
    raw = np.frombuffer(base64.b64decode(stated["data"]), "<f4").reshape(stated["shape"])
    vector = torch.from_numpy(raw.copy())
    unit = vector / vector.norm()
    if operation["method"] == "additive":
        return lambda x: x + operation["scale"] * vector
    if operation["method"] == "projection_cap":
        return lambda x: x + ((x @ unit).clamp(operation["min"], operation["max"]) - x @ unit)[..., None] * unit
    kept = 0 if operation["method"] == "ablate" else operation["coeff"]
    return lambda x: x - (1 - kept) * (x @ unit)[..., None] * unit


@pytest.mark.parametrize("edits", STEERED.values(), ids=STEERED)
def test_the_operations_of_interp_engine_do_what_the_recipe_does(tiny, tmp_path, edits):
    model, recipe = tiny("llama"), Recipe(edits)
    layers = export_interp_engine(recipe, model, tmp_path / "engine.json")
    hooks = []
    for spec in json.loads((tmp_path / "engine.json").read_text()):
        assert set(map(int, spec["layers"])) <= set(layers)
        for layer, operations in spec["layers"].items():
            site = "embed" if spec["point"] == "embeddings" else f"{spec['point']}.{layer}"
            hooks += [(site, _documented(operation)) for operation in operations]
    with model.hooked(recipe):
        expected = model.logits(IDS)
    with model.hooked(hooks):
        torch.testing.assert_close(model.logits(IDS), expected)
    assert (expected - model.logits(IDS)).abs().max() > 0.01, "control"


@pytest.mark.parametrize("edits", STEERED.values(), ids=STEERED)
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2", "gpt2"])
def test_interp_engine_itself_does_what_the_recipe_does(tiny, tmp_path, architecture, edits):
    """On its eager backend, from what its server reads; in vLLM it needs a GPU."""
    engine, schemas = pytest.importorskip("interp_engine"), pytest.importorskip("interp_engine.server.schemas")
    model, recipe, file = tiny(architecture), Recipe(edits), tmp_path / "engine.json"
    if edits is STEERED["writers"] and architecture in ("gemma2", "gpt2"):
        with pytest.raises(InterpError, match="at another place than this recipe; edit resid_post"):
            export_interp_engine(recipe, model, file)
        assert not file.exists()
        return
    export_interp_engine(recipe, model, file)
    steering = [schemas.SteeringWire.model_validate(spec).to_spec(32) for spec in json.loads(file.read_text())]
    with model.hooked(recipe):
        expected = model.logits(IDS)
    theirs = engine.EagerModel("tiny", hf_model=model.hf, tokenizer=model.tokenizer)
    with torch.no_grad(), engine.steer(theirs, steering):
        torch.testing.assert_close(model.hf(IDS).logits, expected, rtol=1e-4, atol=1e-5)


def test_what_interp_engine_does_not_have_is_refused(tiny, tmp_path, run):
    model, file = tiny("llama"), tmp_path / "engine.json"
    with pytest.raises(InterpError, match="caps; Scale does not"):
        export_interp_engine(Recipe([("resid_post.1", Scale(torch.full((32,), 0.5)))]), model, file)
    with pytest.raises(InterpError, match="Add does not"):
        export_interp_engine(Recipe([("resid_post.1", Add(ROWS[0], relative=True))]), model, file)
    with pytest.raises(InterpError, match="width"):
        export_interp_engine(Recipe([("resid_post.1", Project(torch.ones(7)))]), model, file)
    assert not list(tmp_path.iterdir())
    model.hf.save_pretrained(tmp_path / "model")
    Recipe(STEERED["writers"]).save(tmp_path / "recipe")
    words = ["export", tmp_path / "model", "--recipe", tmp_path / "recipe", "--form", "interp-engine", "--out", file]
    assert run(*words)[0] == 0
    assert [spec["point"] for spec in json.loads(file.read_text())] == ["embeddings", "attn_out", "mlp_out"]


def test_easysteer_finds_its_documented_keys_in_a_control_vector(tiny, tmp_path):
    """Its loader wants the architecture, a hint of the model, and one-dimensional F32 tensors named by layer."""
    gguf = pytest.importorskip("gguf")
    export_control_vector(Recipe([("resid_post.1-2", Add(ROWS[0]))]), tiny("llama"), tmp_path / "v.gguf")
    reader = gguf.GGUFReader(tmp_path / "v.gguf")
    assert reader.fields["general.architecture"].contents() == "controlvector"
    assert reader.fields["controlvector.model_hint"].contents() == "llama"
    assert [(t.name, t.tensor_type.name, t.data.ndim) for t in reader.tensors] == [
        ("direction.1", "F32", 1), ("direction.2", "F32", 1),
    ]  # fmt: skip
