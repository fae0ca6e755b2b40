"""Fold a recipe into the tensors that write the residual stream: exactly, or refused with the reason.

    inputs   heads at z and neurons at mlp_post: where they are replaced, columns of the output projection are zeroed
             and what they wrote on average is added to its bias; where they are scaled, the columns are
    sites    affine ops at a writer's site, in the recipe's order, on what the writer's tensors write (`affine_maps`)
    stream   ops at the stream's own sites, where they are maps of the writers as well (`stream_sites`)
    neurons  suppressed latents of a transcoder, by neurons that are added to the MLP (`transcoder_neurons`)

This is the order of the forward pass. Constants go into tables and biases (`bias_slots`), divided by what the model
multiplies them by later. A tied unembedding is untied first, since it reads the stream and must not change.

Hooks and weights then agree for every prompt and position. Where a norm follows a writer, the weights write the raw
output before it (`attn_raw`, `mlp_raw`; what `writers` names there), and an op after the norm does not fold: it can be
put before the norm, where it is another op (`Recipe.before_norms`). Two projections at one site act one after the
other, in the weights as with hooks, and the second restores some of what the first removed unless their directions are
orthogonal: `interp.editing.fold.subspaces.join_subspaces` makes one projection of them.

Limitations: a plan says nothing about what a recipe does to behaviour.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from interp.core.errors import InterpError, note
from interp.editing.fold import ablation, stream_sites
from interp.editing.fold.affine_maps import MapChange, TensorMap
from interp.editing.fold.bias_slots import BiasSlots
from interp.editing.fold.plan import Plan as Plan
from interp.editing.fold.plan import PlannedEdit, Status
from interp.editing.fold.stream_sites import FIRST, STREAM, covers, holders, is_constant, map_of
from interp.editing.fold.transcoder_neurons import AddedNeurons
from interp.editing.options import FoldOptions
from interp.interventions.ablation import Replace, Scale
from interp.interventions.latents import Suppress
from interp.interventions.op import Op
from interp.interventions.recipe import Edit, Recipe
from interp.models.architectures.table import site_taps
from interp.models.architectures.writers import Writer, before_norm, is_tied_elsewhere, unembedding_name, writers
from interp.models.identity import UNEMBEDDING
from interp.models.sites import WRITERS, Site, resolve

LEFT = "the token table does not change"
TensorRead = Callable[[str], Tensor]
TIED_ELSEWHERE = "llama.cpp and others tie the unembedding of {} whatever config.json says, and so run another model"
KEEP_TIED = "; --keep-tied (keep_tied) leaves the token table as it is"
TABLE_NEEDED = "the token table holds what this op adds, so it has to change; do not set leave_embedding"
_TOKENS = Site("embed")


def fold(
    recipe: Recipe,
    config: Any,
    names: Iterable[str],
    tied: bool,
    read: TensorRead | None = None,
    options: FoldOptions = FoldOptions(),  # noqa: B008 (frozen)
) -> Plan:
    """Plan a recipe's fold into a checkpoint.

    Args:
        recipe: The edit.
        config: The Hugging Face config of the model.
        names: Names of the checkpoint's tensors.
        tied: Whether the unembedding is the token table.
        read: Gives a tensor by its name. Gains of norms after writers, and weights whose inputs are ablated to their
            mean, are read while planning.
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
    read: TensorRead | None = None,
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
        edit.require_raw_writers(config.model_type)
        folding.take(edit)
    return folding.plan(tied)


def _objection(item: PlannedEdit) -> str:
    if item.status == "refused":
        return item.reason
    return f"{item}; allow it (approximate), or run the recipe with hooks (model.hooked(recipe))"


def keep_tied(recipe: Recipe, config: Any, tied: bool) -> Recipe:
    """The recipe without what it does at the token embedding, where that is the unembedding as well.

    Then the two stay tied, and hooks and weights still do the same: the recipe that is left. Its note says so.

    Args:
        recipe: The edit.
        config: The Hugging Face config.
        tied: Whether the unembedding is the token table; if not, the recipe is returned as it is.

    Raises:
        InterpError: An edit acts on the stream itself before anything else is written to it, or nothing is left.
    """
    resolved = [(edit, resolve(edit.sites, list(site_taps(config)))) for edit in recipe.edits]
    if not tied or not any(site in (_TOKENS, FIRST) for _, sites in resolved for site in sites):
        return recipe
    if any(site == FIRST for _, sites in resolved for site in sites):
        raise InterpError(f"an edit at {FIRST} is in the token table, so it can't keep that tied; put it at 'writers'")
    rest = [(edit, tuple(str(site) for site in sites if site != _TOKENS)) for edit, sites in resolved]
    if not any(sites for _, sites in rest):
        raise InterpError("the recipe acts on the token embedding alone, so nothing is left of it with keep_tied")
    left_out = f"Left out, so that the unembedding stays tied: what it does at {_TOKENS}."
    note(left_out)
    kept = [replace(edit, sites=sites) for edit, sites in rest if sites]
    return Recipe(kept, recipe.model, f"{recipe.note} {left_out}".strip())


