"""Certify: measure a folder against the hooked base model, as it is and before its weights were rounded.

    1. the exported model against the hooked base on the probes: logits, what both write, and part by part (`local`)
    2. the fold is made again in float32 and takes the exported weights' place, each of which has to be that one rounded
    3. unless all is float32 already, the same measurements on it

The base is rounded to the type that an export was cast to, so that what is compared is the edit, not the cast.
"""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from interp.core.errors import InterpError
from interp.editing.certificate.compared_sites import compared_edits, compared_sites, stream_readers
from interp.editing.certificate.part_gaps import PartComparison
from interp.editing.certificate.record import Certificate
from interp.editing.certificate.replay import ExportSettings, planned
from interp.editing.certificate.tally import Tally
from interp.editing.export.sources import WeightSource
from interp.editing.export.weight_writer import compute_shard, one_thread
from interp.editing.fold.plan import Plan, PlannedEdit, Status
from interp.editing.fold.rounding_units import allowed_gap, rounding_reach, rounding_units_of
from interp.editing.fold.steps import UNEMBEDDING
from interp.interventions.recipe import Recipe
from interp.models.checkpoints.checkpoint import Checkpoint
from interp.models.checkpoints.safetensors_file import DTYPES
from interp.models.hooked import HookedModel, greedy_settings
from interp.models.loading import load
from interp.models.tokens import Tokens

NEW_TOKENS = 16  # that both models write on their own behind a prompt


def certify(
    base: HookedModel,
    recipe: Recipe,
    folder: Path,
    probes: list[Tokens],
    items: Sequence[PlannedEdit],
    how: ExportSettings,
) -> Certificate:
    """Measure an exported folder against its hooked base model, both in float32; `items` are the plan's.

    Raises InterpError, naming the tensor, where a weight is not what the fold gives, rounded.
    """
    kinds = sorted(set(Checkpoint.open(folder).dtypes.values()))
    exported, plain = load(folder, device=base.device), _plain(base, how.cast)
    # Factors that were trained are in whatever weights were chosen, not where the ops are.
    others: Status = "approximate" if how.distilled else "exact"
    where = compared_sites(recipe, plain), compared_edits(recipe, items, plain), stream_readers(plain), others
    found, meant = Tally(PartComparison(*where)), recipe.retarget(plain)
    _measure(found, plain, exported, meant, probes)
    for batch in _beginnings(probes, base.context):
        with plain.hooked(meant):
            hooked = _written(plain, batch)
        found.write(hooked, _written(exported, batch))
    before = found
    origin = WeightSource.of(plain)
    _refold(exported, origin, planned(folder, how, recipe, origin), [DTYPES[kind] for kind in kinds])
    if kinds != ["F32"]:
        before = Tally(PartComparison(*where))
        _measure(before, plain, exported, meant, probes)
    return found.certificate(", ".join(kinds), before.fold)


@torch.no_grad()
def _plain(base: HookedModel, cast: torch.dtype | None) -> HookedModel:
    """The base in float32, its weights rounded to the type that the export was cast to."""
    if base.dtype == torch.float32 and cast in (None, torch.float32):
        return base
    hf = copy.deepcopy(base.hf)
    if cast is not None:
        for tensor in hf.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(tensor.to(cast))
    return HookedModel(hf.float(), base.tokenizer)


def _measure(tally: Tally, plain: HookedModel, exported: HookedModel, meant: Recipe, probes: Sequence[Tokens]) -> None:
    for batch in probes:
        before = plain.logits(batch)[batch.mask]
        with plain.hooked(meant):
            hooked = plain.logits(batch)[batch.mask]
            found = plain.forward_to(tally.local.sites, batch.model_inputs(plain.device))
        tally.update(before, hooked, exported.logits(batch)[batch.mask])
        tally.local.update(exported, batch, found)


@torch.no_grad()
def _refold(exported: HookedModel, origin: WeightSource, plan: Plan, kinds: Sequence[torch.dtype]) -> None:
    """Put the fold's own weights, not rounded, in the place of the exported ones, which have to be those rounded.

    Tensors go by the names that transformers has in memory, whatever those in the files are.
    """
    held = dict(exported.hf.state_dict())
    if exported.config.tie_word_embeddings:
        held.pop(UNEMBEDDING, None)
    coarsest = max((kind for kind in kinds if kind.is_floating_point), key=lambda kind: torch.finfo(kind).eps)
    pieces = {piece.name: piece for file in origin.edited(plan) for piece in file}
    if plan.unembedding in pieces and plan.unembedding not in held:
        pieces[UNEMBEDDING] = pieces.pop(plan.unembedding)
    if odd := sorted(set(pieces) ^ set(held)):
        raise InterpError(f"{odd[0]}: in one of the reloaded checkpoint and the recipe's fold of the base, not in both")
    with one_thread():
        for name, piece in pieces.items():
            expected, own = compute_shard(piece).to(held[name].device), held[name]
            if own.shape != expected.shape:
                raise InterpError(f"{name} is {tuple(own.shape)}; the recipe gives {tuple(expected.shape)}")
            if not torch.equal(own, expected):
                source = piece.source if isinstance(piece.source, Tensor) else expected
                more = rounding_reach(plan, name, source, expected, coarsest)
                off = rounding_units_of(own, expected, coarsest, more)
                if not off <= allowed_gap(plan.changes.get(name)):
                    raise InterpError(
                        f"{name} is not what the recipe makes of the base (off by {off:.3g} rounding units)"
                    )
                own.copy_(expected)


def _beginnings(probes: list[Tokens], context: int | None) -> Iterator[Tokens]:
    """Up to four prompts of each of the first batches: the random ones cut so that there is room to write behind them.

    Prompts given that leave no room are passed over; `generated_tokens` tells how much was written in all.
    """
    for number, batch in enumerate(probes[:4]):
        some = batch.rows(0, 4)
        room = some.ids.shape[1] if context is None else context - NEW_TOKENS
        if number == 0:
            some = Tokens(some.ids[:, : max(room, 0)], some.mask[:, : max(room, 0)])
        if 0 < some.ids.shape[1] <= room:
            yield some


@torch.no_grad()
def _written(model: HookedModel, batch: Tokens) -> Int[Tensor, "batch new"]:
    """What the model writes greedily behind a batch; it may not end."""
    settings = greedy_settings(NEW_TOKENS, model.config.eos_token_id, pad=0, min_new_tokens=NEW_TOKENS)
    return model.hf.generate(**batch.prompt_inputs(model.device), generation_config=settings)[:, batch.ids.shape[1] :]
