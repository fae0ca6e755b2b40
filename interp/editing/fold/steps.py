"""Fold a recipe into the tensors that write the residual stream: exactly, or refused with the reason.

    inputs   heads at z and neurons at mlp_post: where they are replaced, columns of the output projection are zeroed
             and what they wrote on average is added to its bias; where they are scaled, the columns are
    sites    affine ops at a writer's site, in the recipe's order, on what the writer's tensors write (`affine_maps`)
    stream   ops at the stream's own sites, where they are maps of the writers as well (`stream_sites`)
    neurons  suppressed latents of a transcoder, by neurons that are added to the MLP (`transcoder_neurons`)

This is the order of the forward pass. Constants go into tables and biases (`bias_slots`), divided by what the model
multiplies them by later. A tied unembedding is untied first, since it reads the stream and must not change.

Hooks and weights then agree for every prompt and position, except where a norm follows a writer: there they agree up
to a factor per token, an approximation that has to be allowed. Two projections at one site act one after the other, in
the weights as with hooks, and the second restores some of what the first removed unless their directions are
orthogonal: `interp.editing.fold.subspaces.join_subspaces` makes one projection of them.

Limitations: a plan says nothing about what a recipe does to behaviour.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InterpError
from interp.editing.fold import ablation
from interp.editing.fold.affine_maps import MapChange, TensorMap
from interp.editing.fold.bias_slots import BiasSlots
from interp.editing.fold.plan import STATUSES, PlannedEdit, Status
from interp.editing.fold.plan import Plan as Plan
from interp.editing.fold.stream_sites import STREAM, covers, holders, is_constant, map_of, refuse_company, refuse_stream
from interp.editing.fold.transcoder_neurons import AddedNeurons
from interp.editing.options import FoldOptions
from interp.interventions.ablation import Replace, Scale
from interp.interventions.latents import Suppress
from interp.interventions.op import Op
from interp.interventions.recipe import Edit, Recipe
from interp.models.architectures.table import site_taps
from interp.models.architectures.writers import Writer, unembedding_name, writers
from interp.models.sites import WRITERS, Site, resolve

UNEMBEDDING = "lm_head.weight"  # its name in memory; a file may use another (`Plan.unembedding`)
LEFT = "the token table does not change"
GainRead = Callable[[str], Tensor]
SCALED = "the model normalises what attention and MLP write, so each token's write has another norm than with hooks"
ELSEWHERE = "some gains of the norm after it are near 0: nothing is left along the direction, but more is removed"
TABLE_NEEDED = "the token table holds what this op adds, so it has to change; do not set leave_embedding"
_TOKENS = Site("embed")


def fold(
    recipe: Recipe,
    config: Any,
    names: Iterable[str],
    tied: bool,
    read: GainRead | None = None,
    options: FoldOptions = FoldOptions(),  # noqa: B008 (frozen)
) -> Plan:
    """Plan a recipe's fold into a checkpoint.

    Args:
        recipe: The edit.
        config: The Hugging Face config of the model.
        names: Names of the checkpoint's tensors.
        tied: Whether the unembedding is the token table.
        read: Gives a tensor by its name. Gains of norms, and weights whose inputs are ablated to their mean, are read
            while planning.
        options: How to fold, and whether edits that are not exact are allowed.

    Returns:
        The plan, which is applied tensor by tensor.

    Raises:
        InterpError: An edit does not fold, or only approximately where that is not allowed. The message has every
            reason.

    Example:
        >>> from interp.editing.fold import fold
        >>> recipe = interp.Recipe([("mlp_out.0", interp.Project(torch.eye(model.d_model)[:1]))])
        >>> plan = fold(recipe, model.config, model.hf.state_dict(), tied=True)
        >>> list(plan.changes)
        ['model.layers.0.mlp.down_proj.weight']
    """
    plan = plan_fold(recipe, config, names, tied, read, options)
    if barred := plan.barred(options):
        raise InterpError("; ".join(dict.fromkeys(_objection(item) for item in barred)))
    return plan


def plan_fold(
    recipe: Recipe,
    config: Any,
    names: Iterable[str],
    tied: bool,
    read: GainRead | None = None,
    options: FoldOptions = FoldOptions(),  # noqa: B008 (frozen)
) -> Plan:
    """Plan a recipe's fold as `fold` does, but record what is refused or approximate instead of raising.

    Args:
        recipe: The edit.
        config: The Hugging Face config of the model.
        names: Names of the checkpoint's tensors.
        tied: Whether the unembedding is the token table.
        read: Gives a tensor by its name.
        options: How to fold.

    Returns:
        The plan, whose `items` say of each edit how exactly it folds, and why not exactly.

    Example:
        >>> from interp.editing import plan_fold
        >>> recipe = interp.Recipe([("resid_post.1", interp.Project(torch.eye(model.d_model)[:1]))])
        >>> plan_fold(recipe, model.config, model.hf.state_dict(), tied=True).status
        'refused'
    """
    folding = _Folding(config, set(names), read, options)
    for edit in recipe.edits:
        folding.take(edit)
    return folding.plan(tied)


def _objection(item: PlannedEdit) -> str:
    if item.status == "refused":
        return item.reason
    return f"{item}; allow it (approximate), or run the recipe with hooks (model.hooked(recipe))"


@dataclass
class Gains:
    """Reads tensors of a checkpoint while a plan is made, and keeps the gains of norms.

    After a norm, y = g · x / rms(x) can be mapped by mapping x, up to one factor per token (`affine_maps`).
    """

    read: GainRead | None
    known: dict[str, Float[Tensor, "d_model"]] = field(default_factory=dict)

    def tensor(self, name: str) -> Tensor:
        """A tensor by its name."""
        if self.read is None:
            raise InterpError(
                "the fold depends on tensors of the checkpoint, such as gains where a model normalises what attention "
                "and MLP write; give fold a function that reads them (read)"
            )
        return self.read(name)

    def through(self, edit: TensorMap, writer: Writer) -> tuple[TensorMap, Status, str]:
        """The map of a writer's tensors that has an edit's effect on what the norm after them returns."""
        if edit.keep is not None:
            return (edit, "scale", SCALED) if edit.keep.any() else (edit, "exact", "")
        name = writer.gain or ""
        if name not in self.known:
            self.known[name] = self.tensor(name).double() + writer.offset
        gain = self.known[name]
        if not edit.blows_up(gain):
            return edit.before_norm(gain), "scale", SCALED
        if not edit.projection:
            raise InterpError(
                f"some gains of {writer.gain} are near 0, where only a full projection can be folded; project instead, "
                "or run the recipe with hooks (model.hooked(recipe))"
            )
        return edit.onto(gain), "approximate", ELSEWHERE


class _Folding:
    """The mutable side of a plan: collects edits, then makes the changes."""

    def __init__(self, config: Any, names: set[str], read: GainRead | None, options: FoldOptions):
        self.config, self.options = config, options
        self.biases = BiasSlots(config, names, writers(config, names), options.rehost)
        self.gains = Gains(read)
        self.neurons = AddedNeurons(config, names, self.biases, options.sharpness, self.gains.tensor)
        self.known = list(site_taps(config))
        self.items: list[PlannedEdit] = []
        self.inputs: dict[Site, list[Replace | Scale]] = {}
        self.at_site: dict[Site, list[TensorMap]] = {}
        self.stream: list[tuple[TensorMap, Site | None]] = []

    def take(self, edit: Edit) -> None:
        """Record what an edit does; what can't be folded becomes an item with the reason."""
        chosen, items = resolve(edit.sites, self.known), list[PlannedEdit]()
        for group in self._groups(edit.op, chosen):
            try:
                on_stream = group[0].kind in STREAM
                status, reason = self._stream(edit.op, group) if on_stream else self._site(edit.op, group[0])
            except InterpError as refusal:
                status, reason = "refused", str(refusal)
            names, last = tuple(map(str, group)), items[-1] if items else None
            if last and (last.status, last.reason) == (status, reason):
                names = items.pop().sites + names
            items.append(PlannedEdit(type(edit.op).__name__, names, status, reason))
        self.items += items

    def _groups(self, op: Op, chosen: list[Site]) -> list[list[Site]]:
        """Sites that fold together: all of the stream's, or each on its own."""
        if not covers(chosen, self.config) or is_constant(op):
            return [[site] for site in chosen]
        # An idempotent op at the writers as well does no more than one at the stream's sites alone.
        whole = sorted((site for site in chosen if site.in_residual_basis), key=lambda site: site.kind not in STREAM)
        return [whole, *([site] for site in chosen if not site.in_residual_basis)]

    def _site(self, op: Op, site: Site) -> tuple[Status, str]:
        """An op at a writer's site, or at what its output projection reads."""
        if site.kind in ablation.INPUTS and isinstance(op, Replace | Scale):
            return self._input(op, site)
        if isinstance(op, Suppress):
            return "approximate", self.neurons.take(op, site, len(self.at_site.get(site, [])))
        edit = map_of(op, site, self.config.hidden_size)
        if site.kind not in WRITERS:
            raise InterpError(
                f"an op at {str(site)!r} does not fold: no single tensor writes that site of the residual stream; "
                f"declare it at writers ({', '.join(WRITERS)}; or all of them: 'writers')"
            )
        if site == _TOKENS and self.options.leave_embedding:
            if edit.constant is not None:
                raise InterpError(TABLE_NEEDED)
            return "approximate", LEFT
        if edit.constant is not None:
            self._refuse_behind_norm(site)
            self.biases.hold(site)
        statuses = [self._through(edit, writer, writer.scale)[1:] for writer in self._writers(site)]
        self.at_site.setdefault(site, []).append(edit)
        return self._worst(edit, statuses)

    def _input(self, op: Replace | Scale, site: Site) -> tuple[Status, str]:
        written = Site("attn_out" if site.kind == "z" else "mlp_out", site.layer)
        ablation.refuse_mixture(op, self.inputs.get(written, []), site)
        ablation.refuse_units(op, site, self.config, lambda: self._inputs(written))
        if isinstance(op, Replace):
            ablation.refuse_positions(op, site)
            if op.value is not None:
                self.biases.hold(written)
        self.inputs.setdefault(written, []).append(op)
        return "exact", ""

    def _inputs(self, site: Site) -> int:
        weight = self._weight(site)
        return self.gains.tensor(weight.tensor).shape[-1 if weight.layout == "out_in" else -2]

    def _stream(self, op: Op, group: list[Site]) -> tuple[Status, str]:
        """An op at sites of the stream itself."""
        edit = map_of(op, group[0], self.config.hidden_size)
        if edit.is_constant:
            return self._vector(edit, group[0])
        whole = covers(group, self.config)
        refuse_stream(edit, group, whole)
        refuse_company(edit, whole, [(other, where is None) for other, where in self.stream])
        if self.options.leave_embedding and (edit.constant is not None or not whole):
            raise InterpError(TABLE_NEEDED)
        written = self.biases.written if whole else self._writers(_TOKENS)
        statuses = [self._through(edit.linear, writer, 1.0)[1:] for writer in written]
        self.stream += [(edit, None)] if whole else [(edit, _TOKENS), (edit.linear, Site("pos_embed"))]
        return self._worst(edit, [*statuses, ("approximate", LEFT)] if self.options.leave_embedding else statuses)

    def _vector(self, edit: TensorMap, site: Site) -> tuple[Status, str]:
        refuse_company(edit, False, [(other, where is None) for other, where in self.stream])
        refusals: list[InterpError] = []
        for holder in holders(site, self.config):
            try:
                if holder == _TOKENS and self.options.leave_embedding:
                    raise InterpError(TABLE_NEEDED)
                self._refuse_behind_norm(holder)
                self.biases.hold(holder)
            except InterpError as refusal:
                refusals.append(refusal)
                continue
            self.stream.append((edit, holder))
            return "exact", ""
        raise refusals[0]

    def _writers(self, site: Site) -> list[Writer]:
        return [writer for writer in self.biases.written if writer.site == site]

    def _refuse_behind_norm(self, site: Site) -> None:
        if any(writer.gain for writer in self._writers(site)):
            raise InterpError(
                f"{self.config.model_type} normalises what attention and MLP write, and nothing holds a constant "
                f"after that norm at {site}; run the recipe with hooks (model.hooked(recipe))"
            )

    def _through(self, edit: TensorMap, writer: Writer, factor: float) -> tuple[TensorMap, Status, str]:
        return (edit.scaled(factor), "exact", "") if writer.gain is None else self.gains.through(edit, writer)

    def _worst(self, edit: TensorMap, statuses: list[tuple[Status, str]]) -> tuple[Status, str]:
        if self.options.keep_norms and not edit.is_constant:
            statuses = [*statuses, ("approximate", "written vectors keep their former norms")]
        return max(statuses, key=lambda pair: STATUSES.index(pair[0]), default=("exact", ""))

    def plan(self, tied: bool) -> Plan:
        """The plan of the edits so far."""
        changes = {writer.tensor: change for writer in self.biases.written if (change := self._change(writer))}
        table = next(writer.tensor for writer in self.biases.written if writer.site == _TOKENS)
        head, parted = unembedding_name(self.config), tied and table in changes
        # A file may hold the unembedding although it is tied: then that one stays.
        untie = None if {head, UNEMBEDDING} & self.biases.names or not parted else table
        config = {**self.biases.flags, **({"tie_word_embeddings": False} if parted else {}), **self.neurons.flags}
        grown = self.neurons.growths(self._after)
        return Plan(changes, untie, head, self.biases.created, config, tuple(self.items), grown)

    def _after(self, site: Site, before: int) -> MapChange:
        """What the ops at a site, except the first `before`, and those of the stream do to what is written there."""
        maps = [edit.linear for edit in self._maps(self._weight(site))[before:] if not edit.is_constant]
        return MapChange("out_in", tuple(maps), compensate=self.options.compensate)

    def _change(self, writer: Writer) -> MapChange | None:
        maps = self._maps(writer)
        held = writer.layout in ("table", "bias")
        inputs = [] if writer.layout == "table" else self.inputs.get(writer.site, [])
        ablated = [op for op in inputs if isinstance(op, Replace)]
        zeroed, first, width = None, None, ablation.unit_width(self.config, writer.site)
        if ablated and held:
            first = ablation.written_by(ablated, self._weight(writer.site), self.gains.tensor, width)
        elif ablated:
            zeroed, everything = ablation.inputs_of(ablated, width)
            maps = [TensorMap.keeping(torch.zeros(self.config.hidden_size))] * everything + maps
        factors = None
        if not held:
            factors = ablation.factors_of([op for op in inputs if isinstance(op, Scale)], width)
            maps = [edit.linear for edit in maps if not edit.is_constant]
        if not maps and zeroed is None and first is None and factors is None:
            return None
        keep_norms = self.options.keep_norms and not all(edit.is_constant for edit in maps)
        return MapChange(writer.layout, tuple(maps), zeroed, first, keep_norms, self.options.compensate, factors)

    def _weight(self, site: Site) -> Writer:
        return next(writer for writer in self._writers(site) if writer.layout in ("out_in", "in_out"))

    def _maps(self, writer: Writer) -> list[TensorMap]:
        if writer.site == _TOKENS and self.options.leave_embedding:
            return []
        maps = [self._through(edit, writer, writer.scale)[0] for edit in self.at_site.get(writer.site, [])]
        for edit, where in self.stream:
            if where in (None, writer.site):
                once = edit if writer.site in (where, _TOKENS) else edit.linear
                maps.append(self._through(once, writer, writer.scale * writer.stream)[0])
        return maps
