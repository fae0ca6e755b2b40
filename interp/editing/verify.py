"""Verify an export: its files are those that were written, and its weights do what the recipe's hooks do.

    1. every file's SHA-256 against the manifest
    2. the recipe applied to the base once more, tensor by tensor, against the weights (`replay`)
    3. reload the folder with plain transformers, load the base, check that its sites are all that writes to the stream
       (`prove`), and hook the recipe
    4. compare logits and every writer's output, on random token sequences and on the prompts given at export, and what
       both write on their own behind them
    5. op by op, compare what is at its sites, and read it along the directions that the op removes

What it does not know: whether the edit is any good. That is the audit's question.
"""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GenerationConfig

from interp.core.errors import InterpError
from interp.editing.certificate import Certificate
from interp.editing.origin import Origin
from interp.editing.plan import Item
from interp.editing.prove import require_proof
from interp.editing.replay import RECIPE, Manifest, planned, replay
from interp.editing.tally import Tally, compared, places
from interp.interventions.recipe import Recipe
from interp.models.checkpoint import Checkpoint
from interp.models.hooked import HookedModel
from interp.models.load import load
from interp.models.sites import Site
from interp.models.tokens import Tokens

PROBES = "interp_probes.safetensors"
NEW_TOKENS = 16  # that both models write on their own behind a prompt


def verify(folder: str | Path, base: str | Path | HookedModel | None = None) -> Certificate:
    """Check an exported folder's files and measure it again, on the same tokens as at export.

    `base` is the model it was made from, if it has moved or was in memory. Raises InterpError where a file is missing,
    changed or added, or the base is another model than the recipe's.
    """
    path = Path(folder)
    manifest = Manifest.at(path)
    manifest.check_files(path)
    recipe = Recipe.load(path / RECIPE)
    origin = base if base is not None else manifest.source
    if origin is None:
        raise InterpError(f"{path} was made from a model in memory; give it, or where it is now, as base")
    # Of what is approximate the figures prove nothing: there it is made again, wherever the base is.
    if not isinstance(origin, HookedModel) or manifest.made.distilled:
        replay(path, origin)
    model = load(origin, dtype="bfloat16" if manifest.made.dequantise and not isinstance(origin, HookedModel) else None)
    recipe.check(model.reference)
    if recipe.digest != manifest.recipe or manifest.base.digest not in ("", model.digest):
        raise InterpError(f"{path}: its manifest names another recipe or base model than it holds; it was changed")
    # Written without loading the model (`export_streamed`), it was measured on nothing yet.
    probes = read_probes(path) if (path / PROBES).is_file() else random_probes(model, [])
    require_proof(model)
    plan = planned(path, manifest, recipe, Origin.of(model))
    if plan.status != manifest.status:
        raise InterpError(f"{path}: its manifest says {manifest.status}, but the fold is {plan.status}; it was changed")
    return certify(model, recipe, path, probes, plan.items)


def random_probes(model: HookedModel, prompts: list[str], instead: Sequence[Tokens] = ()) -> list[Tokens]:
    """Eight sequences of 32 random tokens, then the prompts; in small batches, since all logits are held at once.

    What is given `instead` takes the random ones' place: what was learnt from texts holds on texts.
    """
    length = min(32, model.context or 32)
    ids = torch.randint(model.config.vocab_size, (8, length), generator=torch.Generator().manual_seed(0))
    batches = [*instead] or [Tokens(ids, torch.ones_like(ids, dtype=torch.bool))]
    given = model.tokens(prompts) if prompts else None
    if given is not None:
        batches += [given.rows(start, start + 4) for start in range(0, len(given), 4)]
    return batches


def write_probes(folder: Path, probes: list[Tokens]) -> None:
    """Keep the tokens that an export was measured on."""
    named = {f"{number}.{name}": getattr(p, name) for number, p in enumerate(probes) for name in ("ids", "mask")}
    save_file({name: x.contiguous() for name, x in named.items()}, folder / PROBES)


def read_probes(folder: Path) -> list[Tokens]:
    """The inverse of `write_probes`."""
    try:
        named = load_file(folder / PROBES)
        return [Tokens(named[f"{number}.ids"], named[f"{number}.mask"]) for number in range(len(named) // 2)]
    except (OSError, SafetensorError, KeyError) as problem:
        raise InterpError(f"{folder / PROBES}: cannot be read ({problem}); export again") from None


def certify(
    base: HookedModel, recipe: Recipe, folder: Path, probes: list[Tokens], items: Sequence[Item]
) -> Certificate:
    """Measure an exported folder against its hooked base model, both in float32; `items` are the plan's."""
    exported = load(folder, device=base.device)
    plain = base if base.dtype == torch.float32 else HookedModel(copy.deepcopy(base.hf).float(), base.tokenizer)
    tally = Tally(compared(recipe, base), places(recipe, items, base))
    bound = recipe.bind(base)
    for batch in probes:
        before = plain.logits(batch)[batch.mask]
        with plain.hooked(bound):
            hooked, found = plain.logits(batch)[batch.mask], _found(plain, tally.sites, batch)
        tally.update(before, hooked, exported.logits(batch)[batch.mask], found, _found(exported, tally.sites, batch))
    for batch in _beginnings(probes, base.context):
        with plain.hooked(bound):
            hooked = _written(plain, batch)
        tally.write(hooked, _written(exported, batch))
    return tally.certificate(", ".join(sorted(set(Checkpoint.open(folder).dtypes.values()))))


def _found(model: HookedModel, sites: list[Site], batch: Tokens) -> dict[Site, Tensor]:
    """What is at the sites at the real tokens of a batch."""
    acts = model.forward_to(sites, batch.model_inputs(model.device))
    return {site: x.expand(*batch.mask.shape, -1)[batch.mask] for site, x in acts.items()}


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
    settings = GenerationConfig(
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        eos_token_id=model.config.eos_token_id,
        pad_token_id=0,
    )
    inputs = {name: x for name, x in batch.model_inputs(model.device).items() if name != "position_ids"}
    return model.hf.generate(**inputs, generation_config=settings)[:, batch.ids.shape[1] :]
