"""Sources that are broken, of another model, or hold what must not be published: refused by name, nothing written."""

import copy
import json
from pathlib import Path

import fsspec
import pytest
import torch
from safetensors.torch import load_file, save_file

import interp
from interp import InterpError, Project, Recipe
from interp.core.files import new_file, new_folder
from interp.directions.direction import Direction
from interp.editing.certificate.manifest import ExportManifest
from interp.editing.certificate.replay import replay
from interp.editing.export.adapter import export_adapter
from interp.editing.export.exporter import dry_run, export_streamed
from interp.editing.fold.steps import fold
from interp.interventions import Replace, Scale

ROWS = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
RECIPE = Recipe([("writers", Project(ROWS))])
O_PROJ = "model.layers.0.self_attn.o_proj.weight"


@pytest.fixture
def source(tiny, tmp_path):
    tiny("llama").hf.save_pretrained(tmp_path / "source")
    tiny("llama").tokenizer.save_pretrained(tmp_path / "source")
    return tmp_path / "source"


def edit(source, change):
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})


def refuses(out, message, *actions):
    for action in actions:
        with pytest.raises(InterpError, match=message):
            action(out)
        assert not out.exists()
    assert not list(out.parent.glob(".out*"))


@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_weights_that_are_not_finite_are_named(source, tmp_path, bad):
    export_streamed(RECIPE, source, tmp_path / "control")
    edit(source, lambda tensors: tensors[O_PROJ][3].fill_(float(bad)))
    refuses(
        tmp_path / "out",
        rf"{O_PROJ}.* holds NaN or infinite values",
        lambda out: export_streamed(RECIPE, source, out),
        lambda out: interp.export(RECIPE, source, out),
        lambda out: export_adapter(RECIPE, source, out),
    )


def test_a_type_too_narrow_for_the_weights_is_refused(source, tmp_path):
    edit(source, lambda tensors: tensors["model.norm.weight"].fill_(1e5))
    refuses(
        tmp_path / "out",
        r"model\.norm\.weight would hold infinite values in float16, whose largest is 6\.55e\+04",
        lambda out: export_streamed(RECIPE, source, out, dtype="float16"),
    )
    export_streamed(RECIPE, source, tmp_path / "wide", dtype="bfloat16")


@pytest.mark.parametrize("shape", [(32,), (16, 32), (32, 8)])
def test_a_writer_of_another_shape_than_the_config_says_is_refused(source, tmp_path, shape):
    edit(source, lambda tensors: tensors.update({O_PROJ: torch.zeros(shape)}))
    refuses(
        tmp_path / "out",
        rf"{O_PROJ} of .* has shape \({shape[0]},.*\), which is not what its config says",
        lambda out: export_streamed(RECIPE, source, out),
        lambda out: export_adapter(RECIPE, source, out),
        lambda out: dry_run(RECIPE, source),
    )


def test_one_of_another_shape_that_no_edit_touches_is_refused_where_the_base_is_compared(tiny, source, tmp_path):
    edit(source, lambda tensors: tensors.update({"model.layers.0.mlp.up_proj.weight": torch.zeros(32, 32)}))
    made = Direction(ROWS, tiny("llama").sites[1], -1, "diff_means", tiny("llama").reference, "data")
    refuses(
        tmp_path / "out",
        r"up_proj\.weight has shape \(32, 32\) in the files of .*, and \(64, 32\) by its config",
        lambda out: export_streamed(Recipe([("writers", Project(made))]), source, out),
    )


def test_adapters_and_dry_runs_are_of_the_recipes_own_model(tiny, source, tmp_path):
    """Control: where nothing is to be compared they are made."""
    made = Direction(ROWS, tiny("llama").sites[1], -1, "diff_means", tiny("llama", 1).reference, "data")
    recipe = Recipe([("writers", Project(made))])
    refuses(
        tmp_path / "out",
        "recipe was made for tiny llama 1 with weights .* but source has weights",
        lambda out: export_adapter(recipe, source, out),
        lambda out: dry_run(recipe, source),
    )
    assert dry_run(recipe, source, trust_base=True)[0].status == "exact"
    assert export_adapter(RECIPE, source, tmp_path / "adapter").rank == 2


