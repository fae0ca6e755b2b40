"""A model's identity: its weights, and its settings, each of which alone changes what it says."""

import json

import pytest
import tiny_models
from tokenizers import normalizers, pre_tokenizers

import interp
from interp.models.identity import ModelReference


@pytest.fixture
def folder(tmp_path):
    model = tiny_models.build("llama", seed=1)
    model.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    model.hf.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    return tmp_path


def changed(folder, name, **values):
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def rope(folder):
    changed(folder, "config.json", rope_parameters={"rope_theta": 300.0, "rope_type": "default"})


def template(folder):
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }} nonsense{% endfor %}")


def end(folder):
    changed(folder, "generation_config.json", eos_token_id=9)


def cut(folder):
    changed(folder, "tokenizer.json", normalizer={"type": "Lowercase"})


def split(folder):
    changed(folder, "tokenizer_config.json", split_special_tokens=True)


@pytest.mark.parametrize("change", [rope, template, end, cut, split])
def test_settings_are_told_apart_where_weights_are_the_same(folder, change):
    before = interp.load(folder).identity
    assert interp.load(folder).identity == before, "control: the same folder"
    change(folder)
    after = interp.load(folder).identity
    assert after.digest == before.digest, "control: the same weights"
    assert after.settings != before.settings


def names(folder):
    changed(folder, "config.json", _name_or_path="x", transformers_version="5.0", dtype="float16")


def moved(folder):
    (folder / "chat_template.jinja").unlink()
    changed(folder, "tokenizer_config.json", chat_template="{% for m in messages %}{{ m['content'] }}{% endfor %}")


@pytest.mark.parametrize("change", [names, moved])
def test_names_types_and_places_are_no_settings(folder, change):
    before = interp.load(folder).identity
    change(folder)
    assert interp.load(folder).identity.settings == before.settings
    assert interp.load(folder, dtype="bfloat16").identity.settings == before.settings


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gpt_oss", "falcon"])
def test_a_model_keeps_them_through_its_files(name, tmp_path):
    model = tiny_models.build(name)
    model.hf.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    assert interp.load(tmp_path).identity.settings == model.identity.settings


def test_changes_in_memory_are_seen(folder):
    model = interp.load(folder)
    before = model.identity.settings
    model.tokenizer(["w5", "w5 w6"], padding=True)
    model.generate("w5", max_new_tokens=2)
    assert model.identity.settings == before, "control: using it is no change"
    model.tokenizer.chat_template = "x"
    other = model.identity.settings
    model.tokenizer = None
    assert len({before, other, model.identity.settings}) == 3


@pytest.mark.parametrize("part", ["normalizer", "pre_tokenizer"])
def test_a_tokenizer_whose_parts_are_replaced_in_memory_is_another(folder, part):
    model = interp.load(folder)
    before = model.settings()
    assert before == model.settings(), "control"
    other = {"normalizer": normalizers.Lowercase(), "pre_tokenizer": pre_tokenizers.ByteLevel()}[part]
    setattr(model.tokenizer.backend_tokenizer, part, other)
    assert model.settings() != before


def test_records_that_state_no_settings_are_what_they_were(folder):
    model = interp.load(folder)
    assert "settings" not in model.reference.model_dump()
    for one in (model.reference, model.identity):
        assert ModelReference.parse(one.model_dump()) == one
    model.reference.check(model.identity, "an edit")  # which fits by weights
