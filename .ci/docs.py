"""Build the documentation site in strict mode: a broken link or a page that is not in the navigation fails.

So does a word that people search for and that does not lead to its page.

    python .ci/docs.py OUT

OUT gets the pages (`docs/`) and the site (`site/`). Two groups of pages are generated: the tutorials, from the
percent-format notebooks, and the API reference, from the public names of `interp` and of each stage.
"""

import importlib
import json
import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jupytext
import yaml

import interp

ROOT = Path(__file__).resolve().parents[1]
_MENTIONED = re.compile(r"\bdocs/[a-z_]+(?:/[a-z_]+)*\.md\b")
_SEARCHED = {
    "cache": "cache_activations",
    "logit lens": "logit_lens",
    "attribution": "logit_lens",
    "patching": "patch_activations",
    "IOI": "patch_activations",
    "ablation": "patch_activations",
    "circuit": "find_circuit",
    "attribution graph": "trace_graph",
    "SAE": "train_autoencoder",
    "transcoder": "train_autoencoder",
    "SAELens": "saelens_autoencoder",
    "label": "features",
    "browse": "browse",
    "steer": "steer",
    "notebook": "workbench",
    "LEACE": "erase_concept",
    "export": "remove_direction",
    "abliteration": "refusal_direction",
    "refusal direction": "refusal_direction",
    "audit": "audit",
    "harm": "own_harm",
    "training data": "curate",
    "near-duplicates": "curate",
    "drift": "drift",
    "model diffing": "drift",
    "feedback": "feedback",
    "agreement": "feedback",
    "preferences": "feedback",
    "relearning": "erasure_depth",
    "unlearning": "erasure_depth",
    "DPO": "tune",
    "Inspect": "inspect",
    "harness": "lm_eval",
    "wandb": "track",
    "fine-tuning": "tune",
    "LoRA": "tune",
}


def main() -> None:
    """Write the pages, check the navigation and the mentions of pages, and build."""
    out = Path(sys.argv[1]).resolve()
    pages = out / "docs"
    shutil.copytree(ROOT / "docs", pages)
    for notebook in sorted((ROOT / "notebooks").glob("*.py")):
        write(pages / "tutorials" / f"{notebook.stem}.md", tutorial(notebook))
    names = {stage: exported for stage in stages() if (exported := public_names(f"interp.{stage}"))}
    for stage, exported in names.items():
        write(pages / "api" / f"{stage}.md", reference(f"interp.{stage}", exported))
    write(pages / "api" / "index.md", overview(names))

    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    python = config["plugins"][1]["mkdocstrings"]["handlers"]["python"]
    python["paths"] = [str(ROOT)]
    python["options"]["extensions"] = ["griffe_pydantic", str(ROOT / ".ci" / "griffe_doctests.py")]
    config["nav"][-1]["API"] = ["api/index.md", *({f"interp.{stage}": f"api/{stage}.md"} for stage in names)]
    check_navigation(config["nav"], pages)
    check_mentions()
    write(out / "mkdocs.yml", yaml.safe_dump(config, sort_keys=False))
    subprocess.run(["zensical", "build", "--strict", "--clean", "--config-file", str(out / "mkdocs.yml")], check=True)
    check_search(json.loads((out / "site" / "search.json").read_text(encoding="utf-8"))["items"])
    print(f"{len(list(pages.rglob('*.md')))} pages in {out / 'site'}")


def write(file: Path, text: str) -> None:
    """Write a file and the folders above it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def tutorial(notebook: Path) -> str:
    """A notebook as a page, without outputs."""
    cells = [
        cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```"
        for cell in jupytext.read(notebook).cells
    ]
    source = f"*The source of this page is `notebooks/{notebook.name}`, which CI executes.*"
    return "\n\n".join([cells[0], source, *cells[1:]]) + "\n"


def stages() -> list[str]:
    """The folders of `interp/`, lower ones first, as the import contract orders them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    return [stage.strip().removeprefix("interp.") for layer in reversed(layers) for stage in layer.split("|")]


def public_names(package: str) -> list[str]:
    """What users import from a stage, sub-packages apart."""
    module = importlib.import_module(package)
    inner = {found.name for found in pkgutil.iter_modules(module.__path__)}
    return [name for name in getattr(module, "__all__", []) if name not in inner]


def reference(package: str, exported: list[str]) -> str:
    """The page of a stage: its docstring, then its public names."""
    options = "    options:\n      members: false\n      show_root_heading: false\n      show_root_toc_entry: false\n"
    return f"# {package}\n\n::: {package}\n{options}" + "".join(f"\n::: {package}.{name}\n" for name in exported)


def overview(names: dict[str, list[str]]) -> str:
    """The index of the reference: names by stage, those at `interp.` first, and what is at `interp.` alone."""
    lines = ["# API reference", "", "| stage | at `interp.` | in the stage alone |", "|---|---|---|"]
    for stage, exported in names.items():
        top = [name for name in exported if name in interp.__all__]
        cells = (
            ", ".join(f"[`{name}`]({stage}.md#interp.{stage}.{name})" for name in part)
            for part in (top, [name for name in exported if name not in top])
        )
        lines.append(f"| [{stage}]({stage}.md) | {' | '.join(cells)} |")
    exported = {name for stage in names.values() for name in stage} | set(names)
    alone = [name for name in interp.__all__ if name not in exported]
    lines += ["", "The module `interp.organism` is at `interp.` as a whole.", "", *(f"::: interp.{n}\n" for n in alone)]
    return "\n".join(lines)


def check_navigation(nav: object, pages: Path) -> None:
    """Every page is in the navigation, and every entry of the navigation is a page."""
    listed = set(re.findall(r"[\w/]+\.md", str(nav)))
    present = {str(page.relative_to(pages)) for page in pages.rglob("*.md")}
    if absent := sorted(listed - present):
        raise SystemExit(f"mkdocs.yml lists pages that do not exist: {absent}")
    if unlisted := sorted(present - listed):
        raise SystemExit(f"the navigation in mkdocs.yml lacks {unlisted}")


def check_mentions() -> None:
    """Every page that the code, the tests and README name exists, and so does what README links to."""
    folders = ("interp", "experiments", "tests", "notebooks")
    for file in (file for folder in folders for file in (ROOT / folder).rglob("*.py")):
        mentioned = set(_MENTIONED.findall(file.read_text(encoding="utf-8")))
        if missing := sorted(page for page in mentioned if not (ROOT / page).exists()):
            raise SystemExit(f"{file.relative_to(ROOT)} names pages that do not exist: {missing}")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)", readme)
    if missing := sorted(link for link in links if not (ROOT / link).exists()):
        raise SystemExit(f"README.md links to what does not exist: {missing}")


def check_search(items: list[dict[str, Any]]) -> None:
    """Every word that people search for is in a heading of its how-to page, and so in the first results."""
    headings: dict[str, list[str]] = {}
    for item in items:
        headings.setdefault(item["location"].partition("#")[0], []).append(
            re.sub(r"<[^>]+>", "", item["title"]).lower()
        )
    for words, page in _SEARCHED.items():
        pattern = re.compile(rf"\b{words.lower()}")
        if not any(map(pattern.search, headings[f"howto/{page}/"])):
            raise SystemExit(f"no heading of howto/{page}.md has {words!r}, for which people search")


if __name__ == "__main__":
    main()
