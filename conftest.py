"""What the examples in docstrings may use without importing it; the tests' own fixtures are in tests/conftest.py.

An example may use `interp`, `torch`, `model` (the organism, loaded once), `contrast` (32 hostility pairs of the
organism) and `tmp` (an empty folder of its own). Each is made only for an example that names it.
"""

import ast
import doctest
import importlib.util
from typing import TYPE_CHECKING, Any

import pytest
import type_checks

if TYPE_CHECKING:
    from interp import Contrast, HookedModel

type_checks.install()

# Kernels need Triton, which exists for Linux only.
collect_ignore = [] if importlib.util.find_spec("triton") else ["interp/sae/compiled/kernels.py"]


@pytest.fixture(scope="session")
def example_model() -> "HookedModel":
    """The organism, loaded once per session."""
    import interp

    return interp.load("organism")


@pytest.fixture(scope="session")
def example_contrast() -> "Contrast":
    """32 pairs of prompts, hostile and not, of the organism."""
    import interp
    from interp import organism

    return interp.Contrast.of((p.user, n.user) for p, n in organism.contrast("hostility", 32))


def _names(item: pytest.DoctestItem) -> set[str]:
    """The names that the examples of a docstring use, those that are skipped apart."""
    source = "".join(e.source for e in item.dtest.examples if not e.options.get(doctest.SKIP))
    return {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}


@pytest.fixture(autouse=True)
def _example_names(request: pytest.FixtureRequest, doctest_namespace: dict[str, Any]) -> None:
    """Fill the namespace of a docstring's examples with what they name; do nothing for other tests."""
    if not isinstance(request.node, pytest.DoctestItem):
        return
    import torch

    import interp

    torch.manual_seed(0)
    doctest_namespace.update(interp=interp, torch=torch)
    used = _names(request.node)
    if "model" in used:
        doctest_namespace["model"] = request.getfixturevalue("example_model")
    if "contrast" in used:
        doctest_namespace["contrast"] = request.getfixturevalue("example_contrast")
    if "tmp" in used:
        doctest_namespace["tmp"] = request.getfixturevalue("tmp_path")
