"""The text-only part of a model that also reads images or sound, as the language model it contains."""

from typing import Any

import torch

from interp.core.errors import InterpError


def reads_more_than_text(config: Any) -> bool:
    """Whether a config describes parts beside a language model."""
    return config.get_text_config(decoder=True) is not config


def text_part(hf: Any) -> Any:
    """The causal language model in a multimodal model: its own modules, shared, under the usual names.

    A model that reads text alone is returned as it is. Raises where the part is not of a class that transformers has a
    causal language model for, so that what is hooked is the standard class or nothing.
    """
    if not reads_more_than_text(hf.config):
        return hf
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    config = hf.config.get_text_config(decoder=True)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise InterpError(
            f"{type(hf).__name__}: transformers has no causal language model for its text part ({config.model_type}); "
            "load a checkpoint whose text part is a standard class, such as Llama, Qwen2 or Gemma 3"
        )
    with torch.device("meta"):
        language_model: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        text = language_model(config)
    whole = [module for module in hf.modules() if type(module) is type(text)]
    if len(whole) == 1:
        return whole[0]
    bodies = [module for module in hf.modules() if type(module) is type(text.base_model)]
    if len(bodies) != 1 or hf.get_output_embeddings() is None:
        raise InterpError(
            f"{type(hf).__name__}: expected one {type(text.base_model).__name__} and an unembedding in it, found "
            f"{len(bodies)}; load a text-only checkpoint"
        )
    setattr(text, text.base_model_prefix, bodies[0])
    text.set_output_embeddings(hf.get_output_embeddings())
    text.config, text.generation_config = bodies[0].config, hf.generation_config
    return text
