"""Fresh probes: an eraser blinds the linear one at its site, a network still reads, as do later sites."""

import pytest
import torch

import interp
from interp import InterpError
from interp.directions import fit_direction
from interp.directions.contrast_source import read_contrast
from interp.interventions import Erase
from interp.upkeep.depth.fresh_probes import fit_fresh_probes
from interp.upkeep.depth.subject import Subject

SITE = "resid_post.2"


@pytest.fixture(scope="module")
def probes():
    """LEACE at a site of the organism, fitted on what the probes are fitted on."""
    model, pairs = interp.load("organism"), read_contrast("organism.hostility", 150)
    eraser = fit_direction(model, pairs.split(0.4)[0], "leace", SITE).eraser
    edited = Subject("edited", model, interp.Recipe([(SITE, Erase.of(eraser))]))
    rows = fit_fresh_probes(Subject("base", model), [edited], pairs, ["resid_post.1", SITE, "resid_post.3"])
    return {(row.site, row.model): row for row in rows}


def test_leace_at_its_site_blinds_a_line_and_not_a_network(probes):
    edited, base = probes[SITE, "edited"], probes[SITE, "base"]
    assert edited.linear.estimate <= 0.55
    assert edited.mlp.low > edited.linear.high, "told apart"
    assert base.linear.low > 0.9, "control: without the edit a line reads it"


def test_a_later_layer_computes_it_again_and_sites_before_the_edit_are_left_out(probes):
    assert set(probes) == {(site, name) for site in (SITE, "resid_post.3") for name in ("base", "edited")}
    assert probes["resid_post.3", "edited"].linear.low > 0.55


def test_an_edit_that_changes_nothing_has_no_sites(tiny):
    model = tiny("llama")
    pairs = interp.Contrast.of([(f"w{n} w5", f"w{n} w6") for n in range(10, 30)])
    same = Subject("edited", model)
    with pytest.raises(InterpError, match=r"changes no activation at resid_post.0, resid_post.1; name later sites"):
        fit_fresh_probes(Subject("base", model), [same], pairs, ["resid_post.0", "resid_post.1"])
    row = torch.zeros(model.d_model)
    row[0] = 1.0
    edited = Subject("edited", model, interp.Recipe([("resid_post.1", interp.Project(row))]))
    rows = fit_fresh_probes(Subject("base", model), [edited], pairs, ["resid_post.0", "resid_post.1"])
    assert {row.site for row in rows} == {"resid_post.1"}
    assert rows == fit_fresh_probes(Subject("base", model), [edited], pairs, ["resid_post.0", "resid_post.1"])
