"""Probes: the same for each export of a model, within its context, and read back as they were."""

import pytest
import torch

from interp import InterpError
from interp.core.files import write_tensors
from interp.editing.certificate.manifest import PROBES
from interp.editing.certificate.probes import random_probes, read_probes, write_probes


def test_probes_are_the_same_again_and_are_read_back(tiny, tmp_path):
    model = tiny("llama")
    probes = random_probes(model, ["w5 w6", "w7"])
    assert [tuple(batch.ids.shape) for batch in probes] == [(8, 32), (2, 2)]
    assert torch.equal(probes[0].ids, random_probes(model)[0].ids)
    write_probes(tmp_path, probes)
    for saved, batch in zip(read_probes(tmp_path), probes, strict=True):
        assert torch.equal(saved.ids, batch.ids)
        assert torch.equal(saved.mask, batch.mask)
    assert random_probes(model, [], probes[1:])[0] is probes[1]


def test_a_file_without_a_mask_is_refused(tmp_path):
    write_tensors(tmp_path / PROBES, {"0.ids": torch.ones(1, 2), "0.masks": torch.ones(1, 2)})
    with pytest.raises(InterpError, match=r"no tensor '0\.mask'; export again"):
        read_probes(tmp_path)
