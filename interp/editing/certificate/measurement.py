"""Compare an exported folder with the hooked base model, with its saved weights and with the weights before rounding.

    1. compare the exported model with the hooked base on the probes: logits, greedy continuations, and part by part
    2. compute the planned fold again in float32, check that each exported weight is that fold rounded, and use the
       float32 weights instead
    3. unless everything is float32 already, repeat the measurements on it

The base is first rounded to the type that the export was cast to, so that the edit is compared and not the cast.
"""

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import GenerationConfig

from interp.core.errors import InterpError
from interp.core.progress import track
from interp.editing.approximate.low_rank_factors import AddedFactors
from interp.editing.certificate._comparison import PartComparison, Tally
from interp.editing.certificate.manifest import ExportSettings
from interp.editing.certificate.record import Certificate, TiedHead
from interp.editing.export.sources import WeightSource, open_source
from interp.editing.export.weight_writer import compute_shard, one_thread
from interp.editing.fold.plan import Plan, Status
from interp.interventions.recipe import Recipe
from interp.interventions.steering_scale import OPENINGS
from interp.models import Tokens, load
from interp.models.architectures.writers import writers
from interp.models.checkpoints.checkpoint import Checkpoint
from interp.models.checkpoints.gguf_file import GgufFile
from interp.models.checkpoints.safetensors_file import DTYPES
from interp.models.hooked import HookedModel, generate_ids
from interp.models.identity import UNEMBEDDING, loaded_weights
from interp.models.losses import kl_divergence

NEW_TOKENS = 16  # that both models generate after a prompt
_DEQUANTISED = "transformers, of the GGUF file's tensors dequantised"
_QUANTA = 1e-3  # of a quantised tensor, by how much two machines' roundings may make it differ


def certify(
    base: HookedModel,
    recipe: Recipe | AddedFactors,
    plan: Plan,
    folder: Path,
    probes: list[Tokens],
    settings: ExportSettings,
    as_written: Callable[[str, Tensor], Tensor] | None = None,
) -> Certificate:
    """Measure an exported folder against its hooked base model, both in float32.

    Args:
        base: The model that the folder was made from.
        recipe: The edit that its hooks run: a recipe, or low-rank factors next to the weights.
        plan: The fold that was written, by the names that tensors have in the folder.
        folder: The exported checkpoint, or a GGUF file.
        probes: Batches of tokens to measure on.
        settings: How the fold was written.
        as_written: What a tensor of the fold, by its name, is after it was quantised for a GGUF file.

    Raises:
        InterpError: A weight, named in the message, is not what the plan gives, rounded.
    """
    exported, plain = load(folder, device=base.device), _plain(base, settings.cast)
    source = open_source(plain)
    stored = GgufFile(folder).types if as_written else Checkpoint.open(folder).dtypes
    kinds = sorted(set(stored.values()))
    # Trained factors are in whichever weights were chosen, not where the ops are.
    others: Status = "approximate" if settings.distilled else "exact"
    tally, edit = Tally(PartComparison(recipe.edits, plan.items, plain, others)), recipe.retarget(plain)
    _measure(tally, plain, exported, edit, probes)
    for batch in _beginnings(probes, base.context):
        with plain.hooked(edit):
            hooked = _generate(plain, batch)
        tally.write(hooked, _generate(exported, batch))
    tied = tied_head(plain, exported, edit, probes) if plan.warning else None
    unrounded = tally
    names = source.pieces if as_written else stored
    coarsest = torch.float32 if as_written else _coarsest([DTYPES[kind] for kind in kinds])
    _refold(exported, source, _in_memory(plan, source, names), coarsest, as_written)
    if kinds != ["F32"]:
        unrounded = Tally(PartComparison(recipe.edits, plan.items, plain, others))
        _measure(unrounded, plain, exported, edit, probes)
    certificate = tally.certificate(", ".join(kinds), unrounded.fold)
    return replace(certificate, tied=tied, backend=_DEQUANTISED if as_written else "transformers")


@torch.no_grad()
def tied_head(
    plain: HookedModel, exported: HookedModel, edit: Recipe | AddedFactors, probes: Sequence[Tokens]
) -> TiedHead:
    """What the export computes with the token table in place of its unembedding."""
    texts = probes[1:] or ([] if plain.tokenizer is None else [plain.tokens(list(OPENINGS))])
    head, divergences = exported.hf.get_output_embeddings(), list[Tensor]()
    untied_loss = sum(map(exported.loss, texts)) / len(texts) if texts else None
    own, head.weight = head.weight, exported.hf.get_input_embeddings().weight
    loss = sum(map(exported.loss, texts)) / len(texts) if texts else None
    for batch in probes:
        with plain.hooked(edit):
            hooked = plain.logits(batch)[batch.mask]
        divergences.append(kl_divergence(hooked.double(), exported.logits(batch)[batch.mask].double()))
    head.weight = own
    return TiedHead(float(torch.cat(divergences).mean()), loss, untied_loss)


