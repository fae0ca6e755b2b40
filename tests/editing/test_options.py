"""Options of an export: fields by name, sizes in words, and combinations that are refused in Python as on the command
line.
"""

import pytest

import interp
from interp import InterpError, Project, Recipe
from interp.editing import ExportOptions, FoldOptions, dry_run, export_streamed
from interp.editing.export.adapter import export_adapter


def test_fields_replace_those_of_a_record_and_those_of_the_fold_may_stand_among_them():
    base = ExportOptions(dtype="bfloat16", fold=FoldOptions(keep_norms=True))
    merged = ExportOptions.merged(base, {"shard_size": "4GB", "approximate": True, "prompts": ["a"]})
    assert merged.dtype == "bfloat16"
    assert merged.shard_size == 4_000_000_000
    assert merged.prompts == ("a",)
    assert merged.fold == FoldOptions(keep_norms=True, approximate=True)
    assert ExportOptions.merged(None, {}) == ExportOptions()


def test_every_field_is_documented():
    for record in (ExportOptions, FoldOptions):
        assert all(field.description for field in record.model_fields.values())


@pytest.mark.parametrize(("fields", "message"), [
    ({"dtyp": "float32"}, "unknown key 'dtyp'; did you mean dtype"),
    ({"keep_norm": True}, "unknown key 'keep_norm'; did you mean keep_norms"),
    ({"shard_size": "many"}, "size 'many' can't be read"),
    ({"form": "lora"}, "form is 'lora'; expected 'checkpoint'"),
    ({"trust_base": True}, "trust_base: only for streamed and dry_run"),
    ({"form": "adapter", "undo": True, "dtype": "float32"}, "dtype, undo: without effect"),
    ({"form": "control-vector", "approximate": True}, "approximate: without effect"),
    ({"streamed": True, "prompts": ["a"]}, "prompts: only compared"),
])  # fmt: skip
def test_what_has_no_effect_is_refused(fields, message):
    with pytest.raises(InterpError, match=message):
        ExportOptions.merged(None, fields)


@pytest.mark.parametrize(("write", "fields", "message"), [
    (interp.export, {"streamed": True}, "belong to .*export_streamed"),
    (interp.export, {"dry_run": True}, "belong to .*dry_run"),
    (interp.export, {"form": "adapter"}, "belong to export_adapter"),
    (interp.export, {"trust_base": True}, "trust_base: only for streamed and dry_run"),
    (export_streamed, {"prompts": ("a",)}, "prompts: only compared"),
    (export_adapter, {"sign": "key"}, "sign: without effect"),
])  # fmt: skip
def test_each_function_refuses_the_options_of_another(tiny, tmp_path, write, fields, message):
    recipe = Recipe([("writers", Project(tiny("llama").hf.get_input_embeddings().weight[:1].detach()))])
    with pytest.raises(InterpError, match=message):
        write(recipe, tiny("llama"), tmp_path / "out", **fields)
    assert not (tmp_path / "out").exists()
    assert dry_run(recipe, tiny("llama"), trust_base=True)[0].status == "exact", "control: there it has an effect"
