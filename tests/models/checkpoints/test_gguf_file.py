"""What a GGUF file states is read, equal to what holds without it, or refused by its name."""

from copy import deepcopy

import gguf
import numpy as np
import pytest
import tiny_gguf
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

import interp
from interp import InterpError
from interp.models.checkpoints.gguf_file import GgufFile

IDS = torch.arange(4, 44)[None]
KEYS = {  # each changes what a model computes
    "attn_logit_softcapping": 30.0,
    "final_logit_softcapping": 10.0,
    "logit_scale": 0.5,
    "embedding_scale": 2.0,
    "residual_scale": 0.25,
    "attention.scale": 0.125,
    "attention.sliding_window": 8,
    "attention.causal": False,
    "attention.clamp_kqv": 3.0,
    "expert_count": 4,
    "rope.scaling.type": "su",
    "rope.scaling.attn_factor": 1.5,
    "rope.scaling.yarn_log_multiplier": 0.125,
    "rope.freq_base_swa": 500.0,
    "rope.dimension_count": 4,
    "no_such_key": 1,
}
ZERO = (  # each is as if it were absent
    "rope.scaling.factor", "rope.scale_linear", "rope.scaling.original_context_length", "logit_scale",
    "embedding_scale", "residual_scale", "attention.scale", "attn_logit_softcapping", "final_logit_softcapping",
)  # fmt: skip


def key(name, value):
    add = {bool: "add_bool", int: "add_uint32", float: "add_float32", str: "add_string"}[type(value)]
    return lambda writer: getattr(writer, add)(f"llama.{name}", value)


@pytest.mark.parametrize(("name", "value"), KEYS.items())
def test_keys_that_change_the_function_and_are_not_read_are_refused_by_name(tiny, name, value, tmp_path):
    with pytest.raises(InterpError, match=rf"its llama\.{name} is {value}, which is not read"):
        interp.load(tiny_gguf.write(tiny("llama"), tmp_path / "m.gguf", change=key(name, value)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attention.causal", True),
        ("expert_count", 0),
        ("tensor_data_layout", "x"),
        ("rope.dimension_count", 8),
        *((name, 0.0) for name in ZERO),
        ("attention.sliding_window", 0),
    ],
)
def test_keys_that_say_what_holds_without_them_are_let_in(tiny, name, value, tmp_path):
    loaded = interp.load(tiny_gguf.write(tiny("llama"), tmp_path / "m.gguf", change=key(name, value)))
    torch.testing.assert_close(loaded.logits(IDS), tiny("llama").logits(IDS), atol=1e-4, rtol=1e-4)


def rotary(model):
    return model.hf.model.rotary_emb.inv_freq


@pytest.mark.parametrize(
    "stated",
    [
        {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0},
        {"rope.scaling.factor": 8.0},
        {"rope.scale_linear": 8.0},
        {"rope.scaling.type": "linear", "rope.scale_linear": 8.0},
        {"rope.scaling.factor": 0.0, "rope.scale_linear": 8.0},
    ],
    ids=str,
)
def test_linear_scaling_divides_the_rotary_frequencies(tiny, stated, tmp_path):
    """The older key holds where the newer one is 0 or absent."""

    def linear(writer):
        for name, value in stated.items():
            key(name, value)(writer)

    plain = interp.load(tiny_gguf.write(tiny("llama"), tmp_path / "plain.gguf"))
    scaled = interp.load(tiny_gguf.write(tiny("llama"), tmp_path / "scaled.gguf", change=linear))
    torch.testing.assert_close(rotary(scaled), rotary(plain) / 8)
    assert (scaled.logits(IDS) - plain.logits(IDS)).abs().max() > 1e-2, "control: which the logits show"
    assert scaled.identity.settings != plain.identity.settings


def test_a_window_of_zero_tokens_that_the_config_takes_is_refused(tiny, tmp_path):
    file = tiny_gguf.write(tiny("llama"), tmp_path / "m.gguf", change=key("attention.sliding_window", 0))
    config = deepcopy(tiny("gemma2").config)
    config.sliding_window = 0  # as transformers sets it
    with pytest.raises(InterpError, match=r"its llama\.attention.sliding_window is 0, which is not read"):
        GgufFile(file).complete(config)


def test_a_reply_ends_at_each_end_that_the_file_states(tiny, tmp_path):
    def ends(writer):
        writer.add_eot_token_id(7)
        writer.add_uint32("tokenizer.ggml.eom_token_id", 8)
        writer.add_array("tokenizer.ggml.eog_token_ids", [2, 9])

    loaded = interp.load(tiny_gguf.write(tiny("llama"), tmp_path / "m.gguf", change=ends))
    assert loaded.hf.generation_config.eos_token_id == [2, 7, 8, 9]
    first = int(tiny("llama").logits([[5, 6]], last=1).argmax())
    plain = interp.load(tiny_gguf.write(tiny("llama"), tmp_path / "p.gguf"))
    file = tiny_gguf.write(tiny("llama"), tmp_path / "s.gguf", change=lambda writer: writer.add_eot_token_id(first))
    stopped = interp.load(file)
    assert [len(model.generate([[5, 6]], max_new_tokens=4)[0]) > 0 for model in (plain, stopped)] == [True, False]


def test_yarn_is_that_of_the_config(tiny, tmp_path):
    def yarn(writer):
        key("rope.scaling.type", "yarn")(writer)
        key("rope.scaling.factor", 4.0)(writer)
        key("rope.scaling.original_context_length", 16)(writer)

    loaded = interp.load(tiny_gguf.write(tiny("llama"), tmp_path / "m.gguf", change=yarn))
    stated = loaded.config.rope_parameters
    assert (stated["rope_type"], stated["factor"], stated["original_max_position_embeddings"]) == ("yarn", 4.0, 16)


