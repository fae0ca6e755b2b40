"""Execute every notebook source (percent format) in one folder, in two orders, and keep the results with their outputs.

    python .ci/notebooks.py OUT

All notebooks run in one folder, two at a time, with one thread each: a first time with the longest first, and a second
time in the other order, beside what the first has left. It fails on the first cell that raises, and on a cell that
prints something else the second time. OUT receives one .ipynb per notebook, to look at. The time that a notebook's
first cell states is printed beside the measured one, with a remark where they differ by more than a factor of 2.
"""

import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jupytext
import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

_STATED = re.compile(r"about (\d+) seconds")
# What may differ between two runs: times, rates per second, and the place of an object in memory.
_VARIABLE = re.compile(r"\d[\d,.]* ?(?:s|ms|seconds|minutes|min|tokens/s)\b|\b0x[0-9a-f]+|tokens_per_second=[\d.]+")


class Run(NamedTuple):
    """One execution of a notebook."""

    notebook: nbformat.NotebookNode
    seconds: float

    def printed(self) -> list[str]:
        """What each code cell printed and returned, as text without times."""
        return [_VARIABLE.sub("…", _text(cell.outputs)) for cell in self.notebook.cells if cell.cell_type == "code"]


def _text(outputs: Sequence[nbformat.NotebookNode]) -> str:
    streams = [output.text for output in outputs if output.get("name") == "stdout"]
    results = [output.data.get("text/plain", "") for output in outputs if output.output_type == "execute_result"]
    return "".join(streams + results)


def execute(source: Path, folder: str) -> Run:
    """Execute one notebook in a folder."""
    start, notebook = time.monotonic(), jupytext.read(source)
    with tempfile.TemporaryDirectory() as sockets:
        # Sockets that are files: two kernels that start at once may choose the same TCP port.
        config = Config(KernelManager={"transport": "ipc", "ip": f"{sockets}/kernel"})
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}, config=config).execute()
    return Run(notebook, time.monotonic() - start)


def report(source: Path, first: Run, second: Run) -> str:
    """The times of a notebook. Raises where its second run printed something else, or where it states no time."""
    for number, (before, after) in enumerate(zip(first.printed(), second.printed(), strict=True), 1):
        if before != after:
            raise SystemExit(f"{source}, code cell {number} printed\n{before}\nand the second time\n{after}")
    stated = _STATED.search(first.notebook.cells[0].source)
    if stated is None:
        raise SystemExit(f"the first cell of {source} does not say 'about N seconds'")
    apart = max(first.seconds / int(stated[1]), int(stated[1]) / first.seconds) > 2
    remark = "; correct what its first cell says, if this machine is a usual one" if apart else ""
    return f"{source}: {first.seconds:.0f} s, again {second.seconds:.0f} s; it says {stated[1]} s{remark}"


def main() -> None:
    """Execute the notebooks twice, save them, and print their times."""
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    sources = sorted(Path("notebooks").glob("*.py"), key=lambda source: source.stem, reverse=True)  # longest first
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(2) as pool:
        first = list(pool.map(partial(execute, folder=folder), sources))
        second = list(pool.map(partial(execute, folder=folder), reversed(sources)))
    for source, *runs in zip(sources, first, reversed(second), strict=True):
        nbformat.write(runs[0].notebook, out / f"{source.stem}.ipynb")
        print(report(source, *runs))


if __name__ == "__main__":
    main()
