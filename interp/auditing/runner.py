"""The audit runner: behaviours of a model before and after an edit, on the same items, and baselines beside.

1. Every behaviour is measured in both models: same items, same prompts, same decoding. What was measured is kept
   (`cache`), so that a killed audit goes on, and the unedited model is measured once for all edits.
2. The paired difference gets an interval and a p-value (`statistics.compare`), and Holm's correction over the suite
   (Holm 1979, "A simple sequentially rejective multiple test procedure").
3. Beside the edit stand baselines that cost no insight (`baselines`), on the same items.
"""

from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

from interp.auditing.audit import Audit, Example, Row
from interp.auditing.baselines import BASELINES, Baseline, asking, beside, require_known
from interp.auditing.behaviours import Behaviour, Scores
from interp.auditing.cache import Cache
from interp.auditing.carried import edit_of, established
from interp.auditing.condition import Condition, require_comparable
from interp.auditing.statistics import Comparison, compare, holm
from interp.core.errors import InterpError
from interp.core.files import sha256_json
from interp.core.progress import track
from interp.core.records import versions
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel


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
    cache: Cache | str | Path | None = None,
) -> Audit:
    """Measure each behaviour before and after an edit, on the same items.

    `after` is the edited model, or a recipe for hooks on `before`; None measures the model as it is. `baselines` are
    names of `BASELINES`; if not given, all that can be made (random ones need the recipe: `recipe`, or the one that an
    exported checkpoint carries), and none beside a model as it is.
    `instruction` is for the prompt-only baseline. Keeps up to `examples` items a behaviour, those first whose score
    changed, and none of a secret one. Raises for models with different tokenizers.
    """
    if examples < 0:
        raise InterpError(f"examples is {examples}; expected how many items a behaviour to keep, or 0")
    edit = edit_of(after, recipe)
    usual = BASELINES if edit else ("prompt",) if after else ()
    wanted = require_known(usual if baselines is None else baselines)
    suite, told = _suite(behaviours), asking(behaviours) if instruction is None else instruction
    if isinstance(after, HookedModel):
        require_comparable(before, after, suite)
    pair = [Condition(before), Condition(after) if isinstance(after, HookedModel) else Condition(before, after)]
    others = beside(before, edit, wanted, told, seed)
    kept = cache if isinstance(cache, Cache) else Cache(cache)
    measure([*pair[: 2 if after else 1], *(one for group in others.values() for one in group)], suite, kept)
    found = [(b, kept.scores(pair[0], b), kept.scores(pair[1], b)) for b in suite]
    reference = before.identity.model_copy(update={"name": f"{before.name}, edited" if edit else before.name})
    return Audit(
        rows=rows_of(found, seed),
        before=before.identity,
        after=after.identity if isinstance(after, HookedModel) else reference,
        examples=tuple(example for one in found for example in _examples(*one)[:examples]),
        baselines=tuple(Baseline.of(name, group, suite, kept, pair[0], seed) for name, group in others.items()),
        recipe=established(before, after),
        suite=suite_digest(suite),
        instruction=told if "prompt" in wanted else "",
        seed=seed,
        versions=versions(),
    )


def measure(conditions: Sequence[Condition], behaviours: Sequence[Behaviour], cache: Cache) -> None:
    """Measure what the cache does not hold yet."""
    todo = [pair for pair in product(conditions, behaviours) if cache.get(*pair) is None]
    for condition, behaviour in track(todo, "audit", size=lambda pair: len(pair[1]), unit="items"):
        cache.scores(condition, behaviour)


def suite_digest(behaviours: Iterable[Behaviour]) -> str:
    """SHA-256 of a suite, whatever the order of its behaviours."""
    return sha256_json(sorted(behaviour.digest for behaviour in behaviours))


def _suite(behaviours: Sequence[Behaviour]) -> list[Behaviour]:
    names = [behaviour.name for behaviour in behaviours]
    if not names or len(set(names)) < len(names):
        raise InterpError(f"an audit needs behaviours of different names; got {names}")
    for one in behaviours:
        if one.unit != "rate" and len(set(one.groups) or one.prompts) < 2:
            raise InterpError(
                f"behaviour {one.name!r} has one item, or one group of items, which says nothing of the spread; give "
                "at least two (--items)"
            )
    return list(behaviours)


def rows_of(found: Sequence[tuple[Behaviour, Scores, Scores]], seed: int) -> tuple[Row, ...]:
    """Behaviours compared by their scores before and after, corrected for how many there are."""
    compared = [_compared(*one, seed) for one in found]
    corrected = holm([comparison.p for comparison in compared])
    return tuple(
        Row(
            **{name: getattr(behaviour, name) for name in _OF_BEHAVIOUR},
            **{name: getattr(comparison, name) for name in _OF_COMPARISON},
            p_holm=p,
        )
        for (behaviour, _, _), comparison, p in zip(found, compared, corrected, strict=True)
    )


def _compared(behaviour: Behaviour, old: Scores, new: Scores, seed: int) -> Comparison:
    try:
        return compare(old.values, new.values, behaviour.groups, behaviour.unit, seed)
    except InterpError as problem:
        raise InterpError(f"behaviour {behaviour.name!r}: {problem}; leave it out of the suite") from None


_OF_BEHAVIOUR = (
    "name", "kind", "unit", "statement", "language", "scenario", "scorer", "chance", "secret", "digest",
)  # fmt: skip
_OF_COMPARISON = ("before", "after", "difference", "p", "effect", "detectable", "n_groups", "missing", "constant")


def _examples(behaviour: Behaviour, before: Scores, after: Scores) -> list[Example]:
    """Side by side, where the behaviour reads replies that may be shown; those first whose score changed."""
    if behaviour.secret:
        return []
    items = zip(behaviour.prompts, before.replies, after.replies, before.values, after.values, strict=False)
    changed_first = sorted(items, key=lambda item: item[3] == item[4])
    return [Example(behaviour.name, prompt, old, new) for prompt, old, new, _, _ in changed_first]
