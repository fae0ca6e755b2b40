"""Where the weights of an export come from: a checkpoint on disk or at a URL, or a model in memory.

No model is made of a checkpoint: its config, the headers of its weight files and the files next to them tell all that a
fold has to know. The files that accompany the weights (`interp.models.checkpoints.companions`) are copied, except
config.json, which the fold may change, the model card and what an earlier export wrote. A model in memory writes its
tokenizer and generation settings as they are there; what else its source's folder holds comes along.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.core.errors import InterpError, first_line
from interp.core.files import write_json
from interp.editing.certificate.writer_check import require_writer_check
from interp.editing.export.weight_writer import TensorPiece
from interp.editing.fold.ablation import unit_width
from interp.editing.fold.plan import Plan
from interp.editing.fold.steps import keep_tied
from interp.editing.options import ExportOptions
from interp.interventions.recipe import Recipe
from interp.models import HookedModel, ModelReference, Site
from interp.models.architectures.table import architecture, architecture_of_type, known_architectures, was_recognised
from interp.models.architectures.writers import unembedding_name, writers
from interp.models.checkpoints.checkpoint import Checkpoint
from interp.models.checkpoints.companions import of_tokenizer
from interp.models.checkpoints.dequantising import dequantise as dequantised
from interp.models.checkpoints.dequantising import unsupported_reason
from interp.models.checkpoints.remote_files import RemoteFile, is_remote
from interp.models.checkpoints.safetensors_file import DTYPES, dtype_name
from interp.models.identity import UNEMBEDDING, loaded_weights
from interp.models.loading import is_gguf, load, locate

AnyModel = str | Path | HookedModel  # a folder, hub id or URL, or a model in memory
_REPLACED = re.compile(r"config\.json|model\.sig|interp_.*|README\.md")  # by what an export writes itself
# What a tokenizer in memory writes where it has it; what is in the folder may be older.
_IN_MEMORY = re.compile(
    r"chat_template\.jinja|additional_chat_templates/.*|(special_tokens_map|added_tokens|tokenizer|tokenizer_config)\.json"
)


@dataclass(frozen=True, eq=False)
class WeightSource(ABC):
    """The weights that an export starts from: a `CheckpointSource` or a `ModelSource`.

    `name` is what the user called it. `loaded` is the type that the weights have in memory; None for a checkpoint.
    `path` is where the source can be found again; None for a model that exists only in memory. `folder` must not be
    written into.
    """

    name: str
    loaded: str | None
    path: str | None
    folder: str | Path | None

    @property
    @abstractmethod
    def config(self) -> Any:
        """The Hugging Face config."""

    @property
    @abstractmethod
    def config_values(self) -> dict[str, Any]:
        """config.json as plain values."""

    @property
    @abstractmethod
    def files(self) -> list[list[TensorPiece]]:
        """Every tensor as it is, file by file, under the name that transformers gives it."""

    @abstractmethod
    def load_model(self) -> HookedModel:
        """The model, with hooks."""

    @abstractmethod
    def reference(self, made_for: ModelReference | None) -> ModelReference:
        """The model as a recipe that was made for `made_for` refers to it."""

    @abstractmethod
    def write_companions(self, folder: Path) -> dict[str, str]:
        """Write what accompanies the weights, except config.json. Returns what was left out, with the reasons."""

    @property
    def stamp(self) -> list[object]:
        """Values that change when the files do; empty for a model in memory."""
        return []

    @property
    def model_type(self) -> str:
        """As config.json names it."""
        return str(self.config_values["model_type"])

    @property
    def is_written_down(self) -> bool:
        """Whether its architecture is in the table, and was not recognised by trying."""
        return self.model_type in known_architectures() and not was_recognised(self.model_type)

    def require_row(self) -> None:
        """Have a row of the table for its type; a type that is not written down is loaded and checked for it."""
        if not self.is_written_down:
            require_writer_check(self.load_model())

    @cached_property
    def is_tied(self) -> bool:
        """Whether the unembedding is the table of token embeddings: the config says so, and has no other one."""
        head = next((name for name in (UNEMBEDDING, unembedding_name(self.config)) if name in self.pieces), None)
        table = f"{architecture(self.config).embed}.weight"
        if head is None or table not in self.pieces or not self.config.tie_word_embeddings:
            return bool(self.config.tie_word_embeddings)
        return torch.equal(self.read(head, torch.float32), self.read(table, torch.float32))

    def kept(self, recipe: Recipe, options: ExportOptions) -> Recipe:
        """The recipe, without what it does at a tied token table where the options keep that as it is."""
        return keep_tied(recipe, self.config, self.is_tied) if options.fold.keep_tied else recipe

    @cached_property
    def pieces(self) -> dict[str, TensorPiece]:
        """Every tensor as it is, by its name."""
        return {piece.name: piece for file in self.files for piece in file}

    def read(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor, cast to the type in which it will be written: a fold depends on the gains that norms will have."""
        source = self.pieces[name].source
        tensor = source if isinstance(source, Tensor) else source[0].read_entry(source[1])
        return tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor

    def edited(self, plan: Plan, dtype: torch.dtype | None = None) -> Iterator[list[TensorPiece]]:
        """The pieces to write, file by file: edited, cast, with a table that is untied and biases that are created."""
        self.require_fit(plan)
        for file in self.files:
            pieces = []
            for piece in file:
                kind = dtype_name(dtype) if dtype and DTYPES[piece.dtype].is_floating_point else piece.dtype
                pieces.append(_changed(replace(piece, dtype=kind), plan))
                if piece.name == plan.untie:
                    pieces.append(replace(piece, name=plan.unembedding, dtype=kind))
                for bias in (name for name, weight in plan.created.items() if weight == piece.name):
                    pieces.append(_changed(TensorPiece(bias, kind, torch.zeros(piece.shape[0])), plan))
            yield pieces

    def require_fit(self, plan: Plan) -> None:
        """Raise for a tensor that a plan changes and whose shape is not what the config says of it."""
        attention = {w.tensor for w in writers(self.config, self.pieces) if w.site.kind == "attn_out"}
        width, heads = self.config.hidden_size, self.config.num_attention_heads
        inputs = heads * unit_width(self.config, Site("attn_out", 0))
        for name, change in plan.changes.items():
            if name not in self.pieces:  # it is created
                continue
            shape = self.pieces[name].source_shape
            read = inputs if name in attention and change.layout in ("out_in", "in_out") else None
            if not change.fits(shape, width, read):
                config = f"is not what its config says (hidden_size {width}, {heads} heads)"
                raise InterpError(f"{name} of {self.name} has shape {shape}, which {config}; restore the checkpoint")

    def refuse_overlap(self, out: Path) -> None:
        """Raise if the output would be the source's folder or inside it, or would replace it."""
        target, source = out.resolve(), Path(self.folder or self.path or "").resolve()
        inside = self.folder is not None and source in target.parents
        if inside or (target.exists() and target in (source, *source.parents)):
            raise InterpError(f"{out} is the model's own folder or inside it, or holds it; choose another folder")

    def write_config(self, folder: Path, changed: dict[str, Any]) -> None:
        """Write config.json with what the edit changes in it."""
        config = self.config_values
        if self.config.tie_word_embeddings and not self.is_tied:
            config["tie_word_embeddings"] = False  # programs that go by the config would drop the unembedding
        if "dtype" in changed:
            config.pop("torch_dtype", None)
        write_json(folder / "config.json", config | changed)


