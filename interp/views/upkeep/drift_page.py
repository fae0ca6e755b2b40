"""The page of a drift: what changed in each later model, outside and inside; one HTML file."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from interp.core.files import write_text
from interp.upkeep.drift.drift_record import Drift, ModelDrift
from interp.views._page import rendered_page, visible

PAGE = "drift.html"
_LATENTS = 20


def write_drift_page(record: Drift, folder: str | Path) -> None:
    """Write the page of a drift, `drift.html`, into a folder.

    Args:
        record: The drift.
        folder: The folder; a page that is there is replaced in one step.

    Raises:
        InterpError: The file cannot be written.

    Example:
        >>> from interp.upkeep import Drift
        >>> from interp.views import write_drift_page
        >>> write_drift_page(Drift(model.reference, (), {"tokens": 0, "documents": 0}), tmp)
        >>> "organism" in (tmp / "drift.html").read_text()
        True
    """
    models = [{"drift": drift, "tables": _tables(drift)} for drift in record.models]
    write_text(Path(folder) / PAGE, rendered_page("drift.html.j2", record=record, models=models))


def _tables(drift: ModelDrift) -> dict[str, list[dict[str, Any]]]:
    """Rows of each table by its heading."""
    records: dict[str, Sequence[Any]] = {
        "Behaviours": drift.behaviours,
        "Where next tokens differ most": drift.divergence.examples,
        "Shifts along directions": drift.projections,
        "Sites": drift.sites,
        "Latents whose firing changed most": drift.latents,
        "Crosscoder latents of one model alone": drift.crosscoder.exclusive[:_LATENTS] if drift.crosscoder else (),
    }
    rows = {heading: [_row(record) for record in of] for heading, of in records.items()}
    return rows | {"Requirements of the policy": [{"requirement": reason} for reason in drift.reasons]}


def _row(record: Any) -> dict[str, Any]:
    """A record's fields as cells: estimates with their intervals, several words on one line."""
    return {field.name.replace("_", " "): _cell(getattr(record, field.name)) for field in fields(record)}


def _cell(value: Any) -> Any:
    if isinstance(value, tuple):
        return " · ".join(f"{part:.2f}" if isinstance(part, float) else visible(part) for part in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, int | float | None) else visible(str(value))
