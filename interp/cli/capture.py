"""The verb `interp harvest`: a model's activations over a corpus, stored."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from interp.activations.config import HarvestConfig
from interp.cli._options import ChatOptions, Device, Json, Model, Without, repeated
from interp.core.config import Config
from interp.core.display import print_values


class HarvestOptions(Config):
    """What to store, of which text, and where."""

    text: str = Field(description="corpus: file, folder, glob or URL of .jsonl, .txt or .parquet; dataset; organism")
    sites: tuple[str, ...] = repeated("site or pattern to store, such as resid_post.3", ...)
    out: Path = Field(description="folder for the activation store; an interrupted harvest resumes")
    tokens: int | None = Field(None, ge=1, description="stop after this many tokens [default: whole corpus]")
    config: Annotated[HarvestConfig, Without(("shard_tokens", "bos_first"))] = HarvestConfig()
    field: str = Field("text", description="field of each record that holds the text or the conversation")
    bos: bool = Field(True, description="begin each text as a document of pretraining: with BOS, or a separator")
    skip_bad: bool = Field(False, description="skip records that cannot be read, instead of stopping at them")
    append: bool = Field(False, description="add this corpus to a store that is complete")
    overwrite: bool = Field(False, description="start anew where the folder holds a store")
    chat: ChatOptions = ChatOptions()


def harvest_command(model: Model, options: HarvestOptions, device: Device = None, as_json: Json = False) -> None:
    """Store a model's activations over a corpus.

    A corpus of the Hugging Face hub is given as --text hf:DATASET[:CONFIG[:SPLIT]].
    """
    from interp.activations.harvester import harvest
    from interp.models.loading import load
    from interp.pipeline.materials import corpus_source

    store = harvest(
        load(model, device=device, **options.chat.loading),
        # A document has at least one token, so no more documents than tokens are needed.
        corpus_source(options.text, options.tokens),
        options.sites,
        options.out,
        text_field=options.field,
        **options.model_dump(include={"tokens", "skip_bad", "append", "overwrite"}),
        **options.config.model_dump() | {"bos_first": options.bos},
    )
    values = {"store": str(options.out), "tokens": len(store), "sites": [str(site) for site in store.sites]}
    print_values(as_json, values)
