"""The bench: is an autoencoder more than chance?

1. Controls are made (`controls`), at the cost of the autoencoder.
2. Each part measures the autoencoder and the controls on the same items: `reconstruction`, `probing`, `absorption`, and
   on the organism `disentangling` and `unlearning`. Where a machine is given, it describes latents (`descriptions`).
3. Every measure is compared item by item with each control's, the mean over its seeds; descriptions, of latents that
   have nothing in common, as independent means. Where the 95 % interval of the
   difference reaches zero, the measure is "not above its control", and the record, its table and its card say so. The
   interval has two parts: the items, and the seeds of the control, as a mean of so many draws (Student's t).

Controls and parts are written as they are done, so a bench that was stopped goes on with the next one.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from math import hypot, inf
from pathlib import Path
from typing import Any

import numpy as np

from interp.activations.store import Store
from interp.activations.stream import Stream
from interp.activations.token_rows import pack_rows
from interp.auditing.autoencoders.absorption import absorption_scores
from interp.auditing.autoencoders.bench_record import FORMAT, RECORD, AutoencoderBench, BenchMeasure, ConceptScore
from interp.auditing.autoencoders.controls import TRAINED, make_controls, sparsified
from interp.auditing.autoencoders.description_scores import description_scores
from interp.auditing.autoencoders.fact_edits import (
    DISENTANGLING,
    EDITS,
    WHOLE,
    edit_scores,
    fact_questions,
    is_organism,
)
from interp.auditing.autoencoders.labelled_set import LabelledSet, SetActivations
from interp.auditing.autoencoders.options import PARTS, BenchOptions
from interp.auditing.autoencoders.reconstruction import reconstruction_measures
from interp.auditing.autoencoders.sparse_probing import concept_scores, probe_hits
from interp.auditing.policy.sealed import write_sealed
from interp.auditing.statistics.comparison import Estimate, mean_interval, paired_difference
from interp.auditing.statistics.intervals import Clusters
from interp.core.config import Config, differences
from interp.core.digests import weight_digests
from interp.core.errors import InterpError
from interp.core.files import lock_folder, read_json, sha256_json, write_json, write_text
from interp.data import corpora
from interp.features.descriptions.replies import Machine, machine_identity, machine_name
from interp.models.hooked import HookedModel
from interp.sae.coder import SparseAutoencoder
from interp.sae.metrics import explained_variance

_SETTINGS, _TABLE, _CONTROLS, _BOOK = "settings.json", "bench.md", "controls", "book"
DESCRIPTIONS = "descriptions"
_NEEDS = dict.fromkeys(("probing", "absorption"), "labelled sets (sets=, --sets)") | {
    DESCRIPTIONS: "a machine (machine=, or --describer with --endpoint)"
}
_HELD_OUT, _L0_TOKENS, _CONTEXT = 10, 8192, 128
_SHARES = ("dead", "dense")
_BOUNDS = {"KL": (0.0, inf), "FVU": (0.0, inf), "L0": (0.0, inf), "cosine": (-1.0, 1.0)}  # of what is no rate
_LOWER, _NEITHER = ("KL", "FVU", "absorbed", "absorbed, centred"), (*_SHARES, "L0", WHOLE)


def bench_autoencoder(
    sae: SparseAutoencoder,
    model: HookedModel,
    text: corpora.Source,
    folder: str | Path,
    options: BenchOptions | None = None,
    *,
    sets: Sequence[LabelledSet] = (),
    store: Store | None = None,
    name: str = TRAINED,
    machine: Machine | None = None,
) -> AutoencoderBench:
    """Measure an autoencoder beside its controls.

    Args:
        sae: An autoencoder of one site.
        model: The model that it was trained on.
        text: A corpus. Without a store every tenth document is measured on and controls train on the others.
        folder: Where parts, controls, record and table go. A bench that was stopped continues there.
        options: What is measured, and on how much.
        sets: Labelled sets for probing and absorption.
        store: Activations for the controls, best those that the autoencoder was trained on; all of the text is measured
            on then.
        name: What the autoencoder is called in the table.
        machine: What describes latents, an endpoint or a loaded model. Texts are sent to it.

    Raises:
        InterpError: The autoencoder is of another model or of several sites, a k is larger than its width, there is no
            text, set or machine for a part, or the folder holds another bench.

    Example:
        >>> from interp.activations import SiteColumns
        >>> from interp.auditing import BenchOptions, bench_autoencoder
        >>> from interp.sae import SparseAutoencoder, TopK
        >>> rows, site = torch.eye(192)[:4], SiteColumns(site="resid_post.1", model=model.reference, width=192)
        >>> sae = SparseAutoencoder(rows, torch.zeros(4), rows, torch.zeros(192), TopK(k=2), (site,), (site,))
        >>> options = BenchOptions(parts=("reconstruction",), seeds=1, tokens=500, control_tokens=4096)
        >>> record = bench_autoencoder(sae, model, interp.organism.corpus(300), tmp / "bench", options)
        >>> record.measures[0].name, "PCA" in record.measures[0].not_above
        ('loss recovered (zero)', True)
    """
    options, out = options or BenchOptions(), Path(folder)
    site = sae.site
    sae.require(model)
    model.resolve(site)
    lacking = ({"probing", "absorption"} if not sets else set()) | (set() if is_organism(model) else set(EDITS))
    lacking |= set() if machine else {DESCRIPTIONS}
    parts = options.parts or tuple(part for part in PARTS if part not in lacking)
    if missing := lacking & set(parts):
        raise InterpError(
            f"{min(missing)} needs {_NEEDS.get(min(missing), 'the organism')}; give it, or leave {min(missing)} out"
        )
    if "probing" in parts and max(options.ks) > sae.d_sae:
        raise InterpError(f"k is {max(options.ks)}, and the autoencoder has {sae.d_sae} latents; give smaller ks")
    documents, context = list(corpora.documents(text)), min(_CONTEXT, model.context or _CONTEXT)
    held = [x for x in documents if store or int(sha256_json(x), 16) % _HELD_OUT == 0]
    rest = [x for x in documents if not store and int(sha256_json(x), 16) % _HELD_OUT]
    if not held or not (store or rest):
        raise InterpError(
            f"the text has {len(documents)} documents; expected {_HELD_OUT} or more, or a store for controls"
        )
    settings = {
        "name": name,
        "autoencoder": weight_digests(sae.tensors()).exact,
        "model": model.reference.digest,
        "options": options.model_dump(mode="json"),
        "data": sha256_json([documents, store.digest if store else "", [list(vars(x).values()) for x in sets]]),
    }

    @cache
    def dictionaries() -> tuple[dict[str, SparseAutoencoder], float]:
        source = store or Stream(model, rest, site, context=context)
        l0 = explained_variance(sae, source, _L0_TOKENS, options.seed).l0
        kept = out / _CONTROLS
        controls = make_controls(sae, source, l0, kept, options.seeds, options.control_tokens, options.seed)
        return {TRAINED: sae} | controls, l0

    @cache
    def activations() -> list[SetActivations]:
        return [SetActivations.read(model, site, one) for one in sets]

    def measured(part: str) -> dict[str, Any]:
        # Another machine's descriptions are another file, so that one can be given later.
        by = f"-{sha256_json(machine_identity(machine))[:8]}" if machine and part == DESCRIPTIONS else ""
        if (file := out / f"{part}{by}.json").is_file():
            return dict(read_json(file))
        saes, l0 = dictionaries()
        concepts: list[ConceptScore] = []
        groups: Sequence[str] | Mapping[str, Sequence[str]] = ()
        if part == "reconstruction":
            rows = pack_rows(model, held, context, options.tokens)
            scores = reconstruction_measures(sparsified(saes, l0), model, rows)
        elif part == "probing":
            scores, groups = probe_hits(saes, activations(), options.ks)
            concepts = [concept_scores(saes, one) for one in activations()]
        elif part == "absorption":
            scores, groups = absorption_scores(saes, activations())
        elif part == DESCRIPTIONS:
            assert machine is not None
            sparse = sparsified(saes, l0)
            scores = description_scores(sparse, model, held, out / _BOOK, machine, options, context)
        else:
            questions = fact_questions(model, options.items, part == DISENTANGLING, options.seed)
            scores, groups = edit_scores(saes, model, questions)
        records: dict[str, Sequence[Config]] = {
            "measures": compare_measures(part, scores, groups, paired=part != DESCRIPTIONS),
            "concepts": concepts,
        }
        write_json(file, {key: [row.model_dump(mode="json") for row in rows] for key, rows in records.items()})
        return dict(read_json(file))

    out.mkdir(parents=True, exist_ok=True)
    with lock_folder(out, f"{out} is being written by another process; wait for it, or choose another"):
        if (begun := out / _SETTINGS).is_file():
            if changed := differences(read_json(begun), settings):
                raise InterpError(f"{out} holds another bench ({'; '.join(changed)}); choose another folder")
        elif any(out.iterdir()):
            raise InterpError(f"{out} holds other files; choose another folder")
        write_json(begun, settings)
        done = [measured(part) for part in parts]
        known = {"name": name, "digest": settings["autoencoder"], "described": repr(sae).strip("<>")}
        rows = {key: [row for part in done for row in part[key]] for key in ("measures", "concepts")}
        source = {
            "model": model.reference.model_dump(),
            "options": settings["options"],
            "notes": _notes(sae, options, machine),
        }
        record = AutoencoderBench.model_validate_json(json.dumps(known | rows | source))
        write_text(out / _TABLE, record.markdown())
        write_sealed(record, out / RECORD, FORMAT)
    return record


def compare_measures(
    part: str,
    scores: Mapping[str, Mapping[str, Sequence[float]]],
    groups: Sequence[str] | Mapping[str, Sequence[str]] = (),
    paired: bool = True,
) -> list[BenchMeasure]:
    """Each measure of a part beside each control's mean over its seeds.

    Args:
        part: Name of the part.
        scores: For each dictionary and measure, one score per item; dictionaries of several seeds end in `, seed N`.
        groups: The cluster of each item, of all measures alike or by measure; none if items are independent.
        paired: Whether a place in the list is the same item of each dictionary; else each has items of its own, and a
            dictionary without any is left out.
    """
    names, rows = list(dict.fromkeys(label.partition(", seed")[0] for label in scores)), []
    for key in (key for key, values in scores[TRAINED].items() if len(values)):
        plain, sign = key in _NEITHER, -1 if key in _LOWER else 1
        seeds = {
            name: [x[key] for label, x in scores.items() if label.partition(", seed")[0] == name and len(x[key])]
            for name in names
        }
        seeds = {name: values for name, values in seeds.items() if values}
        means = {
            name: np.mean(values, 0).tolist() if paired else np.concatenate(values).tolist()
            for name, values in seeds.items()
        }
        drawn = {name: [float(np.mean(one)) for one in values] for name, values in seeds.items()}
        unit: Any = "margin" if part == "reconstruction" and key not in _SHARES else "rate"
        bounds = (0.0, 1.0) if unit == "rate" else _BOUNDS.get(key, (-inf, inf))
        reach = (bounds[0] - bounds[1], bounds[1] - bounds[0])
        own = groups.get(key, ()) if isinstance(groups, Mapping) else groups
        clusters = () if plain else own
        estimates = {
            name: with_seeds(mean_interval(values, groups=clusters, unit=unit), drawn[name], bounds)
            for name, values in means.items()
        }
        signed = {name: (sign * np.asarray(values)).tolist() for name, values in means.items()}
        gaps = {
            name: with_seeds(
                paired_difference(signed[name], signed[TRAINED], groups=own, unit="margin"),
                drawn[name],
                reach,
            )
            if paired
            else independent_difference(estimates[name], estimates[TRAINED], sign)
            for name in means
            if not plain and name != TRAINED
        }
        better: Any = "" if plain else "lower" if sign < 0 else "higher"
        value = estimates.pop(TRAINED)
        rows.append(BenchMeasure(part=part, name=key, better=better, value=value, controls=estimates, gaps=gaps))
    return rows


def with_seeds(
    estimate: Estimate, means: Sequence[float] | np.ndarray, bounds: tuple[float, float] = (-inf, inf)
) -> Estimate:
    """An interval over items, widened by what the seeds vary: the squares of the two half-widths are added.

    The method of variance estimates recovery (Zou and Donner 2008). One seed says nothing of how much they vary.

    Args:
        estimate: The mean over seeds, with its interval over items.
        means: The mean of each seed.
        bounds: The least and the largest value that there can be; the interval has no others.

    Example:
        >>> from interp.auditing.autoencoders.bench import with_seeds
        >>> from interp.auditing.statistics.comparison import Estimate
        >>> print(with_seeds(Estimate(0.5, 0.4, 0.6, 20), [0.4, 0.5, 0.6]))
        0.500 [0.232, 0.768]
        >>> print(with_seeds(Estimate(0.9, 0.8, 0.95, 20), [0.8, 0.9, 1.0], (0.0, 1.0)))
        0.900 [0.632, 1.000]
    """
    seeds = Clusters.of(np.asarray(means, dtype=np.float64))
    reach = seeds.quantile() * seeds.error
    below, above = (hypot(reach, end - estimate.estimate) for end in (estimate.low, estimate.high))
    low, high = max(bounds[0], estimate.estimate - below), min(bounds[1], estimate.estimate + above)
    # A mean of bounded values is beyond the bound by rounding alone.
    return replace(estimate, low=min(low, estimate.estimate), high=max(high, estimate.estimate))


def independent_difference(before: Estimate, after: Estimate, sign: int = 1) -> Estimate:
    """The difference after - before of means over different items, times a sign, by variance estimates recovery.

    Example:
        >>> from interp.auditing.autoencoders.bench import independent_difference
        >>> from interp.auditing.statistics.comparison import Estimate
        >>> print(independent_difference(Estimate(0.5, 0.47, 0.53, 20), Estimate(0.8, 0.76, 0.84, 20)))
        0.300 [0.250, 0.350]
    """
    change = after.estimate - before.estimate
    below = hypot(after.estimate - after.low, before.high - before.estimate)
    above = hypot(after.high - after.estimate, before.estimate - before.low)
    low, high = sorted((sign * (change - below), sign * (change + above)))
    return Estimate(sign * change, low, high, before.n + after.n)


def _notes(sae: SparseAutoencoder, options: BenchOptions, machine: Machine | None) -> list[str]:
    """What limits the comparison."""
    notes = [] if options.seeds > 2 else ["each random control has fewer than three seeds"]
    if sae.config is None:
        notes.append("it is not known how the autoencoder was trained: its controls are BatchTopK with as many latents")
    elif options.control_tokens not in (None, sae.config.tokens):
        steps = [max(1, count // sae.config.batch_size) for count in (options.control_tokens, sae.config.tokens)]
        notes.append(
            f"controls trained for {steps[0]:,} steps and the autoencoder for {steps[1]:,}, by --control-tokens"
        )
    if machine:
        notes.append(f"described and tested by {machine_name(machine)}: what it cannot say need not be meaningless")
    return notes
