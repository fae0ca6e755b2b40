"""A manifest that was edited is refused, and settings that differ are named."""

import json

import pytest

from interp.activations.config import HarvestConfig
from interp.activations.store import Store
from interp.core.errors import InterpError


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"tokens": 512', '"tokens": 511', "has shape .* but the manifest says"),
        ('"embed": 32', '"embed": 7', "has shape .* but the manifest says"),
        ('"embed": 32', '"embed": 0', "sites.embed is 0; expected a whole number above 0"),
        ('"tokens": 512', '"tokens": -5', "tokens is -5; expected .* of at least 0"),
        (
            "shard-00001.safetensors",
            "../shard-00001.safetensors",
            "name is '../shard-00001.safetensors'; expected a text that matches",
        ),
        ('"mean_norm"', '"norm"', "mean_norm"),
    ],
)
def test_an_edited_manifest_is_refused(copy, old, new, message):
    manifest = copy / "manifest.json"
    text = manifest.read_text()
    assert old in text
    manifest.write_text(text.replace(old, new, 1))
    with pytest.raises(InterpError, match=message):
        Store.open(copy)


def test_a_setting_that_is_not_there_is_not_taken_to_be_the_default(copy):
    manifest = copy / "manifest.json"
    values = json.loads(manifest.read_text())
    assert Store.open(copy), "control"
    assert values["settings"]["harvest"].pop("keep") == HarvestConfig().keep
    manifest.write_text(json.dumps(values))
    with pytest.raises(InterpError, match=r"settings\.harvest: .*lacks keep"):
        Store.open(copy)


def test_settings_differ_by_the_names_of_options_and_sites(stored):
    settings = stored.manifest.settings
    assert settings.differences(settings) == []
    harvest = HarvestConfig.parse(settings.harvest.model_dump() | {"context": 16})
    sites = settings.sites | {"embed": 8}
    other = settings.model_copy(update={"harvest": harvest, "sites": sites, "device": "cuda"})
    assert sorted(settings.differences(other)) == [
        "context was 32 and is now 16",
        "device was 'cpu' and is now 'cuda'",
        "sites.embed was 32 and is now 8",
    ]
