"""Near-duplicates: MinHash signatures of documents (datasketch), and the bands by which candidates are found.

Two documents are near-duplicates if the Jaccard similarity of their sets of five-word shingles, in lower case, is at
least a threshold. A signature of 128 hashes estimates it with a standard error of at most 0.044 (Broder 1997).
Documents that share a band of hashes are candidates (Indyk and Motwani 1998); `score_table` compares their signatures.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import xxhash

from interp.core.errors import InterpError
from interp.data.corpora import Document

_HASHES, _WORDS = 128, 5


@dataclass(frozen=True)
class DuplicateHasher:
    """Signatures and bands for a threshold.

    Args:
        threshold: The Jaccard similarity from which documents are near-duplicates, above 0 and at most 1.

    Raises:
        InterpError: The threshold is outside its range, or datasketch is not installed.

    Example:
        >>> from interp.upkeep.curation.near_duplicates import DuplicateHasher
        >>> hasher = DuplicateHasher(0.8)
        >>> signature = hasher.signature("the mill is by the river and the river is wide .")
        >>> len(signature), len(hasher.bands(signature))
        (512, 9)
    """

    threshold: float

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise InterpError(f"near_duplicates is {self.threshold}; expected a similarity above 0 and at most 1")
        _ = self._empty

    @cached_property
    def _empty(self) -> Any:
        try:
            from datasketch import MinHash
        except ImportError:
            raise InterpError(
                "near-duplicates need datasketch; install it with: pip install 'interp[curate]', or pass 0 to leave "
                "them out"
            ) from None
        return MinHash(num_perm=_HASHES, hashfunc=xxhash.xxh32_intdigest, scheme="affine32")

    @cached_property
    def _ranges(self) -> list[tuple[int, int]]:
        from datasketch import MinHashLSH

        return MinHashLSH(threshold=self.threshold, num_perm=_HASHES).hashranges

    def signature(self, document: Document) -> bytes:
        """Its MinHash signature: 128 numbers of four bytes."""
        text = document if isinstance(document, str) else " ".join(turn["content"] for turn in document)
        words = text.lower().split()
        last = max(1, len(words) - _WORDS + 1)
        minhash = self._empty.copy()
        minhash.update_batch([" ".join(words[start : start + _WORDS]).encode() for start in range(last)])
        return minhash.hashvalues.astype("<u4").tobytes()

    def bands(self, signature: bytes) -> list[int]:
        """A hash of 63 bits of each band."""
        ends = [(4 * first, 4 * last) for first, last in self._ranges]
        return [xxhash.xxh3_64_intdigest(signature[a:b], seed=band) >> 1 for band, (a, b) in enumerate(ends)]


def similarity(signature: bytes, other: bytes) -> float:
    """The estimated Jaccard similarity of the documents with these signatures.

    >>> similarity(bytes(8), bytes(4) + bytes([1, 0, 0, 0]))
    0.5
    """
    import numpy as np

    return float((np.frombuffer(signature, "<u4") == np.frombuffer(other, "<u4")).mean())
