"""Several directions are projected off at once, and a protected subspace is left as it is."""

from math import cos, radians

import pytest
import torch
from folding import IDS, gap, planned, reloaded, rows

import interp
from interp import Add, InterpError, Project, Recipe
from interp.core.linalg import orthonormal_rows
from interp.directions.direction import Direction
from interp.editing.fold.subspaces import clear_of, join_subspaces, preserving
from interp.models.sites import Site

SLANTED = torch.stack([rows(0)[0], rows(0)[0] + 0.5 * rows(1)[0]])


def direction(vectors, model, method="diff_means"):
    return Direction(vectors, Site("resid_post", 1), -1, method, model.reference, "data")


def along(model, row):
    acts = model.capture(IDS, ("embed", "attn_out.*", "mlp_out.*")).tensors.values()
    return max(float((x @ row / row.norm()).abs().max() / x.norm(dim=-1).max()) for x in acts)


def test_projections_one_after_another_bring_the_first_back(tiny):
    """Hooks and weights agree on that as well; joined they remove both."""
    model = tiny("llama")
    one_by_one = Recipe([("writers", Project(row)) for row in SLANTED])
    together = join_subspaces(one_by_one)
    assert len(together.edits) == 1
    for recipe in (one_by_one, together):
        off, effect = gap(model, recipe, planned(model, recipe))
        assert off < 2e-6 < 1e-2 < effect
    left = [along(reloaded(model, planned(model, recipe)), SLANTED[0]) for recipe in (one_by_one, together)]
    assert left[1] < 1e-6 < 1e-2 < left[0]


def test_the_joint_projection_is_that_of_the_span_and_idempotent():
    wide = SLANTED.double()
    q = torch.linalg.qr(wide.T)[0]
    (edit,) = join_subspaces(Recipe([("writers", Project(row)) for row in SLANTED])).edits
    found = edit.op.rows.double().T @ edit.op.rows.double()
    assert torch.allclose(found, q @ q.T, atol=1e-6)
    first, second = (torch.eye(32).double() - torch.outer(r, r) / (r @ r) for r in wide)
    assert not torch.allclose(second @ first, torch.eye(32).double() - q @ q.T, atol=1e-2), "control"


def test_what_is_not_a_full_projection_at_the_same_sites_is_left_alone():
    half, other = Project(rows(1), 0.5), ("mlp_out.1", Project(rows(2)))
    edits = [("writers", Project(rows())), ("writers", half), other, ("mlp_out.1", Project(rows(3, 2)))]
    made = join_subspaces(Recipe(edits, note="why"))
    assert [e.sites[0] for e in made.edits] == ["writers", "writers", "mlp_out.1"]
    assert len(made.edits[2].op.rows) == 3
    assert made.note == "why"
    twice = join_subspaces(Recipe([("writers", Project(rows())), ("writers", Project(rows()))]))
    assert len(twice.edits[0].op.rows) == 1, "a direction that is there twice is one"


@pytest.mark.parametrize(("k", "protected"), [(1, 1), (2, 3)])
def test_the_protected_subspace_is_left_as_it_is(tiny, k, protected):
    reference = tiny("llama")
    kept = direction(rows(9, protected), reference, "refusals")
    edit = direction(rows(0, k) + 0.4 * kept.rows.sum(0), reference)
    found = preserving(edit, kept)
    inside = torch.randn(5, protected) @ kept.rows
    assert torch.allclose(Project(found.direction)(inside), inside, atol=1e-5)
    assert not torch.allclose(Project(edit)(inside), inside, atol=1e-2), "control"
    cosines = torch.linalg.svdvals(edit.rows @ found.direction.rows.T)
    assert cos(radians(found.angle)) == pytest.approx(float(cosines.min()), abs=1e-4)
    assert 0 < found.angle < 90
    assert 0 < found.overlap < 1
    assert "clear of refusals" in str(found.direction)


def test_angles_at_the_ends(tiny):
    eye, reference = torch.eye(32), tiny("llama")
    apart = preserving(direction(eye[:1], reference), direction(eye[1:3], reference))
    assert (apart.angle, apart.overlap) == (pytest.approx(0, abs=0.1), pytest.approx(0))
    assert torch.equal(apart.direction.rows, eye[:1])
    slanted = preserving(direction((eye[:1] + eye[1:2]), reference), direction(eye[1:3], reference))
    assert slanted.angle == pytest.approx(45, abs=1e-3)
    with pytest.raises(InterpError, match="lies in the protected subspace"):
        preserving(direction(orthonormal_rows(eye[1:2] + eye[2:3]), reference), direction(eye[1:3], reference))


@pytest.mark.parametrize("bare", [False, True])
def test_an_exported_recipe_kept_clear_of_a_subspace_leaves_it_as_it_is_and_tells_the_angle(tiny, tmp_path, bare):
    model = tiny("llama")
    kept = direction(rows(9, 2), model, "refusals")
    slanted = rows(0) + 0.7 * kept.rows.sum(0)
    op = Project(slanted if bare else direction(slanted, model), 0.5)
    recipe, (found,) = clear_of(Recipe([("writers", op)], note="why."), kept)
    assert recipe.edits[0].op.scale == 0.5
    interp.export(recipe, model, tmp_path / "out")
    interp.export(Recipe([("writers", op)]), model, tmp_path / "control")
    state = model.hf.state_dict()["model.layers.1.mlp.down_proj.weight"]
    weights = [
        interp.load(tmp_path / name).hf.state_dict()["model.layers.1.mlp.down_proj.weight"]
        for name in ("out", "control")
    ]
    moved = [float((kept.rows @ (weight - state)).norm() / (kept.rows @ state).norm()) for weight in weights]
    assert moved[0] < 1e-5 < 1e-2 < moved[1]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "why. Kept clear of refusals at resid_post.1, position -1, which turned its directions by " in card
    assert f"{found.angle:.1f} degrees (cosine with it {found.overlap:.2f})" in card
    assert "Kept clear" not in (tmp_path / "control" / "README.md").read_text()


def test_only_projections_of_the_same_model_are_kept_clear(tiny):
    kept = direction(rows(9), tiny("llama"))
    with pytest.raises(InterpError, match=r"Add at mlp_out\.1 is not a projection"):
        clear_of(Recipe([("mlp_out.1", Add(rows()[0]))]), kept)
    with pytest.raises(InterpError, match="the protected direction is of tiny llama 0; fit both in one model"):
        clear_of(Recipe([("writers", Project(direction(rows(), tiny("llama", 1))))]), kept)
