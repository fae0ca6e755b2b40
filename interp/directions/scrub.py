"""Erasers at the sites of a model: each fitted by itself, or one after another, which is concept scrubbing.

Belrose et al. 2023, "LEACE: perfect linear concept erasure in closed form", section 5: site by site, in the order of
the forward pass, run the model with the erasers so far, take in the site's activations, fit, go on. So the erasers
belong together: run all of them, not one. Fitting takes a forward pass up to each of the sites; fitted each by itself,
one pass in all.

The first token of each text is left out of the fit: models park activations there that are a hundred times longer than
others. The erasers act on it all the same.

What it does not know: whether what is left of the concept in later attention patterns, or by no linear probe, is used.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from interp.core.errors import InterpError
from interp.core.progress import track
from interp.data.contrast import Contrast
from interp.directions.erase import Eraser, ErasureFitter, NothingToErase
from interp.models.hooked import HookedModel
from interp.models.sites import Site
from interp.models.tokens import Prompts, Tokens

Labels = Sequence[int | Sequence[int]]
Fitted = list[tuple[Site, Eraser]]


def scrub(
    model: HookedModel,
    prompts: Prompts | Contrast,
    labels: Labels | None = None,
    sites: str | Site | Iterable[str | Site] = "resid_post.*",
    positions: int | Sequence[int] | None = None,
    fit: Callable[[ErasureFitter], Eraser] = ErasureFitter.leace,
    sequential: bool = True,
    batch_size: int = 32,
) -> Fitted:
    """Erasers of the classes that `labels` name, in the order of the sites; `model.hooked` runs them.

    Labels are an integer from 0 for each prompt, or a list for each prompt with one for every token (that of the first
    is not used); the two sides of a contrast label themselves. `positions` are the tokens to fit on, counted from a
    prompt's end if negative; all of them if None, which makes p values too small: tokens of a text are not independent.
    `fit` makes the eraser of a site, such as `ErasureFitter.sal`. A site where it raises `NothingToErase` gets no
    eraser; raises that if none does.
    """
    if isinstance(prompts, Contrast):
        positive, negative = prompts.texts(model.render, model.chat)
        prompts, labels = [*positive, *negative], [1 for _ in positive] + [0 for _ in negative]
    if labels is None:
        raise InterpError("prompts have no labels; give one for each, or a contrast, whose two sides label themselves")
    batch, wanted = model.tokens(prompts), model.resolve(sites)
    for site in wanted:
        if not site.in_residual_basis:
            raise InterpError(f"{site} is not in the residual stream's basis; scrub sites such as resid_post.*")
    classes = _classes(labels, batch, [positions] if isinstance(positions, int) else positions)
    fitted: Fitted = []
    for together in track([[site] for site in wanted] if sequential else [wanted], "scrub"):
        with model.hooked(fitted):
            fitters = _taken_in(model, batch, classes, together, batch_size)
        for site, fitter in fitters.items():
            try:
                eraser = fit(fitter)
            except NothingToErase as nothing:
                last = nothing
            else:
                fitted.append((site, replace(eraser, model=model.reference)))
    if not fitted:
        raise last
    return fitted


def _taken_in(
    model: HookedModel, batch: Tokens, classes: Int[Tensor, "batch pos"], sites: Sequence[Site], batch_size: int
) -> dict[Site, ErasureFitter]:
    """Activations at the sites with their classes, as the model is hooked now."""
    fitters = {site: ErasureFitter(model.d_model, int(classes.max()) + 1) for site in sites}
    width = batch.ids.shape[1]
    for start in range(0, len(batch), batch_size):
        rows = batch.rows(start, start + batch_size)
        z = classes[start : start + batch_size, width - rows.ids.shape[1] :]
        acts = model.capture(rows, sites, batch_size=batch_size, copy=False)
        for site, fitter in fitters.items():
            fitter.update(acts[site][z >= 0], z[z >= 0])
    return fitters


def _classes(labels: Labels, batch: Tokens, positions: Sequence[int] | None) -> Int[Tensor, "batch pos"]:
    """Each token's class; -1 on padding, on first tokens and on those at no wanted position, which are left out."""
    if len(labels) != len(batch):
        raise InterpError(f"{len(labels)} labels for {len(batch)} prompts; expected one for each, or a list of them")
    classes = torch.full(batch.ids.shape, -1)
    for number, (label, length) in enumerate(zip(labels, batch.lengths.tolist(), strict=True)):
        each = [label] * length if isinstance(label, int) else list(label)
        if len(each) != length:
            raise InterpError(
                f"prompt {number} has {length} tokens but {len(each)} labels; expected one for each token"
            )
        if min(each) < 0:
            raise InterpError(f"prompt {number} has the label {min(each)}; expected classes from 0")
        classes[number, -length:] = torch.tensor(each)
    keep = batch.mask & (batch.position_ids > 0)
    if positions is not None:
        wanted = torch.zeros_like(keep)
        for position in positions:
            at = batch.lengths[:, None] + position if position < 0 else torch.full((len(batch), 1), position)
            wanted |= batch.position_ids == at
        keep &= wanted
    if not keep.any():
        raise InterpError(f"no prompt has a token to fit on at positions {positions}; the first of each is left out")
    return classes.masked_fill(~keep, -1)
