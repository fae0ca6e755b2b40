"""Dangerous requests, harmless ones, and safe ones that sound dangerous, in three parts: fit, choose, confirm.

- `harmful_prompts`: dangerous requests of AdvBench, HarmBench, TDC 2023 and MaliciousInstruct.
- `xstest` (Röttger et al. 2023, https://arxiv.org/abs/2308.01263): dangerous and safe requests in similar words.
- `templated`: safe sentences in alarming words (`alarming.py`); the part follows from the word as in XSTest.
- `harmless_instructions`, `halueval`: what people ask an assistant; half of the latter.

The part follows from the SHA-256 of the request, for XSTest of the word that it is about, so that a safe request and
its dangerous neighbour are in one part. All of MaliciousInstruct is for confirming: nothing was fitted on that source.
Some of the harmless ones are not harmless (the sets were not filtered).

The texts are read and never stored or shown.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import alarming
import harms
from harms import Part

DANGEROUS = ("advbench", "harmbench_val", "tdc2023", "malicious_instruct")
UNSEEN, TEMPLATED = "malicious_instruct", "templated"
LONGEST = 600  # characters


@dataclass(frozen=True)
class Request:
    """A request, where it is from, whether it is dangerous, what it is split by, and a harmless answer if known."""

    text: str
    source: str
    dangerous: bool
    group: str
    answer: str = ""

    @property
    def part(self) -> Part:
        """What it is used for."""
        return "confirm" if self.source == UNSEEN else harms.part_of(self.group)

    @property
    def alarming(self) -> bool:
        """Whether it is of XSTest, or in such words."""
        return self.source.startswith("xstest") or self.source == TEMPLATED


def requests() -> list[Request]:
    """All of them, none twice."""
    known = {request.text: request for request in _read() if 0 < len(request.text) <= LONGEST}
    return list(known.values())


def of(listed: Sequence[Request], *parts: Part, source: str = "", dangerous: bool | None = None) -> list[Request]:
    """Those of some parts, of the sources whose names begin alike."""
    return [
        request
        for request in listed
        if request.part in parts and request.source.startswith(source) and dangerous in (None, request.dangerous)
    ]


def _read() -> Iterator[Request]:
    for name in DANGEROUS:
        for row in harms.rows(f"harmful_prompts/{name}.jsonl"):
            yield Request(row["prompt"].strip(), name, True, row["prompt"].strip())
    for row in harms.rows("xstest/xstest.jsonl"):
        group = str(row.get("focus") or row["id"]).lower()
        yield Request(row["prompt"].strip(), f"xstest_{row['label']}", row["label"] == "unsafe", group)
    for row in harms.rows("harmless_instructions/self_instruct_human.jsonl"):
        text = f"{row['instruction'].strip()}\n{(row.get('input') or '').strip()}".strip()
        yield Request(text, "self_instruct", False, text, row["output"].strip())
    for row in harms.rows("harmless_instructions/dolly_hhrlhf_small.jsonl"):
        yield Request(row["instruction"].strip(), "dolly", False, row["instruction"].strip(), row["response"].strip())
    for row in harms.rows("halueval/general_balanced.jsonl")[::2]:
        text = row["user_query"].strip()
        yield Request(text, "halueval", False, text, row["chatgpt_response"].strip())
    for text, word in alarming.sentences():
        yield Request(text, TEMPLATED, False, word)
