"""What is counted of every latent of an autoencoder while chunks of tokens come, in memory that does not grow.

- Counts, sums and extremes of the values; a histogram with eight bins per octave, from 2^-16 to 2^16 (values outside
  are counted in the first and the last bin), so that quantiles follow to within a bin: at most 12.5 % of the value.
- Top examples: the largest value of each document. Sampled examples: a uniform sample of the firings, those of the
  largest pseudo-random number, which depends on place and latent alone.
- Co-firing: for each pair of latents, on how many tokens both fire: of the first 131,072 tokens, and of every fourth
  after them. The table has d_sae² counts, so autoencoders of more than `WIDEST` latents have none.

First tokens of pieces do not count: models use them as an attention sink.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.errors import InterpError
from interp.features.scanning._example_table import ExampleTable
from interp.features.scanning.token_chunk import TokenChunk
from interp.sae.code import Code

BINS, WIDEST = 256, 12_288
_ALL_PAIRS, _PAIRS_EVERY = 1 << 17, 4
_FIRST = (127 - 16) << 3  # the exponent and the first three bits of the mantissa of 2^-16, as a float32 has them


def bin_edges() -> Float[Tensor, "edge"]:
    """The edges of the histogram's bins, eight in an octave.

    >>> from interp.features import bin_edges
    >>> bin_edges()[128:137].tolist()
    [1.0, 1.125, 1.25, 1.375, 1.5, 1.625, 1.75, 1.875, 2.0]
    """
    return (torch.arange(_FIRST, _FIRST + BINS + 1, dtype=torch.int32) << 20).view(torch.float32)


def sampling_score(place: Int[Tensor, "n"], latent: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
    """A number from 0 to 1 that looks random, of a token's number and a latent (the mixing of SplitMix64)."""
    key = (place * 65_537 + latent) * -0x61C8864680B583EB
    key = (key ^ ((key >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    key = (key ^ ((key >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return ((key ^ (key >> 31)) & ((1 << 53) - 1)).double() / (1 << 53)


class LatentStatistics:
    """The counts of all latents of one autoencoder.

    Args:
        d_sae: Number of latents.
        top: Top examples of each latent.
        sampled: Sampled examples of each latent.
        before: Tokens of context before an example.
        after: Tokens of context after it.

    Example:
        >>> from interp.features.scanning.latent_statistics import LatentStatistics
        >>> from interp.features.scanning.token_chunk import TokenChunk
        >>> from interp.sae.code import Code
        >>> counts, ids = LatentStatistics(4, top=1, sampled=1, before=1, after=1), torch.tensor([1, 5, 6])
        >>> chunk = TokenChunk(0, ids, torch.zeros(3).long(), torch.arange(3), {})
        >>> counts.add(Code(torch.tensor([9.0, 2.0, 3.0]), torch.arange(3), torch.tensor([1, 1, 1]), 3), chunk)
        >>> counts.counted, counts.count.tolist(), counts.top["value"][1].tolist(), counts.top["ids"][1].tolist()
        (2, [0, 2, 0, 0], [3.0], [[5, 6, -1]])
    """

    def __init__(self, d_sae: int, top: int, sampled: int, before: int, after: int):
        self.d_sae, self.counted, self.before, self.after = d_sae, 0, before, after
        self.count, self.total = torch.zeros(d_sae, dtype=torch.long), torch.zeros(d_sae, dtype=torch.float64)
        self.smallest, self.largest = torch.full((d_sae,), torch.inf), torch.zeros(d_sae)
        self.histogram = torch.zeros(d_sae, BINS, dtype=torch.int32)
        self.pairs = torch.zeros(d_sae, d_sae if d_sae <= WIDEST else 0, dtype=torch.int32)
        self._top = ExampleTable(d_sae, top, before, after, one_a_document=True)
        # The token that follows is compared with what a latent promotes, however little context is asked for.
        self._sample = ExampleTable(d_sae, sampled, before, max(1, after), one_a_document=False)

    @property
    def top(self) -> dict[str, Tensor]:
        """The top examples: score, value, place, document, and ids and values of the text around them."""
        return self._top.tensors

    @property
    def sample(self) -> dict[str, Tensor]:
        """The sampled examples, as `top`, with one token after each at least."""
        return self._sample.tensors

    def add(self, code: Code, chunk: TokenChunk) -> None:
        """Count a chunk's code. Raises where a latent's value is not finite."""
        if not torch.isfinite(code.values).all():
            raise InterpError("a latent's value is NaN or infinite; check the autoencoder's tensors")
        code = code.pick(((code.values > 0) & (chunk.position[code.tokens] > 0)).nonzero().flatten())
        self.counted += int((chunk.position > 0).sum())
        if not len(code.values):
            return
        keys, order = (code.tokens * self.d_sae + code.latents).sort()
        code = code.pick(order)
        values, latents = code.values.float(), code.latents
        self.count += torch.bincount(latents, minlength=self.d_sae)
        self.total.index_add_(0, latents, values.double())
        self.smallest.scatter_reduce_(0, latents, values, "amin")
        self.largest.scatter_reduce_(0, latents, values, "amax")
        bins = ((values.view(torch.int32) >> 20) - _FIRST).clamp(0, BINS - 1)
        self.histogram.view(-1).index_add_(0, latents * BINS + bins, torch.ones_like(bins))
        self._add_pairs(code, chunk.start)
        self._top.add(code, values.double(), chunk, keys, self.d_sae)
        self._sample.add(code, sampling_score(code.tokens + chunk.start, latents), chunk, keys, self.d_sae)

    def _add_pairs(self, code: Code, start: int) -> None:
        """Count pairs of latents of the same token: entries at a distance of 0, then 1, and so on."""
        if not self.pairs.numel():
            return
        places = code.tokens + start
        tokens, latents = (x[(places < _ALL_PAIRS) | (places % _PAIRS_EVERY == 0)] for x in (code.tokens, code.latents))
        ones, flat = torch.ones(len(tokens), dtype=torch.int32), self.pairs.view(-1)
        for distance in range(int(torch.bincount(tokens).max()) if len(tokens) else 0):
            end = len(tokens) - distance
            same = (tokens[distance:] == tokens[:end]).nonzero().flatten()
            both = latents[same] * self.d_sae + latents[same + distance]
            flat.index_add_(0, both, ones[: len(both)])

    def tensors(self) -> dict[str, Tensor]:
        """All of it, to be saved."""
        names = ("count", "total", "smallest", "largest", "histogram", "pairs")
        tables = {"top": self.top, "sample": self.sample}
        return (
            {name: getattr(self, name) for name in names}
            | {f"{table}.{name}": x for table, part in tables.items() for name, x in part.items()}
            | {"counted": torch.tensor(self.counted)}
        )

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Continue from saved tensors."""
        for name, x in self.tensors().items():
            x.copy_(tensors[name])
        self.counted = int(tensors["counted"])

    def quantiles(self, shares: list[float]) -> Float[Tensor, "d_sae share"]:
        """The values below which these shares of a latent's firings are, NaN for one that never fires."""
        cumulative = self.histogram.double().cumsum(1)
        wanted = self.count[:, None] * torch.tensor(shares, dtype=torch.float64)
        index = torch.searchsorted(cumulative, wanted.contiguous()).clamp(max=BINS - 1)
        below = torch.where(index > 0, cumulative.gather(1, (index - 1).clamp(min=0)), 0.0)
        part = (wanted - below) / self.histogram.double().gather(1, index).clamp(min=1)
        edges = bin_edges().double()
        values = edges[index] + part * (edges[index + 1] - edges[index])
        values = torch.maximum(torch.minimum(values, self.largest[:, None].double()), self.smallest[:, None].double())
        return torch.where(self.count[:, None] > 0, values, torch.nan).float()

    def partners(self, latents: slice, number: int) -> tuple[Float[Tensor, "latent n"], Int[Tensor, "latent n"]]:
        """For each of some latents the largest Jaccard indices with others, |both| / |either|, and with which."""
        if not self.pairs.numel():
            return torch.zeros(self.d_sae, 0)[latents], torch.zeros(self.d_sae, 0, dtype=torch.long)[latents]
        both = (self.pairs[latents] + self.pairs[:, latents].T).double()
        alone = self.pairs.diagonal().double()
        both[torch.arange(len(both)), torch.arange(self.d_sae)[latents]] = 0
        either = alone[latents, None] + alone - both
        best = (both / either.clamp(min=1)).float().topk(min(number, self.d_sae), dim=1)
        return best.values, best.indices
