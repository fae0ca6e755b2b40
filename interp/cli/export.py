"""The verbs `interp export`, `interp verify` and `interp undo`: fold a recipe into weights, check it, restore it."""

import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import Field, model_validator

from interp.cli._options import Json, Without, repeated
from interp.cli.audit import CODES, print_decision
from interp.core.config import Config
from interp.core.display import print_values, say
from interp.core.errors import InterpError
from interp.core.inputs import numbered_lines
from interp.editing.options import ExportOptions

Source = Annotated[str, typer.Argument(help="organism, a local Hugging Face folder, a URL of one, or a hub id")]


class ExportInputs(Config):
    """The files that an export reads and writes, the release that it needs, and the training of its factors."""

    recipe: Path = Field(description="recipe folder")
    out: Path | None = Field(None, description="new folder for the checkpoint")
    adapter: Path | None = Field(None, description="folder of a PEFT LoRA adapter to merge into MODEL first")
    base: Path | None = Field(None, description="with --form gguf: GGUF file to copy, which holds MODEL quantised")
    protect: Path | None = Field(None, description="folder of a saved direction that the edit leaves intact")
    prompts: Path | None = Field(None, description="file of additional texts, one per line, for the certificate")
    require: Path | None = Field(None, description="audit, or risk report, of this recipe; --policy has to allow it")
    policy: str | None = Field(None, description="with --require: policy (YAML file, or bundled: release, targeted)")
    safeguard: tuple[str, ...] = repeated("with --require: safeguard of the policy that you state is in place")
    reviewer: tuple[Path, ...] = repeated("with --require: public key (PEM) of a reviewer of the risk report")
    depth: Path | None = Field(None, description="with --require: folder of interp depth, where the policy asks for it")
    push: str | None = Field(
        None, description="repository of the Hugging Face Hub, OWNER/NAME, to upload the certified folder to"
    )
    distil: str | None = Field(None, description="corpus to train factors on, for a recipe that can't be folded")
    rank: int | None = Field(None, ge=1, description="with --distil: rank of the factors [default: 8]")
    steps: int | None = Field(None, ge=0, description="with --distil: training steps [default: 300]")
    options: Annotated[ExportOptions, Without(("prompts", "fold.sharpness"))] = ExportOptions()

    @model_validator(mode="after")
    def _check_conflicts(self) -> "ExportInputs":
        training = [name for name in ("rank", "steps") if getattr(self, name) is not None]
        if training and self.distil is None:
            raise InterpError(f"{' and '.join(training)}: only for distil; leave it out")
        if self.needs_release and (self.require is None or self.policy is None):
            raise InterpError(
                "require, policy, safeguard, reviewer and depth go together; give the audit and the policy"
            )
        form, loaded = self.options.form, not (self.options.dry_run or self.options.streamed)
        if self.base is not None and form != "gguf":
            raise InterpError("base is the GGUF file of --form gguf; leave it out, or name the form")
        if self.needs_release and not (loaded and form in ("checkpoint", "gguf")):
            raise InterpError("require is for checkpoints that are certified; leave dry_run, streamed and form out")
        if self.adapter is not None and (self.options.streamed or self.options.fold.dequantise or form == "gguf"):
            raise InterpError("adapter is merged into a model in memory; leave streamed, dequantise and gguf out")
        if self.push is not None and (self.options.streamed or form not in ("checkpoint", "gguf")):
            raise InterpError("push is for exports that are certified; leave streamed and form out")
        if self.push is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.push, re.ASCII):
            raise InterpError(f"push is {self.push!r}; expected a repository of the Hub, OWNER/NAME")
        if self.distil is not None and not (loaded and form in ("checkpoint", "adapter")):
            raise InterpError("distil needs a model in memory, and form checkpoint or adapter; leave it out")
        if self.out is None and not self.options.dry_run:
            raise InterpError("give --out FOLDER, or --dry-run")
        return self

    @property
    def needs_release(self) -> bool:
        """Whether a policy has to allow the export."""
        return bool(self.require or self.policy or self.safeguard or self.reviewer or self.depth)


