"""A plan: pieces are edited like the whole, and items say what folds."""

import torch
from folding import examined, on_disk, planned, rows

from interp import Project, Recipe
from interp.interventions import Replace, Scale


def test_pieces_of_a_tensor_are_edited_like_the_whole(tiny):
    for name in ("llama", "gpt2", "gpt_oss", "mixtral"):
        model = tiny(name)
        scaled = ("z.0", Scale(torch.linspace(0, 2, 4)))
        recipe = Recipe([("writers", Project(rows(k=2))), ("z.1", Replace(units=[1, 2])), scaled])
        plan = planned(model, recipe)
        for tensor in plan.changes:
            whole = on_disk(model)[0][tensor]
            axis = plan.changes[tensor].axis(whole.ndim)
            parts = whole.split(max(1, whole.shape[axis] // 3), axis)
            starts = [sum(p.shape[axis] for p in parts[:n]) for n in range(len(parts))]
            if whole.ndim == 1:
                continue
            joined = torch.cat([plan.apply(tensor, p, start) for p, start in zip(parts, starts, strict=True)], axis)
            assert torch.allclose(joined, plan.apply(tensor, whole), atol=1e-9)
            copy = whole.clone()
            assert torch.equal(plan.apply(tensor, copy, out=copy), plan.apply(tensor, whole))


def test_an_examined_recipe_says_what_folds_and_what_does_not(tiny):
    recipe = Recipe([("writers", Project(rows())), ("resid_post.1", Project(rows(1)))])
    plan = examined(tiny("llama"), recipe)
    assert [item.status for item in plan.items] == ["exact", "refused"]
    assert plan.status == "refused"
    assert "no single tensor writes" in str(plan)
    assert "Project" in plan._repr_html_()
