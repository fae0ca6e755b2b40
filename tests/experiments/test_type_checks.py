"""The quick check of shapes says what jaxtyping says, and binds the axes that it binds."""

import pytest
import torch
import type_checks
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Bool, Float, Int, Shaped, jaxtyped
from jaxtyping._storage import get_shape_memo
from torch import Tensor, nn

SHAPES = ["", "n", "batch pos", "d d", "*batch d", "*batch d d", "a *batch n", "batch pos *rest", "..."]
ANNOTATIONS = [*(Float[Tensor, text] for text in [*SHAPES, "_ d", "_n d", "#n d", "2 d", "n n+1"])]
ANNOTATIONS += [Int[Tensor, "n"], Bool[Tensor, "*batch"], Shaped[Tensor, "n d"]]
ARRAYS = st.builds(
    torch.zeros,
    st.lists(st.integers(1, 3), max_size=4).map(tuple),
    dtype=st.sampled_from([torch.float32, torch.float32, torch.int64, torch.bool]),
) | st.sampled_from([None, 3, nn.Parameter(torch.zeros(2, 2))])


def verdicts(check, pairs):
    """What a check says of each pair within one call, and the sizes that it knows then."""
    said = []
    with jaxtyped("context"):
        for annotation, array in pairs:
            try:
                said.append(check(annotation, array))
            except Exception as error:
                said.append(type(error))
            sizes, several, *_ = get_shape_memo()
            said.append((dict(sizes), {name: (flag, tuple(shape)) for name, (flag, shape) in several.items()}))
    return said


@given(st.lists(st.tuples(st.sampled_from(ANNOTATIONS), ARRAYS), min_size=1, max_size=6))
def test_it_agrees_with_jaxtyping_on_all_arrays_of_a_call(pairs):
    expected = verdicts(type_checks.judged, pairs)
    assert verdicts(type_checks.fits, pairs) == expected
    assert verdicts(type_checks.fits, pairs) == expected, "also where type and dtype were let through before"


def test_calls_of_the_package_are_checked_by_it():
    from interp.core.linalg import orthonormal_rows

    assert orthonormal_rows(torch.eye(3)[:2]).shape == (2, 3)
    with pytest.raises(Exception, match="orthonormal_rows"):
        orthonormal_rows(torch.zeros(3))
