"""Execute every notebook source (percent format) and keep the result with its outputs.

    python .ci/notebooks.py OUT

Two notebooks run at a time, with one thread each. Fails on the first cell that raises. OUT receives one .ipynb per
notebook, to look at.
"""

import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient


def execute(source: Path, out: Path) -> str:
    """Execute one notebook in a folder of its own and save it."""
    start, notebook = time.monotonic(), jupytext.read(source)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()
    nbformat.write(notebook, out / f"{source.stem}.ipynb")
    cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    return f"{source}: {cells} cells in {time.monotonic() - start:.0f} s"


def main() -> None:
    """Execute and save each notebook."""
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    longest_first = sorted(Path("notebooks").glob("*.py"), key=lambda source: source.stem, reverse=True)
    with ProcessPoolExecutor(2) as pool:
        for line in pool.map(partial(execute, out=out), longest_first):
            print(line)


if __name__ == "__main__":
    main()
