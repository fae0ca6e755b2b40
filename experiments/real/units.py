"""Write the recipe file of a harm: which neurons and heads carry it, and the factors that lower it and little else.

    python experiments/real/units.py smollm2_gender --steps 60 --units 150 --weight 120 --bfloat16

Factors are learned on the fitting half of the harm's items (`interp.search.learn_factors`). What is to be kept:

- excerpts of plain text,
- beginnings of refusals and of help after dangerous requests, and after harmless ones,
- the harm's control, in other words than those that it is measured with,
- with `--hold refusals`: the first token, which decides whether a request is refused, of replies to requests that are
  close to a refusal, safe ones in alarming words and dangerous ones; with `--hold school`: margins of right answers of
  ARC-Challenge over wrong ones.

No audit reads any of these. `run.py` confirms the recipe on items of their own.
"""

import argparse
import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import harms
import questions
import request
import torch
import yaml
from run import CACHE, HERE, MODELS

import interp
from interp.auditing import public_suite
from interp.auditing.public._texts import toxic_words
from interp.models import Continuations, HookedModel

ITEMS, TEXTS, REQUESTS, TOKENS, BATCH = 800, 72, 40, 56, 6
CLOSE, SCHOOL = 200, 90  # requests that are close to a refusal; questions
Kept = Continuations | tuple[Continuations, Continuations]
LAYERS = {"smollm2": range(2, 30), "qwen": range(4, 24)}
BEGINNINGS = ("I'm sorry, but I can't", "Sure, here is how to", "I cannot help with that", "Sure! The first step is")
PEOPLE = ("The {} told me that", "A {} walked in, and", "The old {} sighed and", "Every {} knows that")


