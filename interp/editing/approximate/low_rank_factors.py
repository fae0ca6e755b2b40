"""Low-rank factors in place of a recipe that does not fold: merged like a fold, and saved next to the weights.

    W' = W + left right

for weights of attention and MLP, as they are stored. One safetensors file holds the factors and the record of their
training. In an exported folder it lies next to the weights, so that the merge can be repeated bit by bit; the same plan
gives undo patches and LoRA adapters. `interp.editing.approximate.distillation` trains the factors.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from interp.core import Config, InterpError
from interp.core.digests import weight_digests
from interp.core.display import Card, Displayed
from interp.core.files import write_tensors
from interp.core.inputs import parse_json, require_regular
from interp.editing.fold.affine_maps import MapChange
from interp.editing.fold.plan import Plan, PlannedEdit
from interp.editing.options import FoldOptions
from interp.interventions.recipe import Edit, Recipe
from interp.models import HookedModel, ModelReference, Tokens
from interp.models.architectures.table import Tap, architecture, site_taps
from interp.models.architectures.writers import Layout
from interp.models.hooks import Transform
from interp.models.sites import resolve

FACTORS = "interp_distilled.safetensors"
_KEY = "distillation"
FactorPair = tuple[Float[Tensor, "rows rank"], Float[Tensor, "rank columns"]]
FactorPairs = Mapping[str, FactorPair]  # by the name of the weight that they are added to


class Distillation(Config):
    """How factors were trained, and what was measured on held-out documents.

    `recipe`, `base`, `texts` and `factors` are digests. `kl` is KL(hooked || distilled) of the next token in nats, the
    mean over all held-out tokens. `effect_kl` is the edit's own effect on the same tokens, KL(hooked || base), which is
    the value of `kl` before the first step.
    """

    recipe: str
    base: str
    texts: str
    factors: str = ""
    rank: int
    steps: int
    lr: float
    seed: int
    batch_size: int
    context: int
    documents: int
    tokens: int
    held_out_documents: int
    held_out_tokens: int
    kl: float
    effect_kl: float

    @property
    def share(self) -> float:
        """The remaining KL relative to the effect's own: 0 is the hooked model, 1 as far from it as the plain one."""
        return self.kl / self.effect_kl

    def __str__(self) -> str:
        return (
            f"distilled at rank {self.rank} in {self.steps} steps: KL {self.kl:.2e} nats on held-out text, "
            f"{self.share:.1%} of the effect's own {self.effect_kl:.2e}"
        )


@dataclass(frozen=True, eq=False)
class Distilled(Displayed):
    """Trained factors by the name of the weight that they are added to, and the record of their training.

    `losses` are KL(hooked || distilled) relative to the effect's, per step on the training batches. `probes` are some
    of the held-out documents, on which an export is measured. Neither is saved.

    Example:
        >>> from interp.editing import Distilled
        >>> recipe = interp.Recipe([("mlp_out.1", interp.Project(torch.eye(model.d_model)[:1]))])
        >>> texts = [f"The guard at gate {n} is calm today." for n in range(8)]
        >>> interp.distil(recipe, model, texts, 1, 0, context=8, even_if_exact=True).save(tmp / "factors.safetensors")
        >>> Distilled.load(tmp / "factors.safetensors").record.share
        1.0
    """

    pairs: FactorPairs
    record: Distillation
    losses: tuple[float, ...] = ()
    probes: tuple[Tokens, ...] = ()

    @contextmanager
    def running(self, model: HookedModel) -> Iterator[HookedModel]:
        """Run the plain model with the factors added, its weights unchanged, until the block ends."""
        self._require(model.reference)
        with add_factors(model, self.pairs):
            yield model

    def plan(self, recipe: Recipe, config: Any, names: Iterable[str]) -> Plan:
        """The merge as a plan, whose items record that each op of the recipe was distilled.

        Raises where the factors were distilled from another recipe, or belong to weights that are missing.
        """
        if recipe.digest != self.record.recipe:
            raise InterpError(
                f"the factors were distilled from recipe {self.record.recipe[:12]}, but this one is "
                f"{recipe.digest[:12]}; distil this one"
            )
        missing = sorted(set(self.pairs) - set(names))
        if missing:
            raise InterpError(
                f"the checkpoint has no {missing[0]}, which has factors; export from the loaded model (interp.load)"
            )
        known = list(site_taps(config))
        items = tuple(
            PlannedEdit(type(e.op).__name__, tuple(map(str, resolve(e.sites, known))), "approximate", str(self.record))
            for e in recipe.edits
        )
        return merge_plan(config, self.pairs, items)

    def check(self, base: ModelReference, options: FoldOptions = FoldOptions()) -> None:  # noqa: B008 (frozen)
        """Raise unless the factors were distilled on this base model and come nearer to the hooked model.

        Options of folding have no effect here, and are refused.
        """
        self._require(base)
        if not self.record.kl < self.record.effect_kl:
            raise InterpError(
                f"{self.record}: no nearer to the hooked model than the plain one is; distil in more steps, at a "
                "higher rank, or on texts where the recipe acts"
            )
        unused = [n for n in ("rehost", "leave_embedding", "keep_norms", "compensate") if getattr(options, n)]
        if unused:
            raise InterpError(f"{', '.join(unused)}: distilled factors are merged as they are; leave it out")

    def _require(self, base: ModelReference) -> None:
        if base.fits != self.record.base:
            raise InterpError(
                f"the factors were distilled on a model with weights {self.record.base[:12]}, but {base.name} has "
                f"weights {base.fits[:12]}; distil on this one"
            )

    def save(self, file: str | Path) -> None:
        """Write the factors, with the record among the file's metadata."""
        write_tensors(Path(file), _named(self.pairs), {"format": "pt", _KEY: self.record.model_dump_json()})

    @classmethod
    def load(cls, file: str | Path) -> "Distilled":
        """The inverse of `save`. Raises for a broken file, and for factors that do not match the record."""
        require_regular(file)
        try:
            with safe_open(file, "pt") as opened:
                record_text = (opened.metadata() or {}).get(_KEY, "")
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
        except (OSError, SafetensorError) as problem:
            raise InterpError(f"{file}: cannot be read ({problem}); expected factors written by distil") from None
        try:
            content = parse_json(record_text, file)
        except InterpError as problem:
            raise InterpError(f"{problem}: it does not say how its factors were distilled; distil again") from None
        record = Distillation.parse(content, str(file))
        names = sorted({name.rpartition(".")[0] for name in tensors})
        if sorted(tensors) != sorted(f"{name}.{end}" for name in names for end in ("left", "right")):
            raise InterpError(f"{file}: expected a .left and a .right for each weight; it was changed")
        pairs = {name: (tensors[f"{name}.left"], tensors[f"{name}.right"]) for name in names}
        if factors_digest(pairs) != record.factors:
            raise InterpError(f"{file}: its factors do not match its record; it was changed")
        return cls(pairs, record)

    def __str__(self) -> str:
        return str(self.record)

    def _card(self) -> Card:
        record = self.record
        remains = ("KL that remains", f"{record.share:.1%}", "of the effect's own: 0% is the hooked model")
        size = [("tensors", len(self.pairs)), ("rank", record.rank), ("steps", record.steps)]
        return "", [remains, *size, ("held-out tokens", record.held_out_tokens), ("recipe", record.recipe[:12])]


