"""Loading: what can't be trusted or found is refused with the reason; everything else gives the same model."""

import json
from types import SimpleNamespace

import pytest
import tiny_gguf
import tiny_models
import torch
from safetensors.torch import load_file, save_file

import interp
from interp import InterpError
from interp.editing.export.exporter import export_streamed
from interp.models import loading
from interp.models.checkpoints.checkpoint import Checkpoint
from interp.models.loading import DTYPES, dtype_of

IDS = torch.randint(4, 128, (2, 7), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def folder(tiny, tmp_path):
    model = tiny("llama")
    model.hf.save_pretrained(tmp_path / "model", max_shard_size="30KB")
    model.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_folder_object_and_organism_load(folder, tiny):
    model = tiny("llama")
    local = interp.load(folder)
    torch.testing.assert_close(local.logits(IDS), model.logits(IDS))
    assert local.digest == model.digest
    assert (local.name, local.source) == ("model", str(folder))
    assert interp.load(model) is model
    with pytest.raises(InterpError, match="which keeps its own"):
        interp.load(model, dtype="bfloat16")
    with pytest.raises(InterpError, match="has no unembedding"):
        interp.load(model.hf.model)
    held = interp.load(model.hf)
    assert held.tokenizer is None
    torch.testing.assert_close(held.logits(IDS), model.logits(IDS))
    with pytest.raises(InterpError, match="no tokenizer"):
        held.logits("text")
    assert interp.load("organism").config.model_type == "llama"


def test_types_change_no_digest_by_which_edits_fit(folder):
    half, whole = interp.load(folder, dtype="bfloat16"), interp.load(folder)
    assert half.reference.storage_digest == whole.reference.storage_digest
    assert half.digest != whole.digest, "its values are others"
    assert half.dtype == torch.bfloat16
    with pytest.raises(InterpError, match="dtype 'float23' is not known; did you mean float32"):
        interp.load(folder, dtype="float23")


def edit_json(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_code_in_a_checkpoint_is_refused(folder):
    edit_json(folder / "config.json", auto_map={"AutoModelForCausalLM": "evil.Model"})
    with pytest.raises(InterpError, match="auto_map"):
        interp.load(folder)


def test_pickled_weights_are_refused(folder):
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    with pytest.raises(InterpError, match=r"no weights in it"):
        interp.load(folder)
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(InterpError, match=r"pickled \(pytorch_model.bin\)"):
        interp.load(folder)


def test_pickled_weights_are_let_in_on_request(folder, tiny):
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    torch.save(tiny("llama").hf.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(InterpError, match="pickled"):
        interp.load(folder)
    assert interp.load(folder, allow_pickle=True).digest == tiny("llama").digest


def test_the_single_file_is_read_where_an_index_stands_beside_it(folder, tiny):
    """transformers reads the single file then; checking and streaming the shards instead would be another model."""
    other = tiny("llama", seed=1).hf.state_dict()
    save_file(other, folder / "model.safetensors", metadata={"format": "pt"})
    (file,) = Checkpoint.open(folder).opened
    assert torch.equal(file.read("model.norm.weight"), other["model.norm.weight"])
    assert interp.load(folder).digest == tiny("llama", seed=1).digest


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/hosts", "sub/../../outside.safetensors"])
def test_an_index_that_leaves_the_folder_is_refused(folder, name):
    index = folder / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    save_file({"x": torch.zeros(1)}, folder.parent / "outside.safetensors")
    edit_json(index, weight_map=weight_map | {next(iter(weight_map)): name})
    with pytest.raises(InterpError, match="not a safetensors file in the folder"):
        interp.load(folder)


def test_a_link_that_leaves_the_folder_is_refused(folder):
    for name in ("config.json", "model.safetensors.index.json", next(folder.glob("model-00001*")).name):
        (folder / name).rename(folder.parent / name)
        (folder / name).symlink_to(folder.parent / name)
        with pytest.raises(InterpError, match=f"{name} is a link out of the folder"):
            interp.load(folder)
        (folder / name).unlink()
        (folder.parent / name).rename(folder / name)
    assert interp.load(folder), "control"


@pytest.mark.parametrize(
    ("index", "message"),
    [([], "has no weight_map"), ({"weight_map": {"a": 5}}, "has no weight_map"), (None, "'extra', which its index")],
)
def test_an_index_that_is_no_map_of_the_tensors_is_refused(folder, index, message):
    """Control: before a tensor is added that it does not have."""
    if index is None:
        assert interp.load(folder)
        shard = next(folder.glob("model-00002*"))
        save_file(load_file(shard) | {"extra": torch.ones(2)}, shard)
    else:
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InterpError, match=message):
        interp.load(folder)


def test_a_config_that_is_no_object_is_refused(folder):
    (folder / "config.json").write_text("[1]")
    with pytest.raises(InterpError, match=r"config\.json holds \[1\]; expected an object"):
        interp.load(folder)


def test_damaged_and_missing_shards_are_named(folder):
    shard = next(folder.glob("model-00002*"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InterpError, match=f"{shard.name}: not a valid safetensors"):
        interp.load(folder)
    shard.unlink()
    with pytest.raises(InterpError, match=f"{shard.name}: missing"):
        interp.load(folder)


def test_a_hub_id_is_read_from_the_cache_through_its_links(folder, tiny, tmp_path, monkeypatch):
    """The hub's cache keeps files as blobs and a snapshot of links to them: those links are no escape."""
    from huggingface_hub import constants

    repository = tmp_path / "hub" / "models--someone--small"
    snapshot = repository / "snapshots" / "abc"
    for part in (snapshot, repository / "blobs", repository / "refs"):
        part.mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    for file in folder.iterdir():
        file.rename(repository / "blobs" / file.name)
        (snapshot / file.name).symlink_to(repository / "blobs" / file.name)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    found = interp.load("someone/small")
    assert (found.name, found.digest) == ("someone/small", tiny("llama").digest)


def test_a_checkpoint_with_a_tensor_missing_is_refused_not_made_up(folder):
    shard = next(folder.glob("model-00001*"))
    tensors = load_file(shard)
    name = next(iter(tensors))
    del tensors[name]
    save_file(tensors, shard, metadata={"format": "pt"})
    with pytest.raises(InterpError, match=f"its index has '{name}' in {shard.name}, where it is not"):
        interp.load(folder)
    index = folder / "model.safetensors.index.json"
    named = json.loads(index.read_text())
    del named["weight_map"][name]
    index.write_text(json.dumps(named))
    with pytest.raises(InterpError, match="1 tensors are missing"):
        interp.load(folder)


def test_malformed_folders_are_one_clear_error(folder):
    whole = (folder / "config.json").read_text()
    for change in ({"hidden_act": "zzz"}, {"hidden_size": "x"}, {"num_attention_heads": 7}, {"hidden_size": 64}):
        edit_json(folder / "config.json", **change)
        with pytest.raises(InterpError, match=r"transformers can't load it|missing or have another shape"):
            interp.load(folder)
        (folder / "config.json").write_text(whole)
    (folder / "tokenizer.json").write_text("[]")
    with pytest.raises(InterpError, match="transformers can't load it"):
        interp.load(folder)


def test_unknown_models_name_the_nearest(folder, tmp_path):
    with pytest.raises(InterpError, match="no such folder; did you mean model"):
        interp.load(tmp_path / "modle")
    with pytest.raises(InterpError, match="did you mean organism"):
        interp.load("organizm")
    with pytest.raises(InterpError, match="is a file"):
        interp.load(folder / "config.json")
    with pytest.raises(InterpError, match=r"no config.json"):
        interp.load(tmp_path)


def test_a_device_that_is_not_there_is_named(folder):
    with pytest.raises(InterpError, match="can't be moved to device 'xpu:7'"):
        interp.load(folder, device="xpu:7")


@pytest.mark.parametrize("accelerate", [True, False])
def test_weights_are_read_straight_to_the_device(folder, monkeypatch, accelerate):
    """They are there before the model is moved; without accelerate (the control) they are on the CPU until then."""
    if accelerate:
        pytest.importorskip("accelerate")
    else:
        monkeypatch.setattr(loading, "find_spec", lambda name: None)
    before, move = set(), torch.nn.Module.to

    def to(self, device):
        before.update(weight.device.type for weight in self.parameters())
        return move(self, device)

    monkeypatch.setattr(torch.nn.Module, "to", to)
    model = interp.load(folder, device="meta")
    assert before == ({"meta"} if accelerate else {"cpu"})
    assert all(weight.is_meta for weight in model.hf.parameters())


def test_unknown_architectures_are_refused_by_name():
    import transformers

    hf = transformers.XGLMForCausalLM(
        transformers.XGLMConfig(vocab_size=16, d_model=8, num_layers=1, attention_heads=1, ffn_dim=8)
    )
    with pytest.raises(InterpError, match="architecture 'xglm' is not supported"):
        interp.load(hf)
    shape = {"vocab_size": 16, "hidden_size": 8, "ffn_dim": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    for width, before, named in ((8, False, "do_layer_norm_before=False"), (4, True, "word_embed_proj_dim=4")):
        config = transformers.OPTConfig(**shape, word_embed_proj_dim=width, do_layer_norm_before=before)
        other = transformers.OPTForCausalLM(config)
        with pytest.raises(InterpError, match=f"opt with {named} adds up its residual stream"):
            interp.load(other)


def test_saved_tensors_of_a_digest_are_all_counted(folder):
    digest = interp.load(folder).digest
    shard = next(folder.glob("model-00001*"))
    tensors = load_file(shard)
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name] + 1}, shard, metadata={"format": "pt"})
    assert interp.load(folder).digest != digest


@pytest.fixture(scope="module")
def gguf_file(tiny, tmp_path_factory):
    pytest.importorskip("gguf")
    return tiny_gguf.write(tiny("llama"), tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_a_gguf_file_loads_and_exports(tiny, gguf_file, tmp_path):
    model = interp.load(gguf_file)
    assert (model.name, model.source) == ("tiny", str(gguf_file))
    torch.testing.assert_close(model.logits(IDS), tiny("llama").logits(IDS), atol=1e-5, rtol=1e-5)
    row = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    recipe = interp.Recipe([("writers", interp.Project(row))])
    assert interp.export(recipe, gguf_file, tmp_path / "edited").faithful
    assert interp.verify(tmp_path / "edited").faithful
    with pytest.raises(InterpError, match=r"no such file; did you mean tiny\.gguf"):
        interp.load(gguf_file.with_name("tinny.gguf"))


MULTIMODAL = {
    "llava": lambda t: t.LlavaConfig(
        vision_config=t.CLIPVisionConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
        ),
        text_config=tiny_models.CONFIGS["llama"](),
        image_token_index=5,
    ),
    "gemma3": lambda t: t.Gemma3Config(
        vision_config=t.SiglipVisionConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
        ),
        text_config=tiny_models.CONFIGS["gemma3"](),
        mm_tokens_per_image=4,
    ),
}


