"""A digest of tensors sees names, shapes and values, and is the same for float32 and bfloat16."""

import torch

from interp.core.digests import tensors_digest, versions


def test_a_tensor_digest_sees_name_shape_and_value():
    x = torch.arange(6.0)
    digests = {
        tensors_digest(named.items())
        for named in (
            {"a": x},
            {"b": x},
            {"a": x.view(2, 3)},
            {"a": x + 1},
            {"a": x, "b": x},
            {"a": x.sum()},
            {"b": x.sum()},
        )
    }
    assert len(digests) == 7
    assert tensors_digest([("a", x), ("b", 2 * x)]) == tensors_digest([("b", 2 * x.double()), ("a", x.bfloat16())])


def test_versions_name_what_determines_a_result():
    assert {"python", "interp", "torch", "transformers"} <= versions().keys()
