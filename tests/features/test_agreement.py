import math
import sys

import numpy as np
import pytest

from interp import InterpError
from interp.features.agreement import krippendorff_alpha


def test_chance_is_zero_and_agreement_one():
    draw = np.random.default_rng(0).integers(2, size=(2, 4000)).astype(float)
    assert abs(krippendorff_alpha(draw, "nominal")) < 0.05
    assert krippendorff_alpha(draw[[0, 0]], "nominal") == 1.0


def test_near_ranks_agree_more_than_far_ones():
    near, far = np.array([[1.0, 2, 3, 4], [2, 2, 3, 4]]), np.array([[1.0, 2, 3, 4], [4, 2, 3, 4]])
    assert krippendorff_alpha(near, "ordinal") > krippendorff_alpha(far, "ordinal")


@pytest.mark.parametrize("table", [[[1.0, 1.0], [1.0, 1.0]], [[1.0, math.nan], [math.nan, 0.0]]])
def test_undefined_is_nan(table):
    assert math.isnan(krippendorff_alpha(np.array(table), "nominal"))


def test_it_is_needed_only_where_there_is_something_to_compare(monkeypatch):
    monkeypatch.setitem(sys.modules, "krippendorff", None)
    assert math.isnan(krippendorff_alpha(np.array([[1.0, math.nan], [math.nan, 0.0]]), "nominal"))
    with pytest.raises(InterpError, match=r"interp\[feedback\]"):
        krippendorff_alpha(np.array([[1.0, 0.0], [1.0, 0.0]]), "nominal")
