"""Strengths over layers: the kernel is smooth, symmetric and zero beyond its width; writers have their own."""

from math import cos, pi

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp import InterpError
from interp.models.sites import Site
from interp.search import Kernel, WriterStrengths
from interp.search.strengths import by_strength, strength_at

numbers = st.floats(-40, 40)


@given(numbers, st.floats(0.1, 40), numbers, numbers)
def test_a_kernel_is_the_formula(centre, width, height, layer):
    kernel, distance = Kernel(centre=centre, width=width, height=height), abs(layer - centre)
    expected = height * (1 + cos(pi * distance / width)) / 2 if distance < width else 0
    assert kernel.at(layer) == pytest.approx(expected, abs=1e-9)
    assert kernel.at(2 * centre - layer) == pytest.approx(kernel.at(layer), abs=1e-6), "symmetric"
    assert abs(kernel.at(layer)) <= abs(height) + 1e-9
    assert kernel.at(centre) == pytest.approx(height, abs=1e-9)


def test_each_kind_of_writer_has_its_strength():
    strengths = WriterStrengths(attn=0.2, mlp=Kernel(centre=1, width=1), embed=0.5)
    sites = [Site("embed"), *(Site(kind, layer) for layer in (0, 1) for kind in ("attn_out", "mlp_raw"))]
    assert [strength_at(strengths, site) for site in sites] == [0.5, 0.2, 0.0, 0.2, 1.0]
    assert by_strength(strengths, sites)[0.2] == [Site("attn_out", 0), Site("attn_out", 1)]
    assert Site("mlp_raw", 0) not in [site for places in by_strength(strengths, sites).values() for site in places]
    assert by_strength(WriterStrengths(), sites) == {0.0: sites}, "an edit that does nothing stays one"
    assert strength_at(Kernel(centre=0, width=2), Site("embed")) == 0.5, "the embeddings count as layer -1"
    with pytest.raises(InterpError, match=r"by kind of writer, but resid_post\.1 is none"):
        strength_at(strengths, Site("resid_post", 1))