def export_command(model: Source, inputs: ExportInputs, as_json: Json = False) -> None:
    """Fold a recipe into the weights, write the checkpoint, reload it and certify it."""
    from interp.editing.export import exporter
    from interp.interventions.recipe import Recipe

    recipe, notes = Recipe.load(inputs.recipe), dict[str, Any]()
    if inputs.protect:
        recipe, notes = _keep_clear(recipe, inputs.protect)
    options = ExportOptions.merged(inputs.options, {"prompts": _lines(inputs.prompts)})
    source = _merged(model, inputs.adapter)
    release = _release(inputs, recipe, as_json) if inputs.needs_release else None
    if options.dry_run or inputs.out is None:
        _print_plan(recipe, source, inputs, options, notes, as_json)
    factors = _train_factors(inputs, recipe, source, options.fold.approximate) if inputs.distil is not None else None
    if options.form == "gguf":
        from interp.editing.export.gguf_writer import export_gguf

        certificate = export_gguf(recipe, source, inputs.out, options, base=inputs.base, release=release)
        values: dict[str, Any] = {"checkpoint": str(inputs.out)}
        notes |= _figures(certificate, as_json)
    elif options.form != "checkpoint":
        values = _export_form(recipe, source, inputs.out, options, factors)
    elif options.streamed:
        manifest = exporter.export_streamed(recipe, source, inputs.out, options)
        values = {"checkpoint": str(inputs.out), "status": manifest.status, "files": len(manifest.files)}
        notes["base weights"] = manifest.base.digest[:12] or "not compared with the recipe's"
    else:
        certificate = exporter.export(recipe, source, inputs.out, options, release=release, distilled=factors)
        values = {"checkpoint": str(inputs.out)} | ({"distilled": str(factors)} if factors else {})
        notes |= _figures(certificate, as_json)
    if options.form == "checkpoint" and (names := _left_out(inputs.out)):
        notes["left out"] = names
    if inputs.push:
        from interp.bridges.hub import push_export

        pushed = push_export(inputs.out, inputs.push, overwrite=options.overwrite)
        notes |= {"pushed": pushed.url} | ({"source": pushed.source} if pushed.source else {})
    print_values(as_json, values | notes)


def _merged(model: str | None, adapter: Path | None) -> Any:
    """The model with an adapter merged into it, or its name."""
    from interp.models.loading import load

    return model if adapter is None else load(model, adapter=adapter)


def _left_out(folder: Path) -> list[str]:
    """The files of the base's folder that did not come along, except what the export has of its own."""
    from interp.editing.certificate import ExportManifest

    return [name for name, reason in (ExportManifest.at(folder).left_out or {}).items() if "its own" not in reason]


def verify_command(
    folder: Annotated[Path, typer.Argument(help="checkpoint written by interp export")],
    base: Annotated[str | None, typer.Option(help="the original model, if it has moved")] = None,
    adapter: Annotated[Path | None, typer.Option(help="with --base: LoRA adapter that was merged into it")] = None,
    key: Annotated[Path | None, typer.Option(help="public key (PEM) of the signature that it must have")] = None,
    prompts: Annotated[Path | None, typer.Option(help="file of additional texts, one per line")] = None,
    as_json: Json = False,
) -> None:
    """Check the files of an exported checkpoint, and check again that its weights reproduce the recipe's hooks."""
    from interp.editing.certificate.verifier import check
    from interp.editing.export.signatures import read_signature

    if adapter is not None and base is None:
        raise InterpError("adapter is merged into the original model; give that as base")
    signed = read_signature(folder, key)
    certificate, replayed = check(folder, _merged(base, adapter), _lines(prompts))
    again = asdict(replayed) if as_json else str(replayed)
    values = {"faithful": certificate.faithful, "signature": signed, "made again": again}
    print_values(as_json, values | _figures(certificate, as_json))
    raise typer.Exit(0 if certificate.faithful else 1)


def undo_command(
    folder: Annotated[Path, typer.Argument(help="checkpoint written by interp export --undo")],
    out: Annotated[Path, typer.Option(help="new folder for the original checkpoint")],
    as_json: Json = False,
) -> None:
    """Restore the original checkpoint from an edited one and its patch."""
    from interp.editing.export.restoring import undo as write_original

    write_original(folder, out)
    print_values(as_json, {"checkpoint": str(out)})


def _keep_clear(recipe: Any, folder: Path) -> tuple[Any, dict[str, Any]]:
    """The recipe with its projections clear of a saved direction, and a note of what that changed."""
    from interp.directions.direction import Direction
    from interp.editing.fold.subspaces import clear_of

    cleared, turns = clear_of(recipe, Direction.load(folder))
    angle, overlap = max(turn.angle for turn in turns), max(turn.overlap for turn in turns)
    return cleared, {"protected": f"{folder}: turned by {angle:.1f} degrees, cosine with it {overlap:.2f} before"}


