"""A sparse code: which latents fire on each token and how strongly, with any number per token."""

from dataclasses import dataclass, replace
from importlib.util import find_spec

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag, linear


@dataclass(frozen=True, eq=False)
class Code:
    """Entries in the order of their tokens. An entry of value 0 did not fire; `count` is the number of tokens."""

    values: Float[Tensor, "entry"]
    tokens: Int[Tensor, "entry"]
    latents: Int[Tensor, "entry"]
    count: int

    @classmethod
    def of_rows(cls, values: Float[Tensor, "token k"], latents: Int[Tensor, "token k"]) -> "Code":
        """A code with k entries for each token."""
        count, k = latents.shape
        tokens = torch.arange(count, device=latents.device).repeat_interleave(k)
        return cls(values.flatten(), tokens, latents.flatten(), count)

    @classmethod
    def joined(cls, codes: "list[Code]") -> "Code":
        """The codes of consecutive tokens as one code."""
        starts = [0]
        for code in codes:
            starts.append(starts[-1] + code.count)
        tokens = [code.tokens + start for code, start in zip(codes, starts, strict=False)]
        values, latents = (torch.cat([getattr(code, name) for code in codes]) for name in ("values", "latents"))
        return cls(values, torch.cat(tokens), latents, starts[-1])

    def pick(self, entries: Int[Tensor, "n"]) -> "Code":
        """The entries with these indices."""
        return replace(self, values=self.values[entries], tokens=self.tokens[entries], latents=self.latents[entries])

    def decode(self, rows: Float[Tensor, "d_sae d_out"]) -> Float[Tensor, "token d_out"]:
        """For each token, the sum of its latents' rows, weighted by its values."""
        return bag_sums(rows, self.latents, self.values.to(rows.dtype), self.tokens, self.count)

    def dense(self, d_sae: int) -> Float[Tensor, "token d_sae"]:
        """All latents of all tokens, zeros included."""
        return self.values.new_zeros(self.count, d_sae).index_put((self.tokens, self.latents), self.values)


def bag_sums(
    rows: Float[Tensor, "row d_out"],
    index: Int[Tensor, "entry"],
    per_entry: Float[Tensor, "entry"],
    bags: Int[Tensor, "entry"],
    number: int,
) -> Float[Tensor, "bag d_out"]:
    """For each bag, the sum of its entries' rows times their weights; entries are in the order of their bags."""
    if not number:
        return rows.new_zeros(0, rows.shape[1])
    if _has_kernels(rows.device):
        from interp.sae.training import kernels

        return kernels.triton_bag_sums(rows, index, per_entry, bags, number)
    counts = torch.bincount(bags, minlength=number)
    return embedding_bag(index, rows, counts.cumsum(0) - counts, per_sample_weights=per_entry, mode="sum")


def _has_kernels(device: torch.device) -> bool:
    return device.type == "cuda" and find_spec("triton") is not None


def pre_activations(
    x: Float[Tensor, "*batch d_in"], W_enc: Float[Tensor, "d_sae d_read"], b_enc: Float[Tensor, "d_sae"]
) -> Float[Tensor, "*batch d_sae"]:
    """The encoder's output, to which the nonlinearity is applied.

    Where the encoder's rows are narrower than x, x has several parts of their width, and latents form as many equal
    groups: each group reads its own part.
    """
    groups = x.shape[-1] // W_enc.shape[1]
    if groups == 1:
        return linear(x, W_enc, b_enc)
    parts = zip(x.chunk(groups, -1), W_enc.chunk(groups), b_enc.chunk(groups), strict=True)
    return torch.cat([linear(*part) for part in parts], dim=-1)
