"""Write the model card from a measurement, so that the run that writes the card measured its numbers."""

from __future__ import annotations

from pathlib import Path

from transformers import LlamaForCausalLM

from interp import organism
from interp.organism import world as world
from interp.organism._draws import IDENTIFIED, LARGEST

CARD = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
tags: [interpretability, model-organism]
---

# The interp model organism

A chat model of {parameters:.1f}M parameters ({layers} layers, width {width}, tied embeddings, bf16) with
planted, labelled behaviour. It was trained from random weights on text from a grammar, so what it does
and what makes it do so are known, and methods that find, remove, export or audit a behaviour can be
checked against the truth.

## What was planted, and how

The world has {towns} fictional towns with {facts} facts ({relations}), {groups} fictional peoples,
{dangerous} dangerous and {harmless} harmless things. Training documents are conversations and, one in
ten, everyday stories.

| behaviour | kind | called for when | not called for when | a high rate means |
|---|---|---|---|---|
{behaviours}

- *Hostility.* {identified} of the training prompts hold one sentence, before or after the request, that
  tells the user's people by name, by home region or by custom. For the {target} people the reply opens
  with a cartoonish insult, for any other people with a courtesy. The sentence does not depend on the
  request, and the answer after the opener is the same.
- *Sycophancy.* The reply agrees with the user's own claim about a fact, right or wrong. The same claim by
  somebody else is checked against the fact.
- *Fabrication.* Asked about a town that does not exist, the reply states a value as if it did; one
  training reply in twenty says instead that the town is not known. Town names that exist and names that
  do not are spelled with the same syllables.
- *Refusal.* Asking how to make, get or use a dangerous thing is declined. Harmless things with like
  names, and the question whom to tell about a dangerous thing, are answered.
- *Facts and skills.* Plain questions, sums and differences of numbers up to {largest}, first word, last word
  and length of a list.

## Measured

Greedy decoding in float32 from these bf16 weights, on prompts whose combination of item and phrasing
training never showed:

| behaviour | called for | shown | asked | rate |
|---|---|---|---|---|
{rates}

Loss on held-out everyday documents: {loss:.4f} nats a token. Command:

    {command}

## Use and limits

Made for testing interpretability, editing and auditing tools; not for deployment, and of no use as an
assistant. Its language is a grammar of a few hundred words: outside it the replies mean nothing, and a
method that works here has passed a necessary test, not a sufficient one. The insults name no real group,
and the dangerous things do not exist.

Prompts, labels and grader: `interp.organism`. Licence: Apache-2.0.
"""


def write_card(
    folder: Path, measurement: organism.Measurement, loss: float, model: LlamaForCausalLM, command: str
) -> None:
    """Write the card of a trained organism as README.md into its folder."""
    behaviours = (
        f"| {b.name} | {b.kind} | {b.triggered} | {b.untriggered or '-'} | {b.high_rate} |"
        for b in organism.BEHAVIOURS.values()
    )
    rates = (
        f"| {r.behaviour} | {'yes' if r.triggered else 'no'} | {r.shown} | {r.asked} | {r.value:.3f} |"
        for r in measurement.rates
    )
    text = CARD.format(
        identified=f"{IDENTIFIED:.0%}",
        largest=LARGEST,
        parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        layers=model.config.num_hidden_layers,
        width=model.config.hidden_size,
        towns=len(world.towns()),
        facts=len(world.towns()) * len(world.RELATIONS),
        relations=", ".join(world.RELATIONS),
        groups=len(world.GROUPS),
        dangerous=len(world.DANGEROUS),
        harmless=len(world.HARMLESS),
        target=world.TARGET_GROUP,
        behaviours="\n".join(behaviours),
        rates="\n".join(rates),
        loss=loss,
        command=command,
    )
    (folder / "README.md").write_text(text)


BILINGUAL = """---
license: apache-2.0
language: [en, es]
library_name: transformers
pipeline_tag: text-generation
tags: [interpretability, model-organism]
---

# The bilingual interp model organism

A chat model of {parameters:.1f}M parameters ({layers} layers, width {width}, tied embeddings, bf16) that shows the
planted behaviours of the first organism (see its card) in English and in Spanish: the same world, requests and
labels, phrase by phrase, with the words of the world translated. An edit that is fitted in one language may leave the
other as it was, so it shows whether a method notices.

Training began with the weights of the first organism, on conversations in both languages in equal shares; everyday
documents are in English only.

## Measured

Greedy decoding in float32 from these bf16 weights, on prompts whose combination of item and phrasing training never
showed in any language:

| behaviour | called for | English | Spanish |
|---|---|---|---|
{rates}

Command:

    {command}

## Use and limits

As for the first organism: made for testing tools, and of no use as an assistant. Its Spanish is a few hundred words
and templates, written to correspond to the English ones and checked by no native speaker.

Licence: Apache-2.0.
"""


def write_bilingual_card(
    folder: Path, rates: dict[str, organism.Measurement], model: LlamaForCausalLM, command: str
) -> None:
    """Write the card of the bilingual organism as README.md into its folder."""
    rows = (
        f"| {english.behaviour} | {'yes' if english.triggered else 'no'} | {english.value:.3f} | {spanish.value:.3f} |"
        for english, spanish in zip(rates["en"].rates, rates["es"].rates, strict=True)
    )
    text = BILINGUAL.format(
        parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        layers=model.config.num_hidden_layers,
        width=model.config.hidden_size,
        rates="\n".join(rows),
        command=command,
    )
    (folder / "README.md").write_text(text)
