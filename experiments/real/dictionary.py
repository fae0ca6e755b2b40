"""Train the sparse autoencoder whose latents `units.py --latents` turns down: of the residual stream, on plain text.

python experiments/real/dictionary.py smollm2 --layer 20 --tokens 400000
"""

import argparse
from itertools import chain, zip_longest

from harms import rows
from run import CACHE, HERE, MODELS

import interp

TEXTS = ("wikipedia_boolq_passages", "standard_ebooks", "openstax")


def main() -> None:
    """Harvest and train."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--layer", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=400_000, help="to harvest; it is trained on each four times")
    parser.add_argument("--latents", type=int, default=4096)
    args = parser.parse_args()
    model = interp.load(HERE.parent / ".cache" / MODELS[args.model], dtype="bfloat16")
    sources = [[row["text"] for row in rows(f"text_corpus/{name}.jsonl")] for name in TEXTS]
    mixed = [text for text in chain.from_iterable(zip_longest(*sources)) if text]
    site = f"resid_post.{args.layer}"
    store = interp.harvest(model, mixed, [site], CACHE / f"{args.model}-store", tokens=args.tokens, dtype="bfloat16")
    config = interp.SaeConfig(kind="batchtopk", d_sae=args.latents, k=32, tokens=4 * args.tokens, batch_size=4096)
    trained = interp.train(store, site, config)
    trained.sae.save(CACHE / f"{args.model}-latents", overwrite=True)
    print(trained)


if __name__ == "__main__":
    main()