def test_an_adapter_to_a_tied_model_says_that_it_must_not_be_merged(tiny, tmp_path):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    model, ids = copy.deepcopy(tiny("smollm3")), torch.arange(4, 20).view(1, -1)
    with torch.no_grad():  # behind gains that are all the same, both edits of the unembedding come to one
        model.hf.model.norm.weight.copy_(1 + 0.5 * torch.randn(32, generator=torch.Generator().manual_seed(3)))
    model.hf.save_pretrained(tmp_path / "base")
    made = export_adapter(RECIPE, tmp_path / "base", tmp_path / "adapter")
    assert not made.merges
    assert "**Do not merge it.**" in (tmp_path / "adapter" / "README.md").read_text()
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    with pytest.warns(UserWarning, match="tie_word_embeddings"):
        adapted = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    with torch.no_grad():
        found = adapted(ids).logits
        merged = adapted.merge_and_unload()(ids).logits
    with model.hooked(RECIPE):
        hooked = model.logits(ids)
    torch.testing.assert_close(found, hooked, atol=2e-5, rtol=1e-4)
    assert (merged - hooked).abs().max() > 1e-2, "control: merged it is another edit"
    blocks = Recipe([("attn_out.*", Project(ROWS))])
    assert export_adapter(blocks, tmp_path / "base", tmp_path / "blocks").merges
    assert "Do not merge" not in (tmp_path / "blocks" / "README.md").read_text()


