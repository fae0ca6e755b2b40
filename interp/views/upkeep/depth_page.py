"""The page of an erasure depth: what brings a removed harm back, and how soon; one HTML file."""

from itertools import pairwise
from math import log2
from pathlib import Path
from typing import Any

from interp.auditing.policy.erasure_depth import ErasureDepth, RelearningCurve
from interp.core.files import write_text
from interp.views._page import rendered_page
from interp.views.palette import SERIES

PAGE = "depth.html"
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM, _APART = 720, 290, 16, 560, 16, 226, 13


def write_depth_page(record: ErasureDepth, folder: str | Path) -> None:
    """Write the page of an erasure depth, `depth.html`, into a folder.

    Args:
        record: The measurement.
        folder: The folder; a page that is there is replaced in one step.

    Raises:
        InterpError: The file cannot be written.
    """
    curves = record.relearning
    last = max((curve.steps[-1] for curve in curves), default=1)
    highest = max([record.before.estimate, *(rate.estimate for curve in curves for rate in curve.rates)])
    models = list(dict.fromkeys(curve.model for curve in curves))

    def x(step: int) -> float:
        return round(_LEFT + (_RIGHT - _LEFT) * log2(step + 1) / log2(last + 2), 1)

    def y(rate: float) -> float:
        return round(_BOTTOM - (_BOTTOM - _TOP) * rate / (highest or 1.0), 1)

    def drawn(curve: RelearningCurve) -> dict[str, Any]:
        places = [(x(step), y(rate.estimate)) for step, rate in zip(curve.steps, curve.rates, strict=True)]
        points = " ".join(f"{place[0]},{place[1]}" for place in places)
        look = {"colour": SERIES[models.index(curve.model) % len(SERIES)], "dashed": curve.data != "related"}
        across, down = places[-1]
        return {"points": points, "name": f"{curve.model}, {curve.data}", "x": across, "y": down, "label": down} | look

    level = (record.before.estimate + record.after.estimate) / 2
    lines = sorted(map(drawn, curves), key=lambda line: line["y"])
    for above, line in pairwise(lines):  # names stay apart
        line["label"] = max(line["label"], above["label"] + _APART)
    page = rendered_page(
        "depth.html.j2",
        record=record,
        recoveries=record.recovery_rows(),
        relearning=record.relearning_rows(),
        probes=record.probe_rows(),
        curves=lines,
        ticks=[{"x": x(step), "step": step} for step in sorted({step for curve in curves for step in curve.steps})],
        level=level,
        half=y(level),
        **{"width": _WIDTH, "height": _HEIGHT, "left": _LEFT, "right": _RIGHT},
    )
    write_text(Path(folder) / PAGE, page)