def _release(inputs: ExportInputs, recipe: Any, as_json: bool) -> Any:
    """The release of a recipe. If the policy does not allow it: the reasons, and the decision's exit code."""
    from interp.auditing.policy.release_gate import decide_release, gate
    from interp.auditing.policy.schema import Policy

    rules = Policy.read(str(inputs.policy))
    proofs: dict[str, Any] = {"reviewers": inputs.reviewer, "depth": inputs.depth}
    decision = gate(str(inputs.require), rules, None, inputs.safeguard, recipe, **proofs)
    if not decision.allow:
        print_decision(decision, as_json)
        raise typer.Exit(CODES[decision.outcome])
    return decide_release(str(inputs.require), rules, decision)


def _print_plan(
    recipe: Any, model: Any, inputs: ExportInputs, options: ExportOptions, notes: dict[str, Any], as_json: bool
) -> NoReturn:
    """What the export would change and need; ends with the exit code that the export would have."""
    from interp.editing.export import exporter, gguf_writer, weight_writer

    if options.form == "gguf":
        edit = gguf_writer.GgufEdit.of(recipe, model, inputs.base, options)
        plan, estimate = edit.plan, weight_writer.estimate_export([[*edit.pieces.values()]])
        estimate = replace(estimate, disk=edit.file.path.stat().st_size)
    else:
        plan, estimate = exporter.dry_run(recipe, model, options)
    barred = plan.barred(options.fold)
    if inputs.push:
        sent = "weights, config and tokenizer, the recipe, certificate, manifest and model card"
        notes["push"] = f"to {inputs.push}, private, in one commit once the certificate holds: {sent}"
    if as_json:
        items = [asdict(item) for item in plan.items]
        values = {"status": plan.status, "exports": not barred, "tensors": len(plan.changes), "items": items}
        print_values(True, values | asdict(estimate) | notes)
    else:
        more = "" if options.streamed else "; loading the model twice and certifying come on top"
        say(*plan.lines, f"{estimate}{more}", *(f"{name}: {note}" for name, note in notes.items()))
        if any(item.status != "refused" for item in barred):
            print("what is not exact is not exported but with --approximate")
    raise typer.Exit(1 if barred else 0)


def _train_factors(inputs: ExportInputs, recipe: Any, model: Any, even_if_exact: bool) -> Any:
    """Low-rank factors trained on a corpus."""
    from interp.editing.approximate.distillation import distil
    from interp.models.loading import load
    from interp.pipeline.materials import corpus_source

    settings = inputs.model_dump(include={"rank", "steps"}, exclude_none=True)
    text = corpus_source(str(inputs.distil), documents=2000)
    return distil(recipe, load(model), text, even_if_exact=even_if_exact, **settings)


def _export_form(recipe: Any, model: Any, out: Path, options: ExportOptions, factors: Any) -> dict[str, Any]:
    """Write an adapter or a control vector, and say what it is."""
    from interp.editing.export.adapter import export_adapter
    from interp.editing.export.control_vector import export_control_vector, export_interp_engine, export_vllm_lens
    from interp.editing.export.sources import open_source

    if options.form == "adapter":
        adapter = export_adapter(recipe, model, out, fold=options.fold, distilled=factors, overwrite=options.overwrite)
        merging = "the same edit" if adapter.merges else "another edit, of the unembedding too: do not merge it"
        return {"adapter": str(out), "rank": adapter.rank, "merged": merging}
    writers = {"vllm-lens": export_vllm_lens, "interp-engine": export_interp_engine}
    write, reference = writers.get(options.form, export_control_vector), open_source(model).reference(recipe.model)
    layers = write(recipe, reference, out, options.overwrite)
    return {"file": str(out), "layers": layers}


def _lines(prompts: Path | None) -> list[str]:
    if prompts is None:
        return []
    lines = [line.rstrip("\r") for _, line in numbered_lines(prompts, "text, one prompt per line")]
    if not lines:
        raise InterpError(f"{prompts}: no prompts in it; expected one per line")
    return lines


def _figures(certificate: Any, as_json: bool) -> dict[str, Any]:
    if as_json:
        return certificate.to_json()
    return {name: f"{value} ({reading})" if reading else value for name, value, reading in certificate.rows()}
