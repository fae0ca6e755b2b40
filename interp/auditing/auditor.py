"""Audits: behaviours of a model before and after an edit, measured on the same items, next to baselines.

1. `audit` measures every behaviour in both models, with the same items, prompts and decoding. Scores are kept in a
   cache (`conditions.ScoreCache`), so that an interrupted audit can be resumed and the unedited model is measured only
   once.
2. Each paired difference gets an interval and a p-value (`statistics.comparison`), corrected over the suite (Holm 1979,
   "A simple sequentially rejective multiple test procedure").
3. Trivial baselines (random edits, an instruction; see `baselines`) are measured on the same items.

`Audit` is the record. The saved file contains the score of every item, and digests of the models, the suite and its own
content. `Audit.read` computes every figure again from the scores, and refuses a file whose figures do not follow from
them.

Limitations: a file whose figures were all computed from made-up scores cannot be told from a measured one. To exclude
that, measure again, or keep the file where nobody else can write.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, product
from math import isclose
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter

from interp.auditing.audit_row import AuditRow, ItemScores, audit_rows
from interp.auditing.baselines import BASELINES, Baseline, baseline_conditions, baseline_of_scores, instruction_against
from interp.auditing.behaviours import Behaviour, Scores
from interp.auditing.conditions import ModelCondition, ScoreCache, establish_recipe, recipe_of_edit, require_comparable
from interp.core.calls import checked_class
from interp.core.config import flatten
from interp.core.digests import versions
from interp.core.display import Card, Displayed, html_table, plural
from interp.core.errors import InterpError, on_interrupt
from interp.core.files import read_json, sha256_json, write_json
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel
from interp.models.identity import ModelReference

FORMAT = 3  # of older ones, no figure can be computed again
Edit = Literal["none", "hooks", "weights"]


@dataclass(frozen=True)
class AuditExample(Displayed):
    """The replies to one item, before and after."""

    behaviour: str
    prompt: str
    before: str
    after: str


@checked_class("interp.audit(before, after, behaviours) makes one, and interp.auditing.Audit.read(folder) reads one")
@dataclass(frozen=True)
class Audit(Displayed):
    """The comparison of two models over behaviours. Returned by `interp.audit`.

    Attributes:
        rows: One per behaviour; `audit["name"]` is the row of that name.
        before: The unedited model.
        after: The edited model. If a recipe was audited with hooks, this has the same weights as `before`; if there was
            no edit, it equals `before`.
        examples: Replies before and after.
        baselines: Results of the baselines on the same items.
        recipe: Digest of the recipe, if it could be verified (see `establish_recipe`).
        suite: Digest of the behaviours.
        instruction: The instruction of the prompt-only baseline.
        seed: Seed of the intervals and of random baselines.
        versions: Versions of the packages that ran.
        edit: What was measured as `after`: the recipe run by `hooks` on the unedited model, `weights` of their own, or
            `none`.
        items: The scores of every item, by behaviour.
        measured: The day (UTC, YYYY-MM-DD) of its oldest score, by the clock of the machine that measured; empty in
            audits of earlier versions, and where a score's day is unknown.

    Example:
        >>> from interp.auditing import text_loss
        >>> loss = text_loss("loss", ["The mill is by the river.", "Rain fell all day."])
        >>> record = interp.audit(model, None, [loss])
        >>> record.edited, record["loss"].difference.estimate
        (False, 0.0)
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    rows: tuple[AuditRow, ...]
    before: ModelReference
    after: ModelReference
    examples: tuple[AuditExample, ...] = ()
    baselines: tuple[Baseline, ...] = ()
    recipe: str = ""
    suite: str = ""
    instruction: str = ""
    seed: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    edit: Edit = "none"
    items: dict[str, ItemScores] = field(default_factory=dict)
    measured: str = ""

    def __getitem__(self, name: str) -> AuditRow:
        for row in self.rows:
            if row.name == name:
                return row
        raise InterpError(f"behaviour {name!r} was not audited; audited: {', '.join(row.name for row in self.rows)}")

    @property
    def edited(self) -> bool:
        """Whether two models are compared, rather than one measured without an edit."""
        return bool(self.recipe) or self.after != self.before

    @property
    def of_one_model(self) -> bool:
        """Whether both sides have the same weights and settings, so that only hooks can make a difference."""
        return (self.before.digest, self.before.settings) == (self.after.digest, self.after.settings)

    @property
    def digest(self) -> str:
        """SHA-256 of its content."""
        return sha256_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The audit as JSON-compatible values; NaN and infinities become None."""
        return {"format": FORMAT} | json.loads(_AUDIT.dump_json(self))

    def save(self, file: str | Path, overwrite: bool = False) -> None:
        """Write JSON, with the digest of its content, to a new file; `overwrite` replaces the one that is there."""
        if not overwrite and Path(file).exists():
            raise InterpError(f"{file} exists already; choose another name, or pass overwrite=True to replace it")
        write_json(Path(file), self.to_json() | {"sha256": self.digest})

    @classmethod
    def read(cls, file: str | Path) -> "Audit":
        """Read an audit written by `save`.

        Raises:
            InterpError: The file is not an audit, was changed after it was written, is of an older format, or holds
                figures that do not follow from the scores in it.
        """
        values = read_json(file)
        try:
            written = values.pop("format", None)
            if written is not None and written != FORMAT:
                raise InterpError(f"its format {written} has no scores that its figures follow from")
            if values.pop("sha256") != sha256_json({"format": written} | values):
                raise InterpError("it was changed since it was written (its SHA-256 differs)")
            audit = _AUDIT.validate_json(json.dumps(values), strict=True)
            _require_measured(audit)
        except InterpError as problem:
            raise InterpError(f"{file}: {problem}; audit again") from None
        except (LookupError, TypeError, AttributeError, OverflowError, ValueError) as problem:
            raise InterpError(f"{file}: not an audit ({problem}); expected a file written by interp audit") from None
        return audit

    def _card(self) -> Card:
        changes = [(row.name, f"{row.before.estimate:.3f} -> {row.after.estimate:.3f}") for row in self.rows]
        return f"{self.after.name}, {plural(len(self.rows), 'behaviour')}", changes

    def _repr_html_(self) -> str:
        names = [f"difference, {baseline.name}" for baseline in self.baselines]
        header = ["behaviour", "kind", "before", "after", "difference", "p (Holm)", *names, ""]
        cells: list[list[object]] = []
        for row in self.rows:
            changes = [baseline.changes.get(row.name) for baseline in self.baselines]
            texts = [None if change is None else f"{change.estimate:+.3f}" for change in changes]
            cells.append([row.name, row.kind, row.before, row.after, row.difference, row.p_holm, *texts, row.reading])
        return html_table(f"Audit: {self.after.name}, means, 95% intervals; judged by p (Holm)", header, cells)


_AUDIT = TypeAdapter(Audit)
_close = partial(isclose, rel_tol=1e-6, abs_tol=1e-9)


def _require_measured(audit: Audit) -> None:
    """Raise for parts that do not belong together, and for figures that do not follow from the scores."""
    names = [row.name for row in audit.rows]
    shown = {row.name for row in audit.rows if not row.secret}
    unchanged = audit.of_one_model and all(item.is_unchanged for item in audit.items.values())
    wrong = {
        "two behaviours have the same name": len(set(names)) < len(names),
        "its scores are of other behaviours": set(names) != set(audit.items),
        "its suite is not that of its behaviours": audit.suite != suite_digest(audit.rows),
        "its examples are of other behaviours, or of secret ones": not {x.behaviour for x in audit.examples} <= shown,
        "its models or recipe are not those of its edit": not {
            "none": unchanged and not audit.recipe,
            "hooks": audit.of_one_model and bool(audit.recipe),
            "weights": True,
        }[audit.edit],
        "chance is no rate below 1": not all(0 <= (row.chance or 0) < 1 for row in audit.rows if row.unit == "rate"),
    }
    for what in (what for what, is_wrong in wrong.items() if is_wrong):
        raise InterpError(f"{what}, so it was not measured so (behaviours: {', '.join(names)})")
    baselines = tuple(baseline_of_scores(x.name, audit.rows, audit.items, audit.seed) for x in audit.baselines)
    computed = replace(audit, rows=audit_rows(audit.rows, audit.items, audit.seed), baselines=baselines)
    figures, expected = (flatten(x.to_json()) for x in (audit, computed))
    for name in figures | expected:
        value, right = figures.get(name), expected.get(name)
        if value != right and not (isinstance(value, float) and isinstance(right, float) and _close(value, right)):
            raise InterpError(f"{name} is {value!r}, but what was measured gives {right!r}")


def audit(
    before: HookedModel,
    after: HookedModel | Recipe | None,
    behaviours: Sequence[Behaviour],
    examples: int = 6,
    seed: int = 0,
    *,
    recipe: Recipe | None = None,
    baselines: Iterable[str] | None = None,
    instruction: str | None = None,
    cache: ScoreCache | str | Path | None = None,
    workers: int | str = 1,
) -> Audit:
    """Measure behaviours before and after an edit, on the same items.

    Args:
        before: The unedited model.
        after: The edited model; or a recipe, which is run on `before` with hooks; or None, to measure `before` without
            an edit.
        behaviours: The behaviours to measure, with distinct names, such as those of `interp.suite`.
        examples: Number of example replies to keep per behaviour, changed replies first. None are kept for behaviours
            marked `secret`.
        seed: Seed of the intervals and of random baselines.
        recipe: The recipe that `after` was made with. Needed for the random baseline if `after` is a checkpoint that
            does not contain its recipe.
        baselines: "random", "prompt", both or neither. Default: every baseline that applies; none if `after` is None.
        instruction: Text of the prompt-only baseline. By default it tells the model to stop the audited harms.
        cache: A folder (or `ScoreCache`) of earlier scores, which are reused.
        workers: Processes that measure side by side, each with the models from their files. A text is the address of a
            Ray cluster (extra `ray`).

    Returns:
        The audit. Save it with `.save`, or pass it to `interp.decide`.

    Raises:
        InterpError: The models have different tokenizers, two behaviours have the same name, a baseline is
            unknown or needs a recipe, or logits are NaN.

    Example:
        >>> from interp.auditing import Audit, text_loss
        >>> loss = text_loss("loss", ["The mill is by the river.", "Rain fell all day."])
        >>> recipe = interp.Recipe([("writers", interp.Project(torch.ones(model.d_model)))])
        >>> record = interp.audit(model, recipe, [loss], baselines=["prompt"])
        >>> record["loss"].after.n, [baseline.name for baseline in record.baselines]
        (2, ['prompt'])
        >>> record.save(tmp / "audit.json")
        >>> Audit.read(tmp / "audit.json") == record
        True
    """
    if examples < 0:
        raise InterpError(f"examples is {examples}; expected a number of items per behaviour, or 0")
    edit = recipe_of_edit(after, recipe)
    arms = audited_conditions(before, after, edit, behaviours, baselines, instruction, seed)
    controls = list(arms)[2:]
    scores = cache if isinstance(cache, ScoreCache) else ScoreCache(cache)
    with on_interrupt(scores.remedy):
        scores.fill(list(product(chain(*arms.values()), behaviours)), workers)
    items, shown = dict[str, ItemScores](), list[AuditExample]()
    for behaviour in behaviours:
        by_arm = {arm: [scores.scores(x, behaviour) for x in group] for arm, group in arms.items()}
        items[behaviour.name] = ItemScores.of(behaviour, by_arm)
        shown += _examples(behaviour, by_arm["before"][0], by_arm["after"][0])[:examples]
    rows = audit_rows(behaviours, items, seed)
    unsaved = before.identity.model_copy(update={"name": f"{before.name}, edited" if edit else before.name})
    return Audit(
        rows=rows,
        before=before.identity,
        after=after.identity if isinstance(after, HookedModel) else unsaved,
        examples=tuple(shown),
        baselines=tuple(baseline_of_scores(name, rows, items, seed) for name in controls),
        recipe=establish_recipe(before, after),
        suite=suite_digest(behaviours),
        instruction=arms["prompt"][0].instruction if "prompt" in arms else "",
        seed=seed,
        versions=versions(),
        edit="weights" if isinstance(after, HookedModel) else "hooks" if after else "none",
        items=items,
        measured=min(scores.day(x, behaviour) for x in chain(*arms.values()) for behaviour in behaviours),
    )


def audited_conditions(
    before: HookedModel,
    after: HookedModel | Recipe | None,
    edit: Recipe | None,
    behaviours: Sequence[Behaviour],
    baselines: Iterable[str] | None,
    instruction: str | None,
    seed: int,
) -> dict[str, list[ModelCondition]]:
    """What an audit measures: `before`, `after`, and the conditions of each baseline by its name.

    Args:
        edit: The recipe that `after` is or was made with, if it is known.
        before, after, behaviours, baselines, instruction, seed: As in `audit`.

    Raises:
        InterpError: As `audit`, before anything is measured.
    """
    _require_distinct(behaviours)
    if isinstance(after, HookedModel):
        require_comparable(before, after, list(behaviours))
    elif after is not None:
        after.bind(before)  # raises for a recipe of another model
    plain = ModelCondition(before)
    edited = (
        ModelCondition(after) if isinstance(after, HookedModel) else ModelCondition(before, after) if after else plain
    )
    default = BASELINES if edit else ("prompt",) if after else ()
    names = list(default if baselines is None else baselines)
    against = instruction_against(behaviours) if instruction is None else instruction
    return {"before": [plain], "after": [edited]} | baseline_conditions(before, edit, names, against, seed)


def suite_digest(behaviours: Iterable[Behaviour | AuditRow]) -> str:
    """SHA-256 of a suite, independent of the order of its behaviours."""
    return sha256_json(sorted(behaviour.digest for behaviour in behaviours))


def _require_distinct(behaviours: Sequence[Behaviour]) -> None:
    """Raise for equal names, and for behaviours with too few items for an interval."""
    names = [behaviour.name for behaviour in behaviours]
    if not names or len(set(names)) < len(names):
        raise InterpError(f"an audit needs behaviours of different names; got {names}")
    for behaviour in behaviours:
        if behaviour.unit != "rate" and len(set(behaviour.groups) or behaviour.prompts) < 2:
            name = f"behaviour {behaviour.name!r}"
            raise InterpError(f"{name} has one item, or one group, so its spread is unknown; give two (--items)")


def _examples(behaviour: Behaviour, before: Scores, after: Scores) -> list[AuditExample]:
    """The replies to each item, where the behaviour reads replies that may be shown; changed scores first."""
    if behaviour.secret:
        return []
    items = zip(behaviour.prompts, before.replies, after.replies, before.values, after.values, strict=False)
    changed_first = sorted(items, key=lambda item: item[3] == item[4])
    return [AuditExample(behaviour.name, prompt, old, new) for prompt, old, new, _, _ in changed_first]
