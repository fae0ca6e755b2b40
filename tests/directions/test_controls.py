"""Controls are at chance on noise, and stand next to the scores of every site and method."""

import pytest
from word_contrasts import noise

from interp import find
from interp.directions.methods.closed_form import FITS
from interp.models.sites import Site


def test_baselines_are_at_chance_on_noise_and_stand_at_every_site_and_position(tiny):
    model = tiny("llama")
    findings = find(model, noise(200), positions=(-1, -2))
    assert {(b.name, str(b.site), b.position) for b in findings.baselines} == {
        (name, f"resid_post.{layer}", at) for name in ("random", "shuffled") for layer in range(3) for at in (-1, -2)
    }
    for baseline in findings.baselines:
        assert len(baseline.each) == 5
        assert baseline.auroc == pytest.approx(sum(baseline.each) / 5)
        assert 0.5 <= baseline.auroc < 0.6
    assert findings.baselines_at(findings.best()[0]).keys() == {"random", "shuffled"}
    listed = {f.direction.method for f in (*findings.best(1000), *findings.shortlist(1000))}
    assert listed == set(FITS), "baselines are no findings"
    grid = findings.grid()
    assert len(grid) == 6
    assert list(grid[0]) == ["site", "position", *FITS, "random", "shuffled"]
    row = next(f for f in findings if f.direction.method == "lda" and f.direction.site == Site("resid_post", 1))
    assert {"site": "resid_post.1", "position": -1, "lda": row.auroc}.items() <= grid[2].items()
    page = findings._repr_html_()
    assert "random (baseline)" in page
    assert "shuffled (baseline)" in page
