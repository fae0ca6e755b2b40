"""Writers are tensors of the checkpoint; a missing one is an error."""

import pytest

from interp import InterpError
from interp.models.architectures.writers import writers


def test_every_writer_is_a_tensor_and_a_missing_one_is_named(tiny):
    model = tiny("llama")
    names = set(model.hf.state_dict())
    tensors = [writer.tensor for writer in writers(model.config, names)]
    assert len(tensors) == 1 + 2 * model.n_layers
    assert set(tensors) <= names
    with pytest.raises(InterpError, match=r"no tensor 'model\.layers\.0\.mlp\.down_proj\.weight'"):
        writers(model.config, names - {"model.layers.0.mlp.down_proj.weight"})
