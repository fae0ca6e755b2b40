import pytest

from interp import InterpError
from interp.auditing import BenchOptions


@pytest.mark.parametrize("wrong", [{"parts": ["cor"]}, {"tokens": 0}, {"items": 7}, {"seeds": 0}, {"sedes": 1}])
def test_settings_out_of_range_are_named(wrong):
    with pytest.raises(InterpError, match=next(iter(wrong))):
        BenchOptions.parse(wrong)


def test_quick_is_never_more_than_what_was_asked_for():
    assert (BenchOptions().quick().items, BenchOptions(items=16).quick().items) == (40, 16)
