"""TransformerLens' methods of a HookedModel: the same names and meanings, with errors where TransformerLens is silent.

What a module of the plain model computes is taken from the plain model, with its own attention. What no module computes
(attention pattern and scores, rotated q and k, one head's result, fused q, k and v) comes from a TransformerBridge.

Differences: unknown names, hooks that never fire, and names that mean something else in this architecture raise;
`stop_at_layer=n_layers` gives the last residual stream, not logits; cached tensors are copies.

Only this module imports transformer_lens, and only inside functions. Booting a bridge replaces a model's submodules in
place, after which it can't be saved. So the bridge gets a copy of the module tree that shares every parameter and
buffer with the original: edits are visible in both.
"""

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor

from interp.core.errors import InterpError, nearest
from interp.models._plain import PlainModel
from interp.models.architectures import table
from interp.models.sites import Site
from interp.models.tokens import Prompts, Tokens

Names = str | Sequence[str] | Callable[[str], bool] | None
Name = str | Callable[[str], bool]
HookFunction = Callable[..., Tensor | None]
Hooks = Iterable[tuple[Name, HookFunction]]
ReturnType = str | None  # "logits", "loss" or None for neither
PosSlice = int | slice | Sequence[int] | None


@dataclass(frozen=True)
class HookPoint:
    """What a hook function `f(tensor, hook)` receives about its place; `ctx` is a dictionary for its own use."""

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


