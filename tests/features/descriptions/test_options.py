"""Settings out of range are refused by name."""

import pytest

from interp import InterpError
from interp.features import DescribeOptions


@pytest.mark.parametrize("wrong", [{"shown": 0}, {"tested": 1}, {"per_request": 0}, {"parallel": 0}, {"shwon": 3}])
def test_what_is_out_of_range_is_refused(wrong):
    with pytest.raises(InterpError, match=next(iter(wrong))):
        DescribeOptions.parse(wrong)
