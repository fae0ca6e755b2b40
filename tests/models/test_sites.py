"""Site names: two forms of one name, and patterns that never silently name nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp import InterpError
from interp.models.sites import KINDS, Site, resolve

layered = [kind for kind in KINDS if "embed" not in kind]
sites = st.builds(Site, st.sampled_from(layered), st.integers(0, 200)) | st.sampled_from(
    [Site("embed"), Site("pos_embed")]
)
KNOWN = [Site("embed")] + [Site(kind, layer) for layer in range(4) for kind in ("resid_pre", "attn_out", "mlp_out")]


@given(sites)
def test_both_names_read_back_as_the_site(site):
    assert Site.parse(str(site)) == site
    assert Site.parse(site.hook_name) == site


@given(st.text(max_size=30))
def test_anything_else_is_refused(name):
    try:
        site = Site.parse(name)
    except InterpError as problem:
        assert "unknown site" in str(problem)
    else:
        assert name in (str(site), site.hook_name) or name.strip("0123456789.").split(".")[0] in (*KINDS, "blocks")


@pytest.mark.parametrize("name", ["blocks.3.hook_embed", "embed.3", "hook_resid_post", "resid_post"])
def test_a_kind_without_its_layer_or_with_one_too_many_is_refused(name):
    with pytest.raises(InterpError, match="unknown site"):
        Site.parse(name)


def test_patterns_name_sites_in_forward_order():
    assert resolve(["mlp_out.*", "embed"], KNOWN) == [Site("embed"), *(Site("mlp_out", layer) for layer in range(4))]
    assert resolve("mlp_out.1-2", KNOWN) == [Site("mlp_out", 1), Site("mlp_out", 2)]
    assert resolve("blocks.3.hook_attn_out", KNOWN) == [Site("attn_out", 3)]
    assert resolve("blocks.*.hook_attn_out", KNOWN) == resolve("attn_out.*", KNOWN)
    written = resolve("writers", KNOWN)
    assert [site for site in KNOWN if site.kind != "resid_pre"] == written


@pytest.mark.parametrize("pattern", ["mlp_out.7-9", "resid_post.*", "resid_pre", "mlp.*", ""])
def test_a_pattern_that_names_nothing_raises(pattern):
    with pytest.raises(InterpError, match="unknown site"):
        resolve(pattern, KNOWN)
    with pytest.raises(InterpError, match="no sites"):
        resolve([], KNOWN)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("mlp_out", r"did you mean mlp_out\.\*\?"),
        ("blocks.3.hook_mlp_outs", r"did you mean mlp_out\.3"),
        ("pattern.3", r"run_with_cache has it, as blocks\.0\.attn\.hook_pattern"),
        ("blocks.1.attn.hook_pattern", "run_with_cache has it"),
    ],
)
def test_an_unknown_name_gets_the_way_on(name, hint):
    with pytest.raises(InterpError, match=hint):
        resolve(name, KNOWN)