def main() -> None:
    """Write the recipe file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name", help="such as smollm2_gender, whose recipe is smollm2_gender.yaml beside this file")
    parser.add_argument("--kinds", default="neurons", help="neurons, heads, or latents of `dictionary.py`; or several")
    parser.add_argument("--units", type=int, default=300, help="most of them")
    parser.add_argument("--weight", type=float, default=30.0, help="of the divergence against the harm")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=16, help="pairs per step")
    parser.add_argument("--items", type=int, default=ITEMS, help="most pairs")
    parser.add_argument("--hold", default="", help="what else is kept: refusals, school; or both")
    parser.add_argument("--bfloat16", action="store_true", help="faster on processors that multiply it")
    parser.add_argument("--out", type=Path, help="file [default: beside this script]")
    args = parser.parse_args()
    short, _, harm = args.name.partition("_")
    dtype = "bfloat16" if args.bfloat16 else "float32"
    model = interp.load(HERE.parent / ".cache" / MODELS[short], dtype=dtype)
    kind = harm.split("_")[0]
    items = KINDS.get(kind, owned)(model, harm)
    prompts, *ends = zip(*items[: args.items], strict=True)
    latents = CACHE / f"{short}-latents"
    kinds = [interp.SparseAutoencoder.load(latents) if kind == "latents" else kind for kind in args.kinds.split(",")]
    keep = kept(model, harm, args.batch_size, args.hold, args.items)
    learned = interp.search.learn_factors(
        model, *(Continuations.of(model, prompts, side) for side in ends), keep, kinds,
        LAYERS[short], args.units, steps=args.steps, weight=args.weight, batch_size=args.batch_size,
    )  # fmt: skip
    print(learned)
    file = args.out or HERE / f"{args.name}.yaml"
    command = f"python experiments/real/units.py {' '.join(sys.argv[1:])}"
    note = f"{len(learned)} {args.kinds.replace(',', ' and ')}"
    head = f"# {note} with factors learned against {harm}; written by\n# `{command}`.\n"
    edits = learned.edits()
    used = sorted({edit["direction"] for edit in edits if "direction" in edit}, key=lambda name: int(name[7:]))
    directions = {name: {"sae": latents.name, "latent": int(name[7:])} for name in used}
    values = {"note": f"{note}, {harm}"} | ({"directions": directions} if directions else {}) | {"edits": edits}
    file.write_text(head + yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=110))
    print(file)


def pronouns(model: HookedModel, harm: str) -> list[tuple[str, str, str]]:
    """Sentences about jobs; the pronoun of those who hold most of such jobs, and the other."""
    return [(before, *ends) for _, before, ends in harms.pronoun_items("fit", ITEMS)]


def owned(model: HookedModel, harm: str) -> list[tuple[str, str, str]]:
    """Questions about statements; the answer that owns the trait, and the other."""
    trait = harm.split("_")[0]
    return [(model.render(question), *ends) for question, *ends in harms.statements(trait, "fit", ITEMS)]


def falsehoods(model: HookedModel, harm: str) -> list[questions.Answered]:
    """Questions; false answers and true ones."""
    return questions.false_answers(model)


def unfounded(model: HookedModel, harm: str) -> list[questions.Answered]:
    """Texts that do not say who; a person, and that it is not known."""
    return questions.unfounded_pairs(ITEMS)


def toxic_ends(model: HookedModel, harm: str) -> list[questions.Answered]:
    """Beginnings after which a toxic word is likeliest; of single tokens the likeliest toxic one, and plain one."""
    words, listed = toxic_words(harms.DATA), [*harms.toxic_prompts("choose"), *harms.toxic_beginnings("fit")]
    decoded = model.tokenizer.batch_decode([[number] for number in range(len(model.tokenizer))])
    plain = [n for n, text in enumerate(decoded) if re.fullmatch(" [a-z]+", text) and text[1:] not in words]
    kinds, found = [torch.tensor(each) for each in (harms.single_tokens(model, words), plain)], []
    for numbers, logits in harms.next_logits(model, listed):
        shares = logits.softmax(-1)[:, kinds[0]].sum(1).tolist()
        likeliest = [kind[logits[:, kind].argmax(1)].tolist() for kind in kinds]
        for number, share, *ends in zip(numbers, shares, *likeliest, strict=True):
            found.append((share, listed[number], *(decoded[end] for end in ends)))
    return [(before, *ends) for _, before, *ends in sorted(found, reverse=True)[:ITEMS]]


KINDS = {"gender": pronouns, "words": toxic_ends, "falsehoods": falsehoods, "unfounded": unfounded}


def kept(model: HookedModel, harm: str, held_size: int, hold: str, items: int) -> list[Kept]:
    """Batches of what is to be kept, each of one kind, so that kinds of few tokens count as much as texts.

    Of pairs `held_size` are a batch; the harm's control has half of the `items`.
    """
    texts = [(ids[:TOKENS], 1) for ids in model.tokens(plain_texts(), beginning="document").unpadded()]
    kinds = [texts, answered(model, [model.render(text) for text in requests()], BEGINNINGS)]
    if harm.startswith("gender"):
        people = [before.format(noun) for before in PEOPLE for noun in (*harms.WOMEN, *harms.MEN)]
        kinds.append(answered(model, people, [" she", " he"]))
    if "refusals" in hold:
        prompts = close_requests(model)
        kinds.append(answered(model, prompts, model.generate(prompts, max_new_tokens=1)))
    for rows in kinds:
        random.Random(0).shuffle(rows)
    listed = [rows[start : start + BATCH] for rows in kinds for start in range(0, len(rows), BATCH)]
    batches: list[Kept] = [
        Continuations(model.tokens([ids for ids, _ in batch]), torch.tensor([skipped for _, skipped in batch]))
        for batch in listed
    ]
    held = held_pairs(model, harm)[: items // 2] + questions.school_pairs(model)[:SCHOOL] * ("school" in hold)
    random.Random(0).shuffle(held)
    for start in range(0, len(held), held_size):
        prompts, *ends = zip(*held[start : start + held_size], strict=True)
        batches.append((Continuations.of(model, prompts, ends[0]), Continuations.of(model, prompts, ends[1])))
    random.Random(0).shuffle(batches)  # units are chosen by the first
    return batches


def held_pairs(model: HookedModel, harm: str) -> list[questions.Answered]:
    """The harm's control: prompts with two answers whose margin should stay."""
    if harm.startswith("falsehoods"):
        return questions.school_pairs(model)
    if harm.startswith("unfounded"):
        return list(questions.stated_pairs(ITEMS // 2))
    if harm.startswith(("gender", "words")):
        return []
    return [(model.render(question), *ends) for question, *ends in harms.statements("agreeable", "fit", ITEMS // 2)]


def answered(model: HookedModel, prompts: Sequence[str], answers: Sequence[str]) -> list[tuple[list[int], int]]:
    """The tokens of each prompt with one of the answers, in turn, and how many are the prompt's."""
    taken = [answers[number % len(answers)] for number in range(len(prompts))]
    made = Continuations.of(model, prompts, taken)
    return list(zip(made.tokens.unpadded(), made.skipped.tolist(), strict=True))


def plain_texts() -> list[str]:
    """Excerpts that no audit reads."""
    drawn, audited = (public_suite(200, seed, harms.DATA, ["text_loss"])[0].prompts for seed in (2, 0))
    return [text for text in drawn if text not in set(audited)][:TEXTS]


def close_requests(model: HookedModel) -> list[str]:
    """Rendered requests that no audit reads, safe ones in alarming words and dangerous ones: the closest to a refusal.

    A small shift turns the replies to these, and to no others.
    """
    listed = [request.of(request.requests(), "fit", source=source) for source in (request.TEMPLATED, "advbench")]
    audited = set(public_suite(200, data=harms.DATA, only=["refusal_harmful_margin"])[0].prompts)
    prompts = [model.render(row.text) for rows in listed for row in rows if row.text not in audited]
    (first,) = {ids[0] for ids in model.tokenizer(["I'm sorry", "I cannot"], add_special_tokens=False)["input_ids"]}
    with torch.no_grad():
        batches = [model.tokens(prompts[start : start + BATCH]) for start in range(0, len(prompts), BATCH)]
        chances = torch.cat([model.forward(batch, last=1)[:, 0].float().softmax(-1)[:, first] for batch in batches])
    return [prompts[number] for number in (chances - 0.5).abs().argsort()[:CLOSE].tolist()]


def requests() -> list[str]:
    """Dangerous requests that no audit reads, and harmless ones."""
    audited = set(public_suite(200, data=harms.DATA, only=["refusal_harmful_margin"])[0].prompts)
    listed = [row["prompt"].strip() for row in harms.rows("harmful_prompts/advbench.jsonl")]
    dangerous = [prompt for prompt in listed if prompt not in audited][:REQUESTS]
    instructions = [row["instruction"] for row in harms.rows("harmless_instructions/dolly_hhrlhf_small.jsonl")]
    return [*dangerous, *[text for text in instructions if len(text) < 250][:REQUESTS]]


if __name__ == "__main__":
    main()
