"""Origin: what an export is made from, be it a checkpoint on disk or a model in memory.

Of a checkpoint no model is made for this: its config, the headers of its weight files and what lies beside them tell
all that an edit has to know.

Companions: what lies beside a checkpoint's weights and goes along with them, but for config.json, which may change.

A file that is a link to another folder is refused: what is beside the weights is published with them. The Hugging Face
cache alone keeps files in a folder of its own and links to them.
"""

import shutil
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.core.errors import InterpError
from interp.core.files import write_json
from interp.editing.certificate.writer_check import require_writer_check
from interp.editing.export import sources
from interp.editing.export.weight_writer import TensorPiece
from interp.editing.fold.ablation import unit_width
from interp.editing.fold.plan import Plan
from interp.editing.fold.steps import UNEMBEDDING
from interp.models.architectures.table import architecture_of_type, known_architectures, was_recognised
from interp.models.architectures.writers import writers
from interp.models.checkpoints.checkpoint import Checkpoint, inside
from interp.models.checkpoints.dequantising import dequantise, unsupported_reason
from interp.models.checkpoints.remote_files import RemoteFile, is_remote
from interp.models.checkpoints.safetensors_file import DTYPES, dtype_name
from interp.models.hooked import HookedModel
from interp.models.identity import ModelReference
from interp.models.loading import is_gguf, load, locate
from interp.models.sites import Site


