"""Architectures that the table lacks are taken where their sites add up, and refused by name where they do not."""

import pytest
import tiny_models
import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import interp
from interp import InterpError, Project, Recipe
from interp.editing.certificate.writer_check import check_writers
from interp.editing.export.adapter import export_adapter
from interp.editing.export.exporter import dry_run, export_streamed
from interp.models.architectures import table
from interp.models.architectures.recognition import recognise_architecture


def build(kind, **more):
    torch.manual_seed(0)
    hf = transformers.AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**tiny_models._GROUPED | more)).float()
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return hf


_DECODER = {"decoder_layers": 3, "decoder_attention_heads": 4, "decoder_ffn_dim": 64}


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """Rows that a test adds to the table are gone after it."""
    monkeypatch.setattr(table, "_TABLE", table.known_architectures())


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("arcee", {}),
        ("ernie4_5", {}),
        ("helium", {"head_dim": 8}),
        ("jais2", {}),
        ("hunyuan_v1_dense", {"head_dim": 8}),
        ("granite_swa", {"residual_multiplier": 0.5}),
    ],
)
def test_a_family_under_another_name_is_recognised_and_proved(kind, more):
    assert kind not in table.known_architectures(), "control: the table does not have it"
    model = interp.load(build(kind, **more))
    assert not table.architecture(model.config).parallel
    proof = check_writers(model)
    assert max(proof.leaks) < 1e-6 < 1e-2 < min(proof.before)


def test_a_recognised_model_is_exported(tmp_path):
    model = interp.load(build("arcee"))
    recipe = Recipe([("writers", Project(torch.randn(2, 32, generator=torch.Generator().manual_seed(0))))])
    assert interp.export(recipe, model, tmp_path / "out").max_abs_logit_diff < 1e-4


def test_a_type_that_is_not_written_down_is_loaded_and_proved_or_not_streamed(tmp_path, monkeypatch):
    """Streaming loads no model, so nothing would show what writes, whether or not one was loaded before."""
    build("arcee").save_pretrained(tmp_path / "source")
    recipe = Recipe([("writers", Project(torch.randn(2, 32, generator=torch.Generator().manual_seed(0))))])
    proved = []
    monkeypatch.setattr(
        "interp.editing.export.sources.require_writer_check", lambda model: proved.append(model.config.model_type)
    )
    for known in (False, True):
        assert ("arcee" in table.known_architectures()) == known
        with pytest.raises(InterpError, match="arcee is not among the architectures that are written down"):
            export_streamed(recipe, tmp_path / "source", tmp_path / "out")
        assert dry_run(recipe, tmp_path / "source")[0].status == "exact"
    assert proved == ["arcee"] * 2
    assert export_adapter(recipe, tmp_path / "source", tmp_path / "adapter").rank == 2
    assert export_streamed(recipe, interp.load(tmp_path / "source"), tmp_path / "memory").status == "exact"


@pytest.mark.parametrize(
    ("kind", "more", "why"),
    [
        ("persimmon", {}, "other names"),
        ("glm4_moe", {"moe_intermediate_size": 32, "n_routed_experts": 4}, "other names"),
        ("apertus", {}, "same"),
        ("vaultgemma", {"head_dim": 8}, "same"),
        ("hyperclovax", {"residual_multiplier": 0.5}, "adds what attention and MLP write|same"),
        ("granite_swa", {"embedding_multiplier": 12.0}, "reads the tables|same"),
        ("doge", {}, "adds what attention and MLP write|same"),
        ("blenderbot", _DECODER, "padding changes no logits"),
        ("pegasus", _DECODER, "padding changes no logits"),
    ],
)
def test_what_does_not_add_up_is_refused_by_name(kind, more, why):
    hf = build(kind, **more)
    with pytest.raises(InterpError, match=f"architecture '{kind}' is not supported.*({why})"):
        recognise_architecture(hf)
    assert kind not in table.known_architectures()


def test_known_architectures_are_found_again_without_their_names(tiny, monkeypatch):
    """Each family taken out of the table is recognised as a row that means the same sites."""
    rows = table.known_architectures()
    for name in ("llama", "olmo2", "gpt2", "gpt_neox", "phi", "glm4", "cohere", "opt", "stablelm"):
        hf, kind = tiny(name).hf, tiny(name).config.model_type
        row = rows[kind]
        monkeypatch.setattr(table, "_TABLE", {k: r for k, r in rows.items() if k != kind} | {"twin": row})
        found = recognise_architecture(hf)
        assert found.is_parallel(hf.config) == row.is_parallel(hf.config)
        assert (found.attn_write, found.mlp_write, found.embed, found.pos_embed, found.transposed) == (
            row.attn_write, row.mlp_write, row.embed, row.pos_embed, row.transposed,
        )  # fmt: skip
        assert (found.attn_post_norm, found.mlp_post_norm) == (row.attn_post_norm, row.mlp_post_norm)
