"""Which model a saved record was made with."""

from collections.abc import Callable
from typing import Any

from pydantic import model_serializer

from interp.core.config import Config
from interp.core.errors import InterpError


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
