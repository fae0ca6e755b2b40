"""The settings of a harvest, as Python and the command line read them."""

import pytest

from interp.activations.config import HarvestConfig
from interp.core.errors import InterpError


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("context=1", "context is 1; expected .* of at least 2"),
        ("keep=last", "keep is 'last'; expected 'all', 'inner' or 'assistant'"),
        ("dtype=float64", "dtype is 'float64'; expected .*'int8'"),
        ("contxt=8", "unknown key 'contxt'; did you mean context"),
    ],
)
def test_settings_that_no_harvest_has_are_refused(override, message):
    with pytest.raises(InterpError, match=message):
        HarvestConfig.of([override])


def test_settings_are_read_from_overrides():
    assert HarvestConfig.of(["context=64", "keep=inner"]) == HarvestConfig(context=64, keep="inner")
