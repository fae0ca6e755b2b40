"""The verbs `interp export` and `interp verify`: a recipe folded into weights, and a check of what was written."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.audit import CODES, print_decision
from interp.core.display import print_values
from interp.core.errors import InterpError, nearest

Json = Annotated[bool, typer.Option("--json", help="one JSON value on standard output")]


def export_command(
    model: Annotated[str, typer.Argument(help="organism, a local Hugging Face folder, a URL of one, or a hub id")],
    recipe: Annotated[Path, typer.Option(help="folder of the recipe")],
    out: Annotated[Path | None, typer.Option(help="new folder for the checkpoint")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; the checkpoint's own if not given")
    ] = None,
    shard_size: Annotated[
        str | None,
        typer.Option(help="most a weight file may hold, such as 4GB; files are cut as the source's if not given"),
    ] = None,
    protect: Annotated[
        Path | None,
        typer.Option(
            help="folder of a saved direction (of refusals, say) that the recipe's projections leave as it is"
        ),
    ] = None,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="say what would change, how exactly and what it takes")
    ] = False,
    streamed: Annotated[
        bool, typer.Option("--streamed", help="load no model, certify nothing: for checkpoints larger than memory")
    ] = False,
    approximate: Annotated[bool, typer.Option("--approximate", help="let in what does not fold exactly")] = False,
    rehost: Annotated[
        bool, typer.Option("--rehost", help="save Qwen2 and Mistral as Llama, which has biases to add vectors in")
    ] = False,
    leave_embedding: Annotated[bool, typer.Option("--leave-embedding", help="do not edit the table of tokens")] = False,
    keep_norms: Annotated[bool, typer.Option("--keep-norms", help="keep the lengths of edited columns")] = False,
    compensate: Annotated[
        bool, typer.Option("--compensate", help="round to 16 bits so that what was removed stays removed")
    ] = False,
    dequantise: Annotated[
        bool, typer.Option("--dequantise", help="make an fp8 or MXFP4 checkpoint bfloat16, tensor by tensor")
    ] = False,
    undo: Annotated[bool, typer.Option("--undo", help="add a patch that brings the original weights back")] = False,
    trust_base: Annotated[
        bool, typer.Option("--trust-base", help="with --streamed: do not hash the model to see if it is the recipe's")
    ] = False,
    sign: Annotated[Path | None, typer.Option(help="private key (PEM, elliptic curve) to sign the folder with")] = None,
    form: Annotated[
        str, typer.Option("--form", help="checkpoint, adapter (a LoRA adapter) or control-vector (a GGUF file)")
    ] = "checkpoint",
    prompts: Annotated[
        Path | None, typer.Option(help="texts on which to compare hooks and export as well, one a line")
    ] = None,
    require: Annotated[
        Path | None, typer.Option(help="an audit of this recipe on this model, that a policy must allow (--policy)")
    ] = None,
    policy: Annotated[str | None, typer.Option(help="with --require: a policy (YAML), or release")] = None,
    safeguard: Annotated[
        list[str] | None,
        typer.Option(help="safeguard that is in place, by the policy's name for it; may be repeated"),
    ] = None,
    distil: Annotated[
        str | None, typer.Option(help="a corpus on which to train low-rank factors for a recipe that does not fold")
    ] = None,
    rank: Annotated[int | None, typer.Option(help="with --distil: the factors' rank (8)", min=1)] = None,
    steps: Annotated[int | None, typer.Option(help="with --distil: steps of training (300)", min=0)] = None,
    as_json: Json = False,
) -> None:
    """Fold a recipe into the weights, write the checkpoint, reload it and certify it."""
    from interp.editing.export import exporter as exports
    from interp.editing.options import FoldOptions
    from interp.interventions.recipe import Recipe

    edits = Recipe.load(recipe)
    edits, kept = _clear_of(edits, protect) if protect else (edits, {})
    choices = FoldOptions(
        approximate=approximate, rehost=rehost, leave_embedding=leave_embedding, keep_norms=keep_norms,
        compensate=compensate, dequantise=dequantise,
    )  # fmt: skip
    files: dict[str, Any] = {
        "--dtype": dtype, "--shard-size": shard_size, "--streamed": streamed, "--undo": undo, "--sign": sign,
        "--dequantise": dequantise, "--compensate": compensate, "--trust-base": trust_base, "--dry-run": dry,
    }  # fmt: skip
    folds: dict[str, Any] = {
        "--approximate": approximate, "--rehost": rehost, "--leave-embedding": leave_embedding,
        "--keep-norms": keep_norms, "--distil": distil,
    }  # fmt: skip
    if streamed or dry or form != "checkpoint":
        _refuse({"--prompts": prompts}, "is for what is certified")
    if form != "checkpoint":
        _refuse(files | (folds if form == "control-vector" else {}), f"has no meaning with --form {form}")
    if not (streamed or dry):
        _refuse({"--trust-base": trust_base}, "is for --streamed and --dry-run, which need load no model to hash")
    if distil is None:
        _refuse({"--rank": rank, "--steps": steps is not None}, "is for --distil")
    asked = (require, policy, safeguard)
    if any(asked) and (dry or streamed or form != "checkpoint"):
        raise InterpError("--require is for checkpoints that are certified; leave --dry-run, --streamed and --form out")
    release = _release(*asked, edits, as_json) if any(asked) else None
    if distil is not None and (dry or streamed or form not in ("checkpoint", "adapter")):
        raise InterpError("--distil trains a loaded model; leave --dry-run, --streamed and --form control-vector out")
    if dry:
        plan, needed = exports.dry_run(edits, model, dtype=dtype, fold=choices, trust_base=trust_base)
        items = [{"op": i.op, "sites": list(i.sites), "status": i.status, "reason": i.reason} for i in plan.items]
        values: dict[str, Any] = {
            "status": plan.status,
            "exports": not plan.barred(choices),
            "tensors": len(plan.changes),
        }
        values |= {"items": items, **asdict(needed), **kept}
        if as_json:
            print_values(True, values)
        else:
            more = "" if streamed else "; loading the model, with hooks and from the folder, and certifying come on top"
            print(f"{plan}\n{needed}{more}", *(f"{name}: {said}" for name, said in kept.items()), sep="\n")
            if any(item.status != "refused" for item in plan.barred(choices)):
                print("what is not exact is not exported but with --approximate")
        raise typer.Exit(1 if plan.barred(choices) else 0)
    if out is None:
        raise InterpError("no --out; say which new folder the checkpoint goes to, or --dry-run")
    found = _distilled(distil, edits, model, rank, steps, approximate) if distil is not None else None
    if form != "checkpoint":
        print_values(as_json, _other(form, edits, model, out, choices, found) | kept)
        return
    written: dict[str, Any] = {"dtype": dtype, "shard_size": shard_size, "fold": choices, "undo": undo, "sign": sign}
    if streamed:
        manifest = exports.export_streamed(edits, model, out, **written, trust_base=trust_base)
        told = {"checkpoint": str(out), "status": manifest.status, "files": len(manifest.files)}
        print_values(
            as_json, told | kept | {"base weights": manifest.base.digest[:12] or "not compared with the recipe's"}
        )
        return
    certificate = exports.export(
        edits, model, out, **written, prompts=_lines(prompts), release=release, distilled=found
    )
    remains = ({"distilled": str(found)} if found else {}) | kept
    print_values(as_json, {"checkpoint": str(out), **remains, **_figures(certificate, as_json)})


def verify_command(
    folder: Annotated[Path, typer.Argument(help="a checkpoint written by interp export")],
    base: Annotated[str | None, typer.Option(help="the model it was made from, if it has moved")] = None,
    key: Annotated[Path | None, typer.Option(help="public key (PEM) that it must be signed with")] = None,
    prompts: Annotated[Path | None, typer.Option(help="texts to measure on as well, one a line")] = None,
    as_json: Json = False,
) -> None:
    """Check an exported checkpoint's files, and measure again that its weights do what the recipe's hooks do."""
    from interp.editing.certificate.verifier import check
    from interp.editing.export.signatures import read_signature

    signed = read_signature(folder, key)
    certificate, replayed = check(folder, base, _lines(prompts))
    again = asdict(replayed) if as_json else str(replayed)
    told = {"faithful": certificate.faithful, "signature": signed, "made again": again}
    print_values(as_json, told | _figures(certificate, as_json))
    raise typer.Exit(0 if certificate.faithful else 1)


def undo_command(
    folder: Annotated[Path, typer.Argument(help="a checkpoint written by interp export --undo")],
    out: Annotated[Path, typer.Option(help="new folder for the original checkpoint")],
    as_json: Json = False,
) -> None:
    """Write the original checkpoint again from an edited one and its patch."""
    from interp.editing.export.restoring import undo as write_original

    write_original(folder, out)
    print_values(as_json, {"checkpoint": str(out)})


def _clear_of(recipe: Any, folder: Path) -> tuple[Any, dict[str, Any]]:
    """The recipe clear of a saved direction, and what to say of it."""
    from interp.directions.direction import Direction
    from interp.editing.fold.subspaces import clear_of

    if not (folder / "direction.json").is_file():
        raise InterpError(f"--protect {folder}: no saved direction (finding.direction.save writes one)")
    made, found = clear_of(recipe, Direction.load(folder))
    angle, overlap = max(x.angle for x in found), max(x.overlap for x in found)
    return made, {"protected": f"{folder}: turned by {angle:.1f} degrees, cosine with it {overlap:.2f} before"}


def _release(audit: Path | None, policy: str | None, safeguards: list[str] | None, recipe: Any, as_json: bool) -> Any:
    """The release of a recipe. If the policy does not allow it: the reasons, and the decision's exit code."""
    from interp.auditing.policy.release_gate import decide_release, gate
    from interp.auditing.policy.schema import Policy

    if audit is None or policy is None:
        raise InterpError("--require, --policy and --safeguard go together; give the audit and the policy")
    rules = Policy.of_name(policy)
    decision = gate(audit, rules, None, safeguards or [], recipe)
    if not decision.allow:
        print_decision(decision, as_json)
        raise typer.Exit(CODES[decision.outcome])
    return decide_release(audit, rules, decision)


