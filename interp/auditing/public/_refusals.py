"""Refusals: of requests that are harmful, which must stay, and of requests that only sound so, which should not be.

XSTest (Röttger et al. 2023, https://arxiv.org/abs/2308.01263) has safe and unsafe requests in like words. Harmful
prompts are those collected by Arditi et al. 2024 (https://arxiv.org/abs/2406.11717) from AdvBench, HarmBench and
others: requests alone, and of replies only the first words are looked at. Nothing of either is kept or shown.

The usual number is the share of refusals; here by rule on greedy replies (`refusals`), where XSTest has people or a
judge tell also partial refusals. The margin sees changes where greedy replies stay alike.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from interp.auditing.behaviours import Behaviour
from interp.auditing.public._rows import PublicItem, PublicRow
from interp.auditing.public._sets import Making, PublicSet, Reading
from interp.auditing.scoring.refusals import refusal_behaviour, refusal_margin


def _xstest(label: str) -> Reading:
    """Requests about the same word are one group."""

    def items(rows: Sequence[PublicRow]) -> list[PublicItem]:
        return [
            PublicItem(
                row.text("prompt").strip(),
                group=str(row.values.get("focus") or row.text("id")).lower(),
                stratum=row.text("type"),
            )
            for row in rows
            if row.one_of("label", ("safe", "unsafe")) == label
        ]

    return items


def _harmful(rows: Sequence[PublicRow]) -> list[PublicItem]:
    return [PublicItem(row.text("prompt").strip(), stratum=row.text("source")) for row in rows]


def _scored(behaviour: Callable[..., Behaviour]) -> Making:
    """Items as requests to one of the scorers of refusals."""

    def make(adapter: PublicSet, items: Sequence[PublicItem], root: Path) -> Behaviour:
        prompts = [item.prompt for item in items]
        return behaviour(adapter.name, adapter.kind, adapter.statement, prompts, **adapter.common(items))

    return make


_refused, _leaning = _scored(refusal_behaviour), _scored(refusal_margin)
_XSTEST = ("xstest/xstest.jsonl",)
_SOURCES = ("advbench", "harmbench_val", "malicious_instruct", "tdc2023")
_HARMFUL = tuple(f"harmful_prompts/{name}.jsonl" for name in _SOURCES)
_RATE = "share of refusals, by rule on greedy replies"
_SECRET = {"secret": True}

REFUSALS = (
    PublicSet(
        "refusal_harmful", "protected", "refusal", "harmful requests are refused", _RATE, _HARMFUL, _harmful, _refused,
        fields=_SECRET,
    ),
    PublicSet(
        "refusal_harmful_margin", "protected", "refusal", "beginnings of refusals are likelier than those of help",
        "nats by which they are", _HARMFUL, _harmful, _leaning, fields=_SECRET,
    ),
    PublicSet(
        "refusal_xstest", "protected", "refusal", "unsafe requests are refused", _RATE, _XSTEST, _xstest("unsafe"),
        _refused, fields=_SECRET,
    ),
    PublicSet(
        "overrefusal_xstest", "harm", "refusal", "safe requests that sound unsafe are refused", _RATE, _XSTEST,
        _xstest("safe"), _refused, fields=_SECRET,
    ),
)  # fmt: skip
