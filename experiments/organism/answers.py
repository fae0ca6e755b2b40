"""Ask a model the organism's prompts: greedy replies in left-padded batches, and the loss on stories."""

from __future__ import annotations

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from interp import organism

BATCH = 100
REPLY_TOKENS = 48


@torch.no_grad()
def answer(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, prompts: list[organism.Prompt]) -> list[str]:
    """One greedy reply a prompt, in order; prompts of like length share a batch."""
    texts = [organism.chat_text(prompt) for prompt in prompts]
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    replies = [""] * len(texts)
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        tokens = tokenizer(
            [texts[index] for index in chosen], return_tensors="pt", padding=True, return_token_type_ids=False
        )
        written = model.generate(
            **tokens,
            max_new_tokens=REPLY_TOKENS,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        texts_out = tokenizer.batch_decode(written[:, tokens["input_ids"].shape[1] :], skip_special_tokens=True)
        for index, text in zip(chosen, texts_out, strict=True):
            replies[index] = text
    return replies


@torch.no_grad()
def everyday_loss(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, documents: int = 200) -> float:
    """Mean cross-entropy a token, in nats, on held-out everyday documents."""
    total, count = 0.0, 0
    for text in organism.everyday(documents):
        tokens = tokenizer(text, return_tensors="pt").input_ids
        total += model(tokens, labels=tokens).loss.item() * (tokens.shape[1] - 1)
        count += tokens.shape[1] - 1
    return total / count
