"""The table of writers, proved on every architecture by what blocks add to the stream."""

from dataclasses import replace

import pytest
import tiny_models
import torch
from folding import POST_NORM, PRE_NORM
from transformers import LlamaConfig

import interp
from interp import HookedModel, InterpError, Project, Recipe
from interp.editing.certificate import writer_check as proofs
from interp.editing.certificate.writer_check import check_stream_sums, check_writers
from interp.editing.export.exporter import export
from interp.editing.fold import steps as folds
from interp.models.architectures import table
from interp.models.architectures import writers as tables


@pytest.mark.parametrize("name", [*PRE_NORM, *POST_NORM])
def test_every_writer_is_known(tiny, name):
    proof = check_writers(tiny(name))
    assert len(proof.leaks) == 3
    assert max(proof.leaks) < 1e-6 < 1e-2 < min(proof.before)
    assert proof.sum_gap < 1e-6


@pytest.mark.parametrize(
    ("name", "missed"),
    [
        ("gpt_neox", "dense.bias"),
        ("phi", "mlp.fc2.bias"),
        ("gpt_oss", "down_proj_bias"),
        ("qwen2_moe", "shared_expert.down_proj.weight"),
        ("deepseek_v3", "experts.down_proj"),
        ("llama", "o_proj.weight"),
    ],
)
def test_a_writer_that_is_missed_is_found(tiny, monkeypatch, name, missed):
    known = tables.writers
    monkeypatch.setattr(folds, "writers", lambda *a: [w for w in known(*a) if not w.tensor.endswith(missed)])
    with pytest.raises(InterpError, match="the table of writers misses one"):
        check_writers(tiny(name))


def test_a_wrong_axis_and_a_wrong_gain_are_found(tiny, monkeypatch):
    known = tables.writers

    def turned(config, names):
        return [
            replace(w, layout="out_in") if w.tensor.endswith("experts.down_proj") else w for w in known(config, names)
        ]

    config = tiny_models.CONFIGS["gpt_oss"]().to_dict() | {"intermediate_size": 32}
    square = HookedModel(type(tiny("gpt_oss").hf)(type(tiny("gpt_oss").config).from_dict(config)))
    assert max(check_writers(square).leaks) < 1e-6
    monkeypatch.setattr(folds, "writers", turned)
    with pytest.raises(InterpError, match="misses one"):
        check_writers(square)
    monkeypatch.setattr(folds, "before_norm", lambda op, site, config, read: op)
    with pytest.raises(InterpError, match="block 0 still writes"):
        check_writers(tiny("gemma3"))


def test_something_added_before_the_first_block_is_found(tiny):
    model = tiny("olmo")
    handle = model.hf.model.layers[0].register_forward_pre_hook(lambda m, args: (args[0] + 0.1, *args[1:]))
    try:
        with pytest.raises(InterpError, match="is not the sum of the tables"):
            check_writers(model)
    finally:
        handle.remove()


@pytest.mark.parametrize("name", ["gemma4", "bloom"])
def test_what_is_not_known_is_refused_by_name(tiny, name):
    with pytest.raises(InterpError, match=tiny(name).config.model_type):
        check_writers(tiny(name))


def test_it_holds_in_bfloat16(tiny):
    model = tiny_models.build("llama")
    model.hf.to(torch.bfloat16)
    assert max(check_writers(model).leaks) < 0.05 < min(check_writers(model).before)


@pytest.mark.parametrize("name", [*PRE_NORM, *POST_NORM])
def test_blocks_add_what_is_at_their_sites(tiny, name):
    assert max(check_stream_sums(tiny(name))) < 1e-6


def test_whatever_else_writes_to_the_stream_is_found_by_the_sums(tiny):
    model = tiny("llama")
    body = model.hf.model

    def more(module, args, output):
        return output + 0.01 * output.roll(1, -1)

    def before(module, args):
        return (args[0] + 0.01, *args[1:])

    for module, hook, message in (
        (body.layers[1], more, "block 1 adds to the stream what is at none of its sites"),
        (body.layers[0], before, "is not the sum of the tables"),
        (body.layers[2], before, "block 2 does not read what block 1 left"),
        (body.norm, before, "the final norm does not read what block 2 left"),
    ):
        watch = module.register_forward_hook if hook is not before else module.register_forward_pre_hook
        handle = watch(hook)
        try:
            with pytest.raises(InterpError, match=f"llama: .*{message}"):
                check_stream_sums(model)
        finally:
            handle.remove()
    assert max(check_stream_sums(model)) < 1e-6


def test_exports_begin_with_it(tiny, tmp_path):
    """A fold misses what no site has, and its certificate, which compares sites, would not tell."""
    model, recipe = tiny("llama"), Recipe([("writers", Project(torch.eye(32)[:1]))])
    handle = model.hf.model.layers[1].register_forward_hook(lambda m, args, output: output + 0.1)
    try:
        with pytest.raises(InterpError, match="llama: block 1 adds"):
            export(recipe, model, tmp_path / "out")
    finally:
        handle.remove()
    assert not (tmp_path / "out").exists()
    export(recipe, model, tmp_path / "out")


def test_an_architecture_that_was_recognised_is_proved_in_full(tmp_path, monkeypatch):
    class OtherConfig(LlamaConfig):
        model_type = "otherllama"

    hf = tiny_models.build("llama").hf
    hf.config = OtherConfig(**{k: v for k, v in hf.config.to_dict().items() if k != "model_type"})
    proved = []
    monkeypatch.setattr(proofs, "check_writers", lambda model: proved.append(model.config.model_type))
    try:
        proofs.require_writer_check(interp.load(hf))
        proofs.require_writer_check(interp.load(tiny_models.build("llama").hf))
    finally:
        table._TABLE.pop("otherllama", None)
    assert proved == ["otherllama"]
