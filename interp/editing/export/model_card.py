"""Card: the README.md of an exported checkpoint, as a Hugging Face model card.

What was edited and how exactly, what the edit is for and what not, what was measured, and what nobody knows.
"""

from huggingface_hub import ModelCard, ModelCardData

from interp.editing.certificate.record import Certificate
from interp.editing.export.provenance import Release
from interp.editing.fold.plan import MEANS, Plan, PlannedEdit
from interp.interventions.recipe import Recipe
from interp.models.identity import ModelReference

_UNMEASURED = "It was written without loading the model, and nothing was measured: run `interp verify` on it."
_MEASURED = (
    "These figures say that the weights do what the recipe does. They do not say what the recipe does to the model's "
    "behaviour: read the audit before use."
)
_UNAUDITED = (
    "No audit went with this export, so nothing here says what the edit does to the model's behaviour, nor that the "
    "checkpoint may be released. `interp audit` measures it and `interp gate` decides."
)
_LIMITS = (
    "- Behaviours that were not measured may have changed, and so may measured ones on other prompts, in other "
    "languages or behind other instructions.\n"
    "- What was removed from the weights can be trained back by whoever has them.\n"
    "- Quantising or fine-tuning the checkpoint voids the certificate: measure again afterwards.\n"
    "- The licence and the limits of the base model hold for this one too."
)


def render_model_card(
    recipe: Recipe, plan: Plan, base: ModelReference, certificate: Certificate | None, release: Release | None = None
) -> str:
    """The whole text, front matter included."""
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["interp", "edited"],
        # Only a name with a commit is known to be one of the hub, and others are refused there.
        base_model=base.name if base.revision else None,
    )
    sections = [
        f"# {base.name}, edited",
        recipe.note,
        "## What was edited",
        f"Made with interp from {base.name} (weights {base.digest[:12]}) by the recipe in `interp_recipe/` "
        f"({recipe.digest[:12]}), folded into the weights:",
        _table(["op", "where", "how exactly"], [[i.op, _places(i.sites), _exactly(i)] for i in plan.items]),
        "## Intended use",
        "As the base model is used, where what the recipe removes is unwanted. It is no safeguard on its own: keep "
        "those that the base model needs.",
        "## Certificate",
        *_measured(certificate),
        "## Audit",
        release.section if release and release.section else _UNAUDITED,
        "## Limits",
        _LIMITS,
    ]
    body = "\n\n".join(section for section in sections if section)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n"))


def _measured(certificate: Certificate | None) -> list[str]:
    if certificate is None:
        return [_UNMEASURED]
    head = "Measured between the hooked base model and this checkpoint, reloaded:"
    return [head, _table(["figure", "value"], [[name, value] for name, value in certificate.rows()]), _MEASURED]


def _places(sites: tuple[str, ...]) -> str:
    return ", ".join(sites[:4]) + (f" and {len(sites) - 4} more" if len(sites) > 4 else "")


def _exactly(item: PlannedEdit) -> str:
    return MEANS[item.status] + (f" ({item.reason})" if item.reason else "")


def _table(header: list[object], rows: list[list[object]]) -> str:
    lines: list[list[object]] = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