@dataclass(frozen=True, eq=False)
class CheckpointSource(WeightSource):
    """A checkpoint whose tensors are read one by one; with `dequantise`, as bfloat16."""

    checkpoint: Checkpoint
    dequantise: bool

    @cached_property
    def config(self) -> Any:
        """As transformers reads it; raises where it can't."""
        from transformers import AutoConfig

        try:
            return AutoConfig.from_pretrained(self.checkpoint.folder, local_files_only=True)
        except Exception as problem:  # transformers raises errors of many types for a malformed config
            reason = first_line(problem)[:200]
            raise InterpError(f"{self.name}: transformers can't read its config.json ({reason})") from problem

    @property
    def config_values(self) -> dict[str, Any]:
        """As stored, or of the dequantised checkpoint."""
        if not self.dequantise:
            return dict(self.checkpoint.config)
        dropped = ("quantization_config", "torch_dtype")
        return {k: x for k, x in self.checkpoint.config.items() if k not in dropped} | {"dtype": "bfloat16"}

    @cached_property
    def files(self) -> list[list[TensorPiece]]:
        """As the files are cut."""
        opened = dequantised(self.checkpoint) if self.dequantise else self.checkpoint.sources
        # Checkpoints of a base model (the original GPT-2's) leave out the prefix that transformers adds at load.
        prefix = architecture_of_type(self.checkpoint.config["model_type"]).layers.partition(".")[0] + "."
        missing = "" if any(name.startswith(prefix) for name in self.checkpoint.dtypes) else prefix
        named = [{n if n == UNEMBEDDING else missing + n: source for n, source in file.items()} for file in opened]
        return [[TensorPiece(name, x[1].dtype, x) for name, x in file.items()] for file in named if file]

    @property
    def stamp(self) -> list[object]:
        """Names or URLs, sizes and times of the weight files."""
        return [_stamp(file) for file in self.checkpoint.files]

    def load_model(self) -> HookedModel:
        """Load the checkpoint."""
        return load(self.name, dtype="bfloat16" if self.dequantise else None)

    def reference(self, made_for: ModelReference | None) -> ModelReference:
        """As far as type and shape can tell, with the digest of the model that the recipe was made for."""
        if made_for and made_for.model_type != self.config.model_type:
            made = f"the recipe was made for {made_for.name}, a {made_for.model_type}"
            raise InterpError(f"{made}, but {self.name} is a {self.config.model_type}; make one for this model")
        return ModelReference(
            name=Path(self.name).name,
            digest=made_for.digest if made_for else "",
            storage_digest=made_for.storage_digest if made_for else "",
            model_type=self.config.model_type,
            d_model=self.config.hidden_size,
            n_layers=self.config.num_hidden_layers,
        )

    def write_companions(self, folder: Path) -> dict[str, str]:
        """The files as they are."""
        return _copy_companions(self.checkpoint, folder)


