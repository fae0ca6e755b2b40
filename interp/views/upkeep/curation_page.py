"""The page of a curation: what became of a corpus, and its worst passages token by token; one HTML file."""

from pathlib import Path
from typing import Any

from interp.core.files import write_text
from interp.upkeep.curation.curation_record import Curation, Passage
from interp.views._page import rendered_page

PAGE = "curation.html"


def write_curation_page(record: Curation, folder: str | Path) -> None:
    """Write the page of a curation, `curation.html`, into a folder.

    Args:
        record: The curation.
        folder: The folder; a page that is there is replaced in one step.

    Raises:
        InterpError: The file cannot be written.
    """
    cuts = record.thresholds
    rates = {
        "Harmful documents that are kept": cuts.missed,
        "Clean documents that are flagged": cuts.false_alarms,
        "Labelled documents that are unsure": cuts.unsure,
    }
    page = rendered_page(
        "curation.html.j2",
        record=record,
        cuts=cuts,
        total=sum(record.counts.values()),
        rates=[{"rate": name, "value": str(rate), "documents": rate.n} for name, rate in rates.items() if rate],
        areas=[{"score": name, "AUROC": area} for name, area in cuts.auroc.items()],
        changes=[
            {"trained on": x.split, "behaviour": x.behaviour, "before": str(x.before), "after": str(x.after)}
            for x in record.changes
        ],
        passages=[_shares(passage) for passage in record.worst],
    )
    write_text(Path(folder) / PAGE, page)


def _shares(passage: Passage) -> dict[str, Any]:
    """A passage with each token's value as a share of the largest."""
    largest = max((value for _, value in passage.tokens if value is not None), default=0.0)
    tokens = [
        (text, value, max(0.0, value) / largest if value is not None and largest > 0 else 0.0, value == largest)
        for text, value in passage.tokens
    ]
    return {"row": passage.row, "score": passage.score, "tokens": tokens}
