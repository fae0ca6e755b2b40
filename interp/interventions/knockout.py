"""Knockout: no attention flows from some tokens to some earlier ones, in chosen layers and heads.

Between layers, information at one token reaches another through attention alone. Cut the edges over which it would have
to flow, and see whether the behaviour goes: Geva et al. 2023, "Dissecting recall of factual associations in
auto-regressive language models", https://arxiv.org/abs/2304.14767. The cut keys are removed before the softmax, so the
attention of the query is redistributed over the remaining keys.

An edge from a token to itself is never cut: no query is left without a key.

Limitations: redistributed attention differs from the model's own even on the edges that are kept, and a detour over
tokens in between stays open unless its edges are cut too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor
from torch.nn.functional import pad

from interp.core.errors import InterpError
from interp.interventions.op import Op, different, nested, setting
from interp.interventions.positions import Positions
from interp.models.architectures.table import Tap, attention_mask_tap
from interp.models.forward_pass import ForwardPass
from interp.models.sites import Site

Where = str | int | Sequence[str | int] | Positions
_REPLY = {"generated", "assistant"}  # positions that every token of a reply has
_SIDE = nested(Positions, lambda side, name: side if isinstance(side, Positions) else Positions(side))
_HEADS = setting(lambda heads, name: different(heads and sorted(set(heads)), name))


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Knockout(Op):
    """Cut the edges of attention from queries to keys, in the layers at whose `z` the op is put.

    Args:
        queries: The tokens that no longer see the keys: what `At` takes, or `Positions`, also for tokens that match a
            pattern.
        keys: The tokens that are no longer seen. Keys chosen by their token are those of the prompt.
        heads: The heads in which the edges are cut, counted from 0; None for all.

    Raises:
        InterpError: A position is unknown, or the heads are empty or negative. When the recipe is bound: the site is
            not `z`, a head does not exist, or the attention implementation takes no mask.

    Example:
        >>> from interp.interventions import Knockout
        >>> cut = interp.Recipe([("z.2-4", Knockout("last", keys=3)), ("z.*", Knockout("generated", "prompt", [0, 2]))])
        >>> with model.hooked(cut):
        ...     logits = model.logits("My tea is hot.")
    """

    holdable = False  # it acts on what attention sees, not on activations

    queries: Positions = field(metadata=_SIDE)
    keys: Positions = field(metadata=_SIDE)
    heads: list[int] | None = field(metadata=_HEADS)

    def __init__(self, queries: Where, keys: Where, heads: Sequence[int] | None = None):
        self._declare(queries=queries, keys=keys, heads=heads)

    def within(self, x: Shaped[Tensor, "batch heads pos column"], passing: ForwardPass) -> Tensor:
        """What each token sees, without the edges that are cut."""
        queries, keys = self.queries.chosen(passing).to(x.device), self._keys(passing, x.shape[-1]).to(x.device)
        itself = passing.columns[:, None].to(x.device) == torch.arange(x.shape[-1], device=x.device)
        cut = (queries[:, :, None] & keys[:, None, :] & ~itself)[:, None]
        heads = torch.zeros(x.shape[1], 1, 1, dtype=torch.bool, device=x.device)
        heads[self.heads or slice(None)] = True
        return x & ~(cut & heads) if cut.any() else x

    def _keys(self, passing: ForwardPass, width: int) -> Bool[Tensor, "batch column"]:
        """Which columns are keys. Those of the prompt are noted when it is read; beams share them."""
        if passing.reads_prompt("Knockout"):
            passing.notes[self] = (self.keys.chosen(passing) & passing.of_prompt)[:, : passing.prompt]
        prompt = passing.notes[self]
        reply = bool(_REPLY & set(self.keys.names))
        return pad(prompt, (0, max(0, width - prompt.shape[1])), value=reply)

    def tap(self, config: Any, site: Site) -> Tap:
        """The layer's attention. Raises for another site than `z`, heads that do not exist, and fused attention."""
        if site.kind != "z" or site.layer is None:
            raise InterpError(f"Knockout at {site}: it cuts edges of attention; put it at z of the layers, such as z.3")
        if config._attn_implementation not in ("sdpa", "eager"):
            fused = config._attn_implementation
            raise InterpError(f"{fused} attention takes no mask of single edges; load with attn_implementation sdpa")
        if self.heads and self.heads[-1] >= config.num_attention_heads:
            count = config.num_attention_heads
            raise InterpError(f"head {self.heads[-1]} does not exist: {site} has {count} heads, counted from 0")
        return attention_mask_tap(config, site.layer)
