"""The settings of a sweep: what is wrong is refused by its key."""

import pytest

from interp import InterpError
from interp.models.loading import model_beside
from interp.search import SweepFile


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"stop": {"shares": [0.5, 0.2]}}, "shares are"),
        ({"sampler": {"name": "cma"}}, r"sampler\.name is 'cma'"),
        ({"measur": {}}, "did you mean measure"),
        ({"measure": {"suites": []}}, r"measure\.suites"),
        ({"constraints": [{"behaviour": "x", "at_most": 1.0, "at_least": 0.0}]}, "one bound"),
    ],
)
def test_what_is_wrong_is_refused_by_its_key(small_sweep, changes, problem):
    with pytest.raises(InterpError, match=problem):
        small_sweep.settings(**changes)


def test_the_model_may_be_a_folder_beside_the_file(small_sweep):
    settings = small_sweep.settings()
    assert model_beside(settings.model, small_sweep.folder) == str(small_sweep.folder / "model")
    assert SweepFile.parse(settings.model_dump(mode="json")) == settings
