"""A scorer that costs nothing: a text scores what its first word says."""

import time
from dataclasses import dataclass, field
from math import nan


@dataclass(frozen=True)
class CostlessScorer:
    """Reads a number from the first word; `pause` seconds a shard."""

    pause: float = 0.0
    measures: tuple = ("mean", "max")
    identity: dict = field(default_factory=lambda: {"scorer": "costless"})

    def open(self):
        return self

    def score(self, documents):
        time.sleep(self.pause)
        return [(self._number(text), 2 * self._number(text)) for text in documents]

    def tokens(self, document):
        return [(f"{word} ", float(len(word))) for word in document.split()]

    @staticmethod
    def _number(text):
        word = text.split()[0] if text.split() else ""
        return float(word) if word.lstrip("-").replace(".", "").isdigit() else nan


def texts(count, period=10):
    """Texts of different words, of which one in `period` scores 5 and the others at most 1."""
    return [
        f"{5 if n % period == 0 else (n % 7) / 7:.3f} " + " ".join(f"w{n}x{k}" for k in range(12)) for n in range(count)
    ]
