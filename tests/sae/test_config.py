"""What does not fit together in a configuration is refused, by name."""

import pytest

from interp.core.errors import InterpError
from interp.sae.config import SaeConfig, SaeMetrics


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "gated", "prefixes": [32, 64]}, "prefixes go with topk and batchtopk"),
        ({"prefixes": [16, 32]}, "expected to rise up to d_sae, 64"),
        ({"prefixes": [32, 16, 64]}, "expected to rise up to d_sae, 64"),
        ({"layered": True, "prefixes": [32, 64]}, "leave them out of a layered kind"),
        ({"kind": "batchtopk", "sparsity": 0.1}, "sparsity goes with penalties, and batchtopk has none"),
        ({"kind": "tanh"}, "kind is 'tanh'; expected 'topk'"),
        ({"batch_sise": 4}, "unknown key 'batch_sise'; did you mean batch_size"),
    ],
)
def test_options_that_do_not_fit_are_named(options, message):
    with pytest.raises(InterpError, match=message):
        SaeConfig.parse({"d_sae": 64} | options)


def test_every_option_says_what_it_means():
    for record in (SaeConfig, SaeMetrics):
        assert all(field.description for field in record.model_fields.values())


def test_loss_recovered_is_one_for_a_perfect_and_zero_for_a_useless_reconstruction():
    losses = {"tokens": 1, "fvu": 0.0, "l0": 1.0, "dead_share": 0.0, "loss_clean": 2.0, "loss_zero": 6.0}
    recovered = [SaeMetrics(**losses, loss_reconstructed=loss).loss_recovered for loss in (2.0, 3.0, 6.0)]
    assert recovered == [1.0, 0.75, 0.0]
