"""The cache: TransformerLens' ActivationCache, whose analyses also work on a plain model's own activations.

Added to TransformerLens' own: the scales of norms and the results of heads are computed from what is cached, the bridge
is built when an analysis needs it, and `logit_attrs` sums to the logits.

Here norms are not folded, so a logit is `(stream - mean) / scale * weight` times a column of the unembedding.
TransformerLens' `logit_attrs` leaves the weight out, which is right for its models with folded norms alone. With
`fold_norm` (the default) the weight belongs to the direction of a token, so that the terms are those of
TransformerLens with folded norms; without it they are TransformerLens' own on the same weights.
"""

import re
from operator import attrgetter
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.ActivationCache import ActivationCache

from interp.core.display import Card, Displayed, plural
from interp.core.errors import InterpError
from interp.models.sites import Site


class ModelCache(Displayed, ActivationCache):
    """TransformerLens' ActivationCache of a `HookedModel`. `run_with_cache` makes it.

    Args:
        tensors: The activations by TransformerLens' names.
        model: The model.
        has_batch_dim: Whether the first axis is the batch.

    Example:
        >>> _, cache = model.run_with_cache("The river of", model.sites)
        >>> terms, names = cache.decompose_resid(return_labels=True)
        >>> attributed = cache.logit_attrs(terms, " river")[:, 0, -1]
        >>> bool(torch.allclose(attributed.sum(), model.logits("The river of")[0, -1, 350], atol=1e-4))
        True
    """

    def __init__(self, tensors: dict[str, Tensor], model: Any, has_batch_dim: bool = True):
        super().__init__(tensors, None, has_batch_dim)
        self.hooked = model

    @property
    def model(self) -> Any:
        """The bridge of the model, which is built when an analysis first needs it."""
        return self.hooked.bridge

    @model.setter
    def model(self, value: Any) -> None:
        """TransformerLens' own sets it."""

    def __getitem__(self, key: Any) -> Tensor:
        """An activation by its name, site, or kind and layer; scales and head results are computed where they lack."""
        known = key.hook_name if isinstance(key, Site) else key
        try:
            return super().__getitem__(known)
        except KeyError as missing:
            name = missing.args[0]
            if name.endswith("attn.hook_result"):
                self.compute_head_results()
                return self.cache_dict[name]
            if not name.endswith(".hook_scale") or name not in self.model.hook_dict:
                raise
            return self._scale(name.removesuffix(".hook_scale"))

    def logit_attrs(
        self,
        residual_stack: Float[Tensor, "component *batch_and_pos d_model"],
        tokens: Any,
        incorrect_tokens: Any = None,
        pos_slice: Any = None,
        batch_slice: Any = None,
        has_batch_dim: bool = True,
        fold_norm: bool = True,
    ) -> Float[Tensor, "component *batch_and_pos"]:
        """What each component adds to the logit of a token, or to the difference of two, on the direct path.

        Args:
            residual_stack: Components of the final residual stream.
            tokens: A text of one token, or ids: one, one per row, or one per row and position.
            incorrect_tokens: The tokens whose logits are subtracted.
            pos_slice: The positions that the components have.
            batch_slice: The rows to take.
            has_batch_dim: Whether the components have a batch axis.
            fold_norm: Include the weight of the final norm and the scale of the logits. All components then sum to
                the logit, before any cap, but for the biases of norm and unembedding. Without it, the terms are those
                of TransformerLens on unfolded norms, which do not sum to the logit.
        """
        directions = self.hooked.tokens_to_residual_directions(tokens, fold_norm)
        if incorrect_tokens is not None:
            directions = directions - self.hooked.tokens_to_residual_directions(incorrect_tokens, fold_norm)
        scaled = self.apply_ln_to_stack(
            residual_stack, pos_slice=pos_slice, batch_slice=batch_slice, has_batch_dim=has_batch_dim
        )
        per_row = scaled.ndim == 4 and directions.ndim == 2 and len(directions) == scaled.shape[1]
        return (scaled * (directions[:, None] if per_row else directions)).sum(-1)

    def apply_slice_to_batch_dim(self, batch_slice: Any) -> "ModelCache":
        """The cache of some rows."""
        rows = super().apply_slice_to_batch_dim(batch_slice)
        return ModelCache(rows.cache_dict, self.hooked, rows.has_batch_dim)

    @torch.no_grad()
    def _scale(self, norm: str) -> Float[Tensor, "*batch_and_pos 1"]:
        """What a norm divides its input by, from the residual stream that it reads."""
        module, block = attrgetter(norm)(self.model), norm.rpartition(".")[0]
        last = f"blocks.{self.hooked.n_layers - 1}.hook_resid_post"
        # Parallel blocks have no resid_mid.
        kinds = {"ln1": ["resid_pre"], "ln2": ["resid_mid", "resid_pre"]}.get(norm.rpartition(".")[2], [])
        read = [f"{block}.hook_{kind}" for kind in kinds] or [last]
        stream = self.cache_dict.get(next((name for name in read if name in self.cache_dict), ""))
        if stream is None:
            raise InterpError(
                f"the scale of {norm} needs {read[0]}, which is not cached; run_with_cache(prompts, model.sites) "
                "caches every site"
            )
        scales: list[Tensor] = []
        handle = module.hook_scale.register_forward_hook(lambda module, args, x: scales.append(x))
        try:
            module(stream if stream.ndim > 2 else stream[None])
        finally:
            handle.remove()
        return scales[0] if stream.ndim > 2 else scales[0][0]

    def _card(self) -> Card:
        shapes: dict[tuple[str, tuple[int, ...]], int] = {}
        for name, x in self.items():
            kind = re.sub(r"^blocks\.\d+\.", "blocks.*.", name), tuple(x.shape)
            shapes[kind] = shapes.get(kind, 0) + 1
        rows = [(name, f"{plural(count, 'tensor')} {list(shape)}") for (name, shape), count in shapes.items()]
        return plural(len(self), "activation"), rows
