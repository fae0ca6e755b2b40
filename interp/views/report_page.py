"""The report of a run: one self-contained HTML file that makes no network requests.

It shows the directions that were found and where, the features, the edit, its effect on behaviour, examples side by
side, the certificate and the decision. A section whose record is None or empty is left out. Everything that comes from
models or data is shown as plain text: Jinja2 escapes it on the page and in the JSON of the figures, and
`interp.views.figures` in their labels. A Content-Security-Policy blocks all network access.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from interp.attribution.lens_reading import LensReading
from interp.attribution.patching import Patching
from interp.auditing.auditor import Audit
from interp.auditing.baselines import Baseline
from interp.auditing.entanglement_matrix import Entanglement
from interp.auditing.policy.decision import Decision, Policy
from interp.auditing.statistics.comparison import Estimate
from interp.core.calls import FORMER_NAMES
from interp.core.display import Displayed, plural
from interp.core.errors import InterpError
from interp.core.files import write_text
from interp.directions.findings import Finding, Findings
from interp.editing.certificate.record import Certificate
from interp.interventions.op import Op
from interp.interventions.recipe import Recipe
from interp.models.identity import ModelReference
from interp.sae.config import SaeMetrics
from interp.sae.feature import Feature
from interp.views import audit_figures, figures
from interp.views._page import rendered_page
from interp.views.attribution.lens_figure import Colour, plot_lens
from interp.views.patch_figure import plot_patching

_SECTIONS = {
    "decision": "Decision",
    "lens": "Lens",
    "patching": "Patching",
    "findings": "Directions found",
    "features": "Features",
    "recipe": "The edit",
    "audit": "Before and after",
    "entanglement": "Entanglement",
    "edits": "Each edit",
    "baselines": "Baselines",
    "examples": "Examples",
    "certificate": "Certificate",
    "run": "Run",
}


@dataclass(frozen=True)
class ReportedRun(Displayed):
    """What it takes to repeat a run and to check that the results are the same.

    Attributes:
        command: The command line.
        seconds: Wall-clock time of the run.
        versions: Versions of packages, by name.
        hashes: Digests of the inputs and results, by name.

    Example:
        >>> from interp.views import ReportedRun
        >>> ReportedRun("interp run hostility.yaml", 93.4, {"python": "3.11.7"}).command
        'interp run hostility.yaml'
    """

    command: str
    seconds: float
    versions: Mapping[str, str] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Report(Displayed):
    """The records that the page shows; all but the title and the model may be left out.

    Attributes:
        title: Heading of the page.
        model: The model of the run.
        summary: A sentence or two below the heading.
        findings: The directions that were found.
        chosen: The finding that the recipe was built from; it must be one of the findings.
        sae: Metrics of the autoencoder whose features are shown.
        features: Pages of latents.
        recipe: The edit.
        certificate: What was measured between the hooked model and the export.
        audit: Behaviours before and after the edit, or those of an unedited model.
        baselines: Those of the audit, or those measured on the items that the edit was selected on.
        policy: The policy of the decision; it names the target behaviour.
        decision: The decision on the audit.
        run: How to repeat the run.
        entanglement: Effects of several edits on every behaviour.
        edits: Audits of several edits, by name.
        decisions: Decisions on these, by the same names.
        lens: What a lens reads in a prompt.
        lens_colour: What colours its cells, "probability" or "entropy".
        patching: The effects of patches.

    Raises:
        InterpError: The chosen finding is not among the findings.

    Example:
        >>> from interp.views import Report
        >>> Report(title="The organism", model=model.reference).decision is None
        True
    """

    title: str
    model: ModelReference
    summary: str = ""
    findings: Findings | None = None
    chosen: Finding | None = None
    sae: SaeMetrics | None = None
    features: Sequence[Feature] = ()
    recipe: Recipe | None = None
    certificate: Certificate | None = None
    audit: Audit | None = None
    baselines: Sequence[Baseline] = ()
    policy: Policy | None = None
    decision: Decision | None = None
    run: ReportedRun | None = None
    entanglement: Entanglement | None = None
    edits: Mapping[str, Audit] = field(default_factory=dict)
    decisions: Mapping[str, Decision] = field(default_factory=dict)
    lens: LensReading | None = None
    lens_colour: Colour = "probability"
    patching: Patching | None = None

    def __post_init__(self) -> None:
        if self.chosen and self.chosen.row not in [finding.row for finding in self.findings or ()]:
            raise InterpError(f"{self.chosen.direction} was chosen but is not among the report's findings")


@dataclass(frozen=True)
class KeyFigure:
    """A number at the top of the page, with its name and its uncertainty."""

    name: str
    value: str
    detail: str


def write_report(report: Report, path: str | Path) -> None:
    """Write the report as one HTML file.

    Args:
        report: The records to show.
        path: The file; if it exists, it is replaced in one step.

    Raises:
        InterpError: The file cannot be written.

    Example:
        >>> from interp.views import Report, write_report
        >>> write_report(Report(title="The organism", model=model.reference), tmp / "report.html")
        >>> (tmp / "report.html").exists()
        True
    """
    write_text(Path(path), render_report(report))


def render_report(report: Report) -> str:
    """The report as the text of an HTML page.

    Args:
        report: The records to show.

    Returns:
        The page. It is the same for the same records.

    Example:
        >>> from interp.views import Report, render_report
        >>> "<h1>The organism</h1>" in render_report(Report(title="The organism", model=model.reference))
        True
    """
    titles = _SECTIONS | ({} if report.audit is None or report.audit.edited else {"audit": "Behaviours"})
    drawings = _drawings(report)
    return rendered_page(
        "report.html.j2",
        report=report,
        sections={name: title for name, title in titles.items() if _has(report, name)},
        key_figures=_key_figures(report),
        figures={name: json.loads(figure.to_json()) for name, figure in drawings.items()},
        tables={name: Markup(drawings[name].to_table()) for name in ("lens", "patching") if name in drawings},
        plotly=Markup(get_plotlyjs()),
        settings=_settings,
    )


def _has(report: Report, section: str) -> bool:
    if section == "examples":
        return bool(report.audit and report.audit.examples)
    return bool(getattr(report, section))


def _key_figures(report: Report) -> list[KeyFigure]:
    """The change of the target (or of every harm), the worst changes of what must hold, and the export's accuracy."""
    key_figures: list[KeyFigure] = []
    rows = report.audit.rows if report.audit and report.audit.edited else ()
    for row in rows:
        if row.kind == "harm" and (report.policy is None or row.name == report.policy.target):
            change = f"{row.before.estimate:.3f} → {row.after.estimate:.3f}"
            detail = f"95 % intervals {_interval(row.before)} → {_interval(row.after)}"
            key_figures.append(KeyFigure(f"{row.name}, {'target' if report.policy else 'harm'}", change, detail))
    for kind in ("protected", "capability"):
        rates = [row for row in rows if row.kind == kind and row.unit == "rate"]
        if rates:
            worst = min(rates, key=lambda row: row.difference.low)
            detail = f"{worst.name}; 95 % interval {_interval(worst.difference, sign='+')}"
            key_figures.append(KeyFigure(f"worst change, {kind}", f"{worst.difference.estimate:+.3f}", detail))
    if report.certificate:
        detail = f"exported weights compared with hooks, on {plural(report.certificate.tokens, 'token')}"
        difference = f"{report.certificate.max_abs_logit_diff:.3g}"
        key_figures.append(KeyFigure("max |logit difference|", difference, detail))
    return key_figures


