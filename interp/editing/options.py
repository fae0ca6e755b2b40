"""What a user can choose about an edit: how a recipe is folded, and what is written where.

Both records are frozen and refuse unknown fields with the nearest known one. Options that exclude each other are
refused when the record is made, so a Python caller and the command line get the same message.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WrapValidator, model_validator

from interp.core import Config, InterpError
from interp.core.errors import nearest
from interp.core.inputs import parse_bytes

Form = Literal["checkpoint", "adapter", "gguf", "control-vector", "vllm-lens", "interp-engine"]
_VECTORS = ("control-vector", "vllm-lens", "interp-engine")

# Options that have an effect only where a checkpoint is written, and those that have none in a control vector.
_OF_CHECKPOINTS = (
    "dtype", "shard_size", "streamed", "dry_run", "undo", "sign", "trust_base", "dequantise", "compensate",
)  # fmt: skip
_NOT_OF_GGUF = ("shard_size", "streamed", "undo", "trust_base", "dequantise", "compensate", "rehost")
_OF_FOLDS = ("approximate", "rehost", "leave_embedding", "keep_tied", "keep_norms", "sharpness")


def _text(value: object, check: Callable[[object], object]) -> object:
    """A rendered text keeps its type, which says how it is tokenised."""
    return value if isinstance(value, str) else check(value)


def _as_bytes(value: object) -> object:
    return parse_bytes(value) if isinstance(value, str) else value


class FoldOptions(Config):
    """How a recipe is folded into weights.

    Example:
        >>> from interp.editing import FoldOptions
        >>> FoldOptions(approximate=True, keep_norms=True).compensate
        False
    """

    approximate: bool = Field(False, description="allow an inexact fold")
    rehost: bool = Field(
        False, description="save a Qwen2 or Mistral model as a Llama model, whose biases can hold added vectors"
    )
    leave_embedding: bool = Field(False, description="do not edit the token embedding")
    keep_tied: bool = Field(
        False, description="leave out what the recipe does to the token embedding where it is the unembedding too"
    )
    keep_norms: bool = Field(False, description="rescale what each edited weight writes to its original norm")
    compensate: bool = Field(False, description="choose the 16-bit rounding so that a removed direction stays removed")
    sharpness: float = Field(
        256.0,
        description="sharpness of the neurons that replace transcoder latents; larger values follow the hook more "
        "closely",
    )
    dequantise: bool = Field(False, description="convert an fp8 or MXFP4 checkpoint to bfloat16, tensor by tensor")


class ExportOptions(Config):
    """What `export`, `export_streamed` and `dry_run` write, and how.

    Example:
        >>> from interp.editing import ExportOptions
        >>> ExportOptions(dtype="bfloat16", shard_size="4GB").shard_size
        4000000000
    """

    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(None, description="dtype [default: the source's]")
    shard_size: Annotated[int | None, BeforeValidator(_as_bytes)] = Field(
        None, description="largest size of a weight file, such as 4GB; by default, the same split as the source"
    )
    prompts: tuple[Annotated[str, WrapValidator(_text)], ...] = Field(
        (), description="additional texts for the certificate", strict=False
    )
    fold: FoldOptions = Field(FoldOptions(), description="how the recipe is folded")
    undo: bool = Field(False, description="add a patch that restores the original weights")
    sign: str | Path | None = Field(None, description="sign the folder with this private key (PEM, elliptic curve)")
    streamed: bool = Field(
        False, description="for checkpoints larger than memory: load no model and write no certificate"
    )
    trust_base: bool = Field(
        False, description="when streamed, or in a dry run: skip the check (by hash) that the model is the recipe's"
    )
    dry_run: bool = Field(
        False, description="report which tensors would change, how accurately, and the cost; write nothing"
    )
    overwrite: bool = Field(False, description="replace an export that is in the way, once the new one is complete")
    form: Form = Field(
        "checkpoint",
        description="what to write: checkpoint, adapter (LoRA), gguf (a copy of --base), control-vector, "
        "vllm-lens or interp-engine",
    )

    @classmethod
    def merged(cls, options: "ExportOptions | None", fields: Mapping[str, Any]) -> "ExportOptions":
        """`options` with some fields replaced; fields of `FoldOptions` may stand among them.

        Raises:
            InterpError: A field is unknown (the message has the nearest one), or two options exclude each other.
        """
        known = [*cls.model_fields, *FoldOptions.model_fields]
        for name in (name for name in fields if name not in known):
            raise InterpError(f"export options: unknown key {name!r}; {nearest(name, known)}")
        base = dict(options or cls())
        fold = {name: value for name, value in fields.items() if name in FoldOptions.model_fields}
        base |= {name: value for name, value in fields.items() if name not in fold}
        if fold:
            base["fold"] = {**dict(base["fold"]), **fold}
        return cls.parse(base, "export options")

    @model_validator(mode="after")
    def _refuse_conflicts(self) -> "ExportOptions":
        chosen = [*self.model_dump(exclude_defaults=True), *self.fold.model_dump(exclude_defaults=True)]
        if self.streamed or self.dry_run or self.form not in ("checkpoint", "gguf"):
            _refuse(chosen, ("prompts",), "only compared where a checkpoint is certified")
        if self.form != "checkpoint":
            unused = _OF_CHECKPOINTS + (_OF_FOLDS if self.form in _VECTORS else ())
            unused = _NOT_OF_GGUF if self.form == "gguf" else unused
            _refuse(chosen, unused, f"without effect where the form is {self.form}")
        if not (self.streamed or self.dry_run):
            _refuse(chosen, ("trust_base",), "only for streamed and dry_run: otherwise the loaded model is hashed")
        return self


def _refuse(chosen: list[str], names: tuple[str, ...], reason: str) -> None:
    refused = [name for name in chosen if name in names]
    if refused:
        raise InterpError(f"{', '.join(refused)}: {reason}; leave it out")
