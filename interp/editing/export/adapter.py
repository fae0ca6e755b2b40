"""A recipe's fold as a PEFT LoRA adapter, for servers that load the base once and many adapters.

W' = W + B A with the edit's own rank, and a scaling of 1: the merged adapter is the exported checkpoint, up to
rounding. LoRA (Hu et al. 2021, "LoRA: Low-rank adaptation of large language models") has factors of the weights of
linear layers and of embeddings. So an edit that needs a bias, or one of several experts in one tensor, is refused.

A tied unembedding does not change as long as the adapter is not merged, as in the exported checkpoint. Merged into the
one table of a tied model, the edit would change the unembedding as well, which is a different edit: then
`LoraAdapter.merges` is false, and the adapter's card says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from interp.core.digests import versions
from interp.core.display import Displayed, markdown
from interp.core.errors import InterpError
from interp.core.files import new_folder, require_free, write_json, write_tensors, write_text
from interp.editing.approximate.low_rank_factors import Distilled
from interp.editing.certificate.manifest import RECIPE, ExportSettings
from interp.editing.certificate.replay import plan_export
from interp.editing.export._tensor_difference import Factors, factors
from interp.editing.export.identity import checkpoint_digests, require_base
from interp.editing.export.sources import WeightSource, open_source
from interp.editing.fold import Plan
from interp.editing.options import ExportOptions
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel

_MARK = f"{RECIPE}/recipe.json"
UNMERGED = (
    "**Do not merge it.** The base uses one table for token embeddings and unembedding, of which the adapter edits "
    "only the first. `merge_and_unload` would edit both, which is a different edit; keep the adapter "
    "next to the base, or export a checkpoint.\n\n"
)


@dataclass(frozen=True)
class LoraAdapter(Displayed):
    """What was written.

    Attributes:
        rank: The largest rank of any tensor's factors.
        merges: Whether the merged adapter is the same edit.

    Example:
        >>> from interp.editing.export import LoraAdapter
        >>> LoraAdapter(rank=2, merges=True).rank
        2
    """

    rank: int
    merges: bool


def export_adapter(
    recipe: Recipe,
    source: str | Path | HookedModel,
    out: str | Path,
    options: ExportOptions | None = None,
    *,
    distilled: Distilled | None = None,
    **fields: Any,
) -> LoraAdapter:
    """Write a recipe's fold as a LoRA adapter, a folder that PEFT loads.

    Args:
        recipe: The edit.
        source: A model, a local folder or a hub id.
        out: The new folder.
        options: How to fold; options that only checkpoints have are refused.
        distilled: Trained factors (`distil`) in place of a fold.

    Returns:
        The adapter's rank, and whether it may be merged.

    Raises:
        InterpError: The recipe is another model's, does not fold, or changes tensors other than weights of linear
            layers and embeddings.

    Example:
        >>> from interp.editing import export_adapter
        >>> recipe = interp.Recipe([("mlp_out.1", interp.Project(torch.eye(model.d_model)[:1]))])
        >>> export_adapter(recipe, model, tmp / "adapter")
        LoraAdapter(rank=1, merges=True)
    """
    options = ExportOptions.merged(options, {**fields, "form": "adapter"})
    require_free(out, _MARK, options.overwrite)
    weights = open_source(source)
    weights.require_row()
    recipe = weights.kept(recipe, options)
    base = require_base(recipe, weights)
    if distilled is not None:
        if not base.digest:
            digests = checkpoint_digests(weights)
            base = base.model_copy(update={"digest": digests.exact, "storage_digest": digests.storage})
        distilled.check(base, options.fold)
    plan = plan_export(recipe, weights, ExportSettings.used(options, weights.loaded, None), distilled)
    weights.require_fit(plan)
    _require_weights(plan, weights)
    changed = ((name, factors(name, change, weights.read(name))) for name, change in plan.changes.items())
    pairs = {name: pair for name, pair in changed if pair.rank}
    tables = {name for name in pairs if plan.changes[name].layout == "table"}
    rank = max((pair.rank for pair in pairs.values()), default=0)
    if not rank:
        raise InterpError("the recipe changes no tensor, so there is no adapter; check its scale and sites")
    adapter = LoraAdapter(rank, not (tables and weights.is_tied))
    with new_folder(out, mark=_MARK, overwrite=options.overwrite) as staging:
        tensors = {key: x for name, pair in pairs.items() for key, x in _pair(name, pair, name in tables).items()}
        write_tensors(staging / "adapter_model.safetensors", tensors, {"format": "pt"})
        write_json(staging / "adapter_config.json", _config(weights, pairs, rank))
        weights.write_companions(staging)
        (staging / RECIPE).mkdir()
        recipe.write(staging / RECIPE)
        write_text(staging / "README.md", _card(weights, plan, adapter))
    return adapter


def _require_weights(plan: Plan, weights: WeightSource) -> None:
    if plan.grown:
        raise InterpError("added neurons make tensors grow, which an adapter cannot; export a checkpoint instead")
    for name in plan.created:
        raise InterpError(f"the recipe adds a bias, {name}, which LoRA does not have; export a checkpoint instead")
    for name in plan.changes:
        if not name.endswith(".weight") or weights.read(name).ndim != 2:
            kinds = "LoRA has factors for weights of linear layers and embeddings only"
            raise InterpError(f"the recipe edits {name}, and {kinds}; export a checkpoint instead")


def _pair(name: str, each: Factors, table: bool) -> Mapping[str, Tensor]:
    """The two matrices of LoRA: A reads inputs (of a table: tokens), B writes the stream, however it is stored."""
    module = f"base_model.model.{name.removesuffix('.weight')}"
    first, second = ("lora_embedding_A", "lora_embedding_B") if table else ("lora_A.weight", "lora_B.weight")
    # The factors subtract, and LoRA adds.
    named = {f"{module}.{first}": each.inputs, f"{module}.{second}": -each.stream}
    return {key: x.float().contiguous() for key, x in named.items()}


def _config(weights: WeightSource, pairs: Mapping[str, Factors], rank: int) -> dict[str, Any]:
    ranks = {name.removesuffix(".weight"): pair.rank for name, pair in pairs.items()}
    other_ranks = {f"^{name}$": each for name, each in ranks.items() if each != rank}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": weights.path,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": weights.config.model_type == "gpt2",
        "inference_mode": True,
        "target_modules": sorted(ranks),
        # The scaling is alpha / rank of each module: 1.
        "rank_pattern": other_ranks,
        "alpha_pattern": other_ranks,
    }


def _card(weights: WeightSource, plan: Plan, adapter: LoraAdapter) -> str:
    items = "\n".join(f"- {markdown(item)}" for item in plan.items)
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    title = f"{markdown(Path(weights.name).name)}, edited by an adapter"
    return (
        f"---\nlibrary_name: peft\ntags: [interp, edited]\n---\n\n# {title}\n\n"
        f"{items}\n\n{'' if adapter.merges else UNMERGED}"
        f"Made with {packages}. It does what the recipe in `interp_recipe/` does; read an audit before use.\n"
    )
