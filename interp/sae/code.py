"""A sparse code: which latents fire on each token and how strongly, with any number per token."""

from dataclasses import dataclass, replace
from importlib.util import find_spec

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag, linear

from interp.sae.compiled.native import BAGGED, address, library_for, offsets_of


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
        return bag_sums(rows, self.latents, self.values, self.tokens, self.count).to(rows.dtype)

    def dense(self, d_sae: int) -> Float[Tensor, "token d_sae"]:
        """All latents of all tokens, zeros included."""
        return self.values.new_zeros(self.count, d_sae).index_put((self.tokens, self.latents), self.values)


def bag_sums(
    rows: Float[Tensor, "row d_out"],
    index: Int[Tensor, "entry"],
    per_entry: Float[Tensor, "entry"],
    bags: Int[Tensor, "entry"],
    number: int,
    out: Float[Tensor, "bag d_out"] | None = None,
) -> Float[Tensor, "bag d_out"]:
    """For each bag, the sum of its entries' rows times their weights; entries are in the order of their bags.

    In the rows' type, or in float32, in which sums are made; then `out` may be overwritten with them.
    """
    if not number:
        return rows.new_zeros(0, rows.shape[1])
    if _has_kernels(rows.device):
        from interp.sae.compiled import kernels

        return kernels.triton_bag_sums(rows, index, per_entry, bags, number)
    offsets = offsets_of(bags, number)
    library = library_for(rows) if rows.dtype in BAGGED else None
    differentiable = torch.is_grad_enabled() and (rows.requires_grad or per_entry.requires_grad)
    if library is None or differentiable or not _within(index, len(rows)):
        return embedding_bag(index, rows, offsets[:-1], per_sample_weights=per_entry.to(rows.dtype), mode="sum")
    sums, threads = torch.empty(number, rows.shape[1]) if out is None else out, torch.get_num_threads()
    entries = rows.contiguous(), index.contiguous(), per_entry.float().contiguous(), offsets
    library.bag_sums(*map(address, entries), number, rows.shape[1], address(sums), threads)
    return sums


def bag_products(
    rows: Float[Tensor, "row d_out"],
    index: Int[Tensor, "entry"],
    along: Float[Tensor, "bag d_out"],
    bags: Int[Tensor, "entry"],
) -> Float[Tensor, "entry"]:
    """The product of each entry's row with its bag's row of `along`; entries are in the order of their bags."""
    if _has_kernels(rows.device):
        from interp.sae.compiled import kernels

        return kernels.triton_bag_products(rows, index, along, bags)
    offsets = offsets_of(bags, len(along))
    library = library_for(rows) if rows.dtype in BAGGED else None
    if library is None:
        products = torch.ops.aten._embedding_bag_per_sample_weights_backward
        return products(along, rows, index, offsets[:-1], bags, 0)
    out, threads = torch.empty(len(index)), torch.get_num_threads()
    entries = rows.contiguous(), index.contiguous(), along.contiguous(), offsets
    library.bag_products(*map(address, entries), len(along), rows.shape[1], address(out), threads)
    return out


def _within(index: Tensor, number: int) -> bool:
    """Whether all indices are of rows; compiled functions don't look."""
    if not len(index):
        return True
    least, most = torch.stack(index.aminmax()).tolist()
    return least >= 0 and most < number


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
        return _linear(x, W_enc, b_enc)
    parts = zip(x.chunk(groups, -1), W_enc.chunk(groups), b_enc.chunk(groups), strict=True)
    return torch.cat([_linear(*part) for part in parts], dim=-1)


def _linear(x: Tensor, rows: Tensor, bias: Tensor) -> Tensor:
    """The product with its bias; in bfloat16 on a CPU in one pass over the result, to the same bits."""
    fused = x.device.type == "cpu" and x.dtype == torch.bfloat16 and x.is_contiguous() and rows.is_contiguous()
    if not fused or torch.is_grad_enabled() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return linear(x, rows, bias)
    return torch.ops.mkldnn._linear_pointwise(x, rows, bias, "none", [], "")
