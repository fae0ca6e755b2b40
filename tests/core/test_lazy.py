"""Public names are declared in stubs, imported on first use, and never hidden by a module of the same name."""

import importlib
import pkgutil
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from types import ModuleType

import pytest

import interp


def _modules() -> list[str]:
    names = [module.name for module in pkgutil.walk_packages(interp.__path__, "interp.")]
    return ["interp", *(name for name in names if "kernels" not in name or find_spec("triton"))]


@pytest.fixture(scope="module")
def packages():
    """All packages with public names, after every submodule has been imported."""
    modules = [importlib.import_module(name) for name in _modules()]
    return [module for module in modules if hasattr(module, "__path__") and hasattr(module, "__all__")]


def test_no_public_name_is_a_module_after_all_submodules_are_imported(packages):
    exempt = {("interp", "organism")}  # public as a module
    hidden = [
        (package.__name__, name)
        for package in packages
        for name in package.__all__
        if isinstance(getattr(package, name), ModuleType)
    ]
    assert set(hidden) <= exempt


def test_every_public_name_resolves_and_is_listed(packages):
    assert len(packages) > 10
    for package in packages:
        for name in package.__all__:
            assert getattr(package, name) is not None
            assert name in dir(package)
        folders = set(dir(package)) - set(package.__all__)
        assert not folders & {name.lower() for name in package.__all__}, "no folder beside a class of the same letters"


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(AttributeError, match="module 'interp' has no attribute 'HokedModel'; did you mean HookedModel"):
        _ = interp.HokedModel
    with pytest.raises(AttributeError, match="did you mean SparseAutoencoder"):
        _ = interp.SAE
    with pytest.raises(AttributeError, match="did you mean render_conversation"):
        _ = importlib.import_module("interp.data").render_conversations


def test_stages_are_attributes_of_the_package():
    code = "import interp; interp.sae.train; interp.editing.export.export; assert {'sae', 'train'} <= set(dir(interp))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    with pytest.raises(AttributeError, match="did you mean auditing"):
        _ = interp.auditting


def test_the_version_is_that_of_the_installed_package():
    assert interp.__version__ == version("interp")
    with pytest.raises(AttributeError):
        _ = interp.sae.__version__
