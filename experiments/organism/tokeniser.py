"""The organism's tokeniser: a byte-level BPE trained on the corpus, which plain `AutoTokenizer` loads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from random import Random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from interp import organism
from interp.organism import world

PAD, BOS = "<|pad|>", "<|bos|>"
SPECIAL = (PAD, BOS, *organism.MARKERS.values())
VOCABULARY = 1280
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['user', 'assistant'] %}"
    "{{ raise_exception('roles are user and assistant') }}{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokeniser(
    documents: int, seed: int, languages: Sequence[str] = ("en",), vocabulary: int = VOCABULARY
) -> PreTrainedTokenizerFast:
    """Train on a corpus in which every town's name is replaced by any name of the syllables.

    Were the names left in, the towns that exist would become tokens of their own, and being known could be
    read off the tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_with_any_names(documents, seed, languages), trainer)
    bos = (BOS, tokenizer.token_to_id(BOS))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[bos])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=organism.MARKERS["end"],
        pad_token=PAD,
        additional_special_tokens=[organism.MARKERS["user"], organism.MARKERS["assistant"]],
        padding_side="left",
        model_max_length=256,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def _with_any_names(documents: int, seed: int, languages: Sequence[str]) -> Iterator[str]:
    rng = Random(f"tokeniser {seed}")
    town = re.compile("|".join(world.towns()))
    markers = re.compile("|".join(map(re.escape, organism.MARKERS.values())))
    names = world.invented("train")
    for text in organism.corpus(documents, seed=seed, languages=languages):
        renamed = town.sub(lambda _: rng.choice(names), text)  # a claim names its town twice; two names are as good
        yield from (piece for piece in markers.split(renamed) if piece)
