"""The README.md of an exported checkpoint, a Hugging Face model card.

It says what was edited and how exactly, what the edit is for, what was measured, and what is unknown.
"""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from interp.core.display import escaped, markdown
from interp.core.errors import InterpError
from interp.core.files import sha256_file, write_json, write_text
from interp.editing.certificate import Certificate, ExportManifest
from interp.editing.certificate.manifest import CARD, GGUF, MANIFEST
from interp.editing.export.signatures import SIGNATURE
from interp.editing.fold.plan import Plan

_DEPTH, _LIMITS = "## Erasure depth\n", "## Limits\n"
_DEEP = (
    "How much of the removed harm is left below the surface, on held-out items, with 95 % intervals. What was not "
    "tried may bring it back."
)
_SHOWN = 20  # files left out, in the card
_UNMEASURED = "It was written without loading the model, and nothing was measured: run `interp verify` on it."
_MEASURED = (
    "These figures show that the weights do what the recipe does. They do not show what the recipe does to the model's "
    "behaviour: read the audit before use."
)
_UNAUDITED = (
    "No audit went with this export, so nothing here shows what the edit does to the model's behaviour, or that the "
    "checkpoint may be released. `interp audit` measures it and `interp gate` decides."
)
_LIMITATIONS = (
    "- Behaviours that were not measured may have changed, and so may measured ones on other prompts, in other "
    "languages or after other instructions.\n"
    "- What was removed from the weights can be trained back by whoever has them.\n"
    "- Quantising or fine-tuning the checkpoint voids the certificate: measure again afterwards.\n"
    "- The licence and the limitations of the base model apply to this one too."
)


def render_model_card(manifest: ExportManifest, plan: Plan, note: str, certificate: Certificate | None = None) -> str:
    """The whole text, front matter included; `note` is the recipe's own description."""
    base, release = manifest.base, manifest.release
    data = ModelCardData(
        library_name="gguf" if GGUF in manifest.files else "transformers",
        pipeline_tag="text-generation",
        tags=["interp", "edited"],
        # Only a name with a commit is known to be one of the hub, and others are refused there.
        base_model=base.name if base.revision else None,
    )
    sections = [
        f"# {markdown(base.name)}, edited",
        markdown(note),
        "## What was edited",
        f"Made with interp from {markdown(base.name)} (weights {base.digest[:12]}) by the recipe in `interp_recipe/` "
        f"({manifest.recipe[:12]}), folded into the weights:",
        _table(["op", "where", "how exactly"], [[escaped(i.op), escaped(i.where), i.exactness] for i in plan.items]),
        f"**Warning:** {plan.warning}.{_tied(certificate)}" if plan.warning else "",
        *(markdown(note) for note in plan.notes),
        "## Intended use",
        "As the base model is used, where what the recipe removes is unwanted. It is not a safeguard on its own: keep "
        "the safeguards that the base model needs.",
        "## Certificate",
        *_measured(certificate),
        *_left_out(manifest.left_out or {}),
        "## Audit",
        release.section if release and release.section else _UNAUDITED,
        "## Limits",
        _LIMITATIONS,
    ]
    body = "\n\n".join(section for section in sections if section)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n"))


def record_depth(folder: str | Path, values: dict[str, Any], rows: list[list[object]]) -> ExportManifest:
    """Put the erasure depth into the manifest and the model card of an export, in place of an earlier one.

    The card is written before the manifest: after a kill in between, the manifest does not fit the card, and the same
    call mends it.

    Args:
        folder: An exported checkpoint that is not signed.
        values: What the manifest gets.
        rows: What was tried, and what it gave.

    Raises:
        InterpError: The folder is no export, or it is signed: a signature covers both files.
    """
    path = Path(folder)
    manifest = unsigned_export(path)
    card = (path / CARD).read_text(encoding="utf-8")
    head, _, rest = card.partition(_DEPTH)
    head, limits, tail = head.partition(_LIMITS) if not rest else (head, *rest.partition(_LIMITS)[1:])
    if not limits:
        raise InterpError(f"{path / CARD}: has no section {_LIMITS.strip()}; export the checkpoint again")
    table = _table(["attempt", "what it gave"], [[escaped(str(cell)) for cell in row] for row in rows])
    write_text(path / CARD, f"{head}{_DEPTH}\n{_DEEP}\n\n{table}\n\n{limits}{tail}")
    files = manifest.files | {CARD: sha256_file(path / CARD)}
    recorded = manifest.model_copy(update={"files": files, "depth": values})
    write_json(path / MANIFEST, recorded.model_dump())
    return recorded


def unsigned_export(folder: Path) -> ExportManifest:
    """The manifest of an export. Raises where it has none, or is signed: a signature covers manifest and card."""
    manifest = ExportManifest.at(folder)
    if (folder / SIGNATURE).is_file():
        raise InterpError(f"{folder}: is signed, so nothing is recorded in it; export it without a key")
    return manifest


def _tied(certificate: Certificate | None) -> str:
    return f" Measured with the head tied: {certificate.tied}." if certificate and certificate.tied else ""


def _measured(certificate: Certificate | None) -> list[str]:
    if certificate is None:
        return [_UNMEASURED]
    head = "Measured between the hooked base model and this checkpoint, reloaded:"
    return [head, _table(["figure", "value", "how to read it"], [list(row) for row in certificate.rows()]), _MEASURED]


def _left_out(names: dict[str, str]) -> list[str]:
    if not names:
        return []
    rows: list[list[object]] = [[f"`{_plain(name)}`", _plain(reason)] for name, reason in [*names.items()][:_SHOWN]]
    more = f"and {len(names) - _SHOWN} more, in `interp_manifest.json`" if len(names) > _SHOWN else ""
    return ["## Left out", "Files of the base's folder that did not come along:", _table(["file", "why"], rows), more]


def _plain(name: str) -> str:
    """A file's name without what would end a line, a cell or code, or turn the text around."""
    return repr(name)[1:-1].replace("`", "'")


def _table(header: list[object], rows: list[list[object]]) -> str:
    lines: list[list[object]] = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
