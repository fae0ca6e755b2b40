"""Options of drift refuse what can't be measured."""

import pytest

from interp import InterpError
from interp.upkeep import DriftOptions


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"tokens": 1}, "tokens"),
        ({"margin": -0.1}, "margin"),
        ({"crosscoder": -1}, "crosscoder"),
        ({"maring": 0.1}, "margin"),
    ],
)
def test_what_is_out_of_range_or_unknown_is_refused(values, words):
    with pytest.raises(InterpError, match=words):
        DriftOptions(**values)


def test_defaults_are_a_margin_of_five_points_and_a_small_crosscoder():
    options = DriftOptions()
    assert (options.margin, options.shift, options.crosscoder, options.sites) == (0.05, 0.1, 256, "resid_post.*")
