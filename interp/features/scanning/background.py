"""Background: a uniform sample of places in the text, with every latent that fires around each.

A latent's examples are where it fires. Where it doesn't is told by the text around places that were drawn without
regard to any latent: those of the largest pseudo-random numbers, which depend on the place alone.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import torch
from jaxtyping import Int
from torch import Tensor

from interp.features.scanning.latent_statistics import sampling_score
from interp.features.scanning.token_chunk import TokenChunk
from interp.sae.code import Code

BACKGROUND = pa.schema(
    {
        "sae": pa.string(),
        "place": pa.int64(),
        "document": pa.int64(),
        "peak": pa.int16(),
        "tokens": pa.list_(pa.string()),
        "ids": pa.list_(pa.int32()),
        "text": pa.string(),
        "latents": pa.list_(pa.int32()),
        "positions": pa.list_(pa.int16()),
        "values": pa.list_(pa.float32()),
    }
)


class Background:
    """Places drawn from the text, and the firings around them.

    Args:
        names: The autoencoders' names.
        size: Number of places.
        before: Tokens of context before a place.
        after: Tokens of context after it.

    Example:
        >>> from interp.features.scanning.background import Background
        >>> from interp.features.scanning.token_chunk import TokenChunk
        >>> from interp.sae.code import Code
        >>> background, ids = Background(["sae"], size=1, before=1, after=1), torch.tensor([1, 5, 6])
        >>> chunk = TokenChunk(0, ids, torch.zeros(3).long(), torch.arange(3), {})
        >>> background.add({"sae": Code(torch.ones(2), torch.tensor([0, 1]), torch.tensor([2, 3]), 3)}, chunk)
        >>> [(row["place"], row["tokens"], row["latents"]) for row in background.rows("sae", str)]
        [(2, ['5', '6'], [3])]
    """

    def __init__(self, names: list[str], size: int, before: int, after: int):
        self.before, self.size, self._offsets = before, size, torch.arange(-before, after + 1)
        self._windows = {
            "score": torch.zeros(0, dtype=torch.float64),
            "place": torch.zeros(0, dtype=torch.long),
            "document": torch.zeros(0, dtype=torch.long),
            "ids": torch.zeros(0, len(self._offsets), dtype=torch.long),  # -1 is outside the piece
        }
        # For each autoencoder, rows of place, position in the window, latent and value.
        self._firings = {name: torch.zeros(0, 4, dtype=torch.float64) for name in names}

    def add(self, codes: dict[str, Code], chunk: TokenChunk) -> None:
        """Draw from a chunk, whose sparse codes are given by autoencoder; first tokens of pieces do not count."""
        inner = (chunk.position > 0).nonzero().flatten()
        score = sampling_score(inner + chunk.start, torch.full_like(inner, -1))
        held = self._windows["score"]
        least = float(held.min()) if 0 < len(held) == self.size else -1.0
        best = score.topk(min(self.size, len(score)))
        tokens = inner[best.indices[best.values > least]]
        if not len(tokens):
            return
        around, inside = chunk.around(tokens, self._offsets)
        new = {
            "score": best.values[best.values > least],
            "place": tokens + chunk.start,
            "document": chunk.document[tokens],
            "ids": chunk.ids[around].where(inside, -1),
        }
        both = {name: torch.cat([x, new[name].to(x.dtype)]) for name, x in self._windows.items()}
        kept = both["score"].topk(min(self.size, len(both["score"]))).indices
        self._windows = {name: x[kept] for name, x in both.items()}
        counted = inside & (chunk.position[around] > 0)
        row, column = counted.nonzero(as_tuple=True)
        cells, start = around[row, column], inside.int().argmax(1)
        for name, code in codes.items():
            cell, entry = _entries(code, cells)
            row_of, position = row[cell], column[cell] - start[row[cell]]
            columns = (tokens[row_of] + chunk.start, position, code.latents[entry], code.values[entry])
            whole = torch.cat([self._firings[name], torch.stack([x.double() for x in columns], dim=1)])
            self._firings[name] = whole[torch.isin(whole[:, 0], self._windows["place"].double())]

    def rows(self, name: str, read: Callable[[int], str]) -> Iterator[dict[str, Any]]:
        """The rows of an autoencoder, in the order of the text."""
        firings = self._firings[name]
        for slot in self._windows["place"].argsort().tolist():
            place, ids = int(self._windows["place"][slot]), self._windows["ids"][slot]
            inside, (_, positions, latents, values) = ids >= 0, firings[firings[:, 0] == place].T
            tokens = [read(token) for token in ids[inside].tolist()]
            yield {
                "sae": name,
                "place": place,
                "document": int(self._windows["document"][slot]),
                "peak": int(inside[: self.before].sum()),
                "tokens": tokens,
                "ids": ids[inside].tolist(),
                "text": "".join(tokens),
                "latents": latents.int().tolist(),
                "positions": positions.int().tolist(),
                "values": values.tolist(),
            }

    def tensors(self) -> dict[str, Tensor]:
        """All of it, to be saved."""
        return self._windows | {str(number): x for number, x in enumerate(self._firings.values())}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Continue from saved tensors."""
        self._windows = {name: tensors[name] for name in self._windows}
        self._firings = {name: tensors[str(number)] for number, name in enumerate(self._firings)}


def _entries(code: Code, cells: Int[Tensor, "cell"]) -> tuple[Int[Tensor, "entry"], Int[Tensor, "entry"]]:
    """The positive entries of a code at some tokens: for each, the number of its cell and of the entry."""
    order = code.tokens.argsort(stable=True)
    order = order[code.values[order] > 0]
    tokens = code.tokens[order].contiguous()
    first, last = (torch.searchsorted(tokens, cells, right=right) for right in (False, True))
    count = last - first
    cell = torch.arange(len(cells)).repeat_interleave(count)
    within = torch.arange(len(cell)) - (count.cumsum(0) - count)[cell]
    return cell, order[first[cell] + within]
