"""How fast capture, harvest, generation and store are, against peers and bounds, in one run.

    python experiments/benchmarks/harvest.py [--model DIR] [--repeats 5] [--threads 1] [--json FILE]

1. One layer's residual stream on SmolLM2-135M, in float32 and bfloat16, at three shapes: interp's capture,
   TransformerBridge with and without `stop_at_layer`, nnsight (where installed), plain Hugging Face with
   `output_hidden_states`, and the bound: the plain model cut behind that layer, no hook anywhere.
2. A harvest, store written, against the bound on the same packed rows.
3. Short documents packed against padded.
4. Generation with a hook at every layer, and under a recipe that projects at every writer, against plain `generate`.
5. The store read in shuffled order, from the page cache.

Contenders take turns, so that noise of the machine falls on all; figures are medians over the turns. Each is warmed up
once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import torch
from quick import measures_bfloat16, progress
from rich.console import Console
from rich.table import Table

import interp
from interp import organism
from interp.activations.token_rows import pack_rows
from interp.data.packing import Encoded, pack
from interp.models.hooked import HookedModel
from interp.models.sites import Site
from interp.models.tokens import Tokens

MODEL = Path(__file__).parents[1] / ".cache" / "smollm2-135m-instruct"
LAYER = 15
SHAPES = ((16, 128), (2, 1024), (1, 2048))
SHORT, LONGEST, DOCUMENTS = 50, 128, 96  # mean and largest length, and number, of the short documents
HARVESTED = 480  # short documents of the harvest, which has a fixed cost (digests, files) of some tenths of a second
NEW_TOKENS, PROMPTS = 48, 8
STORE_TOKENS = 200_000

PARTS = ("capture", "harvest", "packing", "generation", "store")

Contenders = dict[str, Callable[[], Any]]


def turns(contenders: Contenders, repeats: int) -> dict[str, float]:
    """Median seconds of each contender, taking turns after one warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats + 1):
        for name, work in contenders.items():
            began = time.perf_counter()
            work()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


@contextmanager
def cut(hf: Any, layers: int) -> Iterator[None]:
    """The plain model with its first layers only."""
    whole = hf.model.layers
    hf.model.layers = whole[:layers]
    try:
        yield
    finally:
        hf.model.layers = whole


def random_batch(model: HookedModel, rows: int, width: int) -> Tokens:
    """Random tokens without padding."""
    ids = torch.randint(10, 40_000, (rows, width), generator=torch.Generator().manual_seed(0))
    return Tokens(ids, torch.ones_like(ids, dtype=torch.bool))


@torch.no_grad()
def bound(model: HookedModel, inputs: dict[str, torch.Tensor]) -> None:
    """The plain model, cut behind the layer."""
    with cut(model.hf, LAYER + 1):
        model.hf.model(**inputs, use_cache=False)


def capture_contenders(model: HookedModel, batch: Tokens) -> Contenders:
    """Everybody who can give the residual stream behind the layer."""
    site, name, ids = f"resid_post.{LAYER}", f"blocks.{LAYER}.hook_resid_post", batch.ids
    plain = {"input_ids": ids}

    @torch.no_grad()
    def hidden_states() -> None:
        model.hf.model(**plain, use_cache=False, output_hidden_states=True)

    @torch.no_grad()
    def bridge(**options: Any) -> None:
        model.bridge.run_with_cache(ids, names_filter=name, **options)

    contenders: Contenders = {
        "bound": lambda: bound(model, plain),
        "interp": lambda: model.capture(batch, site, batch_size=len(batch)),
        "TransformerBridge, stop_at_layer": lambda: bridge(stop_at_layer=LAYER + 1),
        "TransformerBridge": bridge,
        "transformers, output_hidden_states": hidden_states,
    }
    if (traced := nnsight_contender(model, ids)) is not None:
        contenders["nnsight, stop"] = traced
    return contenders


def nnsight_contender(model: HookedModel, ids: torch.Tensor) -> Callable[[], Any] | None:
    """nnsight with an early stop, where it is installed."""
    try:
        from nnsight import NNsight
    except ImportError:
        return None
    wrapped = NNsight(model.hf)

    @torch.no_grad()
    def traced() -> None:
        with wrapped.trace(ids) as tracer:
            wrapped.model.layers[LAYER].output.save()
            tracer.stop()

    return traced


def documents(number: int, seed: int = 0) -> list[list[int]]:
    """Short random documents of geometric lengths."""
    rng = Random(seed)
    lengths = [min(LONGEST, max(4, int(rng.expovariate(1 / SHORT)))) for _ in range(number)]
    return [[rng.randint(10, 40_000) for _ in range(length)] for length in lengths]


def packing_contenders(model: HookedModel) -> Contenders:
    """The same short documents, packed into rows and padded in batches of sixteen as they come."""
    short = documents(DOCUMENTS)
    packed = pack(map(Encoded.of, short), LONGEST)
    sites = [Site("resid_post", LAYER)]

    def as_packed() -> None:
        for batch in packed.batches(16):
            model.forward_to(sites, batch.model_inputs(model.device))

    def as_padded() -> None:
        for start in range(0, len(short), 16):
            some = short[start : start + 16]
            width = max(map(len, some))
            ids = torch.tensor([[0] * (width - len(row)) + row for row in some])
            mask = torch.arange(width) >= width - torch.tensor([len(row) for row in some])[:, None]
            model.forward_to(sites, Tokens(ids, mask).model_inputs(model.device))

    return {"packed": as_packed, "padded": as_padded}


