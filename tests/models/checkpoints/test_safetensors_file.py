"""Safetensors files are read as the reference reader reads them, and damaged ones are refused by what is wrong."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, save_file

from interp import InterpError
from interp.models.checkpoints.safetensors_file import TensorFile, as_bytes, dtype_name, header_bytes

TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool]
shapes = st.lists(st.integers(0, 4), max_size=3)
tensors = st.dictionaries(st.text(min_size=1, max_size=5), st.tuples(st.sampled_from(TYPES), shapes), max_size=5)


def drawn(spec):
    draw = torch.Generator().manual_seed(0)
    return {name: torch.randint(0, 2, shape, generator=draw).to(dtype) for name, (dtype, shape) in spec.items()}


@given(tensors.filter(lambda spec: "__metadata__" not in spec))
def test_what_the_reference_writes_is_read_the_same(tmp_path_factory, spec):
    written, path = drawn(spec), tmp_path_factory.mktemp("file") / "model.safetensors"
    save_file(written, path, metadata={"format": "pt"})
    file = TensorFile.open(path)
    assert set(file.entries) == set(written)
    assert dict(file.metadata) == {"format": "pt"}
    for name, tensor in written.items():
        assert torch.equal(file.read(name), tensor)
        assert (file.entries[name].dtype, file.entries[name].nbytes) == (dtype_name(tensor.dtype), tensor.nbytes)


@given(tensors.filter(lambda spec: "__metadata__" not in spec))
def test_headers_are_read_by_the_reference(spec):
    written = drawn(spec)
    header = header_bytes({n: (dtype_name(x.dtype), tuple(x.shape)) for n, x in written.items()}, {"format": "pt"})
    assert len(header) % 8 == 0
    read = load(header + b"".join(bytes(as_bytes(tensor)) for tensor in written.values()))
    assert set(read) == set(written)
    assert all(torch.equal(read[name], tensor) for name, tensor in written.items())


def file_of(path, header, data=b"\0" * 8):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(start, stop, dtype="F32", shape=None):
    return {"dtype": dtype, "shape": [(stop - start) // 4] if shape is None else shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b'{"a": {}, "a": {}}', r"its header: not valid JSON \(key 'a' is there twice"),
        (b"[1]", "its header is not an object"),
        (b'{"a": ', "its header: not valid JSON"),
        ({"a": entry(0, 4), "b": entry(2, 6), "c": entry(6, 8, "U8", [2])}, "'b' overlaps the tensor before it"),
        ({"a": entry(0, 8), "b": entry(0, 8)}, "'b' overlaps"),
        ({"a": entry(0, 2, "U8", [2]), "b": entry(4, 8)}, "'b' leaves bytes of no tensor before it"),
        ({"a": entry(0, 4)}, "its tensors end at .*: bytes of no tensor follow"),
        ({"a": entry(0, 16)}, "its tensors end at .*: it was cut short"),
        ({"a": entry(0, 8, shape=[3])}, r"'a' has F32 \(3,\), which is 12 bytes, at 0 to 8"),
        ({"a": entry(0, 8, shape=[-2])}, r"'a' has F32 \(-2,\)"),
        ({"a": entry(0, 8, "F31")}, "its header's entry of 'a' can't be read"),
        ({"a": 3}, "its header's entry of 'a'"),
        ({"a": entry(0, 8), "__metadata__": {"format": 1}}, "its metadata is not a map"),
    ],
)
def test_a_header_that_can_not_be_trusted_is_refused_by_its_fault(tmp_path, header, message):
    with pytest.raises(InterpError, match=message) as caught:
        TensorFile.open(file_of(tmp_path / "model.safetensors", header))
    assert "model.safetensors" in str(caught.value)


def test_files_that_are_none(tmp_path):
    for name, content in (("empty", b""), ("short", b"\1\0"), ("long", (1 << 60).to_bytes(8, "little") + b"{}")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InterpError, match="its header would have"):
            TensorFile.open(tmp_path / name)
    with pytest.raises(InterpError, match="cannot be read"):
        TensorFile.open(tmp_path / "missing")
    good = file_of(tmp_path / "good", {"a": entry(0, 8)})
    file = TensorFile.open(good)
    good.write_bytes(good.read_bytes()[:-4])
    with pytest.raises(InterpError, match="ended 4 bytes early"):
        file.read("a")
    with safe_open(file_of(tmp_path / "twice", b'{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},'
                           b'"a":{"dtype":"I8","shape":[8],"data_offsets":[0,8]}}'), "pt") as lenient:  # fmt: skip
        assert lenient.keys() == ["a"], "control: the reference reader takes one of the two"