@dataclass(frozen=True, eq=False)
class ModelSource(WeightSource):
    """A model in memory, whose tensors are exported in the type that they have there."""

    model: HookedModel

    @property
    def config(self) -> Any:
        """The model's."""
        return self.model.config

    @property
    def config_values(self) -> dict[str, Any]:
        """As transformers would save it."""
        return self.config.to_diff_dict() | {"architectures": [type(self.model.hf).__name__], "dtype": self.loaded}

    @cached_property
    def files(self) -> list[list[TensorPiece]]:
        """The state dict as one file."""
        state = loaded_weights(self.model.hf)
        return [[TensorPiece(name, dtype_name(x.dtype), x) for name, x in state.items()]]

    def load_model(self) -> HookedModel:
        """The model itself."""
        return self.model

    def reference(self, made_for: ModelReference | None) -> ModelReference:
        """The model's own, whatever the recipe was made for."""
        return self.model.reference

    def write_companions(self, folder: Path) -> dict[str, str]:
        """Tokenizer and generation settings from memory, and the rest from the folder that it was loaded from."""
        if self.model.hf.generation_config is not None:
            # Its own save refuses settings that it loads: a temperature without sampling, say.
            write_json(folder / "generation_config.json", self.model.hf.generation_config.to_diff_dict())
        if self.model.tokenizer is not None:
            tokenizer = deepcopy(self.model.tokenizer)
            if tokenizer.is_fast:  # it keeps how the last call padded and cut, which is not part of the model
                tokenizer.backend_tokenizer.no_padding()
                tokenizer.backend_tokenizer.no_truncation()
            tokenizer.save_pretrained(folder)
        place = self.path or self.model.config.name_or_path
        if not place or is_gguf(place) or not (self.path or Path(place).is_dir()):
            return {}  # it comes from no folder
        try:
            source = Checkpoint.open(place) if is_remote(place) else Checkpoint(locate(place, self.model.revision))
            return _copy_companions(source, folder, self.model.tokenizer)
        except InterpError as problem:
            return {"all that is not written from memory": str(problem)}


