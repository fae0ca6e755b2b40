"""The verb `interp sae bench`: is an autoencoder more than chance?"""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import Field

from interp.auditing.autoencoders.options import BenchOptions
from interp.cli._options import Device, Json, repeated
from interp.cli.sae import named_folders
from interp.core.config import Config
from interp.core.display import print_table, print_values, say


class BenchInputs(Config):
    """What an autoencoder is measured on, and where to."""

    model: str = Field(description="the model that the autoencoders were trained on")
    out: Path = Field(description="folder for the results, one folder an autoencoder; a bench that was stopped resumes")
    text: str = Field("organism", description="corpus to measure on, as for interp harvest")
    store: Path | None = Field(None, description="store to train the controls on [default: nine tenths of the text]")
    sets: tuple[str, ...] = repeated("labelled set to probe, as NAME=FILE:TEXT:LABEL=VALUE[:GROUP][:POOL]")
    quick: bool = Field(False, description="little of everything: a look, not a result")
    settings: BenchOptions = BenchOptions()


def bench_command(
    saes: Annotated[list[Path], typer.Argument(help="folders of autoencoders")],
    options: BenchInputs,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Measure autoencoders beside controls of the same cost: is an autoencoder more than chance?

    On the organism its planted concepts are probed too, and its facts edited.
    """
    from interp.activations.store import Store
    from interp.auditing import bench_autoencoder, organism_sets, read_set
    from interp.auditing.autoencoders.fact_edits import is_organism
    from interp.models.loading import load
    from interp.pipeline.materials import corpus_source
    from interp.sae.coder import SparseAutoencoder

    model, settings = load(options.model, device=device), options.settings
    settings = settings.quick() if options.quick else settings
    sets = [read_set(spec, settings.items, settings.seed) for spec in options.sets]
    sets += organism_sets(model, settings.items, settings.seed) if is_organism(model) else []
    store = Store.open(options.store) if options.store else None
    records = []
    for name, path in named_folders(saes).items():
        text = corpus_source(options.text, settings.tokens // 4)
        coder = SparseAutoencoder.load(path, model)
        records.append(
            bench_autoencoder(coder, model, text, options.out / name, settings, sets=sets, store=store, name=name)
        )
    if as_json:
        print_values(True, {record.name: record.model_dump(mode="json") for record in records})
        return
    for record in records:
        print_table(False, record.rows(), record.name)
        print_table(False, record.concept_rows(), "Concepts: F1 of the best latent") if record.concepts else None
        say(*record.notes, f"not above its control on {len(record.not_above)} of {len(record.measures)} measures")
