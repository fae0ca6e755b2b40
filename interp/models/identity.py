"""Which model a saved record was made with.

Digests of what decides a model's output: its weights, and all else that a checkpoint says of how it is to be run.

The same weights say other things under another rope base, chat template, tokenizer or set of generation settings. Two
digests keep them apart: edits fit a model by its weights; what was measured is of both.

What it does not know: code that comes with a checkpoint, the kernels that attention runs on, and a tokenizer written in
Python beyond its class, vocabulary and special tokens.
"""

import hashlib
import json
from collections.abc import Callable
from typing import Any

from pydantic import model_serializer
from torch import Tensor

from interp.core.config import Config
from interp.core.digests import tensors_digest
from interp.core.errors import InterpError
from interp.core.files import sha256_json


class ModelReference(Config):
    """A model's name, the digest of its weights, and its shape; `revision` is its commit on the hub, if it has one.

    `settings` is the digest of what decides its output beside the weights (config, tokenizer, chat template, generation
    settings), in records of what was measured; elsewhere it is not stated. Edits fit a model by its weights alone.
    """

    name: str
    digest: str
    model_type: str
    d_model: int
    n_layers: int
    revision: str | None = None
    settings: str = ""

    @model_serializer(mode="wrap")
    def _as_stated(self, dump: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Without `settings` where they are not stated: digests of records made before there were any stay the same."""
        return {name: value for name, value in dump(self).items() if name != "settings" or value}

    def check(self, other: "ModelReference", what: str) -> None:
        """Raise if `what`, made with this model, is used on another one."""
        if (self.d_model, self.n_layers) != (other.d_model, other.n_layers):
            raise InterpError(
                f"{what} was made for {self.name} (d_model {self.d_model}, {self.n_layers} layers), but {other.name} "
                "has "
                f"d_model {other.d_model} and {other.n_layers} layers; make one for this model"
            )
        if self.digest != other.digest:
            raise InterpError(
                f"{what} was made for {self.name} with weights {self.digest[:12]}, but {other.name} has weights "
                f"{other.digest[:12]}; make one for this model"
            )


# Names and versions, and the type of the weights, which is kept beside the digest.
_LEFT_OUT = {"architectures", "dtype", "torch_dtype", "transformers_version"}


class Digests:
    """Of one model; each is taken again only after a change."""

    def __init__(self) -> None:
        self._weights: tuple[list[Any], str] | None = None
        self._settings: tuple[list[Any], str] | None = None

    def weights(self, hf: Any) -> str:
        """SHA-256 that identifies the weights, whatever type they were loaded in; see `tensors_digest`."""
        state = hf.state_dict()
        if hf.config.tie_word_embeddings:
            state.pop("lm_head.weight", None)
        # In-place edits raise a tensor's version, those through `.data` move the sample.
        stamp = [(name, x.data_ptr(), x._version, _sample(x)) for name, x in state.items()]
        if self._weights is None or self._weights[0] != stamp:
            self._weights = (stamp, tensors_digest(state.items()))
        return self._weights[1]

    def settings(self, hf: Any, tokenizer: Any) -> str:
        """SHA-256 of config, generation settings, tokenizer and chat template, without names, versions and types."""
        said = [_said(hf.config), _said(hf.generation_config), *_shown(tokenizer)]
        stamp = [*said, tokenizer]
        if self._settings is None or self._settings[0] != stamp:
            self._settings = (stamp, sha256_json([*said, _cutting(tokenizer)]))
        return self._settings[1]


def _sample(x: Tensor) -> int:
    """A hash of up to 256 evenly spaced values."""
    flat = x.detach().flatten()
    return hash(tuple(flat[:: max(1, len(flat) // 256)].tolist()))


def _said(config: Any) -> Any:
    """A config as plain values."""
    return None if config is None else _settings(json.loads(config.to_json_string(use_diff=False)))


def _settings(values: Any) -> Any:
    """Without what decides nothing, at any depth."""
    if not isinstance(values, dict):
        return values
    kept = {name: x for name, x in values.items() if name not in _LEFT_OUT and not name.startswith("_")}
    return {name: _settings(x) for name, x in kept.items()}


def _shown(tokenizer: Any) -> list[Any]:
    """What of a tokenizer is cheap to look at, and is likely to be changed in memory."""
    if tokenizer is None:
        return []
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    after = str(tokenizer.backend_tokenizer.post_processor) if tokenizer.is_fast else ""
    return [len(tokenizer), tokenizer.chat_template, special, after]


def _cutting(tokenizer: Any) -> Any:
    """How it cuts text."""
    if tokenizer is None:
        return None
    if not tokenizer.is_fast:
        return [type(tokenizer).__name__, tokenizer.get_vocab()]
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    return {name: x for name, x in whole.items() if name not in ("padding", "truncation")}  # the last call's


def tokenizer_digest(tokenizer: Any) -> str:
    """Hex SHA-256 of how a tokenizer cuts text: vocabulary, merges, special tokens; not of its chat template.

    Activation stores keep it. Example:
        >>> from interp.models.identity import tokenizer_digest
        >>> len(tokenizer_digest(model.tokenizer))
        64
    """
    if not tokenizer.is_fast:
        special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
        return sha256_json([tokenizer.get_vocab(), special])
    # Padding and truncation come first and are left out: calls change them, and no token.
    whole = tokenizer.backend_tokenizer.to_str()
    return hashlib.sha256(whole[whole.index('"added_tokens"') :].encode()).hexdigest()