def _in_memory(plan: Plan, source: WeightSource, names: Collection[str]) -> Plan:
    """The plan by the names that tensors have in memory, where transformers stacks the experts of a file."""
    config, present = source.config, source.pieces
    changes = {name: change for name, change in plan.changes.items() if name in present or name in plan.created}
    alike = {replace(w, tensor=""): plan.changes[w.tensor] for w in writers(config, names) if w.tensor in plan.changes}
    tables = writers(config, present)
    for writer in tables:
        if writer.tensor not in changes and (change := alike.get(replace(writer, tensor=""))):
            changes[writer.tensor] = change
    parted = source.is_tied and plan.config.get("tie_word_embeddings") is False
    table = next(writer.tensor for writer in tables if writer.site.kind == "embed")
    return replace(plan, changes=changes, untie=table if parted else None)


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


def _measure(
    tally: Tally, plain: HookedModel, exported: HookedModel, edit: Recipe | AddedFactors, probes: Sequence[Tokens]
) -> None:
    for batch in track(probes, "certificate", unit="batches"):
        before = plain.logits(batch)[batch.mask]
        with plain.hooked(edit):
            hooked = plain.logits(batch)[batch.mask]
            activations = plain.forward_to(tally.parts.sites, batch.model_inputs(plain.device))
        tally.update(before, hooked, exported.logits(batch)[batch.mask])
        tally.parts.update(exported, batch, activations)


@torch.no_grad()
def _refold(
    exported: HookedModel,
    source: WeightSource,
    plan: Plan,
    coarsest: torch.dtype,
    as_written: Callable[[str, Tensor], Tensor] | None,
) -> None:
    """Replace the exported weights by the fold's own, not rounded, and raise where the former are not those rounded."""
    held = loaded_weights(exported.hf)
    pieces = {piece.name: piece for file in source.edited(plan) for piece in file}
    if plan.unembedding in pieces and plan.unembedding not in held:
        pieces[UNEMBEDDING] = pieces.pop(plan.unembedding)
    if odd := sorted(set(pieces) ^ set(held)):
        raise InterpError(f"{odd[0]}: in one of the reloaded checkpoint and the recipe's fold of the base, not in both")
    with one_thread():
        for name, piece in pieces.items():
            expected, weight = compute_shard(piece).to(held[name].device), held[name]
            if weight.shape != expected.shape:
                raise InterpError(f"{name} is {tuple(weight.shape)}; the recipe gives {tuple(expected.shape)}")
            base = piece.source if isinstance(piece.source, Tensor) else expected
            if as_written:
                off = (weight - as_written(name, expected)).norm() / weight.norm().clamp(min=1e-30)
                if not off <= _QUANTA:
                    raise InterpError(f"{name} is not what the recipe makes of the base (off by {off:.1g} of its norm)")
                weight.copy_(expected)
            elif plan.gap(name, weight, expected, partial(torch.as_tensor, base), coarsest) is not None:
                weight.copy_(expected)


def _coarsest(kinds: Sequence[torch.dtype]) -> torch.dtype:
    return max((kind for kind in kinds if kind.is_floating_point), key=lambda kind: torch.finfo(kind).eps)


def _beginnings(probes: list[Tokens], context: int | None) -> Iterator[Tokens]:
    """Up to four prompts of each of the first batches, the random ones cut so that there is room to continue them.

    Other prompts that leave no room are skipped; `generated_tokens` counts what was generated in all.
    """
    for number, batch in enumerate(probes[:4]):
        prompts = batch.rows(0, 4)
        room = prompts.ids.shape[1] if context is None else context - NEW_TOKENS
        if number == 0:
            prompts = Tokens(prompts.ids[:, : max(room, 0)], prompts.mask[:, : max(room, 0)])
        if 0 < prompts.ids.shape[1] <= room:
            yield prompts


@torch.no_grad()
def _generate(model: HookedModel, batch: Tokens) -> Int[Tensor, "batch new"]:
    """The model's greedy continuation of a batch, which may not end early."""
    settings = GenerationConfig(
        max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, eos_token_id=model.config.eos_token_id, pad_token_id=0
    )
    return generate_ids(model.hf, batch.prompt_inputs(model.device), settings)[:, batch.ids.shape[1] :]
