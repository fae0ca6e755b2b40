"""TransformerLens' verbs on a HookedModel: the same names and meanings, strict where TransformerLens is silent.

What a module of the plain model computes is taken from the plain model, with its own attention; only what no module
computes (attention pattern and scores, rotated q and k, one head's result, fused q, k and v) comes from the
TransformerBridge. Stricter: an unknown name raises with the nearest ones, as does one that never fires or that means
something else in this architecture; `stop_at_layer=n_layers` gives the last residual stream, not logits; cached tensors
are copies.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.core.errors import InterpError, nearest
from interp.models.hooks import Transform
from interp.models.sites import Site
from interp.models.tokens import Tokens

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel

Names = str | Sequence[str] | Callable[[str], bool] | None
HookFunction = Callable[..., Tensor | None]
Hooks = Iterable[tuple[str | Callable[[str], bool], HookFunction]]
Returned = str | None  # "logits", "loss" or None for neither; anything else is refused by name
LensPositions = int | slice | Sequence[int] | None


@dataclass(frozen=True)
class HookPoint:
    """What a hook function `f(tensor, hook)` is told of where it is; `ctx` is its own to keep things in."""

    site: Site
    ctx: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """TransformerLens' name of the site."""
        return self.site.hook_name

    def layer(self) -> int:
        """The layer; raises at a site that has none."""
        if self.site.layer is None:
            raise InterpError(f"{self.name} is in no layer")
        return self.site.layer


@contextmanager
def hooks(model: "HookedModel", fwd_hooks: Hooks, bwd_hooks: Hooks) -> Iterator["HookedModel"]:
    """Attach hook functions for as long as the block lasts; backward ones stay with the graphs made inside it."""
    forward = [(site, _forward(f, HookPoint(site))) for names, f in fwd_hooks for site in _sites(model, names)]
    backward = [(site, _backward(f, HookPoint(site))) for names, f in bwd_hooks for site in _sites(model, names)]
    with model.hooked([*forward, *backward]):
        yield model


def run_with_hooks(
    model: "HookedModel",
    prompts: Any,
    fwd_hooks: Hooks,
    bwd_hooks: Hooks,
    returned: Returned,
    stop_at_layer: int | None,
) -> Tensor | None:
    """See `HookedModel.run_with_hooks`."""
    fwd_hooks, bwd_hooks = list(fwd_hooks), list(bwd_hooks)
    stop = _stop(model, stop_at_layer)
    _require_output(returned, stop)
    _require_reached(model, [names for names, _ in (*fwd_hooks, *bwd_hooks)], stop)
    with hooks(model, fwd_hooks, bwd_hooks), torch.set_grad_enabled(bool(bwd_hooks) or returned == "loss"):
        output = _output(model, model.tokens(prompts), returned, stop)
    return None if returned is None else output


def run_with_cache(
    model: "HookedModel",
    prompts: Any,
    names: Names,
    stop_at_layer: int | None,
    pos_slice: LensPositions,
    remove_batch_dim: bool,
    incl_bwd: bool,
    returned: Returned,
) -> tuple[Tensor | None, Any]:
    """See `HookedModel.run_with_cache`."""
    from interp.models.bridge import activation_cache

    batch, stop = model.tokens(prompts), _stop(model, stop_at_layer)
    _require_output(returned, stop)
    if remove_batch_dim and len(batch) > 1:
        raise InterpError(f"remove_batch_dim was asked for with {len(batch)} prompts; expected one")
    if incl_bwd and returned != "loss":
        raise InterpError("incl_bwd takes gradients of the loss; pass return_type='loss'")
    sites = _own_sites(model, names, stop)
    if sites is None:
        output, found = _on_the_bridge(model, batch, names, stop, pos_slice, incl_bwd, returned)
    else:
        output, found = _on_the_model(model, batch, sites, stop, incl_bwd, returned)
        if pos_slice is not None:
            picked = _picked(pos_slice, batch.ids.shape[1])
            found = {name: x[:, picked] for name, x in found.items()}
    if remove_batch_dim:
        found = {name: x[0] for name, x in found.items()}
    cache = activation_cache(found, model.bridge, has_batch_dim=not remove_batch_dim)
    return (None if returned is None else output), cache


