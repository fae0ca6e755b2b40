"""Tuned checkpoint: an adapter merged into the weights, with a certificate and the record of its training.

    W' = W + scale · B A

The certificate compares the base that runs with the adapter next to its weights with the checkpoint, reloaded, as it
compares a recipe's hooks with their fold (`interp.editing.certificate`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ConfigDict
from torch import Tensor

from interp.core.digests import versions
from interp.core.display import Card, Displayed, markdown
from interp.core.errors import InterpError
from interp.core.files import KEY, read_json, read_tensors, sha256_file, write_json, write_tensors, write_text
from interp.editing.approximate.low_rank_factors import AddedFactors, FactorPair, FactorPairs, merge_plan
from interp.editing.certificate import Certificate
from interp.editing.certificate.manifest import CARD, CERTIFICATE, ExportSettings
from interp.editing.certificate.measurement import certify
from interp.editing.certificate.probes import random_probes, read_probes, write_probes
from interp.editing.export.sources import open_source
from interp.editing.export.weight_writer import cut_shards, write_weights
from interp.interventions.recipe import Recipe
from interp.models.architectures.table import architecture
from interp.models.hooked import HookedModel
from interp.models.identity import ModelReference
from interp.models.loading import load
from interp.upkeep._records import read_record
from interp.upkeep.tuning._trainer import ADAPTER_CONFIG, ADAPTER_WEIGHTS, SECONDS, Training

RECORD, ADAPTER, BLOCK = "interp_tuning.json", "interp_adapter", "interp_block"
_PREFIX, _FIRST = "base_model.model.", ".lora_A.weight"


@dataclass(frozen=True)
class TuningRecord(Displayed):
    """How a checkpoint was tuned.

    Attributes:
        method: sft, dpo or kto.
        base: The model that was tuned.
        source: Where it can be found again; None for a model that was only in memory.
        data: Name of the data.
        data_digest: SHA-256 of the rows.
        rows: How many rows there are.
        options: The options.
        losses: The loss of each step.
        log_ratio: DPO and KTO: the mean log-ratio of the model that is written to its reference before the first step,
            of the kind of reply where it is larger. It is 0: the adapter adds nothing yet.
        blocked_log_ratio: The same as the loss saw it at the first step: under a recipe, what that does to the model.
        block: Digest of the recipe that was active while training; empty for none.
        files: SHA-256 of the other files, by their path in the folder.
        versions: Versions of the packages that tuned it.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    method: str
    base: ModelReference
    source: str | None
    data: str
    data_digest: str
    rows: int
    options: dict[str, Any]
    losses: tuple[float, ...]
    log_ratio: float | None
    blocked_log_ratio: float | None
    block: str
    files: dict[str, str]
    versions: dict[str, str]

    @classmethod
    def read(cls, folder: str | Path) -> "TuningRecord":
        """Read the record of a folder that `tune` wrote. Raises where there is none, or a damaged one."""
        return read_record(cls, Path(folder) / RECORD, "a tuned model")

    def _card(self) -> Card:
        losses = f"{self.losses[0]:.3f} -> {self.losses[-1]:.3f}" if self.losses else ""
        rows = [("data", self.data), ("rows", self.rows), ("steps", len(self.losses)), ("loss", losses)]
        return f"{self.base.name}, {self.method}", [*rows, ("block", self.block[:12] or "none")]


def write_tuned(
    model: HookedModel,
    record: TuningRecord,
    training: Training,
    block: Recipe | None,
    prompts: Sequence[str],
    folder: Path,
) -> TuningRecord:
    """Merge an adapter into a checkpoint in a folder, which is emptied, certify it, and write the record."""
    pairs, source = _factors(training.config, training.tensors, model), open_source(model)
    plan = merge_plan(model.config, pairs)
    write_weights(cut_shards(source.edited(plan), None), folder)
    source.write_companions(folder)
    source.write_config(folder, {})
    (folder / ADAPTER).mkdir()
    write_json(folder / ADAPTER / ADAPTER_CONFIG, training.config)
    write_tensors(folder / ADAPTER / ADAPTER_WEIGHTS, training.tensors, {"format": "pt"})
    write_json(folder / SECONDS, {"seconds": training.seconds})
    if block is not None:
        (folder / BLOCK).mkdir()
        block.write(folder / BLOCK)
    probes = random_probes(model, prompts)
    write_probes(folder, probes)
    certificate = certify(model, AddedFactors(pairs), plan, folder, probes, ExportSettings())
    if not certificate.faithful:
        problem = f"the merged weights do not do what the adapter does: {'; '.join(certificate.unmet)}"
        raise InterpError(f"{problem}. Nothing was written; load the model in float32, or train for more steps")
    write_json(folder / CERTIFICATE, certificate.to_json())
    write_text(folder / CARD, _model_card(record, certificate))
    files = {name: sha256_file(folder / name) for name in _names(folder)}
    sealed = replace(record, files=files, versions=versions())
    write_json(folder / RECORD, asdict(sealed) | {"base": record.base.model_dump()})
    return sealed


