"""The command line: one verb a stage, and `demo` and `run` for the whole road.

Exit codes: 0 done (or allowed), 1 the answer is no (gate denies, verify finds a difference), 2 bad input (or gate can't
tell), with a message and no traceback unless `--debug` is given; 70 something unforeseen; 130 interrupted. `--json`
puts one JSON value on standard output and nothing else there.
"""

import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli import audit, export, find, gate, runs
from interp.core.display import print_table, print_values
from interp.core.errors import InterpError
from interp.core.files import require_free

app = typer.Typer(
    name="interp",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
sae_app = typer.Typer(help="Sparse autoencoders.", no_args_is_help=True)
app.add_typer(sae_app, name="sae")
app.add_typer(runs.app, name="runs")

Model = Annotated[str, typer.Argument(help="organism, a local Hugging Face folder, or a hub id")]
Json = Annotated[bool, typer.Option("--json", help="one JSON value on standard output")]
Device = Annotated[str | None, typer.Option(help="where to run it: cpu, cuda, cuda:1, mps")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; the checkpoint's own if not given")]


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="tracebacks for errors; anywhere on the line")] = False,
) -> None:
    """Find what makes a language model behave harmfully, remove it, export the weights, prove what changed."""
    # Listed here for --help; `main` takes it off the line before any verb sees it.
    del debug


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="new folder for the results")] = Path("interp-demo"),
    seed: Annotated[int, typer.Option(help="seed of data and training", min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Run the whole road on the bundled model organism: find its hostility, remove it, export, audit, decide."""
    from importlib.resources import files

    _run(str(files("interp.pipeline") / "demo.yaml"), [f"seed={seed}"], out, as_json)


@app.command()
def run(
    file: Annotated[Path, typer.Argument(help="an experiment (YAML)")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, for instance data.audit_items=50")] = None,
    out: Annotated[Path | None, typer.Option(help="new folder for the results; runs/NAME if not given")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with a run that was stopped")] = False,
    as_json: Json = False,
) -> None:
    """Run an experiment: the same road, with its model and data from a file."""
    _run(str(file), overrides or [], out or Path("runs") / file.stem, as_json, resume)


@app.command()
def harvest(
    model: Model,
    text: Annotated[
        str,
        typer.Option(
            help="a file, folder, glob or URL of .jsonl, .txt or .parquet; hf:DATASET[:CONFIG[:SPLIT]]; organism"
        ),
    ],
    sites: Annotated[list[str], typer.Option(help="a site or pattern, for instance resid_post.3; may be repeated")],
    out: Annotated[Path, typer.Option(help="folder of the store; an interrupted harvest is continued")],
    tokens: Annotated[int | None, typer.Option(help="stop after so many tokens", min=1)] = None,
    context: Annotated[int, typer.Option(help="tokens a packed row")] = 128,
    batch_size: Annotated[int, typer.Option(help="rows run together")] = 16,
    dtype: Annotated[str, typer.Option(help="of the stored activations: float32, bfloat16, float16, int8")] = "float32",
    keep: Annotated[
        str, typer.Option(help="which tokens to store: all, inner (all but a document's first), assistant")
    ] = "all",
    field: Annotated[str, typer.Option(help="field of the text or conversation in a record")] = "text",
    bos: Annotated[bool, typer.Option(help="put BOS before each document")] = True,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="pass over records that can't be read")] = False,
    append: Annotated[bool, typer.Option("--append", help="add this text to a finished store")] = False,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Store a model's activations over a corpus."""
    from interp.activations.harvester import harvest as harvest_store
    from interp.models.loading import ORGANISM, load
    from interp.pipeline.materials import read_corpus

    # A document has at least one token, so no more documents than tokens are needed.
    source = read_corpus(text, documents=tokens) if text == ORGANISM else text
    store = harvest_store(
        load(model, device=device),
        source,
        sites,
        out,
        tokens=tokens,
        context=context,
        batch_size=batch_size,
        dtype=dtype,
        keep=keep,
        bos_first=bos,
        skip_bad=skip_bad,
        text_field=field,
        append=append,
    )
    print_values(as_json, {"store": str(out), "tokens": len(store), "sites": [str(site) for site in store.sites]})


@sae_app.command("train")
def sae_train(
    store: Annotated[Path, typer.Argument(help="a store written by interp harvest")],
    site: Annotated[list[str], typer.Option(help="which of the store's sites; several make a crosscoder")],
    out: Annotated[Path, typer.Option(help="new folder for the autoencoder")],
    writes: Annotated[list[str] | None, typer.Option(help="sites to write, for a transcoder; may be repeated")] = None,
    beside: Annotated[
        Path | None, typer.Option(help="a second model's store of the same tokens, for a crosscoder of both")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="folder for metrics and checkpoints; a run that was stopped is continued")
    ] = None,
    checkpoint_every: Annotated[int, typer.Option(help="steps between checkpoints of a run")] = 500,
    device: Device = None,
    settings: Annotated[list[str] | None, typer.Argument(help="key=value, for instance d_sae=4096 k=32 seed=1")] = None,
    verify: Annotated[bool, typer.Option(help="check every byte of the store first")] = True,
    model: Annotated[str | None, typer.Option(help="refuse a store that was not harvested from this model")] = None,
    as_json: Json = False,
) -> None:
    """Train a sparse autoencoder on a store."""
    from interp.activations.paired_store import PairedStore
    from interp.activations.store import Store
    from interp.models.loading import load
    from interp.sae.config import SaeConfig
    from interp.sae.training.trainer import train

    require_free(out)
    config = SaeConfig.of(settings or [], source="sae train")
    activations = Store.open(store, verify)
    if model:
        activations.require(load(model))
    trained = train(
        PairedStore(activations, Store.open(beside, verify)) if beside else activations,
        site,
        config,
        writes=writes or None,
        folder=run,
        checkpoint_every=checkpoint_every,
        device=device or "cpu",
    )
    sae, last = trained.sae, trained.history[-1]
    sae.save(out)
    print_values(
        as_json, _described(sae, out) | {"tokens": last.tokens, "fvu": last.fvu, "l0": last.l0, "dead": last.dead}
    )


@sae_app.command("convert")
def sae_convert(
    source: Annotated[
        Path, typer.Argument(help="of interp, SAELens, sparsify, dictionary_learning, or Gemma Scope's npz")
    ],
    out: Annotated[Path, typer.Option(help="new folder")],
    to: Annotated[str, typer.Option(help="interp, saelens, sparsify, dictionary_learning or gemma_scope")] = "interp",
    model: Annotated[str | None, typer.Option(help="the model it belongs to; not needed for interp's own")] = None,
    site: Annotated[str | None, typer.Option(help="where it reads, if its files do not say")] = None,
    writes: Annotated[str | None, typer.Option(help="where a transcoder writes, if its files do not say")] = None,
    as_json: Json = False,
) -> None:
    """Read a sparse autoencoder of another tool, or write one for it."""
    from interp.models.loading import load
    from interp.sae import file_formats
    from interp.sae.coder import CARD, SparseAutoencoder

    require_free(out)
    if (source / CARD).is_file():
        sae = SparseAutoencoder.load(source)
    elif model is None:
        raise InterpError(f"{source} does not say which weights it was trained on; give the model (--model)")
    else:
        sae = file_formats.read_autoencoder(source, load(model).reference, site, writes)
    file_formats.write_autoencoder(sae, out, to)
    print_values(as_json, _described(sae, out))


@sae_app.command("features")
def sae_features(
    sae: Annotated[Path, typer.Argument(help="folder of the autoencoder")],
    model: Model,
    text: Annotated[str, typer.Option(help="a corpus, as for harvest")],
    latents: Annotated[list[int], typer.Option(help="which latents; may be repeated")],
    out: Annotated[Path, typer.Option(help="new file: features in Neuronpedia's JSON")],
    tokens: Annotated[int, typer.Option(help="how much of the corpus to look at", min=1)] = 100_000,
    top: Annotated[int, typer.Option(help="snippets a latent", min=1)] = 12,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Where latents fire, what they promote, and which are like them, for Neuronpedia's pages."""
    from interp.models.loading import ORGANISM, load
    from interp.pipeline.materials import read_corpus
    from interp.sae import neuronpedia
    from interp.sae.coder import SparseAutoencoder
    from interp.sae.feature import feature_pages

    require_free(out)
    coder = SparseAutoencoder.load(sae)
    source = read_corpus(text, documents=tokens) if text == ORGANISM else text
    found = feature_pages(coder, load(model, device=device), source, latents, top, tokens=tokens)
    neuronpedia.write_feature_pages(found, coder, out)
    rows = [{"latent": page.latent, "density": page.density, "largest": page.edges[-1]} for page in found]
    print_table(as_json, rows, f"{len(rows)} features in {out}")


app.command()(find.find)


app.command()(export.export)
app.command()(export.verify)
app.command()(export.undo)


app.command()(audit.audit)


app.command()(gate.gate)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Report versions, threads and devices, and check that the bundled organism loads and answers."""
    from interp.pipeline.doctor import diagnose

    print_values(as_json, diagnose())


def _run(file: str, overrides: list[str], out: Path, as_json: bool, resume: bool = False) -> None:
    from interp.pipeline.experiment import Experiment, run_experiment

    experiment = Experiment.read(file, overrides)
    say = _quiet if as_json else lambda text: print(text, flush=True)
    command = " ".join(["interp", *sys.argv[1:]])
    summary = run_experiment(experiment, out, folder=Path(file).parent, say=say, command=command, resume=resume)
    if as_json:
        print_values(True, summary.to_json())
        return
    print_table(False, _rows(summary.audit, False), f"{experiment.name}: {summary.decision.outcome}")
    print(f"{summary.seconds:.0f} s; open {out / 'report.html'}")


def _described(sae: Any, out: Path) -> dict[str, Any]:
    return {"sae": str(out), "kind": str(sae), "d_sae": sae.d_sae, "d_in": sae.d_in, "d_out": sae.d_out}


def _quiet(text: str) -> None:
    del text


def _rows(audit: Any, as_json: bool) -> list[dict[str, Any]]:
    show = asdict if as_json else str
    return [
        {"name": row.name, "kind": row.kind, "before": show(row.before), "after": show(row.after)} for row in audit.rows
    ]


def main() -> None:
    """Run the command line; see the module for exit codes."""
    words = sys.argv[1:]
    debug = "--debug" in words
    # As Ctrl-C does, a termination unwinds, so that what is half-written is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app([word for word in words if word != "--debug"])
    except InterpError as problem:
        if debug:
            raise
        print(f"interp: {problem}", file=sys.stderr)
        sys.exit(2)
    except Exception as problem:
        if debug:
            raise
        print(f"interp: {type(problem).__name__}: {problem} (unexpected; --debug shows where)", file=sys.stderr)
        sys.exit(70)
