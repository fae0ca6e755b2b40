"""Train an autoencoder in the processes that `torchrun` starts, or in this one.

    torchrun --nproc-per-node 2 -m interp.sae.training STORE --site resid_post.3 --folder RUN [d_sae=65536 k=32 ...]

The result is in RUN/sae. The same command continues a training that was stopped, with any number of processes.
"""

import argparse
import os
import sys

from interp.activations.paired_store import PairedStore
from interp.activations.store import Store
from interp.core.errors import InterpError, note
from interp.sae.config import SaeConfig
from interp.sae.training.bundle import TrainingPlan
from interp.sae.training.latent_shard import process_group
from interp.sae.training.trainer import train_all


def _main() -> int:
    """Train, and return the exit code, 2 after an error."""
    parser = argparse.ArgumentParser("interp.sae.training", description=__doc__.split("\n")[0])
    parser.add_argument("store", help="store written by interp harvest")
    parser.add_argument("settings", nargs="*", help="training settings, such as d_sae=65536 k=32")
    parser.add_argument("--site", action="append", required=True, help="site of the store to read; may be repeated")
    parser.add_argument("--writes", action="append", help="site to predict (trains a transcoder); may be repeated")
    parser.add_argument("--beside", help="second model's store of the same tokens (for a crosscoder of both)")
    parser.add_argument("--folder", required=True, help="folder for metrics, checkpoints and the autoencoder")
    parser.add_argument("--checkpoint-every", type=int, default=500, help="steps between checkpoints")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda: one GPU a process")
    parser.add_argument("--overwrite", action="store_true", help="start a run in --folder anew")
    args = parser.parse_intermixed_args()
    local = os.environ.get("LOCAL_RANK", "0")
    device = f"cuda:{local}" if args.device == "cuda" else args.device
    try:
        with process_group() as shard:
            if shard.rank:
                os.environ["INTERP_PROGRESS"] = "0"
            plan = TrainingPlan(args.site, SaeConfig.of(args.settings), args.writes)
            stores = [Store.open(path, verify=not shard.rank) for path in (args.store, args.beside) if path]
            source = PairedStore(*stores) if args.beside else stores[0]
            train_all(source, [plan], args.folder, args.checkpoint_every, (), device, args.overwrite, shard)
    except InterpError as problem:
        rank = os.environ.get("RANK", "0")
        note(str(problem) if rank == "0" else f"process {rank}: {problem}")
        return 2
    return 0


if __name__ == "__main__":
    code = _main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # gloo's threads abort an ordinary exit now and then