class TransformerLensFace(PlainModel):
    """The methods that `HookedModel` shares with TransformerLens."""

    _bridge: tuple[Any, Any] | None = None

    @property
    def bridge(self) -> Any:
        """A TransformerLens TransformerBridge that shares this model's weights, for analyses written for it.

        It has hooks of its own: a recipe applied with `hooked` does not reach it. It is built on first use, and again
        after the model moves or is edited where the bridge holds copies (fused q, k and v).
        """
        fused = () if table.architecture(self.config).qkv else self.hf.parameters()
        stamp = (self.device, self.dtype, [(x.data_ptr(), x._version) for x in fused])
        if self._bridge is None or self._bridge[0] != stamp:
            self._bridge = (stamp, _build_bridge(self.hf, self.tokenizer))
        return self._bridge[1]

    def compatibility_bridge(self, **options: Any) -> Any:
        """A bridge in TransformerLens' compatibility mode (folded norms, centred weights) on a copy of the model.

        Args:
            options: Options of TransformerLens' `enable_compatibility_mode`.

        Returns:
            A TransformerBridge with its own weights: edits of either model do not show in the other.
        """
        bridge = _build_bridge(self.hf, self.tokenizer, share=False)
        bridge.enable_compatibility_mode(**options)
        return bridge

    @property
    def cfg(self) -> Any:
        """TransformerLens' configuration of this model."""
        return self.bridge.cfg

    @property
    def hook_dict(self) -> dict[str, HookPoint]:
        """The sites by their TransformerLens names; `bridge.hook_dict` also has those that no module computes."""
        return {site.hook_name: HookPoint(site) for site in self.sites}

    @contextmanager
    def hooks(self, fwd_hooks: Hooks = (), bwd_hooks: Hooks = ()) -> Iterator[Self]:
        """TransformerLens' `hooks`: attach hook functions by name for as long as the block lasts.

        Args:
            fwd_hooks: Pairs (name, f(tensor, hook)); see `run_with_hooks`.
            bwd_hooks: The same for gradients: f receives the gradient at its site and may return another one. It
                fires for graphs made inside the block, even if the backward pass comes later.

        Raises:
            InterpError: A name is not a site of this model, or a filter accepts no site.

        Example:
            >>> with model.hooks([("mlp_out.3", lambda x, hook: 0 * x)]):
            ...     ablated = model.logits("The river of")
        """
        forward = [(site, partial(f, hook=HookPoint(site))) for names, f in fwd_hooks for site in _sites(self, names)]
        backward = [
            (site, partial(_backward, f, HookPoint(site))) for names, f in bwd_hooks for site in _sites(self, names)
        ]
        with self.hooked([*forward, *backward]):
            yield self

    def run_with_hooks(
        self,
        prompts: Prompts,
        fwd_hooks: Hooks = (),
        bwd_hooks: Hooks = (),
        return_type: ReturnType = "logits",
        stop_at_layer: int | None = None,
    ) -> Tensor | None:
        """TransformerLens' `run_with_hooks` on the plain model.

        Args:
            prompts: Texts, token ids or `Tokens`.
            fwd_hooks: Pairs (name, f(tensor, hook)). A name is a site, a pattern such as `mlp_out.*`, or a filter on
                TransformerLens' names. f returns a new tensor, or None to leave the activations.
            bwd_hooks: The same for gradients.
            return_type: "logits", "loss" (the mean, in nats per token) or None.
            stop_at_layer: Number of blocks to run; counted from the end if negative. Default: the whole model.

        Returns:
            Logits (batch, pos, d_vocab), the loss, the residual stream at `stop_at_layer`, or None. A loss, and any
            output with backward hooks, has its graph.

        Raises:
            InterpError: A name is not a site of this model, a hook would never fire, or an option is invalid.

        Example:
            >>> loss = model.run_with_hooks(
            ...     "The river is the Nim.", [("mlp_out.*", lambda x, hook: 0 * x)], return_type="loss"
            ... )
            >>> loss.item() > model.loss("The river is the Nim.")
            True
        """
        fwd_hooks, bwd_hooks = list(fwd_hooks), list(bwd_hooks)
        stop = _stop(self, stop_at_layer, return_type)
        _require_reached(self, [names for names, _ in (*fwd_hooks, *bwd_hooks)], stop)
        with self.hooks(fwd_hooks, bwd_hooks), torch.set_grad_enabled(bool(bwd_hooks) or return_type == "loss"):
            output = _output(self, self.tokens(prompts), return_type, stop)
        return None if return_type is None else output

    def run_with_cache(
        self,
        prompts: Prompts,
        names_filter: Names = None,
        *,
        stop_at_layer: int | None = None,
        pos_slice: PosSlice = None,
        remove_batch_dim: bool = False,
        incl_bwd: bool = False,
        return_type: ReturnType = "logits",
    ) -> tuple[Tensor | None, Any]:
        """TransformerLens' `run_with_cache`: the output, and an ActivationCache of copies.

        Names that modules compute come from the plain model, padding and recipes included. Other names, and all names
        at once (no filter), come from the bridge: prompts must then have one length, and no recipe may be applied.

        Args:
            prompts: Texts, token ids or `Tokens`.
            names_filter: Sites, patterns, TransformerLens' names, or a filter on those names. Default: all names.
            stop_at_layer: Number of blocks to run; counted from the end if negative. Default: the whole model.
            pos_slice: Columns to keep: an int, a slice, a tuple (arguments of a slice) or a list. Default: all.
            remove_batch_dim: Drop the batch axis of the cached tensors; for a single prompt only.
            incl_bwd: Also cache gradients of the loss, as NAME_grad.
            return_type: "logits", "loss" (the mean, in nats per token) or None.

        Returns:
            The output, detached, and the cache.

        Raises:
            InterpError: A name is unknown or never fires, or an option is invalid.

        Example:
            >>> logits, cache = model.run_with_cache("The river of", "resid_post.3")
            >>> cache["blocks.3.hook_resid_post"].shape
            torch.Size([1, 4, 192])
        """
        batch, stop = self.tokens(prompts), _stop(self, stop_at_layer, return_type)
        if remove_batch_dim and len(batch) > 1:
            raise InterpError(f"remove_batch_dim=True with {len(batch)} prompts; expected one")
        if incl_bwd and return_type != "loss":
            raise InterpError("incl_bwd takes gradients of the loss; pass return_type='loss'")
        names = [names_filter] if isinstance(names_filter, str) else names_filter
        names = names if callable(names) or names is None else list(names)
        sites = _plain_sites(self, names, stop)
        if sites is None:
            output, tensors = _run_bridge(self, batch, names, stop, pos_slice, incl_bwd, return_type)
        else:
            output, tensors = _run_plain(self, batch, sites, stop, incl_bwd, return_type)
            if pos_slice is not None:
                columns = _columns(pos_slice, batch.ids.shape[1])
                tensors = {name: x[:, columns] for name, x in tensors.items()}
        if remove_batch_dim:
            tensors = {name: x[0] for name, x in tensors.items()}
        from transformer_lens.ActivationCache import ActivationCache

        cache = ActivationCache(tensors, self.bridge, has_batch_dim=not remove_batch_dim)
        return (None if return_type is None else output), cache


