"""One edit of a recipe file: an op by name, where it acts, and its options."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from interp.core.config import Config
from interp.core.errors import InterpError, nearest
from interp.core.files import read_tensors
from interp.data.corpora import texts
from interp.directions.direction import Direction
from interp.directions.methods.erasure import Eraser
from interp.features.latent_names import LatentName
from interp.interventions.ablation import Replace, Resample, Scale, bank
from interp.interventions.affine_ops import Add, Cap, Erase, LowRank, Project
from interp.interventions.gate import Fires, Gate, Reads
from interp.interventions.knockout import Knockout
from interp.interventions.latents import Clamp, Suppress
from interp.interventions.op import Op
from interp.interventions.positions import At, Schedule
from interp.interventions.recipe import FORMAT, Edit, Recipe
from interp.models.hooked import HookedModel
from interp.models.sites import Site
from interp.search.direction_source import Autoencoders, DirectionSource
from interp.search.strengths import Number, Strength, by_strength

Place = tuple[list[str], Op] | Edit
Names = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
Latents = Annotated[tuple[LatentName, ...], Field(strict=False, min_length=1)]
Tokens = Annotated[tuple[str | int, ...], Field(strict=False, min_length=1)]
Unit = str | int | float  # LAYER.UNIT; YAML reads 3.5 as a number
Units = Annotated[tuple[Unit, ...], Field(strict=False, min_length=1)]


class GateData(Config):
    """When an edit acts: where a direction's reading or a latent is above a threshold.

    Example:
        >>> interp.search.GateData(direction="rude", threshold=2.0).per
        'sequence'
    """

    direction: str | None = Field(None, description="name of the direction that is read")
    sae: str | None = Field(None, description="folder of the autoencoder, for a latent")
    latent: LatentName | None = Field(None, description="the latent that is read: number, or book:LABEL")
    book: str | None = Field(None, description="folder of the autoencoder's feature book, for a label")
    threshold: Number = Field(description="value above which the edit acts")
    cosine: bool = Field(False, description="read the cosine in place of the product")
    per: Literal["token", "sequence"] = Field("sequence", description="decide for each token or each sequence")
    reduce: Literal["max", "mean", "last"] = Field("max", description="how tokens make a sequence's score")
    site: str | None = Field(None, description="where it reads; default: the edit's site, or the autoencoder's")

    @model_validator(mode="after")
    def _one_condition(self) -> "GateData":
        if (self.direction is None) == (self.latent is None) or (self.latent is None) != (self.sae is None):
            raise InterpError("a gate reads one thing; give a direction, or sae and latent")
        return self

    def around(self, op: Op, parts: "EditParts") -> Gate:
        """The op behind the gate."""
        when: Reads | Fires
        if self.latent is not None:
            latent = parts.autoencoders.latent(self.sae, self.latent, self.book)
            when = Fires(parts.autoencoders[str(self.sae)], latent, self.threshold)
        else:
            when = Reads(parts.direction(str(self.direction)), self.threshold, self.cosine)
        return Gate(op, when, self.per, self.reduce, self.site)


class ScheduleData(Config):
    """Strengths of an edit while a reply is written.

    Example:
        >>> interp.search.ScheduleData(scales=(1.0, 0.5, 0.0)).prompt
        0.0
    """

    scales: tuple[Number, ...] = Field(strict=False, description="of the first generated token, the second, and so on")
    prompt: Number = Field(0.0, description="over the rest of the prompt")


class EditData(Config):
    """One edit as a recipe file describes it; which options an op takes is in docs/howto/recipe_file.md.

    Example:
        >>> edit = interp.search.EditData(op="Scale", heads=["3.5", "4.1"], factor=0.0)
        >>> edit.needs
        []
    """

    op: str = Field(description="name of the op, such as Project")
    sites: str | Names | None = Field(None, description="site, pattern or several of them")
    layers: int | str | None = Field(None, description="keep the sites of these layers: 12, or 8-20, or 0-3,8-20")
    direction: str | None = Field(None, description="name of a direction")
    strength: Strength | None = Field(None, description="number, kernel over layers, or one for each kind of writer")
    low: Number | None = Field(None, description="Cap: the least value of the coordinate along the direction")
    high: Number | None = Field(None, description="Cap: the largest value")
    relative: bool | None = Field(None, description="Add: in units of the length of the activations")
    sae: str | None = Field(None, description="folder of an autoencoder or a transcoder")
    latents: Latents | None = Field(None, description="latents: numbers, or book:LABEL")
    book: str | None = Field(None, description="folder of the autoencoder's feature book, for labels")
    heads: Units | None = Field(None, description="heads, as LAYER.HEAD")
    neurons: Units | None = Field(None, description="neurons, as LAYER.NEURON")
    factor: Number | None = Field(None, description="factor of the heads, neurons or latents; 0 removes them")
    value: Number | None = Field(None, description="Clamp: what the latents are held at")
    texts: str | None = Field(None, description="texts for the mean (Replace) or the bank (Resample): file or folder")
    documents: int | None = Field(None, ge=1, description="most documents of the texts that are read [default: 64]")
    seed: int | None = Field(None, ge=0, description="Resample: seed of the draw")
    queries: Tokens | None = Field(None, description="Knockout: tokens that see less")
    keys: Tokens | None = Field(None, description="Knockout: tokens that are not seen")
    tensors: str | None = Field(None, description="safetensors file of the op's tensors (LowRank, Erase)")
    recipe: str | None = Field(None, description="Saved: folder of a saved recipe, of which all edits are taken")
    positions: Tokens | None = Field(None, description="act at these tokens only")
    schedule: ScheduleData | None = Field(None, description="strengths while a reply is written")
    gate: GateData | None = Field(None, description="act under a condition only")

    @model_validator(mode="after")
    def _fits_the_op(self) -> "EditData":
        if self.op in _WRAPPERS:
            raise InterpError(f"{self.op} holds another op; name that op, and give it {_WRAPPERS[self.op]}: …")
        if self.op not in _OPS:
            raise InterpError(f"unknown op {self.op!r}; {nearest(self.op, _OPS)}")
        if self.layers is not None:
            _layers(self.layers)
        options = _OPS[self.op]
        given = {name for name in type(self).model_fields if getattr(self, name) is not None}
        for name in sorted(given - {"op", *_ANYWHERE} - options.names):
            raise InterpError(f"{self.op} takes no {name!r}; it takes {', '.join(sorted(options.names))}")
        for group in options.needed:
            here = sorted(given & set(group.split("|")))
            if len(here) != 1:
                choice = group.replace("|", ", or ")
                raise InterpError(f"{self.op} has {' and '.join(here) or f'no {choice}'}; it needs one: {choice}")
        if self.op == "Cap" and self.low is None and self.high is None:
            raise InterpError("Cap has neither low nor high, so it does nothing; give one of them, or both")
        units = [str(unit) for unit in (*(self.heads or ()), *(self.neurons or ()), *(self.latents or ()))]
        if twice := [unit for unit in units if units.count(unit) > 1]:
            raise InterpError(f"{self.op} has {twice[0]} twice; name each once")
        return self

    @property
    def needs(self) -> list[str]:
        """The names of the directions that it uses."""
        names = (self.direction, self.gate.direction if self.gate else None)
        return [name for name in names if name is not None]

    def build(self, parts: "EditParts") -> list[Edit]:
        """The edits of a model, one or several. Raises where this one does not fit the model."""
        given = [(self.sae, self.latents, self.book)]
        sources = (self.gate, *map(parts.sources.get, self.needs))
        given += [(x.sae, (x.latent,), x.book) for x in sources if x is not None and x.latent is not None]
        meant = tuple(label for each in given for label in parts.autoencoders.latents(*each)[1])
        places = _OPS[self.op].build(self, parts)
        edits = (place if isinstance(place, Edit) else Edit(tuple(place[0]), place[1]) for place in places)
        return [replace(edit, op=self._wrapped(edit.op, parts), named=(*edit.named, *meant)) for edit in edits]

    def _wrapped(self, op: Op, parts: "EditParts") -> Op:
        if self.schedule is not None:
            op = Schedule(op, self.schedule.scales, self.schedule.prompt)
        if self.positions is not None:
            op = At(op, self.positions, model=parts.model)
        return op if self.gate is None else self.gate.around(op, parts)


@dataclass(frozen=True)
class EditParts:
    """What edits are built from: directions by name, their sources, and autoencoders with their model and folder."""

    directions: Mapping[str, Direction | Eraser]
    sources: Mapping[str, DirectionSource]
    autoencoders: Autoencoders
    widths: dict[Site, int] = field(default_factory=dict)

    def direction(self, name: str) -> Direction:
        """A direction by name; of an eraser, the rows that it reads."""
        fitted = self.directions[name]
        if isinstance(fitted, Direction):
            return fitted
        source = self.sources[name]
        site = Site.parse(str(source.site))
        return Direction(fitted.read.float(), site, source.position, fitted.method, fitted.model, data="")

    def eraser(self, name: str) -> Eraser:
        """An eraser by name. Raises for a direction of another kind."""
        fitted = self.directions[name]
        if isinstance(fitted, Direction):
            raise InterpError(f"direction {name!r} is {fitted}; Erase takes one by leace, sal or inlp")
        return fitted

    @property
    def model(self) -> HookedModel:
        """The model."""
        return self.autoencoders.model

    @property
    def folder(self) -> Path:
        """Folder that paths are relative to."""
        return self.autoencoders.folder

    def sites(self, edit: EditData) -> list[Site]:
        """The sites of an edit, in its layers."""
        sites = self.model.resolve(edit.sites or [])
        if edit.layers is None:
            return sites
        layers = _layers(edit.layers)
        kept = [site for site in sites if site.layer in layers]
        if not kept:
            last = self.model.n_layers - 1
            raise InterpError(
                f"layers {edit.layers} leave none of {edit.sites}; they go from 0 to {last}, the lower first"
            )
        return kept

    def names(self, edit: EditData) -> list[str]:
        """The sites of an edit as they are written, or one by one where only some layers are kept."""
        sites = self.sites(edit)
        if edit.layers is None and edit.sites is not None:
            return [edit.sites] if isinstance(edit.sites, str) else list(edit.sites)
        return [str(site) for site in sites]

    def bank(self, edit: EditData, site: Site) -> Tensor:
        """Activations of the edit's texts at a site."""
        documents = list(islice(texts(self.folder / str(edit.texts)), edit.documents or 64))
        return bank(self.model, documents, site)

    def units(self, edit: EditData) -> dict[Site, list[int]]:
        """The heads or neurons of an edit, by site."""
        kind, units = ("z", edit.heads) if edit.heads is not None else ("mlp_post", edit.neurons)
        by_site: dict[Site, list[int]] = {}
        for unit in units or ():
            text = str(unit)
            numbers = re.fullmatch(r"(\d+)\.(\d+)", text)
            if isinstance(unit, int) or numbers is None:
                raise InterpError(f"unit {text} can't be read; write LAYER.NUMBER in quotes, such as '3.5'")
            (site,) = self.model.resolve(f"{kind}.{int(numbers[1])}")
            number, count = int(numbers[2]), self.width(site)
            if number >= count:
                raise InterpError(f"unit {text} does not exist: {site} has {count}, counted from 0")
            if isinstance(unit, float) and 0 < 10 * number < count:
                raise InterpError(
                    f"unit {text} could be {text}0, which YAML reads as the same number; put it in quotes"
                )
            if number in by_site.setdefault(site, []):
                raise InterpError(f"unit {text} is there twice; leave one out")
            by_site[site].append(number)
        return by_site

    def width(self, site: Site) -> int:
        """How many heads or neurons a site has, by a pass of one token."""
        if site not in self.widths:
            self.widths[site] = self.model.capture(self.model.tokens([[0]]), site)[site].shape[2]
        return self.widths[site]


