"""Recipe: a saved list of (sites, op). The same recipe is run with hooks, folded into weights, verified and audited.

A recipe is a folder: `recipe.json` (format, edits, model, note) and `recipe.safetensors` (their tensors). Nothing is
pickled. Edits that were saved in an older format keep it, and with it their meaning and their digest:

- Format 2: the positions `prompt`, `generated` and `assistant`, and the scales of a `Schedule`, go by the token that is
  predicted. The last token of the prompt predicts the first generated one.
- Format 1: they go by the token itself, so that the first generated token is predicted under the prompt's edit. Where
  a norm follows what attention and MLP write, `writers` was after that norm; such a recipe is refused.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor

from interp.core.calls import checked_class
from interp.core.config import Config
from interp.core.digests import weight_digests
from interp.core.display import Card, Displayed, Row, brief
from interp.core.errors import InterpError, nearest
from interp.core.files import new_folder, read_json, read_tensors, sha256_json, write_json
from interp.features.latent_names import NamedLatents
from interp.interventions.ablation import Scale
from interp.interventions.affine_ops import Add, Project
from interp.interventions.op import OPS, Observer, Op, finite, op_class
from interp.interventions.positions import Schedule
from interp.models.architectures.table import Tap, normalises_outputs
from interp.models.hooked import HookedModel
from interp.models.hooks import Transform
from interp.models.identity import ModelReference
from interp.models.sites import Site

FORMAT = 2
_BY_PREDICTION = {"prompt", "generated", "assistant"}  # positions that mean something else in format 1


@dataclass(frozen=True)
class Edit(Displayed):
    """One op and the sites where it acts.

    Args:
        sites: Names or patterns of sites, such as `writers`, `resid_post.3` or `mlp_out.2-5`.
        op: The op.
        format: The format of recipes that it was made or saved in; an older one keeps its meaning.
        named: Labels of a feature book that its latents were given by. They are saved; the digest does not depend on
            them.

    Example:
        >>> edit = interp.interventions.Edit(("writers",), interp.Project([1.0, 0.0]))
        >>> edit.sites
        ('writers',)
    """

    sites: tuple[str, ...]
    op: Op
    format: int = FORMAT
    named: tuple[NamedLatents, ...] = field(default=(), compare=False)

    def require_raw_writers(self, model_type: str) -> None:
        """Raise where a norm follows the writers of a model type, and an older version took `writers` for after it."""
        if self.format == 1 and "writers" in self.sites and normalises_outputs(model_type):
            raise InterpError(
                f"the recipe is of an older version, for which 'writers' of {model_type} was after the norm that "
                "follows; make a new one for the raw outputs before it, or name embed, attn_out.* and mlp_out.*"
            )


@checked_class('interp.Recipe([(sites, op)]) makes one, for instance [("writers", interp.Project(direction))]')
@dataclass(frozen=True, init=False)
class Recipe(Displayed):
    """An ordered list of edits, the model they were made for, and a note.

    The same recipe is run with hooks, folded into weights, verified and audited. `writers` names every site that writes
    into the residual stream. A projection there removes the direction from the whole stream, and folds into the weights
    exactly (not in BLOOM and Gemma 4; see docs/results/editing.md).

    Args:
        edits: `Edit`s or `(sites, op)` pairs; `sites` is one site or pattern, or several.
        model: The model the recipe is for; by default the model that its directions were fitted on, if known.
        note: What the recipe is for.

    Raises:
        InterpError: There are no edits, something is not an op, or directions come from different models.

    Example:
        >>> recipe = interp.Recipe([("writers", interp.Project(torch.ones(model.d_model)))], note="an example")
        >>> with model.hooked(recipe):
        ...     logits = model.logits("Hello there.")
        >>> recipe.save(tmp / "recipe")
        >>> interp.Recipe.load(tmp / "recipe").digest == recipe.digest
        True
    """

    edits: tuple[Edit, ...]
    model: ModelReference | None
    note: str

    def __init__(
        self,
        edits: Iterable[Edit | tuple[str | Site | Iterable[str | Site], Op]],
        model: ModelReference | None = None,
        note: str = "",
    ):
        listed = tuple(_edit(edit) for edit in edits)
        if not listed:
            raise InterpError('a recipe needs at least one edit, for instance ("writers", Project(direction))')
        models = {edit.op.model for edit in listed if edit.op.model is not None}
        if len({reference.fits for reference in models}) > 1:
            names = ", ".join(sorted(reference.name for reference in models))
            raise InterpError(f"the recipe's directions come from different models ({names}); fit them all in one")
        object.__setattr__(self, "edits", listed)
        object.__setattr__(self, "model", model or next(iter(models), None))
        object.__setattr__(self, "note", note)

    def bind(self, model: HookedModel) -> list[tuple[Site | Tap, Transform]]:
        """The hooks of a model: one hook per op and site, and read-only hooks at the sites that a gate reads.

        Where an op has to act on a module's input or output, its hook is at that tap instead of the site. Raises if
        the recipe was made for another model, or places an op at a site where it cannot act.
        """
        self.check(model.reference if self.model else model.shape)
        bound: list[tuple[Site | Tap, Transform]] = []
        for edit in self.edits:
            sites = model.resolve(edit.sites)
            for site in sites:
                _require_valid_site(edit.op, site)
            ops: dict[Site, Op] = {site: model.as_at(site, edit.op) for site in sites}
            for site, observe in (each for op in dict.fromkeys(ops.values()) for each in op.observers()):
                model.resolve(site)
                _require_before(edit.op, site, sites, model.sites)
                bound.append((site, _observing(observe, model)))
            for site, op in ops.items():
                bound.append((op.tap(model.config, site) or site, _acting(replace(edit, op=op), model)))
        return bound

    def check(self, model: ModelReference) -> None:
        """Raise if the recipe was made for other weights or another d_model."""
        if self.model is not None:
            self.model.check(model, "the recipe")
        for edit in self.edits:
            edit.require_raw_writers(model.model_type)
            if edit.op.width not in (None, model.d_model):
                op = f"the recipe's {type(edit.op).__name__} is of width {edit.op.width}"
                raise InterpError(f"{op}, but {model.name} has d_model {model.d_model}; make one for this model")

    def before_norms(self, model: HookedModel) -> "Recipe":
        """The recipe with edits after a norm moved to before it: to the raw outputs of attention and MLP, which fold.

        attn_out and mlp_out become attn_raw and mlp_raw where a norm lies between them; other sites stay. The result is
        a different edit, which removes the same directions (see `Project`).

        Args:
            model: The model, whose architecture has the norms.

        Example:
            >>> recipe = interp.Recipe([("mlp_out.1", interp.Project(torch.ones(model.d_model)))])
            >>> recipe.before_norms(model).edits[0].sites  # no norm follows in this model
            ('mlp_out.1',)
        """
        raw = {site.normed: site for site in model.sites if site.is_raw}
        moved = [tuple(str(raw.get(site, site)) for site in model.resolve(edit.sites)) for edit in self.edits]
        edits = [replace(edit, sites=sites) for edit, sites in zip(self.edits, moved, strict=True)]
        return Recipe(edits, self.model, self.note)

    def scaled(self, strength: float) -> "Recipe":
        """The recipe at another strength s: each op moves activations by s times what it does, x + s (op(x) - x).

        At 1 it is the recipe as it is, and at 0 it changes nothing. `Project`, `Add` and `Scale` keep their form, which
        folds; other ops run with hooks only, unless the strength is 1.

        Args:
            strength: The factor.

        Raises:
            InterpError: It is not a finite number, or an op has no strength (`Knockout`).

        Example:
            >>> recipe = interp.Recipe([("writers", interp.Project(torch.ones(model.d_model)))])
            >>> recipe.scaled(0.5).edits[0].op.scale
            0.5
        """
        strength = finite(strength, "strength")
        if strength == 1:
            return self
        return Recipe([replace(edit, op=_scaled(edit.op, strength)) for edit in self.edits], self.model, self.note)

    def retarget(self, model: HookedModel) -> "Recipe":
        """The same edits for another model of the same shape, such as a fine-tune."""
        return Recipe(self.edits, model.reference, self.note)

    @property
    def per_token(self) -> bool:
        """Whether every op acts on each token independently."""
        return all(edit.op.per_token for edit in self.edits)

    @property
    def digest(self) -> str:
        """SHA-256 of the settings and tensors; that of format 1 for edits that mean the same there."""
        return sha256_json([_plain(self, by_meaning=True), weight_digests(_tensors(self)).storage])

    @property
    def exact_digest(self) -> str:
        """`digest`, which rounds tensors to bfloat16, with their exact values: what was measured holds for these."""
        return sha256_json([self.digest, weight_digests(_tensors(self)).exact])

    def save(self, folder: str | Path, overwrite: bool = False) -> None:
        """Save the recipe to a new folder; `overwrite` replaces a saved recipe there, in one step."""
        with new_folder(folder, mark="recipe.json", overwrite=overwrite) as staging:
            self.write(staging)

    def write(self, folder: Path) -> None:
        """Write the recipe's two files into a folder that exists."""
        # Clone: two ops may share a tensor, and safetensors refuses shared storage.
        save_file({name: x.clone() for name, x in _tensors(self).items()}, folder / "recipe.safetensors")
        write_json(folder / "recipe.json", _plain(self))

    @classmethod
    def load(cls, folder: str | Path) -> "Recipe":
        """Load a recipe written by `save`.

        Raises an error that names the file if its format is unsupported, an op is unknown or the tensors cannot be
        read.
        """
        path = Path(folder)
        plain = _RecipeFile.parse(read_json(path / "recipe.json"), str(path / "recipe.json"))
        tensors = read_tensors(path / "recipe.safetensors")
        edits = [_restore(number, values, tensors, path, plain.format) for number, values in enumerate(plain.edits)]
        return cls(edits, plain.model, plain.note)

    @property
    def _writers_are_raw(self) -> bool:
        return self.model is not None and normalises_outputs(self.model.model_type)

    def _card(self) -> Card:
        raw = " (raw outputs)" * self._writers_are_raw
        rows: list[Row] = [(brief(edit.sites) + raw * ("writers" in edit.sites), edit.op) for edit in self.edits]
        rows += [("note", self.note)] if self.note else []
        return f"for {self.model.name if self.model else 'any model'}", rows


