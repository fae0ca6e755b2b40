"""What is shown and what is held out have no document and no text in common, and silent texts are silent."""

import random

from hypothesis import given
from hypothesis import strategies as st

from interp.features import DescribeOptions
from interp.features.descriptions.example_split import ExampleSplit, firing_tokens, silent_tokens

OPTIONS = DescribeOptions(shown=4, tested=3)


def test_parts_have_nothing_in_common(scanned):
    found = 0
    for latent in range(40):
        split = ExampleSplit.of(scanned, "top", latent, OPTIONS)
        if split is None:
            continue
        found += 1
        shown, others = split.shown, [*split.held_out, *split.silent]
        assert not {x["document"] for x in shown} & {x["document"] for x in others}
        texts = [x["text"] for x in (*shown, *others)]
        assert len({*texts}) == len(texts)
        assert len(shown) == 4
        assert 2 <= len(split.silent) <= len(split.held_out) <= 3
        fires = scanned.query("SELECT place FROM background WHERE sae = 'top' AND list_contains(latents, ?)", [latent])
        assert not {x["place"] for x in split.silent} & {x["place"] for x in fires}
        assert max(shown[0]["values"]) == max(max(x["values"]) for x in scanned.examples(latent, "top"))
        assert len({x["kind"] for x in shown}) > 2, "of the largest, and of quarters"
    assert found > 10
    same = [ExampleSplit.of(scanned, "top", 3, OPTIONS) for _ in range(2)]
    assert same[0] == same[1]


VALUES = st.lists(st.sampled_from([0.0, 0.0, 0.1, 0.5, 1.0]), min_size=1, max_size=12).filter(any)


@given(VALUES, st.integers())
def test_wrong_marks_have_the_shape_of_the_right_ones_on_silent_tokens(values, seed):
    row = {"values": values}
    right, wrong = firing_tokens(row), silent_tokens(row, random.Random(seed))
    assert right == [n for n, x in enumerate(values) if x and x >= 0.3 * max(values)]
    steps = {(b - a) % len(values) for a, b in zip(right, right[1:] + right[:1], strict=True)}
    if not wrong:
        shifts = range(1, len(values))
        assert not any(all(values[(n + s) % len(values)] == 0 for n in right) for s in shifts)
        return
    assert len(wrong) == len(right)
    assert not any(values[n] for n in wrong)
    assert {(b - a) % len(values) for a, b in zip(wrong, wrong[1:] + wrong[:1], strict=True)} == steps
