"""Knockout: no attention flows from some tokens to some earlier ones, in chosen layers and heads.

Between layers, what is known at one token reaches another through attention alone. Cut the edges over which it would
have to flow, and see if the behaviour goes: Geva et al. 2023, "Dissecting recall of factual associations in
auto-regressive language models", https://arxiv.org/abs/2304.14767. The cut keys are taken out before the softmax, so
the query's attention is shared out among the keys that are left.

An edge from a token to itself is never cut: no query is left without a key.

What it does not know: attention that is shared out anew is no longer the attention that was, and a detour over tokens
in between stays open unless its edges are cut, too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor
from torch.nn.functional import pad

from interp.core.errors import InterpError
from interp.interventions.ops import Op
from interp.interventions.positions import Positions
from interp.models.architectures.table import Tap, attention_mask_tap
from interp.models.forward_pass import ForwardPass
from interp.models.sites import Site

Where = str | int | Sequence[str | int] | Positions
_REPLY = {"generated", "assistant"}  # positions that every token of a reply has


class Knockout(Op):
    """Cut the edges from queries to keys, at `z` of the layers chosen: `("z.4-8", Knockout("last", keys=3))`.

    Queries and keys are what `At` takes, or `Positions`, for tokens that match a pattern. Keys found by their token are
    those of the prompt. `heads` are all heads if not given.

    >>> Recipe([("z.*", Knockout("generated", keys="prompt", heads=[0, 2]))])  # doctest: +SKIP
    """

    holdable = False  # it acts on what attention sees, not on activations

    def __init__(self, queries: Where, keys: Where, heads: Sequence[int] | None = None):
        self.queries, self.keys = (x if isinstance(x, Positions) else Positions(x) for x in (queries, keys))
        self.heads = None if heads is None else sorted({int(head) for head in heads})
        if self.heads is not None and (not self.heads or self.heads[0] < 0):
            raise InterpError(f"heads are {list(heads or ())}; expected one or more numbers from 0 up, or None for all")

    def __call__(self, x: Tensor) -> Tensor:
        """Raises: which tokens these are is known in a forward pass alone."""
        raise InterpError("Knockout has to know which tokens it is given; run it in a recipe, by model.hooked")

    def within(self, x: Shaped[Tensor, "batch heads pos column"], passing: ForwardPass) -> Tensor:
        """What each token sees, without the edges that are cut."""
        queries, keys = self.queries.chosen(passing).to(x.device), self._keys(passing, x.shape[-1]).to(x.device)
        itself = passing.columns[:, None].to(x.device) == torch.arange(x.shape[-1], device=x.device)
        cut = (queries[:, :, None] & keys[:, None, :] & ~itself)[:, None]
        return x & ~(cut & self._chosen_heads(x)) if cut.any() else x

    def _keys(self, passing: ForwardPass, width: int) -> Bool[Tensor, "batch column"]:
        """Which columns are keys. What the prompt's tokens are is noted when it is read; beams share it."""
        if passing.begins:
            passing.notes[self] = (self.keys.chosen(passing) & passing.of_prompt)[:, : passing.prompt]
        elif passing.start < passing.prompt:
            raise InterpError("the prompt was read in several passes; read it in one, so that its keys can be found")
        known = passing.notes[self]
        reply = bool(_REPLY & set(self.keys.names))
        return pad(known, (0, max(0, width - known.shape[1])), value=reply)

    def _chosen_heads(self, x: Tensor) -> Bool[Tensor, "heads 1 1"]:
        heads = torch.arange(x.shape[1], device=x.device)
        chosen = heads >= 0 if self.heads is None else torch.isin(heads, torch.tensor(self.heads, device=x.device))
        return chosen[:, None, None]

    def tap(self, config: Any, site: Site) -> Tap:
        """The layer's attention. Raises for another site than `z`, heads that are not there, and fused attention."""
        if site.kind != "z" or site.layer is None:
            raise InterpError(f"Knockout at {site}: it cuts edges of attention; put it at z of the layers, such as z.3")
        if config._attn_implementation not in ("sdpa", "eager"):
            raise InterpError(
                f"attention is computed by {config._attn_implementation!r}, which takes no mask of single edges; load "
                "the model with attn_implementation sdpa or eager"
            )
        if self.heads and self.heads[-1] >= config.num_attention_heads:
            raise InterpError(f"head {self.heads[-1]} is not there: {site} has {config.num_attention_heads}, from 0")
        return attention_mask_tap(config, site.layer)

    @property
    def model(self) -> None:
        """Any."""
        return

    @property
    def width(self) -> None:
        """Any."""
        return

    def settings(self) -> dict[str, Any]:
        """Queries, keys and heads."""
        return {"queries": self.queries.settings(), "keys": self.keys.settings(), "heads": self.heads}

    def tensors(self) -> dict[str, Tensor]:
        """None."""
        return {}

    @classmethod
    def restore(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Knockout":
        """The inverse of `settings`."""
        del tensors
        queries, keys = (Positions.restore(settings[side]) for side in ("queries", "keys"))
        return cls(queries, keys, settings["heads"])
