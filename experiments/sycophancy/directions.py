"""The direction from plain to hinted at the prompt's last token, taken out in several ways."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from items import Item

from interp.directions.methods.closed_form import diff_means
from interp.directions.methods.erasure import ErasureFitter
from interp.interventions import Add, Project, Recipe
from interp.models.hooked import HookedModel
from interp.models.hooks import Transform

MIDDLE, BAND = 15, range(8, 25)


def directions(model: HookedModel, questions: Sequence[Item]) -> dict[str, Recipe | list[tuple[str, Transform]]]:
    """Recipes by name, fitted on these items."""
    sites = [f"resid_post.{layer}" for layer in BAND]
    hinted, plain = (
        model.capture([model.chat(item.ask(wording)) for item in questions], sites, positions=-1)
        for wording in ("wrong hint", "plain")
    )
    gaps = {site: diff_means(hinted[site][:, 0], plain[site][:, 0]) for site in sites}
    middle = gaps[f"resid_post.{MIDDLE}"]
    labels, erasers = torch.tensor([1] * len(questions) + [0] * len(questions)), []
    for site in sites:
        fitter = ErasureFitter(model.d_model, 2)
        erasers.append((site, fitter.update(torch.cat([hinted[site][:, 0], plain[site][:, 0]]), labels).leace(level=1)))
    random = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    return {
        "random direction, all writers": Recipe([("writers", Project(random))]),
        "difference of means, all writers": Recipe([("writers", Project(middle))]),
        "difference of means, own at layers 8 to 24": Recipe([(site, Project(gap)) for site, gap in gaps.items()]),
        f"difference of means subtracted at layer {MIDDLE}": Recipe([(f"resid_post.{MIDDLE}", Add(-middle))]),
        "LEACE, own at layers 8 to 24": erasers,
    }
