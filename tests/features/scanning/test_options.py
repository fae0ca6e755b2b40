import pytest

from interp import InterpError
from interp.features import ScanOptions


@pytest.mark.parametrize(
    "wrong", [{"top": 0}, {"sampled": 3}, {"before": -1}, {"ablate": -1}, {"chunk": 0}, {"tpo": 3}]
)
def test_settings_out_of_range_are_named(wrong):
    with pytest.raises(InterpError, match=next(iter(wrong))):
        ScanOptions.parse(wrong)