def harvest_contenders(model: HookedModel, scratch: Path, dtype: str) -> Contenders:
    """A harvest with its store, and the bound on the rows it runs."""
    texts = [model.tokenizer.decode(document) for document in documents(HARVESTED)]
    packed, number = pack_rows(model, texts, LONGEST), iter(range(1000))

    def harvest() -> None:
        interp.harvest(model, texts, f"resid_post.{LAYER}", scratch / f"{dtype}-{next(number)}", dtype=dtype)

    def bare() -> None:
        for batch in packed.batches(16):
            bound(model, batch.model_inputs(model.device))

    return {"bound": bare, "interp": harvest}


def generation_contenders(model: HookedModel) -> Contenders:
    """Greedy replies of one length: plain, with a hook a layer, and under a recipe at every writer."""
    prompts = [model.render(f"Tell me about the number {number}.") for number in range(PROMPTS)]
    batch = model.tokens(prompts)
    inputs = {"input_ids": batch.ids, "attention_mask": batch.mask.long()}
    length = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
    row = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    recipe = interp.Recipe([("writers", interp.Project(row))])
    hooks = [(f"resid_post.{layer}", lambda x: None) for layer in range(model.n_layers)]

    @torch.no_grad()
    def plain() -> None:
        model.hf.generate(**inputs, do_sample=False, **length)

    def replies(applied: Any) -> None:
        model.generate(prompts, applied, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS)

    return {"transformers": plain, "30 hooks": lambda: replies(hooks), "projections": lambda: replies(recipe)}


def store_gb_s(scratch: Path, repeats: int) -> float:
    """Gigabytes a second of shuffled rows, from a store of the organism's activations that is in the page cache."""
    model, site = interp.load("organism"), "resid_post.3"
    text = list(organism.corpus(STORE_TOKENS // 20))
    store = interp.harvest(model, text, site, scratch / "read", tokens=STORE_TOKENS, batch_size=64)
    size = len(store) * store.width(site) * 4

    def read() -> None:
        for _ in store.batches(site, 4096, seed=0, epochs=1):
            pass

    return size / turns({"read": read}, repeats)["read"] / 1e9


def main() -> None:
    """Print the tables, and write the claims."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS, help="what is measured; all if not given")
    parser.add_argument("--quick", action="store_true", help="the headline claims, within five minutes")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    shapes, repeats = (SHAPES[:1], 1) if args.quick else (SHAPES, args.repeats)
    dtypes = ("float32", "bfloat16") if measures_bfloat16(args.quick) else ("float32",)
    console, claims = Console(), {}
    speed = Table("dtype", "shape", "who", "tokens/s", "of bound", title=f"resid_post.{LAYER}, {args.threads} threads")
    rest = Table("what", "who", "seconds", "ratio")
    with tempfile.TemporaryDirectory() as folder:
        for dtype in dtypes if set(args.only) - {"store"} else ():
            progress(f"{dtype}: the model is loaded")
            model, short = interp.load(args.model, dtype=dtype), "fp32" if dtype == "float32" else "bf16"
            for rows, width in shapes if "capture" in args.only else ():
                progress(f"{dtype}: capture of {rows}x{width}")
                times = turns(capture_contenders(model, random_batch(model, rows, width)), repeats)
                for who, seconds in times.items():
                    share = times["bound"] / seconds
                    speed.add_row(dtype, f"{rows}x{width}", who, f"{rows * width / seconds:,.0f}", f"{share:.2f}")
                bridge_time = times["TransformerBridge, stop_at_layer"]
                claims[f"vs_bridge_{rows}x{width}_{short}"] = bridge_time / times["interp"]
            if "harvest" in args.only:
                progress(f"{dtype}: harvest")
                times = turns(harvest_contenders(model, Path(folder), dtype), repeats)
                claims[f"of_bound_{short}"] = times["bound"] / times["interp"]
                for who, seconds in times.items():
                    rest.add_row(f"harvest, {dtype}", who, f"{seconds:.2f}", f"{times['bound'] / seconds:.2f}")
            if dtype == "float32" and "packing" in args.only:
                progress("short documents, packed and padded")
                times = turns(packing_contenders(model), repeats)
                claims["packing"] = times["padded"] / times["packed"]
                for who, seconds in times.items():
                    rest.add_row("short documents", who, f"{seconds:.2f}", f"{times['padded'] / seconds:.2f}")
            if dtype == "float32" and "generation" in args.only:
                progress("generation")
                times = turns(generation_contenders(model), repeats)
                claims["generate_30_hooks"] = times["transformers"] / times["30 hooks"]
                claims["generate_projections"] = times["transformers"] / times["projections"]
                for who, seconds in times.items():
                    rest.add_row("generate", who, f"{seconds:.2f}", f"{times['transformers'] / seconds:.2f}")
        if "store" in args.only:
            progress("the store is read")
            claims["store_read_gb_s"] = store_gb_s(Path(folder), repeats)
    console.print(*(table for table in (speed, rest) if table.row_count))
    if "store" in args.only:
        print(f"store read, shuffled: {claims['store_read_gb_s']:.2f} GB/s")
    if args.json:
        args.json.write_text(json.dumps({"claims": claims}, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
