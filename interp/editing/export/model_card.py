"""The README.md of an exported checkpoint, a Hugging Face model card.

It says what was edited and how exactly, what the edit is for, what was measured, and what is unknown.
"""

from huggingface_hub import ModelCard, ModelCardData

from interp.core.display import escaped, markdown
from interp.editing.certificate import Certificate, ExportManifest
from interp.editing.fold.plan import Plan

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
        library_name="transformers",
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