def _on_the_model(
    model: "HookedModel", batch: Tokens, sites: list[Site], stop: int | None, incl_bwd: bool, returned: Returned
) -> tuple[Tensor, dict[str, Tensor]]:
    found: dict[str, Tensor] = {}

    def keep(site: Site) -> Transform:
        def transform(x: Tensor) -> Tensor | None:
            copy = x.clone()
            found[site.hook_name] = copy
            if not incl_bwd:
                return None
            # The copy goes on through the model, so that it has a gradient of its own.
            return copy if copy.requires_grad else copy.requires_grad_()

        return transform

    with model.hooked([(site, keep(site)) for site in sites]), torch.set_grad_enabled(incl_bwd):
        output = _output(model, batch, returned, stop)
    if incl_bwd:
        gradients = torch.autograd.grad(output, list(found.values()), allow_unused=True)
        slopes = {
            f"{name}_grad": torch.zeros_like(x) if slope is None else slope
            for (name, x), slope in zip(found.items(), gradients, strict=True)
        }
        found = {name: x.detach() for name, x in found.items()} | slopes
    return output.detach(), found


def _on_the_bridge(
    model: "HookedModel",
    batch: Tokens,
    names: Names,
    stop: int | None,
    pos_slice: LensPositions,
    incl_bwd: bool,
    returned: Returned,
) -> tuple[Tensor, dict[str, Tensor]]:
    if model.inside_hooked:
        raise InterpError(
            "these names are computed by the bridge, which a recipe does not reach; use capture inside hooked"
        )
    if not batch.mask.all():
        raise InterpError(
            "these names are computed by the bridge, which does not mask padding; give prompts of one length, or use "
            "capture"
        )
    last = stop == model.n_layers  # where TransformerLens would return logits
    options = {"stop_at_layer": None if last else stop, "pos_slice": pos_slice, "incl_bwd": incl_bwd}
    wanted = names if callable(names) or names is None else ([names] if isinstance(names, str) else list(names))
    if isinstance(wanted, list):
        wanted = [_bridge_name(model, name) for name in wanted]
    ids, own = batch.ids.to(model.device), [(weight, weight.grad) for weight in model.hf.parameters()]
    for weight, _ in own:
        weight.grad = None
    try:
        with torch.set_grad_enabled(incl_bwd):
            output, cache = model.bridge.run_with_cache(
                ids, names_filter=wanted, return_type=returned or "logits", **options
            )
    finally:
        for weight, gradient in own:
            weight.grad = gradient  # the bridge's backward pass adds to those of the weights that it shares
    found = {name: x.detach().clone() for name, x in cache.cache_dict.items()}
    for name in wanted if isinstance(wanted, list) else ():
        if name not in found:
            raise InterpError(f"{name} never fires in {model.config.model_type}, or not before the layer to stop at")
    if last:
        output = _output(model, batch, returned, stop)
    return output.detach(), found


def _own_sites(model: "HookedModel", names: Names, stop: int | None) -> list[Site] | None:
    """The sites that the names are, if the plain model computes all of them; None if the bridge is needed."""
    if names is None:
        return None
    if callable(names):
        chosen = {site.hook_name: site for site in model.sites if _reached(site, stop) and names(site.hook_name)}
        elsewhere = [name for name in model.bridge.hook_dict if names(name) and _before(name, stop)]
        if not chosen and not elsewhere:
            raise InterpError("names_filter is true for no name that the model reaches, so nothing would be cached")
        return list(chosen.values()) if set(elsewhere) <= set(chosen) else None
    wanted = [names] if isinstance(names, str) else list(names)
    if not wanted:
        raise InterpError("names_filter names no site; expected at least one, for instance blocks.3.hook_resid_post")
    _require_reached(model, wanted, stop)
    try:
        return [site for name in wanted for site in model.resolve(name)]
    except InterpError:
        for name in wanted:
            _bridge_name(model, name)
        return None


