"""Model identity: a reference to the model that a saved record was made with, by digests.

Three digests:

- `digest`, of the values that the model computes with, whatever dtype they are in. What was measured holds for it.
- `storage_digest`, of these values as bfloat16: the same model up to the type that it is stored in. An edit fits it.
- `settings`, of all else in a checkpoint that changes outputs (rope base, chat template, tokenizer, generation
  settings), in records of measurements.

The weights are those that were loaded. If the config ties the unembedding to the token embeddings, but its values
differ from theirs, transformers loads it untied, and the digests cover it.

Limitations: the digests do not cover code that comes with a checkpoint, the attention kernels, buffers that are not
saved (rotary tables), or a tokenizer written in Python beyond its class, vocabulary and special tokens.
"""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field, model_serializer
from torch import Tensor

from interp.core.config import Config
from interp.core.digests import WeightDigests, checksum, weight_digests
from interp.core.errors import InterpError
from interp.core.files import sha256_json
from interp.core.inputs import parse_object
from interp.models.chat_template import ChatTemplate


class ModelReference(Config):
    """A model's name, the digests of its weights, and its shape.

    Example:
        >>> model.reference.model_type, model.reference.d_model, len(model.reference.digest)
        ('llama', 192, 64)
        >>> model.reference.check(model.reference, "this direction")  # raises for another model
    """

    name: str = Field(description="Name of the model: its hub id, folder or file.")
    digest: str = Field(description="SHA-256 of the weights; in records without `storage_digest`, what that is now.")
    model_type: str = Field(description="Architecture, as in the Hugging Face config.")
    d_model: int = Field(description="Width of the residual stream.")
    n_layers: int = Field(description="Number of transformer blocks.")
    revision: str | None = Field(default=None, description="Commit on the hub, if the model has one.")
    storage_digest: str = Field(default="", description="SHA-256 of the weights as bfloat16; empty in older records.")
    date: str = Field(default="", description="What the chat template prints for today's date, if it prints that.")
    template: str = Field("", description="The chat template's variables, such as `enable_thinking`, as a JSON object.")
    settings: str = Field(default="", description="SHA-256 of all else that decides outputs, where these are measured.")

    @model_serializer(mode="wrap")
    def _without_empty(self, dump: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Leave out what is empty and older records don't have, so that their digests stay the same."""
        return {name: value for name, value in dump(self).items() if value or name not in _ADDED}

    @property
    def chat(self) -> dict[str, Any]:
        """How conversations were rendered, as options of `interp.load`."""
        variables = parse_object(self.template, f"template variables of {self.name}") if self.template else None
        return {"date": self.date or None, "template": variables}

    @property
    def fits(self) -> str:
        """The digest that decides whether an edit fits: that of the weights as bfloat16."""
        return self.storage_digest or self.digest

    def is_same(self, other: "ModelReference") -> bool:
        """Whether another reference has the same weights: the same values, as far as this record states them."""
        return self.digest == (other.digest if self.storage_digest else other.fits)

    def without_weights(self) -> "ModelReference":
        """The reference without digests of weights, where they are not known."""
        return self.model_copy(update={"digest": "", "storage_digest": ""})

    def check(self, other: "ModelReference", what: str) -> None:
        """Raise if something made with this model is used on another one.

        Args:
            other: The model that it is used on.
            what: What was made, for the message, such as "this direction".

        Raises:
            InterpError: The models differ in shape, or in weights by more than the rounding to bfloat16.
        """
        if (self.d_model, self.n_layers) != (other.d_model, other.n_layers):
            raise InterpError(
                f"{what} was made for {self.name} (d_model {self.d_model}, {self.n_layers} layers), but {other.name} "
                f"has d_model {other.d_model} and {other.n_layers} layers; make one for this model"
            )
        if self.fits != other.fits:
            raise InterpError(
                f"{what} was made for {self.name} with weights {self.fits[:12]}, but {other.name} has weights "
                f"{other.fits[:12]}; make one for this model"
            )


# Names, versions, and the dtype, which do not decide the output.
_IGNORED = {"architectures", "dtype", "torch_dtype", "transformers_version"}
# Of a tokenizer: its places, and what matters to padding or to other calls than ours.
_NO_RULES = {"name_or_path", "vocab_file", "chat_template", "padding_side", "truncation_side", "model_max_length"}
_NO_RULES |= {"verbose", "deprecation_warnings", "clean_up_tokenization_spaces"}
_ADDED = ("settings", "storage_digest", "date", "template")
UNEMBEDDING = "lm_head.weight"  # its name in memory; a file may use another


def is_tied(hf: Any) -> bool:
    """Whether a loaded model's unembedding is its table of token embeddings.

    What the config says is not enough: where a checkpoint has both with different values, transformers loads both.
    """
    head, table = hf.get_output_embeddings(), hf.get_input_embeddings()
    if not hf.config.tie_word_embeddings or head is None:
        return False
    return head.weight is table.weight or torch.equal(head.weight, table.weight)


def loaded_weights(hf: Any) -> dict[str, Tensor]:
    """The tensors that a loaded model computes with, by name, a tied one once; whole, where processes have parts.

    Raises for weights that are offloaded.
    """
    state = {name: x.full_tensor().cpu() if hasattr(x, "full_tensor") else x for name, x in hf.state_dict().items()}
    if missing := [name for name, x in state.items() if x.is_meta]:
        raise InterpError(
            f"{missing[0]} is offloaded, so that the weights have no digest, which records need; load the model "
            "without offloading"
        )
    if is_tied(hf):
        state.pop(UNEMBEDDING, None)
    return state


class Digests:
    """The digests of one model; each is computed again only after a change."""

    def __init__(self) -> None:
        self._weights: tuple[dict[str, Any], WeightDigests] | None = None
        self._settings: dict[bool, tuple[list[Any], str]] = {}

    def weights(self, hf: Any) -> WeightDigests:
        """The digests of the weights."""
        tensors = loaded_weights(hf)
        # Of all bytes: writes through `.data` and in inference mode leave a tensor's version as it was.
        stamp = {name: (x.shape, x.dtype, checksum(x)) for name, x in tensors.items()}
        if self._weights is None or self._weights[0] != stamp:
            self._weights = (stamp, weight_digests(tensors))
        return self._weights[1]

    def settings(self, hf: Any, template: ChatTemplate, chat: bool = True) -> str:
        """SHA-256 of config, generation settings and tokenizer, without names, versions and dtypes.

        With `chat`, it covers the chat template, its variables and its date.
        """
        tokenizer = template.tokenizer
        settings = [_config_values(hf.config), _config_values(hf.generation_config)]
        settings += _tokenizer_settings(tokenizer, chat)
        if chat:
            settings += [dict(template.variables)] * bool(template.variables) + [template.date] * template.prints_date
        stamp = [*settings, tokenizer, *_tokenizer_parts(tokenizer)]
        if self._settings.get(chat, ([], ""))[0] != stamp:
            self._settings[chat] = (stamp, sha256_json([*settings, _tokenizer_rules(tokenizer)]))
        return self._settings[chat][1]


def _config_values(config: Any) -> Any:
    """A config as plain values."""
    return None if config is None else _without_ignored(json.loads(config.to_json_string(use_diff=False)))


def _without_ignored(values: Any) -> Any:
    """The values without those that do not decide the output, at any depth."""
    if not isinstance(values, dict):
        return values
    kept = {name: x for name, x in values.items() if name not in _IGNORED and not name.startswith("_")}
    return {name: _without_ignored(x) for name, x in kept.items()}


def _tokenizer_settings(tokenizer: Any, chat: bool) -> list[Any]:
    """The parts of a tokenizer that are cheap to read and likely to be changed in memory."""
    if tokenizer is None:
        return []
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    after = str(tokenizer.backend_tokenizer.post_processor) if tokenizer.is_fast else ""
    return [len(tokenizer), *([tokenizer.chat_template] if chat else []), special, after, *_python_rules(tokenizer)]


def _python_rules(tokenizer: Any) -> list[dict[str, str]]:
    """What decides how text is split outside the rules of a fast tokenizer; empty where nothing does."""
    if tokenizer.is_fast:
        return [{"split_special_tokens": "True"}] * bool(tokenizer.split_special_tokens)
    plain = (bool, int, float, str)
    return [{name: str(x) for name, x in vars(tokenizer).items() if isinstance(x, plain) and name not in _NO_RULES}]


def _tokenizer_parts(tokenizer: Any) -> list[str]:
    """What else can be replaced in memory, as text that is cheap to make."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return [str(getattr(backend, part, "")) for part in ("normalizer", "pre_tokenizer", "decoder")]


def _tokenizer_rules(tokenizer: Any) -> Any:
    """The vocabulary and rules by which a tokenizer splits text."""
    if tokenizer is None:
        return None
    if not tokenizer.is_fast:
        return [type(tokenizer).__name__, tokenizer.get_vocab()]
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    return {name: x for name, x in whole.items() if name not in ("padding", "truncation")}  # left from the last call


def tokenizer_digest(tokenizer: Any) -> str:
    """Hex SHA-256 of how a tokenizer splits text: vocabulary, merges, special tokens; not of its chat template.

    Activation stores keep it. Example:
        >>> from interp.models.identity import tokenizer_digest
        >>> len(tokenizer_digest(model.tokenizer))
        64
    """
    if not tokenizer.is_fast:
        special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
        return sha256_json([tokenizer.get_vocab(), special, *_python_rules(tokenizer)])
    # Padding and truncation come first and are left out: calls change them, and no token.
    whole = tokenizer.backend_tokenizer.to_str()
    rules = "".join(map(str, _python_rules(tokenizer)))
    return hashlib.sha256((whole[whole.index('"added_tokens"') :] + rules).encode()).hexdigest()
