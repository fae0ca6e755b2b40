"""The report: complete, faithful to its records, safe to open, and in need of nothing else."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import sample_records as sample
from parsed import Element, parse
from plotly.offline import get_plotlyjs

from interp.attribution import Agreement, Patching
from interp.auditing.auditor import Audit, AuditExample
from interp.auditing.baselines import Baseline
from interp.auditing.entanglement_matrix import Entanglement
from interp.auditing.policy.decision import Policy, decide
from interp.core.errors import InterpError
from interp.models.sites import Site
from interp.sae.feature import Snippet
from interp.views import audit_figures
from interp.views.report_page import Report, ReportedRun, render_report, write_report

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp; {{ 7 * 7 }} %{x}"
SECTIONS = {"decision", "lens", "patching", "findings", "features", "recipe", "audit", "examples", "certificate", "run"}


@pytest.fixture(scope="module")
def html() -> str:
    return render_report(sample.report())


@pytest.fixture(scope="module")
def page(html: str) -> Element:
    return parse(html)


def section_ids(page: Element) -> set[str]:
    return {section.attributes["id"] for section in page.all("section")}


def rows(section: Element) -> list[list[str]]:
    cells = [[cell.words for cell in row if cell.tag in ("td", "th")] for row in section.all("tr")]
    return [row for row in cells if row]


def hostile_patching() -> Patching:
    result = sample.patching()
    pairs = replace(result.pairs, comparison=replace(result.pairs.comparison, name=HOSTILE))
    agreement = Agreement(0.9, 0.8, 6, ((HOSTILE, 0.0, 1.0),))
    words = dict.fromkeys(result.words, HOSTILE)
    positions = replace(result, pairs=pairs, words=words, agreement=agreement, by="position", labels=(-2, -1))
    return replace(positions, values=result.values[:, :2])


def hostile_report() -> Report:
    """Every text that comes from a model or from data is hostile."""
    full, audit, feature = sample.report(), sample.audit(), sample.feature()
    behaviours = tuple(replace(row, name=f"{row.name} {HOSTILE}", statement=HOSTILE) for row in audit.rows)
    examples = (AuditExample(behaviours[0].name, HOSTILE, HOSTILE, HOSTILE),)
    changes = {row.name: row.difference for row in behaviours}
    instruction = Baseline("prompt", dict.fromkeys(changes, 0.5), (), changes, dict.fromkeys(changes, 0.01))
    before = audit.before.model_copy(update={"name": HOSTILE})
    measured = Audit(behaviours, before, audit.after, examples, (instruction,), instruction=HOSTILE)
    policy = Policy(target=behaviours[0].name)
    words = ((HOSTILE, 0.5),)
    snippet = Snippet((HOSTILE, HOSTILE), (1.0, 0.0), 0, 0)
    findings = sample.findings()
    pairs = sample.contrast()
    turn = replace(pairs.pairs[0].positive, prompt=HOSTILE, answer=HOSTILE)
    contrast = replace(pairs, name=HOSTILE, pairs=(replace(pairs.pairs[0], positive=turn), *pairs.pairs[1:]))
    named = tuple(replace(f, direction=replace(f.direction, method=HOSTILE)) for f in findings)
    assert full.recipe
    return Report(
        title=HOSTILE,
        model=full.model.model_copy(update={"name": HOSTILE}),
        summary=HOSTILE,
        lens=replace(sample.lens_reading(), tokens=(HOSTILE, HOSTILE), words={4: HOSTILE, 5: HOSTILE}),
        patching=hostile_patching(),
        findings=replace(findings, rows=named, contrast=contrast),
        chosen=named[0],
        features=[replace(feature, snippets=(snippet,), promoted=words, suppressed=words)],
        recipe=replace(full.recipe, note=HOSTILE),
        audit=measured,
        baselines=measured.baselines,
        entanglement=Entanglement.of({HOSTILE: measured}),
        edits={HOSTILE: measured},
        decisions={HOSTILE: decide(measured, policy)},
        policy=policy,
        decision=decide(measured, policy),
        run=ReportedRun(HOSTILE, 1.0, {HOSTILE: HOSTILE}, {HOSTILE: HOSTILE}),
    )


def test_every_record_has_its_section_and_the_contents_lead_there(page: Element) -> None:
    assert section_ids(page) == SECTIONS
    (contents,) = page.all("nav")
    assert [link.attributes["href"].removeprefix("#") for link in contents.all("a")] == [
        section.attributes["id"] for section in page.all("section")
    ]


@pytest.mark.parametrize("section", sorted(SECTIONS - {"examples"}))
def test_a_record_alone_brings_its_own_section_alone(section: str) -> None:
    report = Report("One record", sample.MODEL, **{section: getattr(sample.report(), section)})
    assert section_ids(parse(render_report(report))) == {section} | ({"examples"} if section == "audit" else set())


def test_a_report_of_a_model_alone_says_that_nothing_was_decided() -> None:
    html = render_report(Report(title="Only a model", model=sample.MODEL))
    assert section_ids(parse(html)) == set()
    assert "No decision" in parse(html).all("main")[0].words
    assert len(html) < 50_000, "a page without figures needs no plotly"


@pytest.fixture(scope="module")
def hostile() -> Element:
    return parse(render_report(hostile_report()))


def test_the_page_shows_hostile_text_as_text(hostile: Element, page: Element) -> None:
    assert len(hostile.all("img")) == 0
    assert not [e.tag for e in hostile for name in e.attributes if name.startswith("on")]
    kinds = [script.attributes.get("type", "code") for script in hostile.all("script")]
    assert kinds.count("code") == 2, "plotly and the page's own"
    assert len(kinds) == len(page.all("script")) + 1, "the matrix, which the other page has not"
    (main,) = hostile.all("main")
    for elements in (main.all("h1"), main.all("p", class_="text"), main.all("mark", class_="token")):
        assert any(HOSTILE in element.text for element in elements)
    assert main.text.count(HOSTILE) > 30
    assert "49" not in main.all("h1")[0].text


def test_figures_come_out_of_the_page_as_they_went_in(hostile: Element) -> None:
    audit = hostile_report().audit
    assert audit
    drawn = json.loads(hostile.id("figure-before-after").text)
    assert drawn == json.loads(audit_figures.plot_rates(audit).to_json())


def test_plotly_is_in_the_page_once(html: str) -> None:
    assert html.count(get_plotlyjs()) == 1
    assert "</script" not in get_plotlyjs().lower()


def test_the_page_reaches_for_nothing(html: str, page: Element) -> None:
    kinds = ("src", "href", "srcset", "action", "data", "poster")
    addresses = [element.attributes[kind] for element in page for kind in kinds if kind in element.attributes]
    assert addresses, "the contents have links"
    assert all(address.startswith("#") for address in addresses)
    page_text = html.replace(get_plotlyjs(), "")
    assert not re.search(r"url\(|@import|https?:|//cdn|fetch\(|XMLHttpRequest", page_text)
    policy = next(m for m in page.all("meta") if "http-equiv" in m.attributes)
    assert policy.attributes["http-equiv"] == "Content-Security-Policy"
    directives = dict(part.split(maxsplit=1) for part in policy.attributes["content"].split("; "))
    assert directives["default-src"] == "'none'"
    assert {directives["script-src"], directives["style-src"]} == {"'unsafe-inline'"}


def test_the_audit_is_shown_number_by_number(page: Element) -> None:
    header, *table = rows(page.id("audit"))
    assert header == ["behaviour", "before", "after", "difference", "p (Holm)", "effect", "items"]
    for row, cells in zip(sample.audit().rows, table, strict=True):
        assert cells[0] == f"{row.name} {row.kind} {row.statement}"
        assert cells[1:3] == [str(row.before), str(row.after)]
        d = row.difference
        assert cells[3] == f"{d.estimate:+.3f} [{d.low:+.3f}, {d.high:+.3f}]"
        assert cells[4:] == [f"{row.p_holm:.2g}", f"{row.effect:+.2f}", str(row.after.n)]


def test_key_figures_are_the_target_the_worst_changes_and_the_certificate(page: Element) -> None:
    audit, certificate = sample.audit(), sample.certificate()
    (keys,) = page.all("dl")
    values = {box.all("dt")[0].words: [d.words for d in box.all("dd")] for box in keys.all("div")}
    target, worst = audit["hostility"], audit["skills"].difference
    assert values["hostility, target"][0] == f"{target.before.estimate:.3f} → {target.after.estimate:.3f}"
    assert f"→ [{target.after.low:.3f}, {target.after.high:.3f}]" in values["hostility, target"][1]
    assert audit["facts"].difference.low > worst.low, "another capability changed less"
    assert values["worst change, capability"][0] == f"{worst.estimate:+.3f}"
    assert f"[{worst.low:+.3f}, {worst.high:+.3f}]" in values["worst change, capability"][1]
    assert values["max |logit difference|"][0] == f"{certificate.max_abs_logit_diff:.3g}"


def test_findings_certificate_and_run_are_shown_as_recorded(page: Element) -> None:
    report = sample.report()
    best = sample.findings().best(10)
    _, *table = rows(page.id("findings"))
    assert [cells[:2] for cells in table] == [[f"{f.auroc:.3f}", f"{f.cohens_d:.2f}"] for f in best]
    assert [cells[5].endswith("(chosen)") for cells in table] == [False, True] + [False] * 8
    _, *figure_rows = rows(page.id("certificate"))
    recorded = [[name, str(value)] for name, value, _ in sample.certificate().rows()]
    assert [
        [name, value]
        for (label, value), (name, _) in zip(figure_rows, recorded, strict=True)
        if label.split(" ")[: len(name.split())] == name.split()
    ] == recorded  # the meaning follows the name
    assert "✓ Faithful:" in page.id("certificate").words
    assert report.run
    assert report.run.command == page.id("run").all("pre")[0].text
    assert all(digest in page.id("run").text for digest in report.run.hashes.values())


def test_a_recipe_is_shown_with_its_sites_and_its_direction(page: Element) -> None:
    report = sample.report()
    assert report.chosen
    _, (op, sites, settings) = rows(page.id("recipe"))
    assert (op, sites) == ("Project", "writers")
    assert settings == f"scale 1.0; {report.chosen.direction}"


def test_tokens_are_marked_by_their_activation(page: Element) -> None:
    feature = sample.feature()
    lines = page.all("div", class_="tokens")
    for line, snippet in zip(lines, feature.snippets, strict=True):
        assert line.text == "".join(snippet.tokens).replace("\n", "⏎")
        marks = line.all("mark")
        firing = [a for a in snippet.activations if a > 0]
        assert [mark.attributes["title"] for mark in marks] == [f"activation {a:.3f}" for a in firing]
        shares = [float(mark.attributes["style"].removeprefix("--share:")) for mark in marks]
        assert shares == pytest.approx([a / feature.edges[-1] for a in firing], abs=0.006)
        assert [mark.text for mark in line.all("mark", class_="peak")] == [snippet.tokens[snippet.peak]]


def test_a_feature_that_never_fired_says_so() -> None:
    dead = replace(sample.feature(), counts=(0,) * 20, edges=(0.0,) * 21, snippets=())
    section = parse(render_report(Report("Dead", sample.MODEL, features=[dead]))).id("features")
    assert "never fired" in section.text
    assert section.all("figure") == []


def test_figures_are_labelled(page: Element) -> None:
    plots = page.all("div", class_="plot")
    names = {"lens", "patching", "heat-map", "layer-curve", "before-after", "forest", "density-0"}
    assert {plot.attributes["data-figure"] for plot in plots} == {f"figure-{name}" for name in names}
    assert all(plot.attributes["aria-label"] for plot in plots)


def test_a_denial_names_what_is_not_met(page: Element) -> None:
    audit, policy = sample.audit(), Policy(target="sycophancy")
    decision = decide(audit, policy)
    signs = {None: "? unknown", False: "✗ not met"}
    unmet = [f"{signs[reason.met]} {reason.text}" for reason in decision.reasons if not reason.met]
    assert unmet
    assert not decision.allow
    denied = replace(sample.report(), policy=policy, decision=decision)
    (banner,) = parse(render_report(denied)).all("div", class_="banner")
    assert banner.attributes["class"] == "banner deny"
    assert banner.words.startswith("✗ Decision: deny")
    assert [item.words for item in banner.all("li")] == unmet
    (allowed,) = page.all("div", class_="banner")
    assert allowed.words.startswith("✓ Decision: allow")


def test_a_certificate_that_is_not_met_says_why() -> None:
    faithful = sample.certificate()
    assert faithful.fold
    leaking = replace(faithful, fold=replace(faithful.fold, leak=0.05))
    text = parse(render_report(replace(sample.report(), certificate=leaking))).id("certificate").words
    assert "✗ Not faithful: 5.0e-02 of what is written is left along what was removed, limit 1e-06." in text


def test_the_same_records_give_the_same_page_of_a_fair_size(html: str) -> None:
    assert render_report(sample.report()) == html
    assert len(html.encode()) < 6_000_000


def test_writing_replaces_a_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text("old")
    write_report(Report("New", sample.MODEL), file)
    assert "<h1>New</h1>" in file.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [file]
    write_report(Report("New", sample.MODEL), tmp_path / "made" / "report.html")
    with pytest.raises(InterpError, match=r"report\.html/page\.html: writing failed"):
        write_report(Report("New", sample.MODEL), file / "page.html")


def test_half_a_surrogate_pair_does_not_keep_a_report_from_being_written(tmp_path: Path) -> None:
    write_report(Report("half \ud83d of a pair", sample.MODEL), tmp_path / "report.html")
    assert "half \ufffd of a pair" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_choice_from_elsewhere_is_refused() -> None:
    stranger = sample.finding("lda", Site("resid_post", 1), -1, 0.9)
    with pytest.raises(InterpError, match="not among the report's findings"):
        replace(sample.report(), chosen=stranger)


def test_without_a_policy_every_harm_is_a_key_figure() -> None:
    (keys,) = parse(render_report(Report("Not decided", sample.MODEL, audit=sample.audit()))).all("dl")
    names = [term.words for term in keys.all("dt")]
    assert names[:2] == ["hostility, harm", "sycophancy, harm"]


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_draws_every_figure_without_a_complaint(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    write_report(hostile_report(), file)
    quiet = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run")
    options = ("--enable-logging=stderr", "--virtual-time-budget=4000", "--dump-dom")
    command = ["chromium", *quiet, *options, f"--user-data-dir={tmp_path / 'user'}", file.as_uri()]
    browser = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in browser.stderr
    drawn = browser.stdout.replace(get_plotlyjs(), "")
    assert drawn.count('class="infolayer"') == 8
    assert "<img" not in drawn
