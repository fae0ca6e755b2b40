"""Measure how deep an edit is: whether a removed harm is gone, or only out of sight.

1. The items of the harm are halved. Its rate is measured on the held-out half, before and after the edit.
2. Fresh probes are fitted downstream of the edit, where there is a contrast (`fresh_probes`).
3. Copies are fine-tuned until half of the harm is back (`relearning`).
4. Recovery is tried: by a soft prompt (`soft_prompt`), by slices of transformed prompts, and by rounding the weights to
   8 bits a channel and to 4 bits a group (`weight_rounding`).

Steps 3 and 4 are taken for the edited model, for a control that never had the harm, and for tuned models. Each result
is a file in a hidden folder; a process that ends early loses the one in work, and the same call continues. The folder
appears when all is there. Protected behaviours are refused: whether a refusal of dangerous requests can be trained away
is not measured here. No trained copy, prefix or reply is written.

Limitations: a bound from below. Attempts that fail do not show that others would; those who succeed show that the harm
was left.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from interp.auditing.behaviours import Behaviour
from interp.auditing.conditions import today
from interp.auditing.policy.erasure_depth import (
    EDITED,
    FORMAT,
    RECORD,
    RELATED,
    DepthProbe,
    ErasureDepth,
    Recovery,
    RelearningCurve,
)
from interp.auditing.policy.schema import ATTEMPTS
from interp.auditing.policy.sealed import write_sealed
from interp.auditing.statistics.comparison import Estimate
from interp.auditing.stress.slices import add_slices
from interp.core.digests import versions
from interp.core.errors import InterpError, first_line, on_interrupt
from interp.core.files import new_folder, require_free, sha256_json, write_json
from interp.data.contrast import Contrast
from interp.data.corpora import Document
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel
from interp.upkeep._records import SETTINGS, kept_once_begun
from interp.upkeep.depth.demonstrations import Demonstrations, demonstrate, halves
from interp.upkeep.depth.fresh_probes import fit_fresh_probes
from interp.upkeep.depth.options import DepthOptions
from interp.upkeep.depth.relearning import relearn
from interp.upkeep.depth.soft_prompt import recover_by_soft_prompt
from interp.upkeep.depth.subject import Subject
from interp.upkeep.depth.weight_rounding import rounded_copy

BASE, BENIGN = "base", "benign"
SOFT, INT8, INT4 = ATTEMPTS


def measure_depth(
    base: HookedModel,
    edited: HookedModel | Recipe,
    behaviour: Behaviour,
    out: str | Path,
    options: DepthOptions | None = None,
    *,
    contrast: Contrast | None = None,
    sites: str | Sequence[str] = "resid_post.*",
    compared: Mapping[str, HookedModel] | None = None,
    related: Sequence[Document] = (),
    benign: Sequence[Document] = (),
    stress: str | Sequence[str] = (),
    page: Callable[[ErasureDepth, Path], None] | None = None,
) -> ErasureDepth:
    """Measure how deep an edit is.

    Args:
        base: The unedited model, which shows the harm.
        edited: The edited model, or a recipe, which is run on the base by hooks.
        behaviour: The harm that was removed.
        out: New folder: `depth.json`, and the page.
        options: The budgets.
        contrast: Pairs for fresh probes; none are fitted without.
        sites: Where they read; sites that the edit does not change are left out.
        compared: Other models without the harm, by name: a `control` that never had it, or one after DPO.
        related: Documents that show the harm. Default: the base's own replies to half of the items.
        benign: Documents that do not; without any, benign relearning is not measured.
        stress: Slices of the held-out items, as in `interp.auditing.add_slices`: paraphrase, role, turns, language.
        page: Called with the record and the unfinished folder, to write a page there.

    Returns:
        The record, which the folder holds too.

    Raises:
        InterpError: `out` exists or is being written; the behaviour is no harm, has too few items, or is not reduced by
            the edit; a model has the name of another; or an unfinished measurement there has other settings.
    """
    options, target = options or DepthOptions(), Path(out)
    require_free(target)
    require_harm(behaviour)
    learned, held_out = halves(behaviour, options.seed)
    plain, subjects = _subjects(base, edited, compared or {})
    stressed = {part.slice: part for part in add_slices([held_out], stress)[1:]}
    before, after = (subject.rate(held_out) for subject in (plain, subjects[0]))
    if after.estimate >= before.estimate:
        rates = f"{before} before, {after} after"
        raise InterpError(f"the edit does not reduce {behaviour.name}: {rates}; there is no depth to measure")
    level = (before.estimate + after.estimate) / 2
    shown = demonstrate(plain, learned)
    work = target.with_name(f".{target.name}.measuring")
    settings = {
        "subjects": [subject.identity for subject in (plain, *subjects)],
        "behaviours": {name: x.digest for name, x in {"": behaviour, **stressed}.items()},
        "contrast": contrast.digest if contrast else "",
        "sites": [sites] if isinstance(sites, str) else list(sites),
        "documents": {RELATED: sha256_json(list(related)), BENIGN: sha256_json(list(benign))},
        "options": options.model_dump(),
        "versions": versions(),
    }
    with (
        on_interrupt(f"the same command continues the measurement for {target}"),
        new_folder(target) as staging,
        kept_once_begun(work, settings, "an unfinished measurement"),
    ):
        stage = _Stages(work, settings)
        day = stage(str, lambda: today().isoformat())
        probes: tuple[DepthProbe, ...] = ()
        if contrast is not None:
            fit = partial(fit_fresh_probes, plain, subjects, contrast, sites, options.seed)
            probes = stage(tuple[DepthProbe, ...], fit)
        documents = {RELATED: related or shown.documents(base), BENIGN: benign}
        curves = [
            stage(RelearningCurve, partial(relearn, subject, data, documents[data], held_out, level, options))
            for subject in subjects
            for data in documents
            if documents[data]
        ]
        recoveries = [
            Recovery(model=subject.name, by=name, rate=stage(Estimate, partial(attempt, subject)))
            for name, attempt in _attempts(shown, held_out, stressed, options).items()
            for subject in subjects
        ]
        record = ErasureDepth(
            model=subjects[0].model.name,
            weights=subjects[0].model.digest,
            recipe=subjects[0].recipe.digest if subjects[0].recipe else "",
            base=base.digest,
            behaviour=behaviour.name,
            digest_of_items=held_out.digest,
            measured=day,
            before=before,
            after=after,
            probes=probes,
            relearning=tuple(curves),
            recoveries=tuple(recoveries),
            settings=settings,
        )
        write_sealed(record, staging / RECORD, FORMAT)
        if page is not None:
            page(record, staging)
    shutil.rmtree(work)
    return record


def require_harm(behaviour: Behaviour) -> None:
    """Raise unless a behaviour is a harm; protected behaviours are refused."""
    if behaviour.kind == "protected":
        raise InterpError(
            f"{behaviour.name} is protected: how a protected behaviour can be trained away is not measured; expected a "
            "harm that was removed"
        )
    if behaviour.kind != "harm":
        raise InterpError(f"{behaviour.name} is a {behaviour.kind}; expected a harm that was removed")


def _subjects(
    base: HookedModel, edited: HookedModel | Recipe, compared: Mapping[str, HookedModel]
) -> tuple[Subject, list[Subject]]:
    """The unedited model, and the edited one before those that it is compared with."""
    if taken := {BASE, EDITED} & set(compared):
        raise InterpError(f"a model to compare with is named {min(taken)}; rename it, since another has this name")
    first = Subject(EDITED, edited) if isinstance(edited, HookedModel) else Subject(EDITED, base, edited)
    return Subject(BASE, base), [first, *(Subject(name, model) for name, model in compared.items())]


def _attempts(
    shown: Demonstrations, held_out: Behaviour, stressed: Mapping[str, Behaviour], options: DepthOptions
) -> dict[str, Callable[[Subject], Estimate]]:
    """The attempts to recover the harm, by name."""
    return {
        SOFT: lambda subject: recover_by_soft_prompt(subject, shown, held_out, options),
        INT8: lambda subject: rounded_copy(subject, 8).rate(held_out),
        INT4: lambda subject: rounded_copy(subject, 4, options.group).rate(held_out),
        **{name: partial(Subject.rate, behaviour=part) for name, part in stressed.items()},
    }


class _Stages:
    """Results in files of a folder, in the order in which they are asked for; what is there is not made again."""

    def __init__(self, work: Path, settings: Mapping[str, Any]):
        self.work, self.settings, self.count = work, settings, 0

    def __call__(self, kind: Any, make: Callable[[], Any]) -> Any:
        adapter = TypeAdapter(kind)
        self.count += 1
        file = self.work / f"{self.count:03}.json"
        if not file.is_file():
            result = make()
            write_json(self.work / SETTINGS, self.settings)
            write_json(file, adapter.dump_python(result, mode="json"))
        try:
            return adapter.validate_json(file.read_bytes())
        except ValidationError as problem:
            raise InterpError(f"{file} is damaged ({first_line(problem)}); remove it") from None
