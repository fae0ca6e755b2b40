"""Greedy: settings of Hugging Face's `generate` under which a model writes what it finds likeliest."""

from typing import Any

from transformers import GenerationConfig


def greedy_settings(new_tokens: int, end: Any, pad: int, **more: Any) -> GenerationConfig:
    """Whatever the checkpoint's own settings say (a repetition penalty, say); `end` is the id, or ids, to stop at."""
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        max_new_tokens=new_tokens,
        eos_token_id=end,
        pad_token_id=pad,
        **more,
    )