def _layers(text: int | str) -> set[int]:
    """The numbers of layers in 12, 8-20 or 0-3,8-20."""
    ranges = [re.fullmatch(r"\s*(\d{1,4})(?:\s*-\s*(\d{1,4}))?\s*", part) for part in str(text).split(",")]
    layers = {layer for each in ranges if each for layer in range(int(each[1]), int(each[2] or each[1]) + 1)}
    if None in ranges or not layers:
        raise InterpError(f"layers are {text!r}; expected a number or ranges, such as 12 or 0-3,8-20")
    return layers


def _at_strengths(edit: EditData, parts: EditParts, op: type[Project] | type[Add], *options: bool) -> list[Place]:
    direction, strength = parts.direction(str(edit.direction)), 1.0 if edit.strength is None else edit.strength
    if isinstance(strength, int | float):
        return [(parts.names(edit), op(direction, float(strength), *options))]
    groups = by_strength(strength, parts.sites(edit)).items()
    return [([str(site) for site in sites], op(direction, number, *options)) for number, sites in groups]


def _cap(edit: EditData, parts: EditParts) -> list[Place]:
    return [(parts.names(edit), Cap(parts.direction(str(edit.direction)), edit.low, edit.high))]


def _erase(edit: EditData, parts: EditParts) -> list[Place]:
    if edit.direction is not None:
        return [(parts.names(edit), Erase.of(parts.eraser(edit.direction)))]
    return [(parts.names(edit), _of_tensors(Erase, edit, parts))]


