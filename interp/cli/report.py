"""Pages for people: the verbs `interp report`, a model's risk report and who stands behind it, and `interp browse` and
`interp features export`, the pages of a feature book.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import Field

from interp.cli._options import Device, Json, Numbers, named_values, repeated
from interp.core.config import Config
from interp.core.display import plural, print_values, say
from interp.core.errors import InterpError


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


Book = Annotated[Path, typer.Argument(help="feature book, written by interp features scan")]


class PageOptions(Config):
    """What the pages of a book need beside it."""

    sae: tuple[str, ...] = repeated("NAME=FOLDER of an autoencoder that was moved since the scan")
    link: tuple[Path, ...] = repeated("HTML file to link to, such as an attribution graph or a report")

    @property
    def places(self) -> dict[str, str]:
        """The folders of autoencoders, by name."""
        return named_values(self.sae, "--sae", "NAME=FOLDER, such as l3=saes/l3")


class BrowseOptions(Config):
    """The model, the port, and other books."""

    model: str | None = Field(None, description="the book's model, to type texts to and to steer")
    port: int = Field(8765, ge=0, le=65535, description="port of this machine; 0 for any that is free")
    beside: tuple[Path, ...] = repeated("another book whose autoencoders are compared")
    pages: PageOptions = PageOptions()


def browse_command(book: Book, options: BrowseOptions, device: Device = None, as_json: Json = False) -> None:
    """Serve the pages of a feature book on this machine: look at latents, label them, type texts, steer, compare."""
    from interp.features import Book as FeatureBook
    from interp.models.loading import load
    from interp.views.browser.server import browse

    opened, *beside = (FeatureBook.open(path) for path in (book, *options.beside))
    browse(
        opened,
        load(options.model, device=device) if options.model else None,
        port=options.port,
        ready=lambda address: print_values(as_json, {"address": address, "book": str(book), "stop": "Ctrl-C"}),
        autoencoders=options.pages.places,
        beside=beside,
        links=options.pages.link,
    )


class BookExportOptions(Config):
    """What to write of a book, and where."""

    out: Path = Field(description="new folder; of the pages, open its index.html")
    form: Literal["html", "neuronpedia", "saedashboard", "delphi"] = Field(
        "html", description="html for pages, or whose files: neuronpedia, saedashboard or delphi, of one --sae NAME"
    )
    latents: Numbers = repeated("latents to write, such as 3,5, with another --form than html [default: all that fire]")
    pages: PageOptions = PageOptions()


def export_book_command(book: Book, options: BookExportOptions, as_json: Json = False) -> None:
    """Write a feature book as pages that open from disk, or in the files of Neuronpedia, SAEDashboard or delphi."""
    from interp.features import Book as FeatureBook
    from interp.features import export_book
    from interp.views.browser.static_folder import export_pages

    opened, (name, *others) = FeatureBook.open(book), options.pages.sae or (None,)
    if options.form == "html":
        if options.latents:
            raise InterpError("--latents goes with another --form; pages are of all latents")
        places, links = options.pages.places, options.pages.link
        count = export_pages(opened, options.out, autoencoders=places, links=links)
        print_values(as_json, {"open": str(options.out / "index.html"), "pages": count})
        return
    if others or options.pages.link:
        raise InterpError(f"--form {options.form} takes one --sae NAME, and no --link; leave the rest out")
    count = export_book(opened, options.out, options.form, sae=name, latents=options.latents or None)
    print_values(as_json, {"out": str(options.out), "form": options.form, "latents": count})
