"""The schedule of relearning: powers of two, and the last step."""

from hypothesis import given
from hypothesis import strategies as st

from interp.upkeep import DepthOptions


@given(st.integers(1, 5000))
def test_the_schedule_doubles_and_ends_at_the_last_step(steps):
    schedule = DepthOptions(steps=steps).schedule
    assert schedule[-1] == steps
    assert schedule[:-1] == tuple(2**power for power in range(len(schedule) - 1))
    assert list(schedule) == sorted(set(schedule))
