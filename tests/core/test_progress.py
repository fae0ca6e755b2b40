"""Progress passes every item on, once and in order, and is silent away from a terminal."""

import pytest

from interp.core.progress import track


@pytest.mark.parametrize("size", [1, 3, len])
def test_items_pass_through_in_silence(capsys, size):
    items = ["a", "bb", "ccc"]
    assert list(track(items, "letters", size=size, unit="letters")) == items
    assert list(track(iter(items), "letters", total=3, size=size)) == items
    assert capsys.readouterr() == ("", "")


def test_items_are_taken_one_at_a_time():
    taken = []
    source = (taken.append(number) or number for number in range(5))
    assert next(track(source, "numbers")) == 0
    assert taken == [0]