def _bridge_name(model: "HookedModel", name: str) -> str:
    """A name that the bridge knows and that means there what it says; short forms are read too."""
    try:
        site = Site.parse(name)
    except InterpError:
        site = None
    full = name if site is None else site.hook_name
    if site is not None and site.kind == "mlp_post" and site not in model.sites:
        raise InterpError(
            f"{full} of {model.config.model_type} would be the experts' output, not what its name says; "
            "use hook_mlp_out, or an expert's own modules with torch hooks"
        )
    known = model.bridge.hook_dict
    if full not in known:
        raise InterpError(f"unknown hook {name!r}; {nearest(full, [*known, *map(str, model.sites)])}")
    return full


def _sites(model: "HookedModel", names: str | Callable[[str], bool]) -> list[Site]:
    if not callable(names):
        return model.resolve(names)
    found = [site for site in model.sites if names(site.hook_name)]
    if not found:
        raise InterpError("a hook's name filter is true for no site, so the hook would never fire")
    return found


def _stop(model: "HookedModel", stop_at_layer: int | None) -> int | None:
    """The number of blocks to run, counted from the end if negative; None for the whole model."""
    if stop_at_layer is None:
        return None
    if not isinstance(stop_at_layer, int):
        raise InterpError(f"stop_at_layer is {stop_at_layer!r}; expected a whole number of layers")
    stop = stop_at_layer + model.n_layers if stop_at_layer < 0 else stop_at_layer
    if not 0 <= stop <= model.n_layers:
        raise InterpError(f"stop_at_layer is {stop_at_layer}; expected 0 to {model.n_layers}, or less from the end")
    return stop


def _reached(site: Site, stop: int | None) -> bool:
    return stop is None or site.layer is None or site.layer < stop


def _before(name: str, stop: int | None) -> bool:
    layer = re.match(r"blocks\.(\d+)\.", name)
    return stop is None or layer is None or int(layer[1]) < stop


def _require_reached(model: "HookedModel", names: Iterable[str | Callable[[str], bool]], stop: int | None) -> None:
    """Raise for a name, or a filter all of whose sites, the model does not get to."""
    for name in names if stop is not None else ():
        try:
            sites = _sites(model, name)
        except InterpError:
            continue  # no site of the plain model: what it is, is found out later
        late = [site for site in sites if not _reached(site, stop)]
        if late and (not callable(name) or len(late) == len(sites)):
            raise InterpError(f"{late[0]} never fires: the model is stopped before layer {stop}")


def _require_output(returned: Returned, stop: int | None) -> None:
    if returned not in ("logits", "loss", None):
        raise InterpError(f"return_type is {returned!r}; expected 'logits', 'loss' or None")
    if returned == "loss" and stop is not None:
        raise InterpError("return_type='loss' needs the whole model; leave stop_at_layer out")


def _output(model: "HookedModel", batch: Tokens, returned: Returned, stop: int | None) -> Tensor:
    if stop is None:
        return model.mean_loss(batch) if returned == "loss" else model.forward(batch)
    place = Site("resid_post", stop - 1) if stop else Site("resid_pre", 0)
    return model.forward_to([place], batch.model_inputs(model.device), keep_graph=torch.is_grad_enabled())[place]


def _forward(f: HookFunction, hook: HookPoint) -> Transform:
    return lambda x: f(x, hook=hook)


def _backward(f: HookFunction, hook: HookPoint) -> Transform:
    def transform(x: Tensor) -> Tensor:
        on_the_way = x.clone() if x.requires_grad else x.clone().requires_grad_()
        on_the_way.register_hook(lambda slope: f(slope, hook=hook))
        return on_the_way

    return transform


def _picked(positions: int | slice | Sequence[int], width: int) -> slice | list[int]:
    # TransformerLens reads a tuple as the arguments of a slice, and keeps the axis of a single position.
    if isinstance(positions, slice | tuple):
        return positions if isinstance(positions, slice) else slice(*positions)
    picked = [positions] if isinstance(positions, int) else list(positions)
    for position in picked:
        if not isinstance(position, int) or not -width <= position < width:
            raise InterpError(f"pos_slice has {position!r}; expected whole numbers from {-width} to {width - 1}")
    return picked