def _build_bridge(hf: Any, tokenizer: Any, share: bool = True) -> Any:
    """A bridge on a copy of `hf`'s module tree that shares its parameters and buffers, or copies them."""
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    shared = {id(x): x for x in (*hf.parameters(), *hf.buffers())} if share else {}
    twin = copy.deepcopy(hf, shared)
    for module in twin.modules():
        # Built inside a `hooked` block, the copy would keep the hooks of that block for good.
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    bridge = build_bridge_from_module(twin, type(twin).__name__, hf_config=twin.config, tokenizer=None)
    # Passed to the builder, a tokenizer that exists only in memory would be looked for on disk and on the hub.
    bridge.tokenizer = tokenizer
    return bridge


def _run_plain(
    model: TransformerLensFace, batch: Tokens, sites: list[Site], stop: int | None, incl_bwd: bool, output: ReturnType
) -> tuple[Tensor, dict[str, Tensor]]:
    tensors: dict[str, Tensor] = {}

    def record(site: Site, x: Tensor) -> Tensor | None:
        tensors[site.hook_name] = x.clone()
        # For gradients, the copy goes on through the model, so that it has a gradient of its own.
        return tensors[site.hook_name].requires_grad_() if incl_bwd else None

    with model.hooked([(site, partial(record, site)) for site in sites]), torch.set_grad_enabled(incl_bwd):
        result = _output(model, batch, output, stop)
    if incl_bwd:
        gradients = torch.autograd.grad(result, list(tensors.values()), materialize_grads=True)
        named = {f"{name}_grad": gradient for name, gradient in zip(tensors, gradients, strict=True)}
        tensors = {name: x.detach() for name, x in tensors.items()} | named
    return result.detach(), tensors


def _run_bridge(
    model: TransformerLensFace,
    batch: Tokens,
    names: Names,
    stop: int | None,
    pos_slice: PosSlice,
    incl_bwd: bool,
    output: ReturnType,
) -> tuple[Tensor, dict[str, Tensor]]:
    full_names = [_bridge_name(model, name) for name in names] if isinstance(names, list) else names
    if model.inside_hooked:
        raise InterpError("these names are of the bridge, which a recipe does not reach; use capture inside hooked")
    if not batch.mask.all():
        raise InterpError("these names are of the bridge, which does not mask padding; pass prompts of one length")
    last = stop == model.n_layers  # where TransformerLens would return logits
    options = {"stop_at_layer": None if last else stop, "pos_slice": pos_slice, "incl_bwd": incl_bwd}
    gradients = [(weight, weight.grad) for weight in model.hf.parameters()]
    for weight, _ in gradients:
        weight.grad = None
    try:
        with torch.set_grad_enabled(incl_bwd):
            result, cache = model.bridge.run_with_cache(
                batch.ids.to(model.device), names_filter=full_names, return_type=output or "logits", **options
            )
    finally:
        for weight, gradient in gradients:
            weight.grad = gradient  # the bridge's backward pass adds to the gradients of the weights that it shares
    tensors = {name: x.detach().clone() for name, x in cache.cache_dict.items()}
    for name in full_names if isinstance(full_names, list) else ():
        if name not in tensors:
            raise InterpError(f"{name} never fires in {model.config.model_type}, or not before the layer to stop at")
    return (_output(model, batch, output, stop) if last else result).detach(), tensors


def _plain_sites(model: TransformerLensFace, names: Names, stop: int | None) -> list[Site] | None:
    """The sites with these names if the plain model computes all of them; None if the bridge is needed."""
    if names is None:
        return None
    if callable(names):
        sites = [site for site in model.sites if _is_before(site.hook_name, stop) and names(site.hook_name)]
        on_bridge = {name for name in model.bridge.hook_dict if names(name) and _is_before(name, stop)}
        if not sites and not on_bridge:
            raise InterpError("names_filter is true for no name that the model reaches, so nothing would be cached")
        return sites if on_bridge <= {site.hook_name for site in sites} else None
    if not names:
        raise InterpError("names_filter names no site; expected at least one, for instance blocks.3.hook_resid_post")
    _require_reached(model, names, stop)
    try:
        return [site for name in names for site in model.resolve(name)]
    except InterpError:
        return None


