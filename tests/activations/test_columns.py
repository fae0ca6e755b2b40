"""Columns name a site of a model in one form, whichever name was given."""

import pytest
from planted import MADE_UP

from interp.activations.columns import SiteColumns, parse_sites
from interp.core.errors import InterpError
from interp.models.sites import Site


def test_names_of_a_site_give_the_same_columns():
    names = ("resid_post.3", "blocks.3.hook_resid_post")
    first, second = (SiteColumns(site=name, model=MADE_UP, width=8) for name in names)
    assert first == second
    assert str(first) == "resid_post.3 of made up"


def test_one_site_or_several_are_a_list():
    site = Site.parse("embed")
    assert parse_sites("embed") == parse_sites(site) == parse_sites([site]) == [site]
    assert parse_sites(["embed", "mlp_out.1"]) == [site, Site.parse("mlp_out.1")]
    with pytest.raises(InterpError, match="resid_pots"):
        parse_sites("resid_pots.1")
