"""The page of a drift: what changed in each later model, outside and inside; one HTML file."""

from pathlib import Path
from typing import Any

from interp.core.files import write_text
from interp.upkeep.drift.drift_record import Drift, ModelDrift
from interp.views._page import rendered_page

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
    crosscoder = drift.crosscoder
    return {
        "Behaviours": [
            {"behaviour": x.name, "kind": x.kind, "before": str(x.before), "after": str(x.after),
             "change": str(x.change), "p (Holm)": x.p_holm, "finding": "yes" if x.finding else ""}
            for x in drift.behaviours
        ],
        "Where next tokens differ most": [
            {"text": f"…{x.before}", "next": x.token, "first model": "{} ({:.2f})".format(*x.first),
             "later model": "{} ({:.2f})".format(*x.second), "KL, nats": x.nats}
            for x in drift.divergence.examples
        ],
        "Shifts along directions": [
            {"direction": x.direction, "site": x.site, "shift, deviations": str(x.change), "p": x.p,
             "finding": "yes" if x.finding else ""}
            for x in drift.projections
        ],
        "Sites": [
            {"site": x.site, "CKA": x.cka, "mean difference": x.difference, "promotes": " · ".join(x.promoted),
             "suppresses": " · ".join(x.suppressed)}
            for x in drift.sites
        ],
        "Latents whose firing changed most": [
            {"latent": x.latent, "before": x.before, "after": x.after, "change": str(x.change),
             "finding": "yes" if x.finding else ""}
            for x in drift.latents
        ],
        "Crosscoder latents of one model alone": [
            {"latent": x.latent, "model": x.model, "fires on": x.firing, "norms": x.norms, "error": x.error,
             "reconstruction": x.reconstruction, "confirmed": "yes" if x.confirmed else "no",
             "promotes": " · ".join(x.promoted)}
            for x in (crosscoder.exclusive[:_LATENTS] if crosscoder else ())
        ],
        "Requirements of the policy": [{"requirement": reason} for reason in drift.reasons],
    }  # fmt: skip