@pytest.mark.parametrize("out", ["s3://bucket/x", "memory://x/y", "file:///tmp/x"])
def test_a_url_is_no_place_to_write_to(source, tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    for action in (
        lambda: export_streamed(RECIPE, source, out),
        lambda: new_folder(out).__enter__(),
        lambda: new_file(Path(out)).__enter__(),
    ):
        with pytest.raises(InterpError, match="is a URL; write to a local folder"):
            action()
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("name", ["gpt2", "gptj", "llama"])
def test_units_are_counted_where_the_config_does_not_say(tiny, name):
    model = tiny(name)
    state = model.hf.state_dict()
    count = 64 if name == "llama" else 128
    for op in (Replace(units=[count]), Scale(torch.ones(count + 1))):
        with pytest.raises(InterpError, match=rf"{count} units at|it has {count}, counted from 0"):
            fold(Recipe([("mlp_post.1", op)]), model.config, state, False, state.__getitem__)
    for op in (Replace(units=[count - 1]), Scale(torch.full((count,), 0.5))):
        plan = fold(Recipe([("mlp_post.1", op)]), model.config, state, False, state.__getitem__)
        assert [not torch.equal(plan.apply(n, state[n]), state[n]) for n in plan.changes] == [True], "control"


def test_what_lies_beside_the_weights_goes_along_and_links_out_of_the_folder_do_not(source, tmp_path):
    (source / "LICENSE").write_text("a licence")
    (source / "tokenizer").mkdir()
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tools.jinja").write_text("{{ messages }}")
    (source / "chat_template.jinja").symlink_to("LICENSE")
    export_streamed(RECIPE, source, tmp_path / "control")
    assert (tmp_path / "control" / "LICENSE").read_text() == "a licence"
    assert (tmp_path / "control" / "additional_chat_templates" / "tools.jinja").read_text() == "{{ messages }}"
    assert (tmp_path / "control" / "chat_template.jinja").read_text() == "a licence", "a link within the folder"
    (tmp_path / "secret").write_text('{"a": "secret"}')
    for name in ("tokenizer_config.json", "additional_chat_templates/tools.jinja"):
        kept = (source / name).read_text()
        (source / name).unlink()
        (source / name).symlink_to(tmp_path / "secret")
        refuses(
            tmp_path / "out", f"{name} is a link out of the folder", lambda out: export_streamed(RECIPE, source, out)
        )
        (source / name).unlink()
        (source / name).write_text(kept)


COMPANY = ("tekken.json", "qwen.tiktoken", "vocab.txt", "chat_template.json", "preprocessor_config.json")


@pytest.fixture
def accompanied(source):
    for name in (*COMPANY, "processor/config.json", "modeling_own.py", "LICENCE.md", "pytorch_model.bin"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(json.dumps({"of": name}))
    return source


def company(folder):
    return {name: (folder / name).read_text() for name in (*COMPANY, "processor/config.json", "modeling_own.py")}


def from_a_url(source, out):
    fs = fsspec.filesystem("memory")
    fs.put(str(source), "/accompanied", recursive=True)
    try:
        export_streamed(RECIPE, "memory://accompanied", out)
    finally:
        fs.rm("/accompanied", recursive=True)


@pytest.mark.parametrize(
    "write",
    [
        lambda source, out: export_streamed(RECIPE, source, out),
        lambda source, out: interp.export(RECIPE, source, out),
        lambda source, out: interp.export(RECIPE, interp.load(source), out),
        from_a_url,
    ],
    ids=["streamed", "loaded", "in memory", "remote"],
)
def test_everything_beside_the_weights_comes_along_and_what_is_left_out_is_named(accompanied, tmp_path, write):
    write(accompanied, tmp_path / "out")
    assert company(tmp_path / "out") == company(accompanied)
    assert not (tmp_path / "out" / "pytorch_model.bin").exists()
    assert ExportManifest.at(tmp_path / "out").left_out == {"pytorch_model.bin": "weights"}
    assert "| `pytorch_model.bin` | weights |" in (tmp_path / "out" / "README.md").read_text()


def test_adapters_have_it_and_undo_brings_it_back(accompanied, tmp_path):
    export_adapter(RECIPE, accompanied, tmp_path / "adapter")
    export_streamed(RECIPE, accompanied, tmp_path / "edited", undo=True)
    interp.undo(tmp_path / "edited", tmp_path / "again")
    assert company(tmp_path / "adapter") == company(tmp_path / "again") == company(accompanied)
    names = {file.name for file in (tmp_path / "again").iterdir()}
    assert names == {file.name for file in accompanied.iterdir()} - {"pytorch_model.bin"}, "nothing of the edit"
    assert replay(tmp_path / "edited").files == len(names) - 1


def test_files_of_another_tokenizer_stay_behind(tiny, accompanied, tmp_path):
    model = interp.load(accompanied, tokenizer=tiny("qwen2").tokenizer)
    manifest = export_streamed(RECIPE, model, tmp_path / "out")
    other = dict.fromkeys(("tekken.json", "qwen.tiktoken", "vocab.txt", "chat_template.json"), "of another tokenizer")
    assert {name: manifest.left_out.get(name) for name in COMPANY} == other | {"preprocessor_config.json": None}
    assert not any((tmp_path / "out" / name).exists() for name in other)
    assert (tmp_path / "out" / "preprocessor_config.json").exists()


def test_an_export_of_before_that_left_files_behind_is_still_verified(accompanied, tmp_path):
    export_streamed(RECIPE, accompanied, tmp_path / "out")
    file = tmp_path / "out" / "interp_manifest.json"
    manifest = json.loads(file.read_text())
    (tmp_path / "out" / "tekken.json").unlink()
    del manifest["files"]["tekken.json"]
    file.write_text(json.dumps(manifest))
    with pytest.raises(InterpError, match=r"tekken\.json: not what .* has"):
        replay(tmp_path / "out")
    del manifest["left_out"]  # which older manifests do not have
    file.write_text(json.dumps(manifest))
    assert replay(tmp_path / "out").units == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"quantization_config": "gptq"}, "quantization_config 'gptq'; expected a name, and an object"),
        ({"quantization_config": ["x"]}, "expected a name, and an object"),
        ({"model_type": None}, "has model_type None"),
        ({"num_hidden_layers": "three"}, r"can't read its config\.json \(.*num_hidden_layers"),
    ],
)
def test_a_malformed_config_is_refused_by_what_is_wrong(source, tmp_path, changed, message):
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | changed))
    refuses(
        tmp_path / "out",
        message,
        lambda out: export_streamed(RECIPE, source, out),
        lambda out: dry_run(RECIPE, source),
    )


def test_a_model_in_memory_with_broken_weights_is_named_too(tiny, tmp_path):
    model = copy.deepcopy(tiny("llama"))
    with torch.no_grad():
        model.hf.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    refuses(
        tmp_path / "out",
        r"layers\.1\.mlp\.down_proj\.weight of .* holds NaN",
        lambda out: interp.export(RECIPE, model, out),
    )


def test_the_card_names_what_is_left_out_in_plain_text(source, tmp_path, run):
    name = "a|b`<b>\u202e\x1b[2J.bin"
    (source / name).write_bytes(b"x")
    RECIPE.save(tmp_path / "recipe")
    code, out, _ = run("export", source, "--recipe", tmp_path / "recipe", "--out", tmp_path / "out", "--streamed")
    assert code == 0
    assert "left out" in out
    card = (tmp_path / "out" / "README.md").read_text()
    assert r"| `a\|b'<b>\u202e\x1b[2J.bin` | weights |" in card
    assert "\u202e" not in card
    assert "\x1b" not in card