def verify_tuned(folder: str | Path, base: str | Path | HookedModel | None = None) -> Certificate:
    """Check a tuned checkpoint's files, merge its adapter again, and measure it as when it was written.

    Args:
        folder: A folder that `tune` wrote.
        base: The model that was tuned, if it has moved since or was in memory.

    Returns:
        The certificate as measured now.

    Raises:
        InterpError: A file is missing, changed or additional; the base is another model; the checkpoint is not the
            base with the adapter; or the certificate is not what is measured.

    Example:
        >>> from interp.upkeep import tune, verify_tuned
        >>> rows = [{"prompt": "hello", "completion": "Good day."}]
        >>> _ = tune(model, "sft", rows, tmp / "tuned", steps=1)
        >>> verify_tuned(tmp / "tuned", model).faithful
        True
    """
    path = Path(folder)
    record, names = TuningRecord.read(path), set(_names(path))
    for name in sorted(names ^ set(record.files)):
        raise InterpError(f"{path / name}: {'not in the record' if name in names else 'missing'}; tune again")
    for name, digest in record.files.items():
        if sha256_file(path / name) != digest:
            raise InterpError(f"{path / name}: changed since the model was tuned (its SHA-256 differs)")
    model = base if isinstance(base, HookedModel) else load(base or record.source or "")
    record.base.check(model.reference, "the adapter")
    config, tensors = read_json(path / ADAPTER / ADAPTER_CONFIG), read_tensors(path / ADAPTER / ADAPTER_WEIGHTS)
    pairs = _factors(config, tensors, model)
    plan, stated = merge_plan(model.config, pairs), Certificate.read(path / CERTIFICATE)
    certificate = certify(model, AddedFactors(pairs), plan, path, read_probes(path), ExportSettings())
    if different := stated.differs(certificate):
        raise InterpError(f"{path / CERTIFICATE}: its {different} is not what is measured; it was changed")
    return certificate


def tuning_seconds(folder: str | Path) -> float:
    """The seconds that training took, in all calls that it took."""
    return float(read_json(Path(folder) / SECONDS)["seconds"])


def _factors(config: Mapping[str, Any], tensors: Mapping[str, Tensor], model: HookedModel) -> FactorPairs:
    """The factors of a LoRA adapter by the name of the weight that they are added to, as it is stored."""
    scale, pairs = config["lora_alpha"] / config["r"], dict[str, FactorPair]()
    for name, first in tensors.items():
        if name.endswith(_FIRST):
            second = tensors[name.replace("lora_A", "lora_B")] * scale
            pair = (first.T, second.T) if architecture(model.config).transposed else (second, first)
            pairs[f"{name.removeprefix(_PREFIX).removesuffix(_FIRST)}.weight"] = pair
    return pairs


def _names(folder: Path) -> list[str]:
    """The files of a tuned checkpoint, other than the record, and the seconds, which differ from run to run."""
    paths = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    return sorted(name for name in paths if name not in (RECORD, SECONDS, KEY))


def _model_card(record: TuningRecord, certificate: Certificate) -> str:
    name, rows = markdown(record.base.name), "\n".join(f"| {' | '.join(map(str, row))} |" for row in certificate.rows())
    blocked = f" The recipe {record.block[:12]} was active while training, and is not now." * bool(record.block)
    return (
        f"---\nlibrary_name: transformers\ntags: [interp, tuned]\n---\n\n# {name}, tuned\n\n"
        f"Made with interp from {name} (weights {record.base.digest[:12]}) by {record.method} on {record.rows} rows "
        f"({markdown(record.data)}); the adapter in `{ADAPTER}/` is merged into the weights.{blocked}\n\n"
        "## Certificate\n\nMeasured between the base with the adapter and this checkpoint, reloaded:\n\n"
        f"| figure | value | how to read it |\n| --- | --- | --- |\n{rows}\n\n"
        "No audit went with this checkpoint: `interp audit` measures what the training does to its behaviour.\n"
    )
