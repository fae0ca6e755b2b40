"""Feature pages go to Neuronpedia's JSON and back; others' files are read or refused by name."""

import json
from dataclasses import replace

import pytest
import torch
from tiny_models import one_site
from torch.nn.functional import normalize

from interp.core.errors import InterpError
from interp.sae import neuronpedia
from interp.sae.coder import SparseAutoencoder
from interp.sae.feature import feature_pages
from interp.sae.nonlinearities import TopK


@pytest.fixture(scope="module")
def pages(tiny):
    model = tiny("llama")
    rows = normalize(torch.randn(20, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    sae = SparseAutoencoder(
        rows, torch.zeros(20), rows, torch.zeros(32), TopK(k=3), **one_site(32, "resid_post.1", model.reference)
    )
    return sae, feature_pages(sae, model, ["w5 w9 w12 w5 w7", "w8 w5 w11 w99"], [2, 7, 11], context=16)


def test_pages_come_back(pages, tmp_path):
    sae, (first, *rest) = pages
    found = [replace(first, label="words of rivers"), *rest]
    neuronpedia.write_feature_pages(found, sae, tmp_path / "features.json")
    again = neuronpedia.read_feature_pages(tmp_path / "features.json")
    for page, read in zip(found, again, strict=True):
        for name in ("latent", "site", "density", "counts", "snippets", "promoted", "suppressed", "nearest", "label"):
            assert getattr(read, name) == getattr(page, name)
        torch.testing.assert_close(torch.tensor(read.edges), torch.tensor(page.edges), atol=1e-6, rtol=1e-5)
    record = json.loads((tmp_path / "features.json").read_text())[0]
    # Its plots take bars by index: as many middles as heights.
    assert len(record["freq_hist_data_bar_values"]) == len(record["freq_hist_data_bar_heights"])
    assert record["vector"] == sae.W_dec[2].tolist()
    with pytest.raises(InterpError, match="exists already"):
        neuronpedia.write_feature_pages(found, sae, tmp_path / "features.json")


def test_a_dashboards_batch_is_read(tmp_path):
    feature = {
        "feature_index": 7,
        "neg_str": ["a"],
        "neg_values": [-1.25],
        "pos_str": ["b"],
        "pos_values": [2.5],
        "frac_nonzero": 0.01,
        "freq_hist_data_bar_heights": [2, 1],
        "freq_hist_data_bar_values": [0.25, 0.75],
        "activations": [{"tokens": ["x", "y"], "values": [0.1, 0.9], "qualifying_token_index": 1}],
        "something_new": None,
    }
    (tmp_path / "batch.json").write_text(json.dumps({"model_id": "m", "features": [feature]}))
    with pytest.raises(InterpError, match="feature 0: names no hook; give site="):
        neuronpedia.read_feature_pages(tmp_path / "batch.json")
    page = neuronpedia.read_feature_pages(tmp_path / "batch.json", site="mlp_out.3")[0]
    assert (page.latent, str(page.site), page.edges) == (7, "mlp_out.3", (0.0, 0.5, 1.0))
    assert page.snippets[0].peak == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "not a feature, a list of them, or a batch"),
        ('{"hookName": "blocks.0.hook_mlp_out", "index": "1"}', "feature 0: no field 'freq_hist_data_bar_values'"),
        ('{"hookName": "blocks.0.hook_mlp"}', "unknown site"),
        ("{", "not valid JSON"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "features.json").write_text(content)
    with pytest.raises(InterpError, match=message):
        neuronpedia.read_feature_pages(tmp_path / "features.json")