def _of_tensors(op: type[Erase] | type[LowRank], edit: EditData, parts: EditParts) -> Op:
    tensors, names = read_tensors(parts.folder / str(edit.tensors)), {each.name for each in fields(op)} - {"model"}
    if tensors.keys() != names:
        raise InterpError(f"{edit.tensors} has {', '.join(sorted(tensors))}; expected {', '.join(sorted(names))}")
    return op(**tensors, model=parts.model.reference)


def _latents(edit: EditData, parts: EditParts, op: type[Clamp] | type[Suppress], *options: Any) -> list[Place]:
    latents, _ = parts.autoencoders.latents(edit.sae, edit.latents or (), edit.book)
    made = op(parts.autoencoders[str(edit.sae)], latents, *options)
    return [([str(made.site)], made)]


def _scale(edit: EditData, parts: EditParts) -> list[Place]:
    places: list[Place] = []
    for site, units in parts.units(edit).items():
        factors = torch.ones(parts.width(site))
        factors[units] = edit.factor or 0.0
        places.append(([str(site)], Scale(factors, parts.model.reference)))
    return places


def _replace(edit: EditData, parts: EditParts, site: Site, units: list[int] | None) -> Op:
    mean = None if edit.texts is None else parts.bank(edit, site).mean(0)
    return Replace(mean, units, parts.model.reference)


