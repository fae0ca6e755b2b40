"""What a wrong call of each public name gives: an error that helps, an error of Python or a library, or silence.

Each line of `mistakes.txt` is a public name and calls that a user would get wrong: another type or order of arguments,
text where a record is wanted, a misspelt option, an empty list, a path that is not there, a record in place of what it
holds. `…` stands for the name itself. A call after `+` is one that has to work. For every name, calls without
arguments, with a misspelt keyword and with an argument too many are added from its signature.

A call is good if it gives an `InterpError`, or works where it has to. It is bad if it gives another exception or is
silently accepted.

    python experiments/mistakes.py            # counts by stage
    python experiments/mistakes.py --all      # and every answer
"""

import importlib
import inspect
import pkgutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import interp
from interp import InterpError

CALLS = Path(__file__).with_name("mistakes.txt")


class Answer(NamedTuple):
    """What a call gave: whether that is good, and the message or result."""

    stage: str
    name: str
    call: str
    good: bool
    words: str


def public() -> dict[str, tuple[str, Any]]:
    """Every public function and class that the stubs list, by name, with its stage."""
    stages = [module.name for module in pkgutil.walk_packages(interp.__path__, "interp.") if module.ispkg]
    names: dict[str, tuple[str, Any]] = {}
    for stage in stages:
        package = importlib.import_module(stage)
        for name in getattr(package, "__all__", ()):
            value = getattr(package, name)
            if (inspect.isroutine(value) or inspect.isclass(value)) and value is not InterpError:
                names.setdefault(name, (stage.split(".")[1], value))
    return names


def table() -> dict[str, list[str]]:
    """The calls of `mistakes.txt` by name."""
    lines = (line.partition(": ") for line in CALLS.read_text().splitlines() if line)
    return {name: calls.split(" | ") for name, _, calls in lines}


def systematic(value: Any) -> Iterator[str]:
    """Calls that are wrong for any signature: nothing, a misspelt keyword, an argument too many."""
    parameters = inspect.signature(value).parameters.values()
    if inspect.isclass(value) and value.__init__ is object.__init__ and not issubclass(value, tuple):
        return  # made by its subclasses only
    if any(p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        yield "…()"
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        yield f"…({next((p.name[:-1] or 'z' for p in parameters), 'option')}_=3)"
    if not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        yield f"…({', '.join(['None'] * (len(parameters) + 1))})"


def world(folder: Path) -> dict[str, Any]:
    """What the calls name, small: the organism, a contrast, a direction, an autoencoder, a store, an audit."""
    from interp.activations import SiteColumns
    from interp.interventions import Gate, Reads
    from interp.sae import TopK

    model = interp.load("organism")
    pairs = interp.organism.contrast("hostility", 16)
    contrast = interp.Contrast.of([(positive.user, negative.user) for positive, negative in pairs])
    findings = interp.find(model, contrast, "resid_post.2", "diff_means", bootstrap=0)
    finding = findings.best()[0]
    site = (SiteColumns(site="resid_post.2", model=model.reference, width=model.d_model),)
    rows, zero = torch.eye(model.d_model), torch.zeros(model.d_model)
    recipe = interp.Recipe([("writers", interp.Project(finding.direction))])
    behaviours = [interp.auditing.margin("statement", "harm", "It says so.", ["The river is", "A"], [" the"], [" a"])]
    texts = [f"The river number {number} is the Nim." for number in range(8)]
    return {
        "interp": interp, "torch": torch, "np": np, "Path": Path, "tmp": folder,
        "model": model, "contrast": contrast, "findings": findings, "finding": finding, "direction": finding.direction,
        "recipe": recipe, "behaviours": behaviours, "vector": rows[0],
        "rows": torch.eye(model.d_model)[:4], "zero": zero,
        "sae": interp.SparseAutoencoder(rows, zero, rows, zero, TopK(k=4), site, site),
        "gate": Gate(interp.Add(rows[0]), Reads(finding.direction, 0.5)),
        "store": interp.harvest(model, texts, "resid_post.2", folder / "store", context=16),
        "activations": model.capture("hello there", "resid_post.2"),
        "audit": interp.audit(model, recipe, behaviours), "policy": interp.Policy(target="statement"),
    }  # fmt: skip


def judge(call: str, names: dict[str, Any]) -> tuple[bool, str]:
    """Whether a call gives what it should, and what it gives."""
    try:
        result = eval(call.lstrip("+").replace("…", "N"), names)
    except InterpError as error:
        return not call.startswith("+"), str(error)
    except Exception as error:
        return False, f"{type(error).__name__}: {error}"
    return call.startswith("+"), f"accepted: {type(result).__name__}"


def answers(folder: Path) -> list[Answer]:
    """What every call gives."""
    made, listed, names = world(folder), table(), public()
    results = []
    for name, (stage, value) in names.items():
        for key in [name, *(key for key in listed if key.startswith(f"{name}."))]:
            for call in [*listed.get(key, ()), *(systematic(value) if key == name else ())]:
                good, words = judge(call, {**made, "N": value})
                results.append(Answer(stage, key, call.replace("…", name), good, words))
    return results


def main() -> None:
    """Print the counts by stage."""
    with tempfile.TemporaryDirectory() as folder:
        results = answers(Path(folder))
    for result in results:
        if "--all" in sys.argv or ("--bad" in sys.argv and not result.good):
            print(f"{'good' if result.good else 'BAD '} {result.call}\n     {' '.join(result.words.split())[:240]}")
    counts, good = Counter(result.stage for result in results), Counter(r.stage for r in results if r.good)
    print("\n| stage | calls | good | bad |\n|---|---|---|---|")
    for stage, count in [*counts.items(), ("all", len(results))]:
        right = good[stage] if stage != "all" else sum(good.values())
        print(f"| {stage} | {count} | {right} | {count - right} |")


if __name__ == "__main__":
    main()
