"""The best examples of every latent, kept while chunks come: a score, a place, and the text and values around it.

Candidates that do not exceed a latent's worst kept score are dropped at once, so that after the first chunks a merge
costs next to nothing, however many latents there are.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.features.scanning.token_chunk import TokenChunk
from interp.sae.code import Code


class ExampleTable:
    """At most `size` firings of each latent, those of the largest scores; of equal ones the earlier.

    Args:
        d_sae: Number of latents.
        size: Examples of each latent.
        before: Tokens of context before an example.
        after: Tokens of context after it.
        one_a_document: Keep at most one example of a document.
    """

    def __init__(self, d_sae: int, size: int, before: int, after: int, one_a_document: bool):
        self.one_a_document, self._offsets = one_a_document, torch.arange(-before, after + 1)
        width = len(self._offsets)
        self.tensors = {
            "score": torch.full((d_sae, size), -torch.inf, dtype=torch.float64),
            "value": torch.zeros(d_sae, size),
            "place": torch.zeros(d_sae, size, dtype=torch.long),
            "document": torch.full((d_sae, size), -1),
            "ids": torch.full((d_sae, size, width), -1, dtype=torch.int32),  # -1 is outside the piece
            "values": torch.zeros(d_sae, size, width),
        }

    @property
    def size(self) -> int:
        """Examples of each latent."""
        return self.tensors["score"].shape[1]

    def add(
        self, code: Code, scores: Float[Tensor, "entry"], chunk: TokenChunk, keys: Int[Tensor, "key"], d_sae: int
    ) -> None:
        """Merge the firings of a chunk.

        Args:
            code: The firings; their tokens are numbers in the chunk.
            scores: The score of each.
            chunk: The chunk.
            keys: Sorted `token * d_sae + latent` of the firings, whose values are in `code` in the same order.
            d_sae: Number of latents.
        """
        kept = self.tensors
        new = (scores > kept["score"].amin(1)[code.latents]).nonzero().flatten()
        if not len(new):
            return
        latents, tokens = code.latents[new], code.tokens[new]
        touched = latents.unique()
        old = kept["score"][touched]
        held = (old > -torch.inf).nonzero()
        latent = torch.cat([touched[held[:, 0]], latents])
        score = torch.cat([old[held[:, 0], held[:, 1]], scores[new].double()])
        place = torch.cat([kept["place"][touched][held[:, 0], held[:, 1]], tokens + chunk.start])
        document = torch.cat([kept["document"][touched][held[:, 0], held[:, 1]], chunk.document[tokens]])
        # Where each comes from: a slot of the table, or (negative) an entry of the code.
        origin = torch.cat([touched[held[:, 0]] * self.size + held[:, 1], -1 - new])
        order = place.argsort(stable=True)
        order = order[score[order].argsort(descending=True, stable=True)]
        order = order[latent[order].argsort(stable=True)]
        latent, document, origin, score = latent[order], document[order], origin[order], score[order]
        if self.one_a_document:
            first = _first_of_each(latent, document)
            latent, document, origin, score = latent[first], document[first], origin[first], score[first]
        rank = torch.arange(len(latent)) - torch.searchsorted(latent, latent)
        best = rank < self.size
        self._write(touched, latent[best], rank[best], origin[best], score[best], code, chunk, keys, d_sae)

    def _write(
        self,
        touched: Tensor,
        latent: Tensor,
        rank: Tensor,
        origin: Tensor,
        score: Tensor,
        code: Code,
        chunk: TokenChunk,
        keys: Tensor,
        d_sae: int,
    ) -> None:
        entries = -1 - origin[origin < 0]
        places, moved = code.tokens[entries], origin[origin >= 0]
        ids, values = self._windows(places, code.latents[entries], code, chunk, keys, d_sae)
        fresh = {
            "value": code.values[entries].float(),
            "place": places + chunk.start,
            "document": chunk.document[places],
            "ids": ids,
            "values": values,
        }
        for name, x in self.tensors.items():
            if name == "score":
                x[touched] = -torch.inf
                x[latent, rank] = score
                continue
            before = x.flatten(0, 1)[moved]  # a copy: slots are overwritten below
            x[latent[origin >= 0], rank[origin >= 0]] = before
            x[latent[origin < 0], rank[origin < 0]] = fresh[name].to(x.dtype)

    def _windows(
        self, places: Tensor, latents: Tensor, code: Code, chunk: TokenChunk, keys: Tensor, d_sae: int
    ) -> tuple[Tensor, Tensor]:
        """The ids around each place, and the latent's value on each."""
        around, inside = chunk.around(places, self._offsets)
        wanted = around * d_sae + latents[:, None]
        slot = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        fires = inside & (keys[slot] == wanted)
        return chunk.ids[around].where(inside, -1), code.values[slot].float().where(fires, 0.0)


def _first_of_each(latent: Tensor, document: Tensor) -> Bool[Tensor, "n"]:
    """True for the first of each pair, where latents are sorted and documents are not."""
    order = document.argsort(stable=True)
    order = order[latent[order].argsort(stable=True)]
    new = torch.ones(len(order), dtype=torch.bool)
    new[1:] = (latent[order].diff() != 0) | (document[order].diff() != 0)
    return torch.zeros_like(new).index_put((order,), new)