def _unread(name: str) -> Tensor:
    raise InterpError(f"the fold depends on tensors such as {name}; give fold a function that reads them (read)")


class _Folding:
    """The mutable side of a plan: collects edits, then makes the changes."""

    def __init__(self, config: Any, names: set[str], read: TensorRead | None, options: FoldOptions):
        self.config, self.options = config, options
        self.biases = BiasSlots(config, names, writers(config, names), options.rehost)
        self.read = read or _unread
        self.neurons = AddedNeurons(config, names, self.biases, options.sharpness, self.read)
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
            self._refuse_behind_norm(site)
            return "approximate", self.neurons.take(op, site, len(self.at_site.get(site, [])))
        edit = map_of(before_norm(op, site, self.config, self.read), site.normed, self.config.hidden_size)
        if site.normed.kind not in WRITERS:
            problem = f"an op at {str(site)!r} does not fold: no single tensor writes that site of the residual stream"
            raise InterpError(f"{problem}; declare it at {stream_sites.AT_WRITERS}")
        if site == _TOKENS and self.options.leave_embedding:
            if edit.constant is not None:
                raise InterpError(TABLE_NEEDED)
            return "approximate", LEFT
        if not edit.is_zero:  # zeros stay zero in a norm
            self._refuse_behind_norm(site)
        if edit.constant is not None:
            self.biases.hold(site.normed)
        self.at_site.setdefault(site, []).append(edit)
        return self._status(edit)

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
        return self.read(weight.tensor).shape[-1 if weight.layout == "out_in" else -2]

    def _stream(self, op: Op, group: list[Site]) -> tuple[Status, str]:
        """An op at sites of the stream itself."""
        edit = map_of(op, group[0], self.config.hidden_size)
        if edit.is_constant:
            return self._vector(edit, group[0])
        whole = covers(group, self.config)
        stream_sites.refuse_stream(edit, group, whole)
        stream_sites.refuse_company(edit, whole, [(other, where is None) for other, where in self.stream])
        if self.options.leave_embedding and (edit.constant is not None or not whole):
            raise InterpError(TABLE_NEEDED)
        for site in (writer.site for writer in self.biases.written if whole):
            self._refuse_behind_norm(site)
        self.stream += [(edit, None)] if whole else [(edit, _TOKENS), (edit.linear, Site("pos_embed"))]
        return ("approximate", LEFT) if self.options.leave_embedding else self._status(edit)

    def _vector(self, edit: TensorMap, site: Site) -> tuple[Status, str]:
        stream_sites.refuse_company(edit, False, [(other, where is None) for other, where in self.stream])
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
                f"{self.config.model_type} normalises what attention and MLP write, and no weight holds an edit after "
                f"that norm at {site}; put a projection before the norm, where it is another edit (at 'writers', or by "
                "recipe.before_norms(model)), or run the recipe with hooks (model.hooked(recipe))"
            )

    def _status(self, edit: TensorMap) -> tuple[Status, str]:
        kept = self.options.keep_norms and not edit.is_constant
        return ("approximate", "written vectors keep their former norms") if kept else ("exact", "")

    def plan(self, tied: bool) -> Plan:
        """The plan of the edits so far."""
        changes = {writer.tensor: change for writer in self.biases.written if (change := self._change(writer))}
        table = next(writer.tensor for writer in self.biases.written if writer.site == _TOKENS)
        head, parted = unembedding_name(self.config), tied and table in changes
        # A file may hold the unembedding although it is tied: then that one stays.
        untie = None if {head, UNEMBEDDING} & self.biases.names or not parted else table
        config = {**self.biases.flags, **({"tie_word_embeddings": False} if parted else {}), **self.neurons.flags}
        grown = self.neurons.growths(self._after)
        warning = ""
        if is_tied_elsewhere(self.config) and (parted or not tied):
            warning = TIED_ELSEWHERE.format(self.config.model_type) + (KEEP_TIED if parted else "")
        return Plan(changes, untie, head, self.biases.created, config, tuple(self.items), grown, warning)

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
            first = ablation.written_by(ablated, self._weight(writer.site), self.read, width)
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
        sites = [site for site in self.known if site.normed == writer.site]  # before a norm, then after it
        maps = [edit.scaled(writer.scale) for site in sites for edit in self.at_site.get(site, [])]
        for edit, where in self.stream:
            if where in (None, writer.site):
                once = edit if writer.site in (where, _TOKENS) else edit.linear
                maps.append(once.scaled(writer.scale * writer.stream))
        return maps