@dataclass(frozen=True, eq=False)
class WeightSource:
    """A checkpoint on disk, or a model in memory; `name` is what the user called it by."""

    name: str
    checkpoint: Checkpoint | None
    model: HookedModel | None
    dequantise: bool = False

    @classmethod
    def of(cls, source: str | Path | HookedModel, dequantise: bool = False) -> "WeightSource":
        """Check a source. GGUF files are dequantised into memory; what else is quantised, tensor by tensor if asked."""
        if is_gguf(source):
            source = load(source)
        if isinstance(source, HookedModel):
            return cls(source.name, None, source)
        checkpoint = Checkpoint.open(source if is_remote(source) else locate(source))
        if "text_config" in checkpoint.config:
            raise InterpError(
                f"{source} is a multimodal checkpoint, whose weights can't be edited in place yet; give "
                "interp.load(…) of it to export its language model as a text-only checkpoint"
            )
        quantised = checkpoint.config.get("quantization_config") or {}
        if not isinstance(quantised, dict) or not isinstance(checkpoint.config.get("model_type"), str):
            raise InterpError(
                f"{source}: its config.json has model_type {checkpoint.config.get('model_type')!r} and "
                f"quantization_config {str(quantised)[:40]!r}; expected a name, and an object if anything"
            )
        if quantised and not dequantise:
            raise unsupported_reason(str(source), quantised.get("quant_method", "unknown"))
        return cls(str(source), checkpoint, None, bool(quantised))

    @cached_property
    def config(self) -> Any:
        """The Hugging Face config."""
        if self.model:
            return self.model.config
        from transformers import AutoConfig

        try:
            return AutoConfig.from_pretrained(self._folder, local_files_only=True)
        except Exception as problem:  # what a malformed config makes of transformers is no one type
            reason = " ".join(str(problem).split())
            raise InterpError(f"{self.name}: transformers can't read its config.json ({reason[:200]})") from problem

    @property
    def model_type(self) -> str:
        """As config.json names it."""
        return str(self.config.model_type if self.model else self._opened.config["model_type"])

    @property
    def is_written_down(self) -> bool:
        """Whether its architecture is one of the table's, not one to be recognised by trying."""
        return self.model_type in known_architectures() and not was_recognised(self.model_type)

    def require_row(self) -> None:
        """Have a row of the table for its type, proved: of one that is not written down, the model is loaded for it."""
        if not self.is_written_down:
            require_writer_check(self.model or load(self.name))

    @property
    def loaded(self) -> str | None:
        """The type that a model in memory has; None for a checkpoint on disk."""
        return str(self.model.dtype).removeprefix("torch.") if self.model else None

    @property
    def is_tied(self) -> bool:
        """Whether the unembedding is the table of token embeddings."""
        return bool(self.config.tie_word_embeddings)

    @cached_property
    def files(self) -> list[list[TensorPiece]]:
        """Every tensor as it is, file by file, by the name that transformers gives it."""
        if self.checkpoint:
            opened = dequantise(self.checkpoint) if self.dequantise else self.checkpoint.sources
            return [
                [TensorPiece(self._full_name(name), source[1].dtype, source) for name, source in file.items()]
                for file in opened
                if file
            ]
        state = self._held.hf.state_dict()
        if self.is_tied:
            state.pop(UNEMBEDDING, None)
        return [[TensorPiece(name, dtype_name(x.dtype), x) for name, x in state.items()]]

    @property
    def names(self) -> list[str]:
        """Names of all tensors."""
        return [piece.name for file in self.files for piece in file]

    def read(self, name: str) -> Tensor:
        """A tensor as it is, by its name."""
        source = next(piece.source for file in self.files for piece in file if piece.name == name)
        return source if isinstance(source, Tensor) else source[0].read_entry(source[1])

    def reader(self, dtype: torch.dtype | None) -> Callable[[str], Tensor]:
        """`read` of what will be written: a fold has to go by the gains that the norms will have."""

        def read(name: str) -> Tensor:
            tensor = self.read(name)
            return tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor

        return read

    def edited(self, plan: Plan, dtype: torch.dtype | None = None) -> Iterator[list[TensorPiece]]:
        """The pieces to write, file by file: edited, cast, with a table that is untied and biases that are created."""
        self.require_fit(plan)
        for file in self.files:
            made = []
            for piece in file:
                wanted = dtype_name(dtype) if dtype and DTYPES[piece.dtype].is_floating_point else piece.dtype
                made.append(_changed(replace(piece, dtype=wanted), plan))
                if piece.name == plan.untie:
                    made.append(replace(piece, name=plan.unembedding, dtype=wanted))
                for bias in (name for name, weight in plan.created.items() if weight == piece.name):
                    made.append(_changed(TensorPiece(bias, wanted, torch.zeros(piece.shape[0])), plan))
            yield made

    def require_fit(self, plan: Plan) -> None:
        """Raise for a tensor that a plan changes and whose shape is not what the config says of it."""
        attention = {w.tensor for w in writers(self.config, self.names) if w.site.kind == "attn_out"}
        width, heads = self.config.hidden_size, self.config.num_attention_heads
        inputs = heads * unit_width(self.config, Site("attn_out", 0))
        for piece in (piece for file in self.files for piece in file if piece.name in plan.changes):
            change, shape = plan.changes[piece.name], piece.source_shape
            read = inputs if piece.name in attention and change.layout in ("out_in", "in_out") else None
            if not change.fits(shape, width, read):
                raise InterpError(
                    f"{piece.name} of {self.name} has shape {shape}, which is not what its config says (hidden_size "
                    f"{width}, {heads} heads); restore the checkpoint"
                )

    def reference(self, made_for: ModelReference | None) -> ModelReference:
        """The model, with the digest of the one that a recipe was made for, as far as shape and type can tell."""
        if made_for and made_for.model_type != self.config.model_type:
            raise InterpError(
                f"the recipe was made for {made_for.name}, a {made_for.model_type}, but {self.name} is a "
                f"{self.config.model_type}; make one for this model"
            )
        named = Path(self.name).name
        return ModelReference(
            name=named,
            digest=made_for.digest if made_for else "",
            model_type=self.config.model_type,
            d_model=self.config.hidden_size,
            n_layers=self.config.num_hidden_layers,
        )

    @property
    def source(self) -> str | None:
        """Where it can be found again; None for a model that was only ever in memory."""
        if self.model:
            return self.model.source
        return str(Path(self.name).expanduser().resolve()) if Path(self.name).expanduser().is_dir() else self.name

    @property
    def stamp(self) -> list[object]:
        """What changes when the files do; nothing for a model in memory."""
        return [_stamp(file) for file in self.checkpoint.files] if self.checkpoint else []

    def refuse_overlap(self, out: Path) -> None:
        """Raise if the output would be the source's folder or in it."""
        folder = self.checkpoint.folder if self.checkpoint else self.model and self.model.source
        if not folder:
            return
        source, target = Path(folder).resolve(), out.resolve()
        if target == source or source in target.parents:
            raise InterpError(f"{out} is the model's own folder or inside it; choose another output folder")

    def write_companions(self, folder: Path, changed: dict[str, Any]) -> None:
        """Config and tokenizer: copied as they are, but for what the edit changes in the config."""
        config = self.config_values
        if self.checkpoint:
            sources.copy(self._folder, folder)
        else:
            sources.save(self._held, folder)
        if "dtype" in changed:
            config.pop("torch_dtype", None)
        write_json(folder / "config.json", config | changed)

    @property
    def config_values(self) -> dict[str, Any]:
        """config.json as plain values."""
        if self.checkpoint and self.dequantise:
            gone = ("quantization_config", "torch_dtype")
            return {k: x for k, x in self.checkpoint.config.items() if k not in gone} | {"dtype": "bfloat16"}
        if self.checkpoint:
            return dict(self.checkpoint.config)
        base = self._held
        own = {"architectures": [type(base.hf).__name__], "dtype": str(base.dtype).removeprefix("torch.")}
        return base.config.to_diff_dict() | own

    @property
    def _held(self) -> HookedModel:
        if self.model is None:
            raise InterpError(f"{self.name} is on disk, not in memory")
        return self.model

    @property
    def _opened(self) -> Checkpoint:
        if self.checkpoint is None:
            raise InterpError(f"{self.name} is in memory, not on disk")
        return self.checkpoint

    @property
    def _folder(self) -> Path:
        return self._opened.folder

    def _full_name(self, name: str) -> str:
        """Checkpoints of a base model (the original GPT-2's) leave out the prefix that transformers adds at load."""
        return name if name == UNEMBEDDING else self._missing_prefix + name

    @cached_property
    def _missing_prefix(self) -> str:
        if self.checkpoint is None:
            return ""
        prefix = architecture_of_type(self.checkpoint.config["model_type"]).layers.partition(".")[0] + "."
        return "" if any(name.startswith(prefix) for name in self.checkpoint.dtypes) else prefix