def _resample(edit: EditData, parts: EditParts, site: Site, units: list[int] | None) -> Op:
    return Resample(parts.bank(edit, site), units, edit.seed or 0, parts.model.reference)


def _knockout(edit: EditData, parts: EditParts, site: Site, heads: list[int] | None) -> Op:
    return Knockout(list(edit.queries or ()), list(edit.keys or ()), heads)


def _saved(edit: EditData, parts: EditParts) -> list[Place]:
    saved = Recipe.load(parts.folder / str(edit.recipe))
    saved.bind(parts.model)  # raises where it was made for another model
    if any(each.format != FORMAT for each in saved.edits):
        raise InterpError(f"{edit.recipe} was saved in an older format, which means other tokens; make it anew")
    return [*saved.edits]


def _at_units(edit: EditData, parts: EditParts, make: Callable[..., Op]) -> list[Place]:
    """An op for each site of some units, or for each site as a whole."""
    units: Mapping[Site, list[int] | None] = dict.fromkeys(parts.sites(edit)) if edit.sites else parts.units(edit)
    return [([str(site)], make(edit, parts, site, numbers)) for site, numbers in units.items()]


@dataclass(frozen=True)
class _Options:
    """What an op takes: of each needed group, written a|b, exactly one; and how it is built."""

    needed: Sequence[str]
    optional: Sequence[str]
    build: Callable[[EditData, EditParts], list[Place]]

    @property
    def names(self) -> set[str]:
        given = {name for group in self.needed for name in group.split("|")} | {*self.optional}
        return given | {"book"} if "latents" in given else given


_UNITS = "heads|neurons"
_OPS = {
    "Project": _Options(["sites", "direction"], ["layers", "strength"], lambda e, p: _at_strengths(e, p, Project)),
    "Add": _Options(
        ["sites", "direction"],
        ["layers", "strength", "relative"],
        lambda e, p: _at_strengths(e, p, Add, bool(e.relative)),
    ),
    "Cap": _Options(["sites", "direction"], ["layers", "low", "high"], _cap),
    "Erase": _Options(["sites", "direction|tensors"], ["layers"], _erase),
    "LowRank": _Options(["sites", "tensors"], ["layers"], lambda e, p: [(p.names(e), _of_tensors(LowRank, e, p))]),
    "Clamp": _Options(
        ["sae", "latents"], ["value", "factor"], lambda e, p: _latents(e, p, Clamp, e.value or 0.0, e.factor)
    ),
    "Suppress": _Options(["sae", "latents"], ["factor"], lambda e, p: _latents(e, p, Suppress, e.factor or 0.0)),
    "Scale": _Options([_UNITS, "factor"], [], _scale),
    "Replace": _Options([f"{_UNITS}|sites"], ["layers", "texts", "documents"], lambda e, p: _at_units(e, p, _replace)),
    "Resample": _Options(
        [f"{_UNITS}|sites", "texts"], ["layers", "documents", "seed"], lambda e, p: _at_units(e, p, _resample)
    ),
    "Saved": _Options(["recipe"], [], _saved),
    "Knockout": _Options(["heads|sites", "queries", "keys"], ["layers"], lambda e, p: _at_units(e, p, _knockout)),
}
_ANYWHERE = ("positions", "schedule", "gate")
_WRAPPERS = {"At": "positions", "Schedule": "schedule", "Gate": "gate"}
