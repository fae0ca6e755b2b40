"""Harms of answers to questions: common falsehoods, and naming somebody where a text does not say who.

Items are split by content as those of `harms` are. Nothing is chosen by these, so that all that is not fitted on
confirms.

- `common_falsehood`: TruthfulQA (Lin et al. 2022, arXiv:2109.07958). The margin of the best wrong answer, which people
  often give, over the best right one.
- `school_fact`: its control. ARC-Challenge (Clark et al. 2018, arXiv:1803.05457). The margin of the right answer over
  the likeliest wrong one. An edit that makes any plausible answer less likely lowers this, too.
- `unfounded_name`: BBQ (Parrish et al. 2022, arXiv:2110.08193). A text about two people does not say who of them it
  was. The margin of naming the one whom a stereotype fits over saying that it is not known.
- `stated_name`: its control. The same texts with a sentence more, which says who. The margin of the right one over the
  likelier of the other person and "not known". An edit that only says more often that nothing is known lowers this.

No text of these sets is in this repository.
"""

import random
from collections.abc import Iterator
from typing import Any

from harms import Part, Row, part_of, rows

from interp.auditing import Behaviour, choice
from interp.models.hooked import HookedModel

CATEGORIES = (
    "Age", "Disability_status", "Nationality", "Physical_appearance", "Religion", "Sexual_orientation",
)  # fmt: skip
Answered = tuple[str, str, str]  # prompt, the answer that is to lose (or to stay ahead), the other


def fitted(group: str, part: Part) -> bool:
    """Whether a group belongs to a part, where what would be chosen by confirms."""
    return (part_of(group) == "fit") == (part == "fit")


def listed(row: Row, column: str) -> list[str]:
    """The answers of a column."""
    return [answer.strip() for answer in row[f"{column} Answers"].split(";") if answer.strip()]


def false_answers(model: HookedModel, each: int = 6) -> list[Answered]:
    """Questions to fit on, each with several of its false answers beside true ones."""
    found = []
    for row in rows("truthfulqa/truthfulqa.jsonl"):
        if fitted(row["Question"], "fit"):
            sides = listed(row, "Incorrect"), listed(row, "Correct")
            pairs = [(wrong, right) for wrong in sides[0] for right in sides[1]]
            drawn = random.Random(row["Question"]).sample(pairs, min(each, len(pairs)))
            found += [(model.render(row["Question"]), *pair) for pair in drawn]
    return found


def common_falsehood(part: Part, items: int) -> Behaviour:
    """The best wrong answer against the best right one."""
    asked = [row for row in rows("truthfulqa/truthfulqa.jsonl") if fitted(row["Question"], part)][:items]
    prompts = [row["Question"] for row in asked]
    answers = [(row["Best Incorrect Answer"], row["Best Answer"]) for row in asked]
    fields = {"groups": prompts, "unit": "margin", "scenario": "truthfulness"}
    statement = "the common false answer is likelier than the true one"
    return choice("common_falsehood", "harm", statement, prompts, answers, [0] * len(prompts), **fields)


def school_rows(part: Part) -> list[Row]:
    """Rows of ARC-Challenge whose choices differ."""
    listed = [row for row in rows("capability/arc_challenge.jsonl") if fitted(row["query"], part)]
    return [row for row in listed if len({*row["choices"]}) == len(row["choices"])]


def school_pairs(model: HookedModel) -> list[Answered]:
    """Questions to fit on, each with its right answer and a wrong one."""
    found = []
    for row in school_rows("fit"):
        wrong = [text for number, text in enumerate(row["choices"]) if number != row["gold"]]
        found.append(
            (model.render(row["query"]), row["choices"][row["gold"]], random.Random(row["query"]).choice(wrong))
        )
    return found


def school_fact(part: Part, items: int) -> Behaviour:
    """The right answer against the likeliest wrong one."""
    asked = school_rows(part)[:items]
    prompts, gold = [row["query"] for row in asked], [row["gold"] for row in asked]
    answers, statement = [tuple(row["choices"]) for row in asked], "the right answer is the likeliest"
    fields = {"groups": prompts, "unit": "margin", "scenario": "truthfulness"}
    return choice("school_fact", "capability", statement, prompts, answers, gold, **fields)


def people_rows(part: Part, condition: str, items: int) -> list[Row]:
    """Rows of BBQ of a condition, categories as often."""
    found: list[Row] = []
    for category in CATEGORIES:
        drawn = [
            row
            for row in rows(f"bbq/{category}.jsonl")
            if row["condition"] == condition and fitted(f"{category} {row['template']}", part)
        ]
        random.Random(0).shuffle(drawn)
        found += drawn[: -(-items // len(CATEGORIES))]
    return found


def asked_people(row: Row) -> str:
    """The prompt of a row of BBQ."""
    return f"{row['context']} {row['question']}\nAnswer:"


def ends(row: Row) -> list[str]:
    """Its answers as they follow the prompt."""
    return [f" {answer}" for answer in row["answers"]]


def unfounded_pairs(items: int) -> list[Answered]:
    """Texts to fit on that do not say who, with each of the people beside that it is not known."""
    return [
        (asked_people(row), ends(row)[number], ends(row)[row["unknown_idx"]])
        for row in people_rows("fit", "ambig", items // 2)
        for number in range(3)
        if number != row["unknown_idx"]
    ]


def stated_pairs(items: int) -> Iterator[Answered]:
    """Texts to fit on that say who, with the right person beside each other answer."""
    for row in people_rows("fit", "disambig", items // 2):
        for number in range(3):
            if number != row["label"]:
                yield asked_people(row), ends(row)[row["label"]], ends(row)[number]


def unfounded_name(part: Part, items: int) -> Behaviour:
    """The person whom the stereotype fits against that it is not known."""
    asked = people_rows(part, "ambig", items)
    answers = [(ends(row)[row["biased_idx"]], ends(row)[row["unknown_idx"]]) for row in asked]
    statement = "a person is named where the text does not say who"
    return _about_people("unfounded_name", "harm", statement, asked, answers, [0] * len(asked))


def stated_name(part: Part, items: int) -> Behaviour:
    """The person whom the text names against the others."""
    asked = people_rows(part, "disambig", items)
    statement = "the person is named whom the text names"
    labels = [row["label"] for row in asked]
    return _about_people("stated_name", "capability", statement, asked, [tuple(ends(row)) for row in asked], labels)


def _about_people(
    name: str, kind: Any, statement: str, asked: list[Row], answers: list[tuple[str, ...]], gold: list[int]
) -> Behaviour:
    groups = [f"{row['category']} {row['template']}" for row in asked]
    fields: dict[str, Any] = {"groups": groups, "unit": "margin", "chat": False, "scenario": "bias"}
    return choice(name, kind, statement, [asked_people(row) for row in asked], answers, gold, **fields)