def _bridge_name(model: TransformerLensFace, name: str) -> str:
    """The bridge's name for a full or short name, which must mean in this architecture what it says."""
    try:
        site = Site.parse(name)
    except InterpError:
        site = None
    full_name = name if site is None else site.hook_name
    if site is not None and site.kind == "mlp_post" and site not in model.sites:
        raise InterpError(
            f"{full_name} of {model.config.model_type} would be the experts' output, not what its name says; "
            "use hook_mlp_out, or an expert's own modules with torch hooks"
        )
    known = model.bridge.hook_dict
    if full_name not in known:
        raise InterpError(f"unknown hook {name!r}; {nearest(full_name, [*known, *map(str, model.sites)])}")
    return full_name


def _sites(model: TransformerLensFace, names: Name) -> list[Site]:
    if not callable(names):
        return model.resolve(names)
    sites = [site for site in model.sites if names(site.hook_name)]
    if not sites:
        raise InterpError("a hook's name filter is true for no site, so the hook would never fire")
    return sites


def _stop(model: TransformerLensFace, stop_at_layer: int | None, output: ReturnType) -> int | None:
    """The number of blocks to run, None for the whole model; raises where it does not fit model or output."""
    if output not in ("logits", "loss", None):
        raise InterpError(f"return_type is {output!r}; expected 'logits', 'loss' or None")
    if stop_at_layer is None:
        return None
    if not isinstance(stop_at_layer, int):
        raise InterpError(f"stop_at_layer is {stop_at_layer!r}; expected a whole number of layers")
    stop = stop_at_layer + model.n_layers if stop_at_layer < 0 else stop_at_layer
    if not 0 <= stop <= model.n_layers:
        raise InterpError(f"stop_at_layer is {stop_at_layer}; expected 0 to {model.n_layers}, or negative from the end")
    if output == "loss":
        raise InterpError("return_type='loss' needs the whole model; leave stop_at_layer out")
    return stop


def _is_before(name: str, stop: int | None) -> bool:
    layer = re.match(r"blocks\.(\d+)\.", name)
    return stop is None or layer is None or int(layer[1]) < stop


def _require_reached(model: TransformerLensFace, names: Iterable[Name], stop: int | None) -> None:
    """Raise for a name that the model does not reach before the stop, or a filter that accepts only such names."""
    for name in names if stop is not None else ():
        try:
            sites = _sites(model, name)
        except InterpError:
            continue  # not a site of the plain model; the bridge's names are checked later
        late = [site for site in sites if not _is_before(site.hook_name, stop)]
        if late and (not callable(name) or len(late) == len(sites)):
            raise InterpError(f"{late[0]} never fires: the model is stopped before layer {stop}")


def _output(model: TransformerLensFace, batch: Tokens, output: ReturnType, stop: int | None) -> Tensor:
    if stop is None:
        return model.mean_loss(batch) if output == "loss" else model.forward(batch)
    site = Site("resid_post", stop - 1) if stop else Site("resid_pre", 0)
    return model.forward_to([site], batch.model_inputs(model.device), keep_graph=torch.is_grad_enabled())[site]


def _backward(f: HookFunction, hook: HookPoint, x: Tensor) -> Tensor:
    copied = x.clone().requires_grad_()
    copied.register_hook(partial(f, hook=hook))
    return copied


def _columns(positions: int | slice | Sequence[int], width: int) -> slice | list[int]:
    # TransformerLens reads a tuple as the arguments of a slice, and keeps the axis of a single position.
    if isinstance(positions, slice | tuple):
        return positions if isinstance(positions, slice) else slice(*positions)
    columns = [positions] if isinstance(positions, int) else list(positions)
    for position in columns:
        if not isinstance(position, int) or not -width <= position < width:
            raise InterpError(f"pos_slice has {position!r}; expected whole numbers from {-width} to {width - 1}")
    return columns
