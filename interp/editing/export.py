"""Export: the edited checkpoint as a Hugging Face folder that plain transformers loads.

    source -> fold plan -> shards -> config, tokenizer, recipe, manifest -> certificate -> rename into place

Everything is written into a temporary sibling folder, reloaded and measured there; only then is it renamed. Nothing
half-written is left behind, whatever fails.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from interp.core.dtypes import dtype_of
from interp.core.errors import InterpError
from interp.core.files import new_folder, sha256_file, write_json, write_text
from interp.core.records import versions
from interp.editing.certificate import Certificate
from interp.editing.fold import UNEMBEDDING, Plan, fold
from interp.editing.stream import Piece, cut, write
from interp.editing.verify import MANIFEST, RECIPE, Manifest, certify, random_probes, write_probes
from interp.interventions.recipe import Recipe
from interp.models.architectures import architecture_of_type
from interp.models.checkpoint import Checkpoint
from interp.models.hooked import HookedModel
from interp.models.load import is_gguf, load, locate
from interp.models.tensorfile import DTYPES, dtype_name

_COMPANIONS = (
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
)


def export(
    recipe: Recipe,
    source: str | Path | HookedModel,
    out: str | Path,
    dtype: str | None = None,
    prompts: list[str] | None = None,
    shard_bytes: int | None = None,
) -> Certificate:
    """Write the edited checkpoint to a new folder and return the certificate, which is saved in it.

    `source` is "organism", a local folder or hub id (read tensor by tensor, its types kept), or a GGUF file or
    HookedModel (its weights in memory, in the type they have there; the language model alone of a multimodal one).
    `dtype` casts floating-point weights. Files are cut as those of the source, or anew to at most `shard_bytes` each.
    `prompts` adds texts of yours to those on which hooks and export are compared.
    Raises InterpError where the recipe is another model's, can't be folded exactly, or `out` exists, and where the
    reloaded checkpoint does not do what the hooks do; nothing is written then.
    """
    cast = dtype_of(dtype) if dtype else None
    held = load(source) if is_gguf(source) else source
    origin = _Origin.of(held)
    origin.refuse_overlap(Path(out))
    base = held if isinstance(held, HookedModel) else load(held)
    recipe.check(base.reference)
    plan = fold(recipe, base.config, origin.names, base.config.tie_word_embeddings)
    with new_folder(out) as staging:
        write(cut(_planned(origin, plan, cast), shard_bytes), staging)
        _write_companions(staging, origin, base, untied=plan.untie is not None, dtype=dtype)
        (staging / RECIPE).mkdir()
        recipe.write(staging / RECIPE)
        probes = random_probes(base, prompts or [])
        write_probes(staging, probes)
        certificate = certify(base, recipe, staging, probes)
        _require_faithful(certificate)
        _write_record(staging, recipe, base, certificate)
    return certificate


def _require_faithful(certificate: Certificate) -> None:
    if not certificate.faithful:
        raise InterpError(
            f"the exported weights do not do what the recipe's hooks do (KL {certificate.kl:.1e} nats against "
            f"the edit's own {certificate.effect_kl:.1e}, writer gap {certificate.writer_gap:.1e}, "
            f"leak {certificate.leak}), so nothing was written; run the recipe with hooks, "
            "and please report the model's architecture"
        )


@dataclass(frozen=True)
class _Origin:
    """Where the tensors come from: a checkpoint on disk, or a model in memory."""

    checkpoint: Checkpoint | None
    model: HookedModel | None

    @classmethod
    def of(cls, source: str | Path | HookedModel) -> "_Origin":
        if isinstance(source, HookedModel):
            return cls(None, source)
        checkpoint = Checkpoint.open(locate(source))
        if "text_config" in checkpoint.config:
            raise InterpError(
                f"{source} is a multimodal checkpoint, whose weights can't be edited in place yet; give "
                "interp.load(…) of it to export its language model as a text-only checkpoint"
            )
        return cls(checkpoint, None)

    @cached_property
    def files(self) -> list[list[Piece]]:
        """Every tensor as it is, file by file, by the name that transformers gives it."""
        if self.checkpoint:
            return [
                [Piece(self._full_name(name), entry.dtype, (file, entry)) for name, entry in file.entries.items()]
                for file in self.checkpoint.opened
            ]
        if self.model is None:
            return []
        state = self.model.hf.state_dict()
        if self.model.config.tie_word_embeddings:
            state.pop(UNEMBEDDING, None)
        return [[Piece(name, dtype_name(x.dtype), x) for name, x in state.items()]]

    @property
    def names(self) -> list[str]:
        """Names of all tensors."""
        return [piece.name for file in self.files for piece in file]

    def _full_name(self, name: str) -> str:
        """Checkpoints of a base model (the original GPT-2's) leave out the prefix that transformers adds at load."""
        return name if name == UNEMBEDDING else self._missing_prefix + name

    @cached_property
    def _missing_prefix(self) -> str:
        if self.checkpoint is None:
            return ""
        prefix = architecture_of_type(self.checkpoint.config["model_type"]).layers.partition(".")[0] + "."
        return "" if any(name.startswith(prefix) for name in self.checkpoint.dtypes) else prefix

    def refuse_overlap(self, out: Path) -> None:
        folder = self.checkpoint.folder if self.checkpoint else self.model and self.model.source
        if not folder:
            return
        source, target = Path(folder).resolve(), out.resolve()
        if target == source or source in target.parents:
            raise InterpError(f"{out} is the model's own folder or inside it; choose another output folder")


def _planned(origin: _Origin, plan: Plan, dtype: torch.dtype | None) -> Iterator[list[Piece]]:
    """The pieces to write, file by file: edited, cast, and with the table that is untied."""
    for file in origin.files:
        made = []
        for piece in file:
            wanted = dtype_name(dtype) if dtype and DTYPES[piece.dtype].is_floating_point else piece.dtype
            change = partial(plan.apply, piece.name) if piece.name in plan.changes else None
            made.append(replace(piece, dtype=wanted, change=change))
            if piece.name == plan.untie:
                made.append(replace(piece, name=UNEMBEDDING, dtype=wanted))
        yield made


def _write_companions(staging: Path, origin: _Origin, base: HookedModel, untied: bool, dtype: str | None) -> None:
    """Config and tokenizer: copied as they are, the config changed only where the edit needs it."""
    if origin.checkpoint:
        config: dict[str, Any] = dict(origin.checkpoint.config)
        for pattern in _COMPANIONS:
            for file in origin.checkpoint.folder.glob(pattern):
                shutil.copyfile(file, staging / file.name)
    else:
        config = base.config.to_diff_dict()
        config["architectures"] = [type(base.hf).__name__]
        config["dtype"] = str(base.dtype).removeprefix("torch.")
        if base.hf.generation_config is not None:
            # Its own save refuses settings that it loads: a temperature without sampling, say.
            write_json(staging / "generation_config.json", base.hf.generation_config.to_diff_dict())
        if base.tokenizer is not None:
            base.tokenizer.save_pretrained(staging)
    if untied:
        config["tie_word_embeddings"] = False
    if dtype:
        config["dtype"] = dtype
        config.pop("torch_dtype", None)
    write_json(staging / "config.json", config)


def _write_record(staging: Path, recipe: Recipe, base: HookedModel, certificate: Certificate) -> None:
    write_json(staging / "interp_certificate.json", certificate.to_json())
    write_text(staging / "README.md", _card(recipe, base, certificate))
    files = sorted(file for file in staging.rglob("*") if file.is_file())
    digests = {str(file.relative_to(staging)): sha256_file(file) for file in files}
    manifest = Manifest(
        base=base.reference, source=base.source, recipe=recipe.digest, files=digests, versions=versions()
    )
    write_json(staging / MANIFEST, manifest.model_dump())


def _card(recipe: Recipe, base: HookedModel, certificate: Certificate) -> str:
    ops = "\n".join(f"- {type(edit.op).__name__} at {', '.join(edit.sites)}" for edit in recipe.edits)
    figures = "\n".join(f"| {name} | {value} |" for name, value in certificate.rows())
    return (
        f"---\nlibrary_name: transformers\ntags: [interp, edited]\n---\n\n# {base.name}, edited\n\n{recipe.note}\n\n"
        f"Edited with interp (recipe in `{RECIPE}/`) from {base.name} (weights {base.digest[:12]}):\n\n{ops}\n\n"
        "Measured between the hooked base model and this checkpoint, reloaded:\n\n| figure | value "
        f"|\n|---|---|\n{figures}\n\n"
        "These figures say that the weights do what the recipe does. They do not say what the recipe does to the "
        "model's behaviour: read the audit before use.\n"
    )
