"""Erasers at the sites of a model: each fitted by itself, or one after another, which is concept scrubbing.

Belrose et al. 2023, "LEACE: perfect linear concept erasure in closed form", section 5: site by site, in the order of
the forward pass, run the model with the erasers so far, take in the site's activations, fit, go on. So the erasers
belong together: run all of them, not one. Behind blocks (resid_post) this takes one pass in all, and keeps the
activations of all prompts at one site; elsewhere a pass up to each of the sites.

The first token of each text is left out of the fit: models park activations there that are a hundred times longer than
others. The erasers act on it all the same.

What it does not know: whether what is left of the concept in later attention patterns, or by no linear probe, is used.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from interp.core.errors import InterpError
from interp.core.progress import track
from interp.data.contrast import Contrast
from interp.directions.methods._blockwise import Blockwise, supports_blockwise
from interp.directions.methods.erasure import LEVEL, Eraser, ErasureFitter, NothingToErase
from interp.models.hooked import HookedModel
from interp.models.sites import Site
from interp.models.tokens import Prompts, Tokens

Labels = Sequence[int | Sequence[int]] | Shaped[Tensor, "..."]
ScrubbedEraser = list[tuple[Site, Eraser]]
_CLASSES = 10_000  # more are surely not counted from 0
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
    """Erasers of the classes that `labels` name, in the order of the sites; `model.hooked` runs them.

    Labels are an integer from 0 for each prompt, or a list for each prompt with one for every token (that of the first
    is not used); the two sides of a contrast label themselves. `positions` are the tokens to fit on, counted from a
    prompt's end if negative; all of them if None, which makes p values too small: tokens of a text are not independent.
    `fit` makes the eraser of a site, such as `ErasureFitter.sal`. A site where the concept is not significant at
    `level` gets no eraser; raises `NothingToErase` if none does. In a sequence all sites behind the first eraser get
    one: on the very data that was erased there, less is left than by chance, and on other data more. For a contrast
    the level is 1, that is, no test, unless given: the sides of a pair are far more alike than rows drawn by chance.
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
    batch, wanted = model.tokens(prompts), model.resolve(sites)
    for site in wanted:
        if not site.in_residual_basis:
            raise InterpError(f"{site} is not in the residual stream's basis; scrub sites such as resid_post.*")
    classes = _classes(labels, batch, [positions] if isinstance(positions, int) else positions)
    way = _together if not sequential else _by_block if _all_behind_blocks(model, wanted) else _again_and_again
    fitted: ScrubbedEraser = []
    for site, fitter in way(model, _Rows.of(batch, classes, batch_size), wanted, fitted):
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
class _Rows:
    """Batches of prompts, with each token's class or -1."""

    tokens: list[Tokens]
    classes: list[Int[Tensor, "_ _"]]
    count: int

    @classmethod
    def of(cls, batch: Tokens, classes: Int[Tensor, "batch pos"], size: int) -> "_Rows":
        starts = range(0, len(batch), size)
        tokens = [batch.rows(start, start + size) for start in starts]
        own = [classes[start : start + size, -rows.ids.shape[1] :] for start, rows in zip(starts, tokens, strict=True)]
        return cls(tokens, own, int(classes.max()) + 1)

    def take_in(self, fitter: ErasureFitter, number: int, x: Float[Tensor, "batch pos d_model"]) -> None:
        """Activations of batch `number`."""
        z = self.classes[number]
        fitter.update(x[z >= 0], z[z >= 0])


def _together(
    model: HookedModel, rows: _Rows, sites: Sequence[Site], fitted: ScrubbedEraser
) -> Iterator[tuple[Site, ErasureFitter]]:
    """All sites in one pass, as the model is hooked."""
    del fitted
    fitters = {site: ErasureFitter(model.d_model, rows.count) for site in sites}
    for number, tokens in enumerate(track(rows.tokens, "scrub")):
        acts = model.capture(tokens, sites, batch_size=len(tokens), copy=False)
        for site, fitter in fitters.items():
            rows.take_in(fitter, number, acts[site])
    yield from fitters.items()


def _again_and_again(
    model: HookedModel, rows: _Rows, sites: Sequence[Site], fitted: ScrubbedEraser
) -> Iterator[tuple[Site, ErasureFitter]]:
    """Site by site, a pass up to each of them with the erasers fitted so far."""
    for site in track(sites, "scrub"):
        with model.hooked(fitted):
            found = list(_together(model, rows, [site], fitted))
        yield from found


def _by_block(
    model: HookedModel, rows: _Rows, sites: Sequence[Site], fitted: ScrubbedEraser
) -> Iterator[tuple[Site, ErasureFitter]]:
    """Site by site, each block computed once on what the erasers fitted so far make of its input."""
    walk = Blockwise(model, rows.tokens)
    for site in track(sites, "scrub"):
        states, fitter = walk.to(site.layer or 0), ErasureFitter(model.d_model, rows.count)
        for number, state in enumerate(states):
            rows.take_in(fitter, number, state)
        yield site, fitter
        if fitted and fitted[-1][0] == site:
            walk.replace([fitted[-1][1](state) for state in states])


def _all_behind_blocks(model: HookedModel, sites: Sequence[Site]) -> bool:
    return supports_blockwise(model) and all(site.kind == "resid_post" for site in sites)


def _classes(labels: Labels, batch: Tokens, positions: Sequence[int] | None) -> Int[Tensor, "batch pos"]:
    """Each token's class; -1 on padding, on first tokens and on those at no wanted position, which are left out."""
    if len(labels) != len(batch):
        raise InterpError(f"{len(labels)} labels for {len(batch)} prompts; expected one for each, or a list of them")
    classes = torch.full(batch.ids.shape, -1)
    for number, (label, length) in enumerate(zip(labels, batch.lengths.tolist(), strict=True)):
        plain = label if isinstance(label, int) else torch.as_tensor(label).tolist()
        each = plain if isinstance(plain, list) else [plain] * length
        if len(each) != length:
            raise InterpError(
                f"prompt {number} has {length} tokens but {len(each)} labels; expected one for each token"
            )
        if not all(isinstance(one, int) for one in each) or not 0 <= min(each) <= max(each) < _CLASSES:
            wrong = next(one for one in each if not isinstance(one, int) or not 0 <= one < _CLASSES)
            raise InterpError(
                f"prompt {number} has the label {wrong}; expected classes from 0, one number after another"
            )
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
