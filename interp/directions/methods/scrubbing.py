"""Erasers at the sites of a model, fitted independently or in sequence, which is concept scrubbing.

Belrose et al. 2023, "LEACE: perfect linear concept erasure in closed form", section 5: for each site, in the order of
the forward pass, run the model with the erasers fitted so far, and fit the next eraser on the site's activations. The
erasers therefore belong together: run all of them. At outputs of blocks (resid_post) this takes one pass in total, and
keeps the activations of all prompts at one site; elsewhere it takes one pass up to each site.

The first token of each text is left out of the fit, since its activations are often a hundred times longer than others
(an attention sink). The erasers still act on it.

Limitations: the model may still use the concept through attention patterns, or in a form that no linear probe reads.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from interp.core.errors import InterpError
from interp.core.progress import track
from interp.data.contrast import Contrast
from interp.directions.direction import residual_sites
from interp.directions.methods._blockwise import Blockwise, supports_blockwise
from interp.directions.methods.erasure import LEVEL, Eraser, ErasureFitter, NothingToErase
from interp.models.hooked import HookedModel
from interp.models.sites import Site
from interp.models.tokens import Prompts, Tokens

Labels = Sequence[int | Sequence[int]] | Shaped[Tensor, "..."]
ScrubbedEraser = list[tuple[Site, Eraser]]
_CLASSES = 10_000  # larger labels are taken for a mistake
EraserFit = Callable[[ErasureFitter, float], Eraser]


def scrub(
    model: HookedModel,
    prompts: Prompts | Contrast,
    labels: Labels | None = None,
    sites: str | Site | Iterable[str | Site] = "resid_post.*",
    positions: int | Sequence[int] | None = None,
    fit: EraserFit = ErasureFitter.leace,
    level: float | None = None,
    sequential: bool = True,
    batch_size: int = 32,
) -> ScrubbedEraser:
    """Fit erasers of the labelled classes at the sites of a model.

    Args:
        model: The model.
        prompts: Texts or tokens; or a contrast, whose two sides are the two classes.
        labels: An integer from 0 per prompt, or per prompt a list with one integer per token (the first is not used).
        sites: Sites in the residual stream's basis.
        positions: Tokens to fit on, counted from a prompt's end if negative; None for all. All of them make p-values
            too small, since tokens of one text are not independent.
        fit: Makes the eraser of a site from its fitter and a level, such as `ErasureFitter.sal`.
        level: Significance level; a site where the concept is not significant gets no eraser. In a sequence every site
            after the first eraser gets one: on the data that was erased, less is left than by chance, and on other data
            more. The default is 0.001, and for a contrast 1 (no test), since the sides of a pair are far more alike
            than rows drawn by chance.
        sequential: Fit each eraser on activations under the earlier ones (concept scrubbing), or all independently.
        batch_size: Prompts per forward pass.

    Returns:
        Sites and their erasers, in the order of the forward pass, as `model.hooked` takes them.

    Raises:
        NothingToErase: The concept is significant at no site.
        InterpError: Labels, positions or sites do not fit the prompts or the model.

    Example:
        >>> few = interp.Contrast(contrast.pairs[:4])
        >>> edits = interp.scrub(model, few, sites=["resid_post.0", "resid_post.1"], positions=-1)
        >>> [f"{site}: {len(eraser.read)}" for site, eraser in edits]
        ['resid_post.0: 1', 'resid_post.1: 1']
        >>> with model.hooked(edits):
        ...     logits = model.logits("Who bakes?")
    """
    if batch_size < 1:
        raise InterpError(f"batch_size is {batch_size}; expected 1 or more")
    if isinstance(prompts, Contrast):
        if labels is not None:
            raise InterpError("labels were given with a contrast, whose two sides label themselves; leave them out")
        level = 1.0 if level is None else level
        positive, negative = prompts.texts(model.render, model.chat)
        prompts, labels = [*positive, *negative], [1 for _ in positive] + [0 for _ in negative]
    if labels is None:
        raise InterpError("prompts have no labels; give one for each, or a contrast, whose two sides label themselves")
    batch, resolved = model.tokens(prompts), residual_sites(model, sites)
    classes = _classes(labels, batch, [positions] if isinstance(positions, int) else positions)
    after_blocks = supports_blockwise(model) and all(site.kind == "resid_post" for site in resolved)
    fit_sites = (_blockwise if after_blocks else _site_by_site) if sequential else _independently
    fitted: ScrubbedEraser = []
    for site, fitter in fit_sites(model, _LabelledBatches.of(batch, classes, batch_size), resolved, fitted):
        try:
            eraser = fit(fitter, 1.0 if sequential and fitted else LEVEL if level is None else level)
        except NothingToErase as nothing:
            last = nothing
        else:
            fitted.append((site, replace(eraser, model=model.reference)))
    if not fitted:
        raise last
    return fitted


@dataclass(frozen=True)
class _LabelledBatches:
    """Batches of prompts, with the class of each token or -1."""

    tokens: list[Tokens]
    classes: list[Int[Tensor, "_ _"]]
    count: int

    @classmethod
    def of(cls, batch: Tokens, classes: Int[Tensor, "batch pos"], size: int) -> "_LabelledBatches":
        starts = range(0, len(batch), size)
        tokens = [batch.rows(start, start + size) for start in starts]
        parts = [classes[at : at + size, -rows.ids.shape[1] :] for at, rows in zip(starts, tokens, strict=True)]
        return cls(tokens, parts, int(classes.max()) + 1)

    def update(self, fitter: ErasureFitter, index: int, x: Float[Tensor, "batch pos d_model"]) -> None:
        """Add the activations of one batch to a fitter."""
        z = self.classes[index]
        fitter.update(x[z >= 0], z[z >= 0])


def _independently(
    model: HookedModel, batches: _LabelledBatches, sites: Sequence[Site], fitted: ScrubbedEraser
) -> Iterator[tuple[Site, ErasureFitter]]:
    """All sites in one pass, under the hooks in place."""
    fitters = {site: ErasureFitter(model.d_model, batches.count) for site in sites}
    for number, tokens in enumerate(track(batches.tokens, "scrub", unit="batches")):
        acts = model.capture(tokens, sites, batch_size=len(tokens), copy=False)
        for site, fitter in fitters.items():
            batches.update(fitter, number, acts[site])
    yield from fitters.items()


def _site_by_site(
    model: HookedModel, batches: _LabelledBatches, sites: Sequence[Site], fitted: ScrubbedEraser
) -> Iterator[tuple[Site, ErasureFitter]]:
    """Site by site, each in a pass up to it with the erasers fitted so far."""
    for site in track(sites, "scrub", unit="sites"):
        with model.hooked(fitted):
            fitters = list(_independently(model, batches, [site], fitted))
        yield from fitters


def _blockwise(
    model: HookedModel, batches: _LabelledBatches, sites: Sequence[Site], fitted: ScrubbedEraser
) -> Iterator[tuple[Site, ErasureFitter]]:
    """Site by site, each block computed once on its input after the erasers fitted so far."""
    walk = Blockwise(model, batches.tokens)
    for site in track(sites, "scrub", unit="sites"):
        states, fitter = walk.to(site.layer or 0), ErasureFitter(model.d_model, batches.count)
        for number, state in enumerate(states):
            batches.update(fitter, number, state)
        yield site, fitter
        if fitted and fitted[-1][0] == site:
            walk.replace([fitted[-1][1](state) for state in states])


def _classes(labels: Labels, batch: Tokens, positions: Sequence[int] | None) -> Int[Tensor, "batch pos"]:
    """The class of each token; -1 where it is left out: padding, first tokens and other positions."""
    if len(labels) != len(batch):
        raise InterpError(f"{len(labels)} labels for {len(batch)} prompts; expected one for each, or a list of them")
    classes = torch.full(batch.ids.shape, -1)
    for row, (label, length) in enumerate(zip(labels, batch.lengths.tolist(), strict=True)):
        plain = label if isinstance(label, int) else torch.as_tensor(label).tolist()
        per_token = plain if isinstance(plain, list) else [plain] * length
        if len(per_token) != length:
            raise InterpError(f"prompt {row} has {length} tokens but {len(per_token)} labels; expected one per token")
        if wrong := [value for value in per_token if not isinstance(value, int) or not 0 <= value < _CLASSES]:
            raise InterpError(f"prompt {row} has the label {wrong[0]}; expected classes numbered from 0 without gaps")
        classes[row, -length:] = torch.tensor(per_token)
    keep = batch.mask & (batch.position_ids > 0)
    if positions is not None:
        chosen = torch.zeros_like(keep)
        for position in positions:
            at = batch.lengths[:, None] + position if position < 0 else torch.full((len(batch), 1), position)
            chosen |= batch.position_ids == at
        keep &= chosen
    if not keep.any():
        raise InterpError(f"no prompt has a token to fit on at positions {positions}; the first of each is left out")
    return classes.masked_fill(~keep, -1)
