"""The bridge: a TransformerLens TransformerBridge on the weights of a plain model.

It has what no module of the plain model computes: attention pattern and scores, rotated q and k, one head's result, and
q, k and v where they are fused. It does not mask padding, and a recipe does not reach it.

Booting a bridge replaces a model's submodules in place, after which it can't be saved. So the bridge gets a copy of the
module tree that shares every parameter and buffer with the original: edits are visible in both.
"""

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from interp.core.errors import InterpError, nearest
from interp.models._plain import PlainModel
from interp.models.architectures import table
from interp.models.hooks import HookFunction, hook_function
from interp.models.sites import Site
from interp.models.tokens import Tokens


class BridgedModel(PlainModel):
    """A plain model with a bridge; see the module."""

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


def cache_on_bridge(
    model: BridgedModel, batch: Tokens, names: list[str] | Callable[[str], bool] | None, **options: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    """The output of a run on the bridge, and copies of what it computes under some names.

    Args:
        model: The model.
        batch: Tokens, without padding.
        names: Full or short names, a filter on full names, or None for all.
        options: `stop_at_layer`, `pos_slice`, `incl_bwd` and `return_type`, as TransformerLens has them.

    Raises:
        InterpError: A name is unknown or never fires, a recipe is applied, or prompts differ in length.
    """
    full_names = [bridge_name(model, name) for name in names] if isinstance(names, list) else names
    _require_bridge(model, batch)
    gradients = [(weight, weight.grad) for weight in model.hf.parameters()]
    for weight, _ in gradients:
        weight.grad = None
    try:
        with torch.set_grad_enabled(options["incl_bwd"]):
            result, cache = model.bridge.run_with_cache(batch.ids.to(model.device), names_filter=full_names, **options)
    finally:
        for weight, gradient in gradients:
            weight.grad = gradient  # the bridge's backward pass adds to the gradients of the weights that it shares
    tensors = {name: x.detach().clone() for name, x in cache.cache_dict.items()}
    _require_fired(model, full_names if isinstance(full_names, list) else (), tensors)
    return result, tensors


def hooks_on_bridge(
    model: BridgedModel, batch: Tokens, hooks: Iterable[tuple[str, HookFunction, bool]], **options: Any
) -> Tensor:
    """The output of a run on the bridge with functions attached.

    Args:
        model: The model.
        batch: Tokens, without padding.
        hooks: Triples of full or short name, function, and whether it receives the gradient.
        options: `stop_at_layer` and `return_type`, as TransformerLens has them.

    Raises:
        InterpError: A name is unknown or never fires, a recipe is applied, prompts differ in length, or the stop is
            behind the last layer.
    """
    _require_bridge(model, batch)
    if options["stop_at_layer"] == model.n_layers:  # TransformerLens would return logits
        raise InterpError(f"stop_at_layer={model.n_layers} with names of the bridge has no output; leave it out")
    fired: set[str] = set()

    def run(name: str, function: Callable[[Tensor], Tensor | None], x: Tensor, hook: Any) -> Tensor | None:
        fired.add(name)
        return function(x)

    known, attached = model.bridge.hook_dict, []
    for name, function, of_gradient in hooks:
        full_name = bridge_name(model, name)
        adapted = hook_function(function, known[full_name])
        on_value = partial(on_gradient, adapted) if of_gradient else adapted
        attached.append((full_name, partial(run, full_name, on_value)))
    result = model.bridge.run_with_hooks(batch.ids.to(model.device), fwd_hooks=attached, **options)
    _require_fired(model, [name for name, _ in attached], fired)
    return result


def on_gradient(function: Callable[[Tensor], Tensor | None], x: Tensor) -> Tensor:
    """Activations that go on unchanged, and whose gradient a function receives and may replace."""
    copied = x.clone().requires_grad_()
    copied.register_hook(function)
    return copied


def bridge_name(model: BridgedModel, name: str) -> str:
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


def _require_bridge(model: BridgedModel, batch: Tokens) -> None:
    if model.is_hooked:
        raise InterpError("these names are of the bridge, which a recipe does not reach; use capture inside hooked")
    if not batch.mask.all():
        raise InterpError("these names are of the bridge, which does not mask padding; pass prompts of one length")


def _require_fired(model: BridgedModel, names: Iterable[str], fired: Iterable[str]) -> None:
    for name in names:
        if name not in fired:
            raise InterpError(f"{name} never fires in {model.config.model_type}, or not before the layer to stop at")
