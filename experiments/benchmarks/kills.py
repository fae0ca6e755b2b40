"""Kill an export before each of its steps: is the old state left, or the new one, and does another run go on?

    python experiments/benchmarks/kills.py

A step is what changes a disk: a write, a flush, a rename, a copy, a new folder. A process of its own exports a small
checkpoint in several files and ends without a word before its n-th step, for every n. What is there afterwards is
compared byte by byte with an export left alone; where the new folder is not there yet, the same export is run again.
"""

import argparse
import gc
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from quick import progress
from rich.console import Console
from rich.table import Table

from interp import Project, Recipe
from interp.editing.export.exporter import export_streamed

Action = Callable[[], object]


def in_a_process(action: Action) -> int:
    """The exit status of an action in a fork of this process; 0 if it returns."""
    child = os.fork()
    if child == 0:
        gc.disable()  # it would write to, and so copy, all the memory that the two share
        status = 1
        with suppress(BaseException):
            action()
            status = 0
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def counted(action: Action, kill_at: int, seen: Path | None = None) -> None:
    """The action, in which each step is counted, and which ends without a word before step `kill_at`.

    The names of all steps go to `seen`, and so does that of the one which it ended before.
    """
    steps: list[str] = []

    def stepping(name, function):
        def call(*arguments, **options):
            steps.append(name)
            if len(steps) == kill_at:
                if seen:
                    seen.write_text(json.dumps(steps))
                os._exit(9)
            return function(*arguments, **options)

        return call

    class Stepping:
        def __init__(self, file):
            self._file = file
            self.write = stepping("write", file.write)

        def __getattr__(self, name):
            return getattr(self._file, name)

        def __enter__(self):
            return self

        def __exit__(self, *problem):
            self._file.close()

    opened = Path.open

    def open_counted(self, mode="r", *rest, **more):
        file = opened(self, mode, *rest, **more)
        return Stepping(file) if "w" in mode and self != seen else file

    Path.open = open_counted
    names = {"fsync": "flush", "rename": "rename", "replace": "rename", "mkdir": "new folder"}
    for function, name in names.items():
        setattr(os, function, stepping(name, getattr(os, function)))
    shutil.copyfile = stepping("copy", shutil.copyfile)
    action()
    if seen:
        seen.write_text(json.dumps(steps))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def killed(recipe: Recipe, source: Path, scratch: Path, every: int = 1) -> list[dict]:
    """One entry a kill: the step, what was left, whether the next run gave the new state, and files it did not rewrite.

    `left` is "new" (the whole result), "old" (no folder of that name), or "other", which must not be.
    """
    out, left = scratch / "out", scratch / ".out.unfinished"
    export_streamed(recipe, source, scratch / "whole")
    expected = contents(scratch / "whole")
    if in_a_process(lambda: counted(lambda: export_streamed(recipe, source, out), 0, scratch / "steps")):
        raise SystemExit("the export failed without being killed")
    steps, entries = len(json.loads((scratch / "steps").read_text())), []
    shutil.rmtree(out)
    for step in range(1 + (steps - 1) % every, steps + 1, every):  # the last one always
        status = in_a_process(
            lambda step=step: counted(lambda: export_streamed(recipe, source, out), step, scratch / "steps")
        )
        names = json.loads((scratch / "steps").read_text())
        state = "old" if not out.exists() else "new" if contents(out) == expected else "other"
        recorded, kept = {}, []
        if state == "old":
            inodes = {path.name: path.stat().st_ino for path in left.glob("*.safetensors")}
            if (left / "finished.json").exists():
                recorded = json.loads((left / "finished.json").read_text())
            export_streamed(recipe, source, out)
            kept = [name for name in recorded if (out / name).stat().st_ino == inodes[name]]
        whole = contents(out) == expected and not left.exists()
        entries.append(
            {"step": step, "of": steps, "kind": names[-1], "killed": status == 9, "left": state, "whole": whole,
             "finished": len(recorded), "kept": len(kept)}
        )  # fmt: skip
        shutil.rmtree(out)
    return entries


def rows(kills: list[dict]) -> list[list[str]]:
    """By kind of step, and in all."""
    table = []
    for kind, count in [*Counter(kill["kind"] for kill in kills).items(), ("all", len(kills))]:
        part = [kill for kill in kills if kind in (kill["kind"], "all")]
        finished = sum(kill["finished"] for kill in part)
        table.append(
            [kind, str(count), *(str(sum(kill["left"] == state for kill in part)) for state in ("old", "new", "other")),
             str(sum(kill["whole"] for kill in part)), f"{sum(kill['kept'] for kill in part)} of {finished}"]
        )  # fmt: skip
    return table


HEADER = ["killed before a", "kills", "old state", "new state", "anything else", "whole after another run",
          "finished files kept"]  # fmt: skip


def measured(every: int = 1) -> list[dict]:
    """Of a small Llama in several files."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        LlamaForCausalLM(config).save_pretrained(Path(folder) / "source", max_shard_size="40KB")
        return killed(Recipe([("writers", Project(torch.eye(32)[:2]))]), Path(folder) / "source", Path(folder), every)


def main() -> None:
    """Print the table; `export.py --kills --out` writes it into a page with times and memory."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="before every eighth step, within five minutes")
    every = 8 if parser.parse_args().quick else 1
    progress(f"an export is killed before {'every step' if every == 1 else f'every {every}th step'}")
    shown = Table(*HEADER)
    for row in rows(measured(every)):
        shown.add_row(*row)
    Console(width=130).print(shown)


if __name__ == "__main__":
    main()