@pytest.mark.parametrize("kind", MULTIMODAL)
def test_the_language_model_of_a_multimodal_one_is_hooked(kind, tmp_path):
    import transformers

    torch.manual_seed(0)
    hf = transformers.AutoModelForImageTextToText.from_config(MULTIMODAL[kind](transformers)).eval()
    model = interp.load(hf)
    assert model.config.model_type == hf.config.get_text_config().model_type
    with torch.no_grad():
        plain = hf(input_ids=IDS).logits
    torch.testing.assert_close(model.logits(IDS), plain)
    with model.hooked([("mlp_out.1", lambda x: 0 * x)]), torch.no_grad():
        assert not torch.allclose(hf(input_ids=IDS).logits, plain), "the modules are shared"
    hf.save_pretrained(tmp_path / "model")
    local = interp.load(tmp_path / "model")
    torch.testing.assert_close(local.logits(IDS), plain)
    assert local.digest == model.digest
    with pytest.raises(InterpError, match="is a multimodal checkpoint"):
        interp.export(interp.Recipe([("writers", interp.Project(torch.ones(32)))]), tmp_path / "model", tmp_path / "x")


def test_code_from_the_hub_needs_a_pinned_commit():
    for revision in (None, "main", "v1.0"):
        with pytest.raises(InterpError, match="pin the commit"):
            interp.load("somebody/model", trust_remote_code=True, revision=revision)
    with pytest.raises(InterpError, match="neither a local folder nor available"):
        interp.load("somebody/model", trust_remote_code=True, revision="0" * 40)