def _refuse(options: dict[str, Any], why: str) -> None:
    """Raise for options that would be passed over in silence."""
    given = [name for name, value in options.items() if value]
    if given:
        raise InterpError(f"{', '.join(given)} {why}; leave it out")


def _distilled(texts: str, recipe: Any, model: str, rank: int | None, steps: int | None, even_if_exact: bool) -> Any:
    """Factors trained on a corpus, or on the organism's."""
    from interp.editing.approximate.distillation import distil
    from interp.models.loading import ORGANISM, load
    from interp.pipeline.materials import read_corpus

    source = read_corpus(texts, documents=2000) if texts == ORGANISM else texts
    given = {name: value for name, value in (("rank", rank), ("steps", steps)) if value is not None}
    return distil(recipe, load(model), source, even_if_exact=even_if_exact, **given)


def _other(form: str, recipe: Any, model: str, out: Path, choices: Any, distilled: Any) -> dict[str, Any]:
    """What was written in a form that is no checkpoint."""
    from interp.editing.export.adapter import export_adapter
    from interp.editing.export.control_vector import export_control_vector
    from interp.editing.export.sources import open_source

    if form == "adapter":
        made = export_adapter(recipe, model, out, fold=choices, distilled=distilled)
        merging = "the same edit" if made.merges else "another edit, of the unembedding too: do not merge it"
        return {"adapter": str(out), "rank": made.rank, "merged": merging}
    if form == "control-vector":
        layers = export_control_vector(recipe, open_source(model).reference(recipe.model), out)
        return {"control vector": str(out), "layers": layers}
    raise InterpError(f"unknown form {form!r}; {nearest(form, ['checkpoint', 'adapter', 'control-vector'])}")


def _lines(prompts: Path | None) -> list[str]:
    if prompts is None:
        return []
    try:
        lines = [line for line in prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as problem:
        raise InterpError(f"{prompts}: cannot be read ({problem}); expected a text file, one prompt a line") from None
    if not lines:
        raise InterpError(f"{prompts}: no prompts in it; expected one a line")
    return lines


def _figures(certificate: Any, as_json: bool) -> dict[str, Any]:
    return certificate.to_json() if as_json else dict(certificate.rows())
