"""The page of an erasure depth: every figure is on it, the curves are drawn, and nothing in it is markup of its own."""

import re

from depth_records import curve, depth, rate
from large_records import EVIL

from interp.views import write_depth_page


def test_the_page_has_attempts_curves_and_probes_and_escapes_them(tmp_path):
    curves = [
        curve(rate(0.0, 0.1), rate(0.3, 0.4), rate(0.8, 1.0)),
        curve(rate(0.0, 0.1), rate(0.0, 0.2), model=EVIL, data="benign"),
    ]
    record = depth({EVIL: rate(0.2, 0.4), "int8 weights": rate(0.0, 0.1)}, curves, rate(0.5, 0.6), behaviour=EVIL)
    write_depth_page(record, tmp_path)
    page = (tmp_path / "depth.html").read_text()
    assert "<script>alert" not in page
    assert all(
        text in page for text in ("0.300 [0.200, 0.400]", "2 steps", "not in the budget", "0.550 [0.500, 0.600]")
    )
    lines = [re.findall(r"[\d.]+,[\d.]+", points) for points in re.findall(r'points="([^"]*)"', page)]
    assert [len(points) for points in lines] == [3, 2]
    heights = [float(point.split(",")[1]) for point in lines[0]]
    assert heights == sorted(heights, reverse=True), "a higher rate is drawn higher"


def test_without_probes_and_curves_the_page_says_so(tmp_path):
    write_depth_page(depth(probes=()), tmp_path)
    assert "None were fitted" in (tmp_path / "depth.html").read_text()
