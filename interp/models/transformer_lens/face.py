"""TransformerLens' methods of a HookedModel: the same names and meanings, with errors where TransformerLens is silent.

What a module of the plain model computes is taken from the plain model, with its own attention. What no module computes
(attention pattern and scores, rotated q and k, one head's result, fused q, k and v) comes from a TransformerBridge.

Differences: unknown names, hooks that never fire, and names that mean something else in this architecture raise;
`stop_at_layer=n_layers` gives the last residual stream, not logits; cached tensors are copies.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InterpError, nearest
from interp.models.architectures.unembedding import final_norm, stream_logits
from interp.models.hooks import HookFunction, HookPoint, hook_function
from interp.models.sites import Site
from interp.models.tokens import Chat, Prompts, Tokens
from interp.models.transformer_lens.bridge import BridgedModel, cache_on_bridge, hooks_on_bridge, on_gradient

Names = str | Site | Sequence[str | Site] | Callable[[str], bool] | None
Name = str | Callable[[str], bool]
Hooks = Iterable[tuple[Name, HookFunction]]
ReturnType = str | None  # "logits", "loss" or None for neither
PosSlice = int | slice | Sequence[int] | None


_OF_BRIDGE = re.compile(r"[Wb]_[A-Za-z_]+|QK|OV|blocks|embed|pos_embed|ln_final")


class TransformerLensFace(BridgedModel):
    """The attributes and methods that `HookedModel` shares with TransformerLens."""

    if not TYPE_CHECKING:  # a type checker would take every name for an attribute

        def __getattr__(self, name: str) -> Any:
            if name in ("add_hook", "add_perma_hook", "reset_hooks"):
                hint = "hooks last as long as a block: with model.hooks([(name, function)])"
            elif hasattr(torch.nn.Module, name):
                hint = f"the Hugging Face model has it: model.hf.{name}"
            elif _OF_BRIDGE.fullmatch(name):
                hint = f"TransformerLens' own is model.bridge.{name}"
            else:
                hint = nearest(name, dir(type(self)))
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}; {hint}", name=name, obj=self)

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """The token embedding as the checkpoint has it, a view. The site `embed` is its rows, scaled in Gemma."""
        return self.hf.get_input_embeddings().weight

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        """The unembedding as the checkpoint has it, a view: no norm is folded into it and it is not centred."""
        return self.hf.get_output_embeddings().weight.T

    @property
    def b_U(self) -> Float[Tensor, "d_vocab"]:
        """The bias of the unembedding, a view; zeros where there is none."""
        bias = self.hf.get_output_embeddings().bias
        return self.W_U.new_zeros(self.W_U.shape[1]) if bias is None else bias

    def unembed(self, x: Float[Tensor, "*batch d_model"], norm: bool = False) -> Float[Tensor, "*batch d_vocab"]:
        """The logits of residual streams: unembedding, bias, and the scale or cap of architectures that have one.

        Args:
            x: Residual streams, or, without `norm`, what the final norm returns.
            norm: Apply the final norm first, as the logit lens does (nostalgebraist 2020). Default: as TransformerLens,
                no norm.

        Returns:
            Logits, with the graph that gradients need unless gradients are switched off.

        Raises:
            InterpError: `norm` is set and the architecture has no final norm.

        Limitations:
            Of an architecture outside the table, only a scale or cap under the usual names in its config is known.

        Example:
            >>> stream = model.capture("The river of", "resid_post.5", positions=-1)["resid_post.5"]
            >>> torch.allclose(model.unembed(stream, norm=True), model.logits("The river of", last=1), atol=1e-4)
            True
        """
        return stream_logits(self, final_norm(self)(x) if norm else x)

    def __call__(
        self, prompts: Prompts, return_type: ReturnType = "logits", stop_at_layer: int | None = None, chat: Chat = None
    ) -> Any:
        """Run the model, as a TransformerLens model is called.

        Args:
            prompts: Texts, token ids (a tensor, or a list of ids) or `Tokens`.
            return_type: "logits", "loss" (the mean, in nats per token) or None.
            stop_at_layer: Number of blocks to run; counted from the end if negative. Default: the whole model.
            chat: As in `capture`.

        Returns:
            Logits (batch, pos, d_vocab), the loss, the residual stream at `stop_at_layer`, or None. As with any
            torch module, the output has a graph unless gradients are switched off. The output of `logits` never has
            one, and that of `run_with_hooks` only if it is a loss or backward hooks are given.

        Raises:
            InterpError: A prompt or an option is invalid.

        Example:
            >>> model("The river of").shape, model("The river of", return_type="loss").ndim
            (torch.Size([1, 4, 1280]), 0)
        """
        stop = _stop(self, stop_at_layer, return_type)
        output = _output(self, self.tokens(prompts, chat=chat), return_type, stop)
        return None if return_type is None else output

    @property
    def hook_dict(self) -> dict[str, HookPoint]:
        """The sites by their TransformerLens names; `bridge.hook_dict` also has those that no module computes."""
        return {site.hook_name: HookPoint(site) for site in self.sites}

    @contextmanager
    def hooks(self, fwd_hooks: Hooks = (), bwd_hooks: Hooks = ()) -> Iterator[Self]:
        """TransformerLens' `hooks`: attach hook functions by name for as long as the block lasts.

        Args:
            fwd_hooks: Pairs (name, f) with f(x) or f(x, hook); see `run_with_hooks`.
            bwd_hooks: The same for gradients: f receives the gradient at its site and may return another one. It
                fires for graphs made inside the block, even if the backward pass comes later.

        Raises:
            InterpError: A name is not a site of this model, a filter accepts no site, or a function takes other
                arguments.

        Example:
            >>> with model.hooks([("mlp_out.3", lambda x, hook: 0 * x)]):
            ...     ablated = model.logits("The river of")
        """
        fwd_hooks, bwd_hooks = list(fwd_hooks), list(bwd_hooks)
        if any(_bridge_names(self, name) for name, _ in (*fwd_hooks, *bwd_hooks)):
            raise InterpError("some of these names are of the bridge alone; run_with_hooks and bridge.hooks take them")
        forward = [(site, f) for name, f in fwd_hooks for site in _sites(self, name)]
        backward = [
            (site, partial(on_gradient, hook_function(f, HookPoint(site))))
            for name, f in bwd_hooks
            for site in _sites(self, name)
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
        last: int = 0,
        chat: Chat = None,
    ) -> Tensor | None:
        """TransformerLens' `run_with_hooks`.

        If modules compute all names, the run is on the plain model, where padding and recipes work. With any other name
        that `run_with_cache` takes, such as `blocks.0.attn.hook_pattern`, the run is on the bridge: prompts must then
        have one length, and no recipe may be applied.

        Args:
            prompts: Texts, token ids or `Tokens`.
            fwd_hooks: Pairs (name, f) with f(x) or f(x, hook). A name is a site, a pattern such as `mlp_out.*`,
                TransformerLens' name, or a filter on TransformerLens' names. A filter that accepts any site chooses
                sites only, and otherwise names of the bridge. f returns a new tensor, or None to leave the activations.
            bwd_hooks: The same for gradients.
            return_type: "logits", "loss" (the mean, in nats per token) or None.
            stop_at_layer: Number of blocks to run; counted from the end if negative. Default: the whole model.
            last: Compute the logits at this many last positions only. Default 0: at all positions.
            chat: As in `capture`.

        Returns:
            Logits (batch, pos, d_vocab), the loss, the residual stream at `stop_at_layer`, or None. A loss, and any
            output with backward hooks, has its graph.

        Raises:
            InterpError: A name is unknown, a hook would never fire or takes other arguments, or an option is invalid.

        Example:
            >>> loss = model.run_with_hooks(
            ...     "The river is the Nim.", [("mlp_out.*", lambda x, hook: 0 * x)], return_type="loss"
            ... )
            >>> loss.item() > model.loss("The river is the Nim.")
            True
        """
        fwd_hooks, bwd_hooks = list(fwd_hooks), list(bwd_hooks)
        batch, stop = self.tokens(prompts, chat=chat), _stop(self, stop_at_layer, return_type)
        if last and (stop is not None or return_type == "loss"):
            raise InterpError(f"last={last} chooses positions of the logits; leave it out for a loss or an early stop")
        names = {name: _bridge_names(self, name) for name, _ in (*fwd_hooks, *bwd_hooks)}
        _require_reached(self, names, stop)
        with torch.set_grad_enabled(bool(bwd_hooks) or return_type == "loss"):
            if any(names.values()):
                hooks = [
                    (hook_name, f, of_gradient)
                    for pairs, of_gradient in ((fwd_hooks, False), (bwd_hooks, True))
                    for name, f in pairs
                    for hook_name in names[name] or map(str, _sites(self, name))
                ]
                output = hooks_on_bridge(self, batch, hooks, stop_at_layer=stop, return_type=return_type or "logits")
                output = output[:, -last:] if last else output
            else:
                with self.hooks(fwd_hooks, bwd_hooks):
                    output = _output(self, batch, return_type, stop, last)
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
        chat: Chat = None,
    ) -> tuple[Tensor | None, Any]:
        """TransformerLens' `run_with_cache`: the output, and an ActivationCache of copies.

        Names that modules compute come from the plain model, where padding and recipes work. Other names, and all names
        at once (no filter), come from the bridge: prompts must then have one length, and no recipe may be applied.

        Args:
            prompts: Texts, token ids or `Tokens`.
            names_filter: Sites, patterns, TransformerLens' names, or a filter on those names; `model.sites` for all
                that modules compute, on the model's own attention. Default: all names.
            stop_at_layer: Number of blocks to run; counted from the end if negative. Default: the whole model.
            pos_slice: Columns to keep: an int, a slice, a tuple (arguments of a slice) or a list. Default: all.
            remove_batch_dim: Drop the batch axis of the cached tensors; for a single prompt only.
            incl_bwd: Also cache gradients of the loss, as NAME_grad.
            return_type: "logits", "loss" (the mean, in nats per token) or None.
            chat: As in `capture`.

        Returns:
            The output, detached, and the cache.

        Raises:
            InterpError: A name is unknown or never fires, or an option is invalid.

        Example:
            >>> logits, cache = model.run_with_cache("The river of", "resid_post.3")
            >>> cache["blocks.3.hook_resid_post"].shape
            torch.Size([1, 4, 192])
        """
        batch, stop = self.tokens(prompts, chat=chat), _stop(self, stop_at_layer, return_type)
        if remove_batch_dim and len(batch) > 1:
            raise InterpError(f"remove_batch_dim=True with {len(batch)} prompts; expected one")
        if incl_bwd and return_type != "loss":
            raise InterpError("incl_bwd takes gradients of the loss; pass return_type='loss'")
        names = _listed(names_filter)
        sites = _plain_sites(self, names, stop)
        if sites is None:
            behind = stop == self.n_layers  # where TransformerLens would return logits
            options = {"stop_at_layer": None if behind else stop, "pos_slice": pos_slice, "incl_bwd": incl_bwd}
            output, tensors = cache_on_bridge(self, batch, names, return_type=return_type or "logits", **options)
            output = (_output(self, batch, return_type, stop) if behind else output).detach()
        else:
            output, tensors = _run_plain(self, batch, sites, stop, incl_bwd, return_type)
            if pos_slice is not None:
                columns = _columns(pos_slice, batch.ids.shape[1])
                tensors = {name: x[:, columns] for name, x in tensors.items()}
        if remove_batch_dim:
            tensors = {name: x[0] for name, x in tensors.items()}
        from interp.models.transformer_lens.cache import ModelCache

        cache: Any = ModelCache(tensors, self, has_batch_dim=not remove_batch_dim)
        cache._ipython_key_completions_ = cache.keys  # so that a notebook completes cache["
        return (None if return_type is None else output), cache


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


def _listed(names: Names) -> list[str] | Callable[[str], bool] | None:
    if names is None or callable(names):
        return names
    return [str(name) for name in ([names] if isinstance(names, str | Site) else names)]


def _plain_sites(
    model: TransformerLensFace, names: list[str] | Callable[[str], bool] | None, stop: int | None
) -> list[Site] | None:
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


def _bridge_names(model: TransformerLensFace, names: Name) -> list[str]:
    """The names of the bridge that a name or filter chooses where it chooses no site; raises for an unknown one."""
    try:
        _sites(model, names)
        return []
    except InterpError:
        # A name without "hook_" is short for a site: no bridge is built to say that there is none.
        known = model.bridge.hook_dict if callable(names) or "hook_" in names else ()
        chosen = [name for name in known if (names(name) if callable(names) else name == names)]
        if not chosen:
            raise
        return chosen


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


def _output(model: TransformerLensFace, batch: Tokens, output: ReturnType, stop: int | None, last: int = 0) -> Tensor:
    if stop is None:
        return model.mean_loss(batch) if output == "loss" else model.forward(batch, last)
    site = Site("resid_post", stop - 1) if stop else Site("resid_pre", 0)
    return model.forward_to([site], batch.model_inputs(model.device), keep_graph=torch.is_grad_enabled())[site]


def _columns(positions: int | slice | Sequence[int], width: int) -> slice | list[int]:
    # TransformerLens reads a tuple as the arguments of a slice, and keeps the axis of a single position.
    if isinstance(positions, slice | tuple):
        return positions if isinstance(positions, slice) else slice(*positions)
    columns = [positions] if isinstance(positions, int) else list(positions)
    for position in columns:
        if not isinstance(position, int) or not -width <= position < width:
            raise InterpError(f"pos_slice has {position!r}; expected whole numbers from {-width} to {width - 1}")
    return columns