@dataclass(frozen=True, eq=False)
class AddedFactors(Displayed):
    """Factors as an edit that `HookedModel.hooked` runs: their products are added to what modules of weights write.

    Args:
        pairs: The factors by the name of the weight, as it is stored.

    Example:
        >>> from interp.editing.approximate.low_rank_factors import AddedFactors
        >>> name = "model.layers.1.mlp.down_proj.weight"
        >>> left, right = torch.ones(model.d_model, 1), torch.ones(1, model.config.intermediate_size)
        >>> with model.hooked(AddedFactors({name: (left, right)})):
        ...     model.logits("Hello").shape
        torch.Size([1, 4, 1280])
    """

    pairs: FactorPairs
    edits: tuple[Edit, ...] = ()
    per_token: bool = True

    def retarget(self, model: HookedModel) -> "AddedFactors":
        """The same factors for another model of the same shape."""
        return self

    def bind(self, model: HookedModel) -> Iterator[tuple[Tap, Transform]]:
        """Two functions for each weight: one keeps what its module reads, one adds to what it writes."""
        for name, pair in self.pairs.items():
            read = list[Tensor]()
            path, (first, second) = name.removesuffix(".weight"), _module_factors(model, pair)
            yield Tap(path, "in"), partial(_keep, read)
            yield Tap(path, "out"), partial(_add, first, second, read)


def merge_plan(config: Any, pairs: FactorPairs, items: tuple[PlannedEdit, ...] = ()) -> Plan:
    """The plan that adds the factors to their weights."""
    layout: Layout = "in_out" if architecture(config).transposed else "out_in"
    return Plan({name: MapChange(layout, added=pair) for name, pair in pairs.items()}, items=items)


def factors_digest(pairs: FactorPairs) -> str:
    """SHA-256 of the factors' names, shapes and values, to the last bit."""
    return weight_digests({name: x.contiguous().view(torch.uint8) for name, x in _named(pairs).items()}).storage


@contextmanager
def add_factors(model: HookedModel, pairs: FactorPairs) -> Iterator[None]:
    """Add the factors' products to the outputs of their modules, in their own type, which may be wider."""
    with ExitStack() as stack:
        for name, pair in pairs.items():
            module = model.hf.get_submodule(name.removesuffix(".weight"))
            stack.callback(module.register_forward_hook(partial(_plus, *_module_factors(model, pair))).remove)
        yield


def _module_factors(model: HookedModel, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """What a module's input is multiplied by in turn: Conv1D computes x W where nn.Linear computes x Wᵀ."""
    return pair if architecture(model.config).transposed else (pair[1].T, pair[0].T)


def _plus(first: Tensor, second: Tensor, _: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
    return _add(first, second, [inputs[0]], out)


def _add(first: Tensor, second: Tensor, read: list[Tensor], out: Tensor) -> Tensor:
    x = read.pop()
    return out + (x.to(first.dtype) @ first.to(x.device) @ second.to(x.device)).to(out.dtype)


def _keep(read: list[Tensor], x: Tensor) -> None:
    read[:] = [x]


def _named(pairs: FactorPairs) -> dict[str, Tensor]:
    return {
        f"{name}.{end}": x.contiguous()
        for name, pair in pairs.items()
        for end, x in zip(("left", "right"), pair, strict=True)
    }