def _copy_companions(source: Checkpoint, folder: Path, tokenizer: Any = None) -> dict[str, str]:
    """Copy what accompanies a checkpoint. Of a tokenizer in memory, only files that go with it and are not written."""
    beside = source.companions
    places = {str(source), str(source.folder), str(source.folder.resolve())}
    foreign = tokenizer is not None and tokenizer.name_or_path not in places
    left_out = {name: "of another tokenizer" for name in beside.files if foreign and of_tokenizer(name)}
    left_out |= {name: "the export has its own" for name in beside.files if _REPLACED.fullmatch(name)}
    if tokenizer is not None:
        older = [name for name in beside.files if _IN_MEMORY.fullmatch(name) and not (folder / name).exists()]
        left_out |= dict.fromkeys(older, "the tokenizer in memory has its own, or none")
    beside.copy(folder, (name for name in beside.files if name not in left_out))
    return {**beside.left_out, **{name: reason for name, reason in left_out.items() if name != "config.json"}}


def open_source(source: str | Path | HookedModel, dequantise: bool = False) -> WeightSource:
    """Open and check a source of weights.

    Args:
        source: A model in memory, a local folder, a hub id or a URL. A GGUF file or a bitsandbytes checkpoint is
            dequantised into memory.
        dequantise: Read an fp8 or MXFP4 checkpoint as bfloat16, tensor by tensor; it is refused otherwise.

    Raises:
        InterpError: The checkpoint is multimodal, quantised in a way that is not read, or has a broken config.
    """
    if is_gguf(source):
        source = load(source)
    if isinstance(source, HookedModel):
        kind = str(source.dtype).removeprefix("torch.")
        return ModelSource(source.name, kind, source.source, source.source, source)
    checkpoint = Checkpoint.open(source if is_remote(source) else locate(source))
    config, model_type = checkpoint.config, checkpoint.config.get("model_type")
    if "text_config" in config:
        hint = "give interp.load(…) of it, to export its language model as a text-only checkpoint"
        raise InterpError(f"{source} is a multimodal checkpoint, which is not edited in place; {hint}")
    quantised = config.get("quantization_config") or {}
    if not isinstance(quantised, dict) or not isinstance(model_type, str):
        values = f"model_type {model_type!r} and quantization_config {str(quantised)[:40]!r}"
        raise InterpError(f"{source}: its config.json has {values}; expected a name, and an object if anything")
    if quantised.get("quant_method") == "bitsandbytes":
        return open_source(load(source))
    if quantised and not dequantise:
        raise unsupported_reason(str(source), quantised.get("quant_method", "unknown"))
    folder = Path(source).expanduser()
    path = str(folder.resolve()) if folder.is_dir() else str(source)
    return CheckpointSource(str(source), None, path, checkpoint.folder, checkpoint, bool(quantised))


def _stamp(file: Path | RemoteFile) -> list[object]:
    if isinstance(file, RemoteFile):
        return [file.url, file.size(), file.stamp()]
    return [file.name, file.stat().st_size, file.stat().st_mtime_ns]


def _changed(piece: TensorPiece, plan: Plan) -> TensorPiece:
    """The piece, with what a plan does to it."""
    if piece.name not in plan.changes and piece.name not in plan.grown:
        return piece
    shape = plan.shape(piece.name, piece.source_shape)
    return replace(piece, change=lambda tensor: plan.apply(piece.name, tensor, out=tensor), changed_shape=shape)