def _interval(estimate: Estimate, sign: str = "") -> str:
    """An interval with a space at which lines do not break."""
    return f"[{estimate.low:{sign}.3f},\u00a0{estimate.high:{sign}.3f}]"


def _drawings(report: Report) -> dict[str, Any]:
    firing = [(number, feature) for number, feature in enumerate(report.features) if any(feature.counts)]
    drawings = {f"density-{number}": figures.plot_activation_histogram(feature) for number, feature in firing}
    if report.findings:
        drawings["heat-map"] = figures.plot_heat_map(report.findings, report.chosen)
        if len({finding.direction.site.layer for finding in report.findings}) > 1:
            drawings["layer-curve"] = figures.plot_layer_curve(report.findings)
    if report.audit and report.audit.edited:
        drawings["forest"] = audit_figures.plot_forest(report.audit)
        if any(row.unit == "rate" for row in report.audit.rows):
            drawings["before-after"] = audit_figures.plot_rates(report.audit)
    if report.entanglement:
        drawings["matrix"] = audit_figures.plot_entanglement(report.entanglement)
    if report.lens:
        drawings["lens"] = plot_lens(report.lens, report.lens_colour)
    if report.patching:
        drawings["patching"] = plot_patching(report.patching)
    return drawings


def _settings(op: Op) -> str:
    """The settings of an op in words, followed by the direction that it was built from."""
    settings = {FORMER_NAMES.get(name, name): value for name, value in op.settings().items()}
    plain = [f"{name} {value}" for name, value in settings.items() if not isinstance(value, dict | None)]
    fitted = settings.get("direction")
    direction = [f"{fitted['method']} at {fitted['site']}, position {fitted['position']}"] if fitted else []
    return "; ".join(plain + direction)
