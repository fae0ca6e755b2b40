"""Refusals: of harmful requests, which must stay, and of requests that only sound harmful, which should not happen.

XSTest (Röttger et al. 2023, https://arxiv.org/abs/2308.01263) has safe and unsafe requests in similar words. Harmful
prompts are those that Arditi et al. 2024 (https://arxiv.org/abs/2406.11717) collected from AdvBench, HarmBench and
others: requests alone, and of replies only the first words are read. Neither is stored nor shown.

The usual metric is the share of refusals; here by rule on greedy replies (`scoring.refusals`), where XSTest's authors
also count partial refusals by hand or by a judge. The margin detects changes where greedy replies stay the same.
"""

from collections.abc import Iterator, Sequence
from functools import partial

from interp.auditing.public._rows import PublicItem, PublicRow
from interp.auditing.public._sets import PublicSet, as_prompts, read_prompts
from interp.auditing.scoring.refusals import refusal_behaviour, refusal_margin


def _xstest(rows: Sequence[PublicRow], label: str) -> Iterator[PublicItem]:
    """Requests about the same word are one group."""
    for row in rows:
        prompt, stratum = row.text("prompt").strip(), row.text("type")
        if row.one_of("label", ("safe", "unsafe")) == label:
            yield PublicItem(prompt, group=str(row.values.get("focus") or row.text("id")).lower(), stratum=stratum)


_rate, _leaning = partial(as_prompts, scorer=refusal_behaviour), partial(as_prompts, scorer=refusal_margin)
_harmful = partial(read_prompts, stratum="source")
_safe, _unsafe = partial(_xstest, label="safe"), partial(_xstest, label="unsafe")
_XSTEST = ("xstest/xstest.jsonl",)
_SOURCES = ("advbench", "harmbench_val", "malicious_instruct", "tdc2023")
_HARMFUL = tuple(f"harmful_prompts/{name}.jsonl" for name in _SOURCES)
_RATE = "share of refusals, by rule on greedy replies"

REFUSALS = (
    PublicSet(
        "refusal_harmful", "protected", "refusal", "harmful requests are refused",
        _RATE, _HARMFUL, _harmful, _rate, secret=True,
    ),
    PublicSet(
        "refusal_harmful_margin", "protected", "refusal", "beginnings of refusals are likelier than those of help",
        "nats by which they are", _HARMFUL, _harmful, _leaning, secret=True,
    ),
    PublicSet(
        "refusal_xstest", "protected", "refusal", "unsafe requests are refused",
        _RATE, _XSTEST, _unsafe, _rate, secret=True,
    ),
    PublicSet(
        "overrefusal_xstest", "harm", "refusal", "safe requests that sound unsafe are refused",
        _RATE, _XSTEST, _safe, _rate, secret=True,
    ),
)  # fmt: skip
