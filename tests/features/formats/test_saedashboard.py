"""SAEDashboard's files: its own fields and types, and what the book says."""

import json

import numpy as np
import pytest
import torch

from interp.features import ScanOptions, export_book, scan
from interp.features.formats.saedashboard import dashboard_batches, file_name
from interp.features.scanning.latent_statistics import bin_edges

DASHBOARD = "sae-dashboard 0.8.0: NeuronpediaDashboard"


def test_records_have_its_fields_and_the_books_content(described, check, tmp_path, capsys):
    assert export_book(described, tmp_path / "out", "saedashboard", sae="top", latents=[3, 5, 39]) == 3
    assert "features have no vectors" in capsys.readouterr().err
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "batch-0.json", "skipped_indexes.json", "run_settings.json",
    }  # fmt: skip
    batch = json.loads((tmp_path / "out" / "batch-0.json").read_text())
    check(f"{DASHBOARD}Batch", batch)
    assert (batch["layer"], batch["model_id"]) == (1, "tiny-llama-0")
    skipped = json.loads((tmp_path / "out" / "skipped_indexes.json").read_text())["skipped_indexes"]
    assert sorted([*skipped, 3, 5, 39]) == [*range(40)]
    for feature in batch["features"]:
        check(f"{DASHBOARD}Feature", feature)
        latent = feature["feature_index"]
        row, examples = described.latents("sae = 'top' AND latent = ?", [latent])[0], described.examples(latent, "top")
        assert feature["frac_nonzero"] == row["density"]
        assert sum(feature["freq_hist_data_bar_heights"]) == pytest.approx(row["count"])
        assert len(feature["freq_hist_data_bar_values"]) == len(feature["freq_hist_data_bar_heights"]) == 40
        assert feature["pos_str"] == [word["token"] for word in row["promoted"]]
        assert feature["neg_values"] == [word["effect"] for word in row["suppressed"]]
        assert len(feature["activations"]) == len(examples)
        for activation in feature["activations"]:
            check(f"{DASHBOARD}Activation", activation)
            peak = activation["values"][activation["qualifying_token_index"]]
            assert activation["bin_max"] >= peak - 1e-6
        tops = [x for x in feature["activations"] if x["bin_min"] == -1]
        assert [x["values"] for x in tops] == [x["values"] for x in examples if x["kind"] == "top"]
        assert {x["bin_contains"] for x in feature["activations"]} <= {-1, 0.25}


def test_bars_of_equal_width_are_the_histogram_summed(described):
    """Where edges of both coincide, the counts below them are the same."""
    (batch,) = dashboard_batches(described, "top", [3])
    row, edges = described.latents("sae = 'top' AND latent = 3")[0], bin_edges().numpy()
    bars, middles = (np.array(batch[0][f"freq_hist_data_bar_{name}"]) for name in ("heights", "values"))
    upper = middles + (middles[1] - middles[0]) / 2
    for below in (0.25, 0.5, 0.9):
        bar = int(below * 40) - 1
        nearest = np.searchsorted(edges, upper[bar])
        low, high = (np.array(row["histogram"])[:end].sum() for end in (nearest - 1, nearest))
        assert low - 1e-6 <= bars[: bar + 1].sum() <= high + 1e-6


def test_vectors_come_from_where_the_autoencoder_was_scanned(tiny, saes, corpus, tmp_path):
    saes["top"].save(tmp_path / "sae")
    where = {"top": str(tmp_path / "sae")}
    book = scan(
        {"top": saes["top"]},
        tiny("llama"),
        tmp_path / "book",
        ScanOptions(context=32, top=1),
        texts=corpus,
        paths=where,
    )
    (batch,) = dashboard_batches(book, "top", [3])
    torch.testing.assert_close(torch.tensor(batch[0]["vector"]), saes["top"].W_dec[3])


def test_names_are_safe_for_files_and_addresses():
    assert [file_name(name) for name in ("a/b c", "../..", "é", "gpt2-small_v1.0")] == [
        "a-b-c", "unnamed", "unnamed", "gpt2-small_v1.0",
    ]  # fmt: skip