def _stamp(file: Path | RemoteFile) -> list[object]:
    if isinstance(file, RemoteFile):
        return [file.url, file.size(), file.stamp()]
    return [file.name, file.stat().st_size, file.stat().st_mtime_ns]


def _changed(piece: TensorPiece, plan: Plan) -> TensorPiece:
    """The piece, with what a plan does to it."""
    if piece.name not in plan.changes and piece.name not in plan.grown:
        return piece
    return replace(
        piece, change=partial(_in_place, plan, piece.name), changed_shape=plan.shape(piece.name, piece.source_shape)
    )


def _in_place(plan: Plan, name: str, tensor: Tensor) -> Tensor:
    return plan.apply(name, tensor, out=tensor)


_PATTERNS = (
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "additional_chat_templates/*.jinja",
    "LICENSE*",
    "NOTICE*",
)


def copy(source: Path, folder: Path) -> None:
    """Copy those of a checkpoint's folder. Raises for a link that leads out of it."""
    for name in _names(source):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(inside(source, name), folder / name)


def save(model: HookedModel, folder: Path) -> None:
    """Write those of a model in memory."""
    if model.hf.generation_config is not None:
        # Its own save refuses settings that it loads: a temperature without sampling, say.
        write_json(folder / "generation_config.json", model.hf.generation_config.to_diff_dict())
    if model.tokenizer is not None:
        tokenizer = deepcopy(model.tokenizer)
        if tokenizer.is_fast:  # keeps how the last call padded and cut, which is no part of the model
            tokenizer.backend_tokenizer.no_padding()
            tokenizer.backend_tokenizer.no_truncation()
        tokenizer.save_pretrained(folder)


def _names(source: Path) -> Iterator[str]:
    for pattern in _PATTERNS:
        yield from (str(file.relative_to(source)) for file in sorted(source.glob(pattern)) if not file.is_dir())
