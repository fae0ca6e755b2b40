"""A sparse code: which latents fire on each token and how strongly, whatever their number."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag


@dataclass(frozen=True, eq=False)
class Code:
    """Entries in the order of their tokens. A value of 0 did not fire; `count` is the number of tokens."""

    values: Float[Tensor, "entry"]
    latents: Int[Tensor, "entry"]
    tokens: Int[Tensor, "entry"]
    count: int

    @classmethod
    def of_rows(cls, values: Float[Tensor, "token k"], latents: Int[Tensor, "token k"]) -> "Code":
        """As many entries for each token."""
        count, k = latents.shape
        tokens = torch.arange(count, device=latents.device).repeat_interleave(k)
        return cls(values.flatten(), latents.flatten(), tokens, count)

    @classmethod
    def of_dense(cls, features: Float[Tensor, "token d_sae"]) -> "Code":
        """The latents above zero."""
        tokens, latents = (features > 0).nonzero(as_tuple=True)
        return cls(features[tokens, latents], latents, tokens, len(features))

    @classmethod
    def joined(cls, codes: "list[Code]") -> "Code":
        """The codes of consecutive tokens as one."""
        starts = [0]
        for code in codes:
            starts.append(starts[-1] + code.count)
        tokens = [code.tokens + start for code, start in zip(codes, starts, strict=False)]
        values, latents = (torch.cat([getattr(code, name) for code in codes]) for name in ("values", "latents"))
        return cls(values, latents, torch.cat(tokens), starts[-1])

    def decode(self, rows: Float[Tensor, "d_sae d_out"]) -> Float[Tensor, "token d_out"]:
        """The sum of each token's rows, weighted by its values."""
        ends = torch.bincount(self.tokens, minlength=self.count).cumsum(0)
        starts = torch.cat([ends.new_zeros(1), ends[:-1]])[: self.count]
        if not self.count:
            return rows.new_zeros(0, rows.shape[1])
        return embedding_bag(self.latents, rows, starts, per_sample_weights=self.values.to(rows.dtype), mode="sum")

    def dense(self, d_sae: int) -> Float[Tensor, "token d_sae"]:
        """Every latent of every token, zeros included."""
        return self.values.new_zeros(self.count, d_sae).index_put((self.tokens, self.latents), self.values)