def test_frequency_factors_divide_each_frequency_and_stay_through_an_export(tiny, tmp_path):
    factors = np.array([1, 8, 8, 1], np.float32)
    plain = interp.load(tiny_gguf.write(tiny("llama"), tmp_path / "plain.gguf"))
    file = tiny_gguf.write(tiny("llama"), tmp_path / "m.gguf", tensors={"rope_freqs.weight": factors})
    loaded = interp.load(file)
    torch.testing.assert_close(rotary(loaded), rotary(plain) / torch.tensor(factors))
    assert loaded.hf.model.rotary_emb.attention_scaling == 1
    assert (loaded.logits(IDS) - plain.logits(IDS)).abs().max() > 1e-2, "control"
    loaded.hf.save_pretrained(tmp_path / "saved")
    torch.testing.assert_close(interp.load(tmp_path / "saved").logits(IDS), loaded.logits(IDS), atol=1e-4, rtol=1e-4)
    with pytest.raises(InterpError, match=r"rope_freqs\.weight has 3 factors"):
        interp.load(tiny_gguf.write(tiny("llama"), file, tensors={"rope_freqs.weight": factors[:3]}))


@pytest.mark.parametrize(
    "name",
    [
        "blk.3.ffn_down.weight",
        "blk.0.ffn_down.bias",
        "blk.0.attn_q.bias",
        "output_2.weight",
        "rope_factors_long.weight",
    ],
)
def test_tensors_without_a_place_are_refused_by_name(tiny, name, tmp_path):
    with pytest.raises(InterpError, match=rf"no place for 1 of its tensors \({name}\)"):
        interp.load(tiny_gguf.write(tiny("llama"), tmp_path / "m.gguf", tensors={name: np.ones(32, np.float32)}))


TEXTS = [
    "Steps:\n\n1. Mix\n\n2. Bake",
    "a  7",
    " 12345 ab",
    "it's 3½ m² 漢字 12\u00a03\r\n\r\n2   3",
    "\n\n\n 7",
    "x\t\t1 ",
]


@pytest.mark.parametrize(
    ("pre", "parts"),
    [
        ("smollm", [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False, use_regex=True)]),
        ("gpt-2", [pre_tokenizers.ByteLevel(False, use_regex=True)]),
    ],
)
def test_text_is_split_as_the_file_says(tiny, pre, parts, tmp_path):
    """Against the tokenizers that are published under these names."""
    model = interp.load(tiny_gguf.write(tiny("llama"), tmp_path / "m.gguf", pre=pre))
    expected = pre_tokenizers.Sequence(parts)
    for text in TEXTS:
        split = model.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
        assert [word for word, _ in split] == [word for word, _ in expected.pre_tokenize_str(text)]


def test_a_split_that_is_not_known_is_refused_by_name_and_one_not_stated_is_told(tiny, tmp_path, capsys):
    file = tiny_gguf.write(tiny("llama"), tmp_path / "m.gguf", pre="no-such-pre")
    with pytest.raises(InterpError, match=r"splits text by 'no-such-pre' \(tokenizer\.ggml\.pre\), which is not known"):
        interp.load(file)
    assert interp.load(file, tokenizer=tiny("llama").tokenizer).tokenizer is tiny("llama").tokenizer
    interp.load(tiny_gguf.write(tiny("llama"), file, pre=None))
    assert "tokenizer.ggml.pre" in capsys.readouterr().err


KINDS = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
VALUES = st.one_of(
    st.text(), st.booleans(), st.integers(-(2**31), 2**31 - 1), st.floats(width=32, allow_nan=False),
    st.lists(st.text(), min_size=1), st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1),
)  # fmt: skip


@given(
    values=st.dictionaries(st.text("ab.", min_size=1).map("x.{}".format), VALUES),
    kinds=st.lists(st.sampled_from(KINDS), min_size=2, max_size=5),
    alignment=st.sampled_from([32, 64, 256]),
)
@settings(max_examples=25)
def test_a_copy_has_the_metadata_and_the_bytes_of_every_tensor_that_is_not_replaced(
    values, kinds, alignment, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("copies")
    writer, generator = gguf.GGUFWriter(folder / "first.gguf", "llama"), np.random.default_rng(0)
    writer.add_custom_alignment(alignment)
    for key, value in values.items():
        writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))
    for number, kind in enumerate(kinds):
        kind = gguf.GGMLQuantizationType[kind]
        data = gguf.quantize(generator.standard_normal((3, 64), dtype=np.float32), kind)
        writer.add_tensor(f"t{number}", data, None, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    other = np.ones((2, 32), np.float32), gguf.GGMLQuantizationType.F32
    GgufFile(folder / "first.gguf").write_copy(folder / "copy.gguf", {"t1": other, "new": other}, {"interp.x": "y"})
    first, copy = gguf.GGUFReader(folder / "first.gguf"), gguf.GGUFReader(folder / "copy.gguf")
    kept = {name: field.contents() for name, field in first.fields.items() if not name.startswith("GGUF.")}
    written = {name: field.contents() for name, field in copy.fields.items() if not name.startswith("GGUF.")}
    assert written == {**kept, "interp.x": "y"}
    assert copy.alignment == alignment
    before, after = ({t.name: t for t in reader.tensors} for reader in (first, copy))
    assert [*after] == [*before, "new"]
    for name in before.keys() - {"t1"}:
        assert after[name].data.tobytes() == before[name].data.tobytes()
        assert (after[name].tensor_type, [*after[name].shape]) == (before[name].tensor_type, [*before[name].shape])
    assert (after["t1"].data == 1).all()
    assert (after["new"].data == 1).all()
