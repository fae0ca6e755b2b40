"""Sampled text: whole pieces of documents, drawn from all of a text with equal chances, up to a number of tokens."""

import torch
from jaxtyping import Int
from torch import Tensor

from interp.features.scanning.latent_statistics import sampling_score
from interp.features.scanning.token_chunk import TokenChunk


class SampledText:
    """The pieces with the largest pseudo-random numbers, which depend on the place of their first token alone.

    Args:
        size: Most tokens of all pieces together; one piece is kept, however long.

    Example:
        >>> from interp.features.scanning.sampled_text import SampledText
        >>> from interp.features.scanning.token_chunk import TokenChunk
        >>> text, ids = SampledText(size=4), torch.tensor([1, 5, 1, 6, 1, 7])
        >>> text.add(TokenChunk(0, ids, torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 1] * 3), {}))
        >>> [piece.tolist() for piece in text.pieces()]
        [[1, 5], [1, 7]]
    """

    def __init__(self, size: int):
        self.size = size
        self.tensors = {name: torch.zeros(0, dtype=torch.long) for name in ("place", "ids")}  # place: of the piece

    def add(self, chunk: TokenChunk) -> None:
        """Draw from a chunk."""
        piece = chunk.piece()
        new = {"place": torch.searchsorted(piece, piece) + chunk.start, "ids": chunk.ids}
        both = {name: torch.cat([x, new[name]]) for name, x in self.tensors.items()}
        score = -sampling_score(both["place"], torch.full_like(both["place"], -2))
        order = score.argsort(stable=True)
        end = torch.searchsorted(score[order].contiguous(), score[order].contiguous(), right=True)
        kept = order[(end <= self.size) | (end == end[0])]
        self.tensors = {name: x[kept] for name, x in both.items()}

    def pieces(self) -> tuple[Int[Tensor, "token"], ...]:
        """The ids of each piece, in the order of the text."""
        order = self.tensors["place"].argsort(stable=True)
        counts = self.tensors["place"][order].unique_consecutive(return_counts=True)[1]
        return self.tensors["ids"][order].split(counts.tolist())
