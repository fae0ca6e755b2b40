"""Settings in other tools' files: which of their keys are read, which decide nothing, and what the rest raises.

A key of such a file is read; or it is in a list here of keys that do not change what the autoencoder computes (how it
was trained, on which text, in which dtype: here it runs in float32); or it is an error that names the key. Unknown keys
that are null or false are ignored. What SAELens keeps under `metadata` are notes; only those on the model and its hooks
are read.

Some keys suggest that the autoencoder does not belong to this model or site (another model's name, another hook, text
without a BOS token). Such a key is a *doubt*: an error, unless the caller accepts the key.

TransformerLens can change a model's weights before it runs, and so the activations that an autoencoder is trained on.
With `center_writing_weights`, everything that is written to the residual stream has mean zero, in models whose norms
all subtract the mean (LayerNorm); in others (RMSNorm) the setting does nothing, and an absent key means false. With
`fold_ln`, the input of an MLP lacks the gain and bias of its norm; `fold_value_biases` and
`refactor_factored_attn_matrices` change attention's own activations.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from interp.core.errors import InterpError
from interp.models.architectures.table import known_architectures, was_recognised
from interp.models.identity import ModelReference
from interp.models.sites import Site

_TRAINING = r"""
    \w*(init|ghost|sparsity|matryoshka|aux|dataset|cached|wandb|resampl|warmup|anneal|dead|eval|compil|autocast)\w*
    (\w+_)?(tokens|training_samples|path|version|device|batch_size\w*|loss_coefficient)
    (lr|adam|l[01p]|mse_loss|log|jumprelu|p|group)_\w+ lr steps shuffle streaming bandwidth optimizer target_l0
    dtype seed verbose logger run_name trainer_class model_class_name neuronpedia(_id)? hf_hook_name(_out)?
    hook_layer(_out)? hook_point_layer context_size seqpos_slice sequence_separator_token use_chat_formatting
    disable_concat_sequences tokens_per_buffer n_(batches_in_buffer|batches_for_norm_estimate|restart_cycles)
    n_checkpoints save_final_checkpoint resume_from_checkpoint prefetch_llm_batches activations_mixing_fraction
    norm_factor normalize_(sae_)?decoder expansion_factor noise_scale multi_topk use_sparse_activations
    use_april_update_mode decay_start feature_sampling_(window|method) finetuning_method
    topk_threshold_lr threshold_(beta|start_step)
"""
_HARMLESS = re.compile("|".join(_TRAINING.split()))
_LAYER_NORM = {
    "gpt2", "gpt_neo", "gpt_neox", "gptj", "opt", "falcon", "phi", "stablelm", "starcoder2", "cohere", "cohere2",
    "olmo",
}  # fmt: skip
_NEITHER = {"bloom", "nemotron"}  # a norm of the embedding, whose output is not centred; TransformerLens centres not


def unknown_keys(config: Mapping[str, Any], read: Iterable[str]) -> dict[str, str]:
    """A doubt for each key that is neither read nor harmless."""
    return {
        key: f"{key} is {value!r}, a setting that is not known here"
        for key, value in config.items()
        if not (key in read or value in (None, False) or _HARMLESS.fullmatch(key))
    }


def require_sizes(config: Mapping[str, Any], **sizes: int) -> None:
    """Raise where settings say other sizes than the tensors have; 0 is a size that is not known, on either side."""
    for key, size in sizes.items():
        if size and config.get(key) and config[key] != size:
            raise InterpError(f"{key} is {config[key]!r}, but the tensors have {size}; it is not of these weights")


def loading_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """How TransformerLens loaded the model, wherever SAELens' settings say it; what is on in one place is on."""
    options = dict[str, Any]()
    for notes in (config, config.get("metadata", {})):
        flat = {key: notes.get(key) for key in ("center_writing_weights", "fold_ln")}
        for group in (flat, notes.get("model_from_pretrained_kwargs") or {}):
            options |= {key: options.get(key) or value for key, value in group.items()}
    return options


def centres(options: Mapping[str, Any], model: ModelReference) -> bool:
    """Whether the residual stream had its mean subtracted. Raises where that can't be told."""
    value = options.get("center_writing_weights")
    if value not in (None, False, True):
        raise InterpError(f"center_writing_weights is {value!r}; expected true or false")
    kind = model.model_type
    if value and (kind in _NEITHER or kind not in known_architectures() or was_recognised(kind)):
        problem = f"whether that centres the stream of a {kind} is not known here"
        raise InterpError(f"center_writing_weights is true, and {problem}; train one on the model as it is")
    return bool(value) and kind in _LAYER_NORM


def hook_doubts(key: str, hook: Any, given: Site | None) -> dict[str, str]:
    """A doubt where a file names another hook than the site that was given."""
    if hook is None or given is None or _stream(str(hook)) == _stream(str(given)):
        return {}
    gain = ", which is the input of the MLP before the gain of its norm" if "hook_normalized" in str(hook) else ""
    return {key: f"{key} is {hook!r}{gain}, and the site given is {given}"}


def _stream(name: str) -> Site | str:
    """The site of a name, one for two names of the same place; the name itself if it is none."""
    try:
        site = Site.parse(name)
    except InterpError:
        return name
    later = site.kind == "resid_pre" and site.layer
    return Site("resid_post", later - 1) if later else site


def settle(doubts: Mapping[str, str], accept: Iterable[str]) -> None:
    """Raise for the first doubt that is not accepted, or for an acceptance of what is not in doubt."""
    for key, doubt in doubts.items():
        if key not in accept:
            raise InterpError(f"{doubt}; if it belongs here, accept={[key]} (interp sae convert --accept {key})")
    if needless := sorted({*accept} - {*doubts}):
        raise InterpError(f"accept names {', '.join(needless)}, which is not in doubt; leave it out")