def test_options_without_meaning_are_refused(folder, tiny):
    with pytest.raises(InterpError, match="revision='main' has no meaning for"):
        interp.load(folder, revision="main")
    with pytest.raises(InterpError, match="allow_pickle=True has no meaning for a model in memory"):
        interp.load(tiny("llama").hf, allow_pickle=True)
    for thing in (5, torch.nn.Linear(2, 2)):
        with pytest.raises(InterpError, match="expected a name, a path or a Hugging Face model"):
            interp.load(thing)
    with pytest.raises(InterpError, match="name is empty"):
        interp.load("")


def test_a_file_that_is_no_gguf_is_named(tmp_path):
    (tmp_path / "junk.GGUF").write_bytes(b"junk" * 100)
    with pytest.raises(InterpError, match=r"junk\.GGUF: transformers can't load it"):
        interp.load(tmp_path / "junk.GGUF")


def rewrite(folder, change):
    """Another file of the same folder's tensors."""
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


LOST = {
    "a third layer": {"model.layers.3.mlp.down_proj.weight": torch.ones(2)},
    "a bias": {"model.layers.0.mlp.down_proj.bias": torch.ones(32)},
    "a bias of attention": {"model.layers.0.self_attn.q_proj.bias": torch.ones(32)},
    "a second head": {"lm_head_2.weight": torch.ones(2)},
    "a layer ahead that the config does not have": {"model.layers.3.eh_proj.weight": torch.ones(2)},
}
HARMLESS = {
    "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
    "model.layers.1.attn.masked_bias": torch.ones(1),
    "model.layers.0.self_attn.k_scale": torch.ones(1),
    "mtp.layers.0.eh_proj.weight": torch.ones(2),
}


