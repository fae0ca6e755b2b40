"""Report: a run on one page, a single HTML file that needs nothing else and reaches for no network.

What was found and where, the features, the edit, what it did to behaviour, examples side by side, the
certificate and the decision. A section whose record is None or empty is left out. Everything that comes from
models or data is shown as text, whatever it holds: Jinja2 escapes it on the page and in the figures' JSON,
`interp.views.figures` in the figures' labels. A Content-Security-Policy forbids the page all network.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from interp.auditing.auditor import Audit, AuditRow
from interp.auditing.baselines import Baseline
from interp.auditing.entanglement_matrix import Entanglement
from interp.auditing.policy.decision import Decision, Policy
from interp.auditing.statistics.comparison import Estimate
from interp.core.errors import InterpError
from interp.core.files import write_text
from interp.directions.finder import Finding, Findings
from interp.editing.certificate.record import Certificate
from interp.interventions.op import Op
from interp.interventions.recipe import Recipe
from interp.models.identity import ModelReference
from interp.sae.config import SaeMetrics
from interp.sae.feature import Feature
from interp.views import audit_figures, figures, palette

_SECTIONS = {
    "decision": "Decision",
    "findings": "Where it was found",
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
class ReportedRun:
    """How the results came about: enough to do it again and to check that it is the same."""

    command: str
    seconds: float
    versions: Mapping[str, str] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """The records of a run.

    `chosen` is the finding that the recipe was made of; raises if it is not among the findings. `sae` is the
    quality of the autoencoder whose `features` are shown. `baselines` were measured on the items that the edit was
    chosen by, or the audit's own. `policy`, by which `decision` was taken, names the target. `edits` are audits of
    several edits, by name, with the `decisions` on them.
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

    def __post_init__(self) -> None:
        if self.chosen and self.chosen.row not in [finding.row for finding in self.findings or ()]:
            raise InterpError(f"{self.chosen.direction} was chosen but is not among the report's findings")


@dataclass(frozen=True)
class KeyFigure:
    """A number for the top of the page, with what it is and how sure it is."""

    name: str
    value: str
    detail: str


def write_report(report: Report, path: str | Path) -> None:
    """Write the page; a file that is there already is replaced in one step."""
    write_text(Path(path), render_report(report))


def render_report(report: Report) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=PackageLoader("interp.views"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    titles = _SECTIONS | ({} if report.audit is None or report.audit.edited else {"audit": "Behaviours"})
    environment.filters |= {"visible": _visible, "settings": _settings}
    page = environment.get_template("report.html.j2").render(
        report=report,
        sections={name: title for name, title in titles.items() if _has(report, name)},
        key_figures=_key_figures(report),
        figures=_figures(report),
        light=asdict(palette.LIGHT),
        dark=asdict(palette.DARK),
        plotly=Markup(get_plotlyjs()),
    )
    # Text read from JSON may hold half of a surrogate pair, which no file in UTF-8 can.
    return re.sub("[\ud800-\udfff]", "\ufffd", page)


def _has(report: Report, section: str) -> bool:
    if section == "examples":
        return bool(report.audit and report.audit.examples)
    return bool(getattr(report, section))


def _key_figures(report: Report) -> list[KeyFigure]:
    shown: list[KeyFigure] = []
    rows = report.audit.rows if report.audit and report.audit.edited else ()
    for row in rows:
        if row.kind == "harm" and (report.policy is None or row.name == report.policy.target):
            shown.append(_removed(row, "harm" if report.policy is None else "target"))
    for kind in ("protected", "capability"):
        held = [row for row in rows if row.kind == kind and row.unit == "rate"]
        if held:
            shown.append(_worst(min(held, key=lambda row: row.difference.low)))
    if report.certificate:
        shown.append(_gap(report.certificate))
    return shown


def _gap(certificate: Certificate) -> KeyFigure:
    detail = f"exported weights against hooks, {certificate.tokens:,} tokens"
    return KeyFigure("max |logit difference|", f"{certificate.max_abs_logit_diff:.3g}", detail)


def _removed(row: AuditRow, role: str) -> KeyFigure:
    change = f"{row.before.estimate:.3f} → {row.after.estimate:.3f}"
    detail = f"95 % intervals {_interval(row.before)} → {_interval(row.after)}"
    return KeyFigure(f"{row.name}, {role}", change, detail)


def _worst(row: AuditRow) -> KeyFigure:
    detail = f"{row.name}; 95 % interval {_interval(row.difference, sign='+')}"
    return KeyFigure(f"worst change, {row.kind}", f"{row.difference.estimate:+.3f}", detail)


def _interval(estimate: Estimate, sign: str = "") -> str:
    """An interval that no line break cuts."""
    return f"[{estimate.low:{sign}.3f},\u00a0{estimate.high:{sign}.3f}]"


def _figures(report: Report) -> dict[str, Any]:
    firing = [(number, feature) for number, feature in enumerate(report.features) if any(feature.counts)]
    drawn = {f"density-{number}": figures.density(feature) for number, feature in firing}
    if report.findings:
        drawn["heat-map"] = figures.heat_map(report.findings, report.chosen)
        if len({finding.direction.site.layer for finding in report.findings}) > 1:
            drawn["layer-curve"] = figures.layer_curve(report.findings)
    if report.audit and report.audit.edited:
        drawn["forest"] = audit_figures.forest(report.audit)
        if any(row.unit == "rate" for row in report.audit.rows):
            drawn["before-after"] = figures.before_after(report.audit)
    if report.entanglement:
        drawn["matrix"] = audit_figures.matrix(report.entanglement)
    return {name: json.loads(figure.to_json()) for name, figure in drawn.items()}


def _settings(op: Op) -> str:
    """An op's plain settings in words, then the direction that it was made of."""
    settings = op.settings()
    plain = [f"{name} {value}" for name, value in settings.items() if not isinstance(value, dict | None)]
    fitted = settings.get("direction")
    made_of = [f"{fitted['method']} at {fitted['site']}, position {fitted['position']}"] if fitted else []
    return "; ".join(plain + made_of)


def _visible(token: str) -> str:
    """A token with its line breaks, tabs and control characters shown by a sign each."""
    token = token.replace("\r\n", "⏎").replace("\n", "⏎").replace("\t", "⇥")
    return re.sub(r"[\x00-\x1f\x7f]", "\ufffd", token)
