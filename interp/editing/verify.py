"""Verify an export: its files are those that were written, and its weights do what the recipe's hooks do.

    1. every file's SHA-256 against the manifest
    2. the recipe applied to the base once more, tensor by tensor, against the weights (`replay`)
    3. reload the folder with plain transformers, load the base and hook the recipe
    4. compare logits and every writer's output, on random token sequences and on the prompts given at export
    5. read each writer's output along the directions that the recipe removes

What it does not know: whether the edit is any good. That is the audit's question.
"""

import copy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from interp.core.errors import InterpError
from interp.editing.certificate import Certificate
from interp.editing.plan import Status
from interp.editing.replay import RECIPE, Manifest, replay
from interp.interventions.ops import Project
from interp.interventions.recipe import Recipe
from interp.models.checkpoint import Checkpoint
from interp.models.hooked import HookedModel
from interp.models.load import load
from interp.models.sites import Site
from interp.models.tokens import Tokens

PROBES = "interp_probes.safetensors"


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
    if not isinstance(origin, HookedModel):
        replay(path, origin)
    model = load(origin)
    recipe.check(model.reference)
    if recipe.digest != manifest.recipe or manifest.base.digest not in ("", model.digest):
        raise InterpError(f"{path}: its manifest names another recipe or base model than it holds; it was changed")
    # Written without loading the model (`export_streamed`), it was measured on nothing yet.
    probes = read_probes(path) if (path / PROBES).is_file() else random_probes(model, [])
    return certify(model, recipe, path, probes, manifest.status)


def random_probes(model: HookedModel, prompts: list[str]) -> list[Tokens]:
    """Eight sequences of 32 random tokens, then the prompts; in small batches, since all logits are held at once."""
    length = min(32, model.context or 32)
    ids = torch.randint(model.config.vocab_size, (8, length), generator=torch.Generator().manual_seed(0))
    batches = [Tokens(ids, torch.ones_like(ids, dtype=torch.bool))]
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
    base: HookedModel, recipe: Recipe, folder: Path, probes: list[Tokens], status: Status = "exact"
) -> Certificate:
    """Measure an exported folder against its hooked base model, both in float32; `status` is what the fold claims."""
    exported = load(folder, device=base.device)
    plain = base if base.dtype == torch.float32 else HookedModel(copy.deepcopy(base.hf).float(), base.tokenizer)
    tally = _Tally(recipe, exported)
    bound = recipe.bind(base)
    for batch in probes:
        before = plain.logits(batch)[batch.mask]
        with plain.hooked(bound):
            hooked, written = plain.logits(batch)[batch.mask], _written(plain, batch)
        tally.update(before, hooked, exported.logits(batch)[batch.mask], written, _written(exported, batch))
    return tally.certificate(", ".join(sorted(set(Checkpoint.open(folder).dtypes.values()))), status)


def _written(model: HookedModel, batch: Tokens) -> dict[Site, Tensor]:
    """Each writer's output at the real tokens of a batch."""
    acts = model.forward_to(model.resolve("writers"), batch.model_inputs(model.device))
    return {site: x.expand(*batch.mask.shape, -1)[batch.mask] for site, x in acts.items()}


@dataclass
class _Tally:
    """The mutable side of a certificate."""

    recipe: Recipe
    exported: HookedModel
    logit_gap: float = 0.0
    writer_gap: float = 0.0
    kls: list[Tensor] = field(default_factory=list)
    effects: list[Tensor] = field(default_factory=list)
    agreed: list[Tensor] = field(default_factory=list)
    leaks: dict[str, float] = field(default_factory=dict)

    def update(
        self,
        before: Float[Tensor, "token d_vocab"],
        hooked: Float[Tensor, "token d_vocab"],
        after: Float[Tensor, "token d_vocab"],
        written: dict[Site, Tensor],
        rewritten: dict[Site, Tensor],
    ) -> None:
        if not torch.isfinite(after).all():
            raise InterpError("the exported model's logits are not finite; its weights or the recipe hold NaN")
        self.logit_gap = max(self.logit_gap, float((hooked - after).abs().max()))
        self.kls.append(_kl(hooked, after))
        self.effects.append(_kl(before, hooked))
        self.agreed.append((hooked.argmax(-1) == after.argmax(-1)).float())
        for site, y in rewritten.items():
            scale = written[site].norm(dim=-1).amax().clamp(min=1e-12)
            self.writer_gap = max(self.writer_gap, float((y - written[site]).norm(dim=-1).amax() / scale))
        for site, rows in _removed(self.recipe, self.exported).items():
            y = rewritten[site]
            share = (y @ rows.to(y).T).norm(dim=-1) / y.norm(dim=-1).clamp(min=1e-12)
            self.leaks[str(site)] = max(self.leaks.get(str(site), 0.0), float(share.max()))

    def certificate(self, dtype: str, status: Status) -> Certificate:
        kl = torch.cat(self.kls)
        return Certificate(
            max_abs_logit_diff=self.logit_gap,
            kl=float(kl.mean().clamp(min=0)),
            top1_agreement=float(torch.cat(self.agreed).mean()),
            effect_kl=float(torch.cat(self.effects).mean()),
            writer_gap=self.writer_gap,
            leak=max(self.leaks.values(), default=None),
            tokens=len(kl),
            dtype=dtype,
            leak_by_writer=self.leaks,
            status=status,
        )


def _kl(p: Float[Tensor, "token d_vocab"], q: Float[Tensor, "token d_vocab"]) -> Float[Tensor, "token"]:
    """KL(p || q) in nats at each position, from logits, in float64."""
    log_p, log_q = log_softmax(p.double(), -1), log_softmax(q.double(), -1)
    return kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)


def _removed(recipe: Recipe, model: HookedModel) -> dict[Site, Tensor]:
    """Rows that a site's output must not have: those of a full projection that no other op follows there."""
    last = {site: edit.op for edit in recipe.edits for site in model.resolve(edit.sites)}
    return {site: op.rows for site, op in last.items() if isinstance(op, Project) and op.strength == 1}