@pytest.mark.parametrize("extra", LOST.values(), ids=LOST)
def test_tensors_that_the_model_has_no_place_for_are_refused_by_name(tiny, extra, tmp_path):
    tiny("llama").hf.save_pretrained(tmp_path / "m")
    rewrite(tmp_path / "m", lambda tensors: tensors | HARMLESS)
    assert interp.load(tmp_path / "m").digest == tiny("llama").digest, "control: what changes nothing is let in"
    recipe = interp.Recipe([("writers", interp.Project(torch.eye(32)[:1]))])
    export_streamed(recipe, tmp_path / "m", tmp_path / "out")
    rewrite(tmp_path / "m", lambda tensors: tensors | extra)
    name = next(iter(extra)).replace(".", r"\.")
    with pytest.raises(InterpError, match=rf"no place for 1 of its tensors \({name}\)"):
        interp.load(tmp_path / "m")
    with pytest.raises(InterpError, match=rf"no place for 1 of its tensors \({name}\)"):
        export_streamed(recipe, tmp_path / "m", tmp_path / "wrong", trust_base=True)
    assert not list(tmp_path.glob("*wrong*"))


def test_layers_that_predict_ahead_are_let_in_as_far_as_the_config_counts_them(tiny, tmp_path):
    tiny("llama").hf.save_pretrained(tmp_path)
    ahead = {f"model.layers.3.{part}.weight": torch.ones(2) for part in ("eh_proj", "mlp.down_proj")}
    rewrite(tmp_path, lambda tensors: tensors | ahead)
    with pytest.raises(InterpError, match="no place for 2 of its tensors"):
        interp.load(tmp_path)
    edit_json(tmp_path / "config.json", num_nextn_predict_layers=1)
    assert interp.load(tmp_path).digest == tiny("llama").digest
    rewrite(tmp_path, lambda tensors: tensors | {"model.layers.4.eh_proj.weight": torch.ones(2)})
    with pytest.raises(InterpError, match=r"model\.layers\.4\.eh_proj"):
        interp.load(tmp_path)


def test_a_dtypes_name_gives_its_type_and_an_unknown_one_the_nearest():
    assert {name: dtype_of(name) for name in DTYPES} == DTYPES
    assert dtype_of("bfloat16") is torch.bfloat16
    with pytest.raises(InterpError, match="dtype 'bfloat' is not known; did you mean bfloat16"):
        dtype_of("bfloat")


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (429, "wait some minutes and run the same again, or set HF_TOKEN"),
        (403, "accept its terms on its page of the hub, and set HF_TOKEN"),
        (404, "did you mean organism?"),
    ],
)
def test_a_refusal_of_the_hub_says_what_to_do(monkeypatch, status, message):
    def refuse(name, **_):
        refused = OSError("Client Error")
        refused.response = SimpleNamespace(status_code=status)
        raise OSError("not in the cache") from refused

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(InterpError, match="nor available from the hub") as caught:
        interp.load("organims")
    assert str(caught.value).endswith(message)
