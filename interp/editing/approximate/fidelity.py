"""Fidelity: how near one recipe comes to another on real text, at its own sites and in the next token.

The first token of each document is left out. A recipe that acts at more sites than the other one differs from it by
its effect there, and the comparison counts that too.
"""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.token_rows import pack_rows
from interp.core.display import Card, Displayed, plural
from interp.core.errors import InterpError
from interp.data.corpora import Source
from interp.data.packing import PackedRows
from interp.interventions.recipe import Recipe
from interp.models import HookedModel, Site
from interp.models.losses import kl_divergence

_TOKENS = 128


@dataclass(frozen=True)
class Fidelity(Displayed):
    """How near a recipe, or an edited checkpoint, comes to another recipe.

    Attributes:
        explained: Share of the variance of the intended change, at the sites of the intended recipe, that the other one
            reproduces. Below 0, a constant change would be nearer.
        kl: KL(intended || instead) of the next token in nats, the mean over the tokens.
        effect_kl: The edit's own effect, KL(plain || intended).
        tokens: Tokens of text that were compared.

    Example:
        >>> from interp.editing import Fidelity
        >>> print(Fidelity(explained=0.9, kl=0.01, effect_kl=0.2, tokens=1000))
        90.0% of the change's variance, KL 1.00e-02 of 2.00e-01 nats, on 1,000 tokens
    """

    explained: float
    kl: float
    effect_kl: float
    tokens: int

    @property
    def reproduced(self) -> float:
        """The share of the edit's effect on the next token that is reproduced: 1 - kl / effect_kl."""
        return 1 - self.kl / self.effect_kl

    def __str__(self) -> str:
        return (
            f"{self.explained:.1%} of the change's variance, KL {self.kl:.2e} of {self.effect_kl:.2e} nats, on "
            f"{plural(self.tokens, 'token')}"
        )

    def _card(self) -> Card:
        effect = f"{self.reproduced:.1%} of the effect's {self.effect_kl:.2e} nats is reproduced"
        explained = ("variance of the change explained", f"{self.explained:.1%}", "100% is the same change")
        return "", [explained, ("KL", f"{self.kl:.2e}", effect), ("tokens", self.tokens)]


@torch.no_grad()
def measure_fidelity(
    model: HookedModel,
    intended: Recipe,
    instead: Recipe | HookedModel,
    texts: Source | PackedRows,
    *,
    context: int = 128,
    tokens: int | None = None,
    batch_size: int = 8,
) -> Fidelity:
    """Measure how near one edit comes to another on text.

    Args:
        model: The plain model.
        intended: The intended edit.
        instead: A recipe for the same model, or a model with other weights, such as an export that was reloaded.
        texts: Documents, as `harvest` takes them, or rows that are packed already.
        context: Tokens per row of packed text.
        tokens: Largest number of tokens; all by default.
        batch_size: Rows per forward pass.

    Raises:
        InterpError: The intended edit changes nothing on these texts.

    Example:
        >>> from interp.editing import measure_fidelity
        >>> rows = torch.eye(model.d_model)
        >>> full, half = (interp.Recipe([("mlp_out.1", interp.Project(rows[:1], s))]) for s in (1.0, 0.5))
        >>> texts = [f"The guard at gate {n} is calm today." for n in range(4)]
        >>> 0 < measure_fidelity(model, full, half, texts, context=8).explained < 1
        True
    """
    packed = texts if isinstance(texts, PackedRows) else pack_rows(model, texts, context, tokens)
    intended.check(model.reference)
    other, applied = (instead, None) if isinstance(instead, HookedModel) else (model, instead)
    if applied is not None:
        applied.check(model.reference)
    sites = [site for site in model.sites if any(site in model.resolve(edit.sites) for edit in intended.edits)]
    off, square, total = 0.0, 0.0, torch.zeros(())
    kl, effect, count = 0.0, 0.0, 0
    for batch in packed.batches(batch_size):
        plain, before = _run(model, None, sites, batch)
        target, edited = _run(model, intended, sites, batch)
        logits, reached = _run(other, applied, sites, batch)
        change = (edited - before).double()
        off += float((reached - edited).double().square().sum())
        square, total = square + float(change.square().sum()), total + change.sum(0).cpu()
        kl, effect, count = kl + _total_kl(target, logits), effect + _total_kl(plain, target), count + len(change)
    variance = square - float(total.square().sum()) / max(1, count)
    if variance <= 0 or effect <= 0:
        raise InterpError("the intended edit changes nothing on these texts; give texts on which the latents fire")
    return Fidelity(1 - off / variance, kl / count, effect / count, count)


def _run(
    model: HookedModel, recipe: Recipe | None, sites: list[Site], batch: PackedRows
) -> tuple[Float[Tensor, "token d_vocab"], Float[Tensor, "token d_all"]]:
    """Logits, and the concatenated activations at the sites after the recipe's ops."""
    activations, inner = dict[Site, Tensor](), batch.inner.to(model.device)

    def keep(site: Site, x: Tensor) -> None:
        activations[site] = x.flatten(2).expand(*inner.shape, -1)[inner].float()

    with model.hooked(recipe if recipe is not None else ()), model.hooked([(s, partial(keep, s)) for s in sites]):
        logits = model.hf(**batch.model_inputs(model.device), use_cache=False).logits[inner].float()
    return logits, torch.cat([activations[site] for site in sites], dim=1)


def _total_kl(p: Float[Tensor, "token d_vocab"], q: Float[Tensor, "token d_vocab"]) -> float:
    """The sum of KL(p || q) over the tokens, in float64, a part of them at a time."""
    parts = zip(p.split(_TOKENS), q.split(_TOKENS), strict=True)
    return sum(float(kl_divergence(part.double(), other.double()).sum()) for part, other in parts)
