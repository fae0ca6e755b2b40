"""The verbs `interp report` and `interp report sign`: the risk report of a model, and who stands behind it."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import Field

from interp.cli._options import Json, repeated
from interp.core.config import Config
from interp.core.display import plural, print_values, say


class ReportOptions(Config):
    """The policy, who decides, and what figures do not say."""

    policy: str = Field(description='YAML file of the policy, or "release" or "targeted", which are bundled')
    out: Path = Field(description="new folder for the report")
    by: str = Field(description="who decides on the release, and answers for it")
    risk: tuple[str, ...] = repeated("residual risk that no audit shows, in words")
    unmeasured: tuple[str, ...] = repeated("what was not measured, in words")
    safeguard: tuple[str, ...] = repeated("safeguard of the policy that you state is in place")
    supersedes: tuple[Path, ...] = repeated("folder of an earlier report that this one replaces")


def report_command(
    audits: Annotated[list[Path], typer.Argument(help="audits of one model, written by interp audit")],
    options: ReportOptions,
    as_json: Json = False,
) -> None:
    """Write the risk report of a model: what was measured, what was not, the grade, and the residual risk."""
    from interp.auditing.policy.risk_report import write_risk_report
    from interp.views.upkeep.risk_report_page import PAGE, write_risk_report_page

    report = write_risk_report(
        audits,
        options.policy,
        options.out,
        options.by,
        options.risk,
        options.unmeasured,
        options.safeguard,
        options.supersedes,
        write_risk_report_page,
    )
    if as_json:
        print_values(True, report.model_dump(mode="json") | {"sha256": report.digest})
        return
    say(f"{report.outcome}{f' (tier {report.tier})' if report.tier else ''}, before signatures")
    say(*(f"residual risk: {text}" for text in report.residual_risk))
    say(*(f"not measured: {text}" for text in report.not_measured))
    if report.next_audit:
        say(f"audit again by {report.next_audit}")
    needed = report.signatures_at_least
    say(f"{plural(needed, 'approval')} to sign (interp report sign {options.out} --key KEY)") if needed else None
    say(f"open {options.out / PAGE}")


class SignOptions(Config):
    """Who signs, and what they say."""

    key: Path = Field(description="private key (PEM, not encrypted) of the reviewer")
    reviewer: str = Field(description="name of the reviewer")
    statement: str = Field("", description="what the reviewer has to say; required for a dissent")
    dissent: bool = Field(False, description="record a dissent, in place of an approval")


def sign_command(
    folder: Annotated[Path, typer.Argument(help="folder written by interp report")],
    options: SignOptions,
    as_json: Json = False,
) -> None:
    """Sign a risk report as a reviewer, in approval or in dissent."""
    from interp.auditing.policy.reviews import sign_risk_report
    from interp.views.upkeep.risk_report_page import write_risk_report_page

    review = sign_risk_report(folder, options.key, options.reviewer, options.statement, options.dissent)
    write_risk_report_page(folder)
    if as_json:
        print_values(True, review.model_dump(mode="json"))
    else:
        say(f"{review.reviewer}: {review.verdict}, signed with {options.key}")
