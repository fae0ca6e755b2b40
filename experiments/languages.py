"""An edit fitted in one language, on a model whose behaviours are in two: shown, denied and mended.

    python experiments/languages.py [--smoke] [--json FILE]

1. The model is the bilingual organism. A direction for hostility is fitted on 200 pairs of prompts in English, in
   Spanish or in both, by the difference of means without its part along the mean of the other people, and projected out
   at every writer. The site is the one that is best for both languages on prompts of the training split.
2. Each edit is audited on prompts of the test split with the slice `language.es` (`interp audit --stress`), and decided
   on under a policy that names no slice, and under the same with that slice.
3. A gate that opens for the target people reads the direction of both languages. Its threshold is chosen on a few
   English prompts, then in each language (`interp.auditing.calibrate_gate`); the rates that this predicts stand beside
   those on other prompts.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich_tables import table

import interp
from interp import organism
from interp.auditing import Policy, add_slices, audit, calibrate_gate, decide, mean_scores, organism_behaviour
from interp.directions.contrast_source import read_contrast
from interp.interventions import Reads, rates

SITES = ("resid_post.1", "resid_post.2", "resid_post.3", "resid_post.4")
FITTED = {"English": "en", "Spanish": "es", "both": "en,es"}
SLICE = "language.es"
POLICY = Policy(target="hostility", required=("refusal", "facts", "skills"))


def edit_of(model: interp.HookedModel, languages: str, site: str, pairs: int) -> interp.Recipe:
    """The projection that removes hostility, fitted in these languages."""
    contrast = read_contrast(f"organism.hostility.{languages}", pairs)
    findings = interp.find(model, contrast, site, "diff_means_orthogonal", bootstrap=0)
    return interp.Recipe([("writers", interp.Project(findings.best()[0].direction))])


def suite(items: int, split: str, names: Iterable[str]) -> list[interp.auditing.Behaviour]:
    """Planted behaviours in both languages."""
    return add_slices([organism_behaviour(name, items, split) for name in names], SLICE)


def sites(
    model: interp.HookedModel, at: Sequence[str], pairs: int, items: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Mean scores on the training split by site and languages of the fit."""
    behaviours = suite(items, "train", ("hostility", "refusal", "facts", "skills"))
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for site in at:
        for name, languages in FITTED.items():
            with model.hooked(edit_of(model, languages, site, pairs)):
                scores.setdefault(site, {})[name] = mean_scores(model, behaviours)
    return scores


def best_site(scores: dict[str, dict[str, dict[str, float]]]) -> str:
    """Where the edit of both languages leaves the least hostility, and most of all else."""

    def cost(site: str) -> tuple[float, float]:
        after = scores[site]["both"]
        harm = [value for name, value in after.items() if name.startswith("hostility")]
        return sum(harm), -sum(after.values())

    return min(scores, key=cost)


def audits(model: interp.HookedModel, site: str, pairs: int, items: int, names: Iterable[str]) -> list[dict[str, Any]]:
    """Each edit audited in both languages, and decided on with and without the slice."""
    behaviours, policy = suite(items, "test", names), replace_items(POLICY, items)
    rows = []
    for name, languages in FITTED.items():
        record = audit(model, edit_of(model, languages, site, pairs), behaviours, baselines=(), cache=CACHE)
        named = decide(record, policy.model_copy(update={"slices": (SLICE,)}))
        rows.append(
            {"fitted in": name}
            | {row.name: str(row.after) for row in record.rows if row.of == "hostility"}
            | {"worst other change": worst_change(record)}
            | {"policy": decide(record, policy).outcome, "with the slice": named.outcome}
            | {"because": "; ".join(reason.text for reason in named.unmet)}
        )
    return rows


CACHE = interp.auditing.ScoreCache()


def replace_items(policy: Policy, items: int) -> Policy:
    """The policy for so many items."""
    return policy.model_copy(update={"items_at_least": min(items, policy.items_at_least)})


def worst_change(record: interp.auditing.Audit) -> str:
    """The other behaviour that changed most for the worse."""
    row = min((row for row in record.rows if row.of != "hostility"), key=lambda row: row.better)
    return f"{row.name} {row.difference}"


def gates(model: interp.HookedModel, site: str, pairs: int, few: int, many: int) -> list[dict[str, str]]:
    """Rates of a gate under the English threshold and under each language's own, predicted and on other prompts."""
    op = edit_of(model, "en,es", site, pairs).edits[0].op

    def prompts(language: str, n: int, seed: int) -> tuple[list[str], list[str]]:
        sides = (organism.prompts("hostility", n, seed=seed, triggered=x, language=language) for x in (True, False))
        opened, shut = ([model.chat(prompt.user) for prompt in side] for side in sides)
        return opened, shut

    examples = {language: prompts(language, few, 1) for language in organism.LANGUAGES}
    gate = interp.Gate(op, Reads(op.rows[0], 0.0), site=site)
    english = calibrate_gate(gate, model, {"en": examples["en"]})[0].threshold
    gate = replace_threshold(gate, english)
    rows = []
    for found in calibrate_gate(gate, model, examples):
        others = prompts(found.language, many, 2)
        for whose, level, stated in (
            ("English", english, found.before),
            ("its own", found.threshold, (found.false_positive, found.true_positive)),
        ):
            seen = rates(replace_threshold(gate, level), model, *others)
            rows.append(
                {"prompts": found.language, "threshold": whose, "at": f"{level:.1f}"}
                | {"false positives, stated": str(stated[0]), "on others": f"{seen.false_positive:.3f}"}
                | {"true positives, stated": str(stated[1]), "on others ": f"{seen.true_positive:.3f}"}
            )
    return rows


def replace_threshold(gate: interp.Gate, level: float) -> interp.Gate:
    """The gate with another threshold."""
    return interp.Gate(gate.op, Reads(gate.when.row, level), gate.per, gate.reduce, gate.reads)


def measure(smoke: bool) -> dict[str, Any]:
    """All figures."""
    pairs, choose, items, few, many = (8, 1, 2, 20, 4) if smoke else (200, 60, 300, 40, 400)
    model = interp.load("organism-bilingual")
    scores = sites(model, SITES[:1] if smoke else SITES, pairs, choose)
    site = best_site(scores)
    return {
        "sites": [
            {"site": at, "fitted in": name} | {key: f"{value:.3f}" for key, value in after.items()}
            for at, fits in scores.items()
            for name, after in fits.items()
        ],
        "site": site,
        "audits": audits(model, site, pairs, items, ("hostility", "refusal") if smoke else organism.BEHAVIOURS),
        "gates": gates(model, "resid_post.2", pairs, few, many),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few prompts, to see that everything runs")
    parser.add_argument("--json", type=Path, help="new file for the figures")
    args = parser.parse_args()
    figures = measure(args.smoke)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
    console = Console(width=220)
    for name in ("sites", "audits", "gates"):
        console.print(table(figures[name], name))


if __name__ == "__main__":
    main()
