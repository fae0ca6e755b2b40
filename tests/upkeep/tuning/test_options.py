"""Options: the rate of a method, and values that are refused."""

import pytest

from interp import InterpError
from interp.upkeep import TuningOptions


def test_a_given_rate_holds_for_every_method():
    assert [TuningOptions().rate(method) for method in ("sft", "dpo", "kto")] == [2e-4, 1e-5, 1e-5]
    assert {TuningOptions(lr=0.5).rate(method) for method in ("sft", "dpo", "kto")} == {0.5}


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"lr": 0.0}, {"rnak": 3}, {"steps": 0}, {"epochs": 0.0}])
def test_what_is_wrong_is_refused(wrong):
    with pytest.raises(InterpError, match=next(iter(wrong))):
        TuningOptions.parse(wrong, "options")