class _EditFile(Config):
    sites: list[str]
    op: str
    settings: dict[str, Any]
    format: Literal[1, 2] | None = None  # where it is not the file's
    named: tuple[NamedLatents, ...] = Field((), strict=False)  # what labels of latents meant


class _RecipeFile(Config):
    """recipe.json."""

    format: Literal[1, 2] = 1
    edits: list[_EditFile]
    model: ModelReference | None
    note: str


def _edit(edit: Edit | tuple[str | Site | Iterable[str | Site], Op]) -> Edit:
    if isinstance(edit, Edit):
        return edit
    sites, op = edit
    if not isinstance(op, Op):
        raise InterpError(f"{op!r} is not an op; expected one of {', '.join(OPS)}")
    return Edit(tuple(map(str, [sites] if isinstance(sites, str | Site) else sites)), op)


def _scaled(op: Op, strength: float) -> Op:
    if isinstance(op, Project | Add):
        return replace(op, scale=op.scale * strength)
    if isinstance(op, Scale):
        return replace(op, factors=1 + strength * (op.factors - 1))
    return Schedule(op, [strength], strength)


def _acting(edit: Edit, model: HookedModel) -> Transform:
    if type(edit.op).within is Op.within:  # it needs only x
        return edit.op
    place = object()  # another one for each site of each edit
    return lambda x: edit.op.within(x, replace(model.forward_passes.current, place=place, format=edit.format))


