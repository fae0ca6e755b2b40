"""Execute every notebook source (percent format) and keep the result with its outputs.

    python .ci/notebooks.py OUT

Fails on the first cell that raises. OUT gets one .ipynb a notebook, to look at.
"""

import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient


def main() -> None:
    """Execute and save each notebook."""
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for source in sorted(Path("notebooks").glob("*.py")):
        notebook = jupytext.read(source)
        with tempfile.TemporaryDirectory() as folder:
            NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()
        nbformat.write(notebook, out / f"{source.stem}.ipynb")
        print(f"{source}: {sum(cell.cell_type == 'code' for cell in notebook.cells)} cells ran")


if __name__ == "__main__":
    main()