def _observing(observe: Observer, model: HookedModel) -> Transform:
    return lambda x: observe(x, model.forward_passes.current)


def _require_valid_site(op: Op, site: Site) -> None:
    if op.width is not None and not site.normed.in_residual_basis:
        name = type(op).__name__
        raise InterpError(f"{name} at {site}: it acts on vectors of the residual stream; put it at such sites")
    if op.site is not None and op.site != site:
        raise InterpError(f"{type(op).__name__} at {site}: its autoencoder was trained at {op.site}; put it there")


def _require_before(op: Op, observed: Site, sites: Sequence[Site], order: Sequence[Site]) -> None:
    if order.index(observed) > min(map(order.index, sites)):
        name, places = type(op).__name__, ", ".join(map(str, sites))
        raise InterpError(f"{name} at {places} reads {observed}, which comes later in the forward pass; put it after")


def _plain(recipe: Recipe, by_meaning: bool = False) -> dict[str, Any]:
    """The plain values of a recipe. An edit of another format than the recipe's is marked by its own.

    With `by_meaning`, an edit is of format 1 unless it means something else there.
    """
    values = [{"sites": list(e.sites), "op": type(e.op).__name__, "settings": e.op.settings()} for e in recipe.edits]
    pairs = zip(recipe.edits, values, strict=True)
    raw = recipe._writers_are_raw
    formats = [1 if by_meaning and not _differs(plain, raw) else edit.format for edit, plain in pairs]
    usual = 1 if by_meaning else max(formats)
    marks: list[dict[str, Any]] = [{} if number == usual else {"format": number} for number in formats]
    for edit, mark in zip(recipe.edits, marks, strict=True):
        mark |= {"named": [x.model_dump() for x in edit.named]} if edit.named and not by_meaning else {}
    edits = [plain | mark for plain, mark in zip(values, marks, strict=True)]
    return {"format": usual, "edits": edits, "model": recipe.model and recipe.model.model_dump(), "note": recipe.note}


def _differs(plain: Any, raw: bool = False) -> bool:
    """Whether an edit's plain values, or those of an op inside it, mean something else in format 1.

    `raw` is whether `writers` does.
    """
    if not isinstance(plain, dict):
        return False
    names = plain.get("positions", [])
    here = plain.get("op") == "Schedule" or (raw and "writers" in plain.get("sites", []))
    return here or any(x in names for x in _BY_PREDICTION) or any(map(_differs, plain.values()))


def _tensors(recipe: Recipe) -> dict[str, Tensor]:
    named = ((f"{number}.{name}", x) for number, e in enumerate(recipe.edits) for name, x in e.op.tensors().items())
    return {name: x.contiguous() for name, x in named}


def _restore(number: int, values: _EditFile, tensors: dict[str, Tensor], path: Path, usual: int) -> Edit:
    if values.op not in OPS:
        raise InterpError(f"{path}: edit {number} is an unknown op {values.op!r}; {nearest(values.op, OPS)}")
    prefix = f"{number}."
    named = {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
    try:
        op = op_class(values.op).restore(values.settings, named)
        return Edit(tuple(values.sites), op, values.format or usual, values.named)
    except (KeyError, TypeError) as problem:
        raise InterpError(f"{path}: edit {number} ({values.op}) is incomplete: {problem}; save it again") from None
