from interp.features import ScanOptions, scan


def test_crosscoders_and_other_bases_have_no_promoted_tokens(tiny, corpus, saes, tmp_path):
    from dataclasses import replace

    from tiny_models import one_site

    sae = replace(saes["top"], **one_site(32, "z.1", saes["top"].model))
    book = scan(sae, tiny("llama"), tmp_path / "book", ScanOptions(context=32, tokens=200), texts=corpus)
    rows = book.latents()
    assert all(row["promoted"] == row["suppressed"] == [] and row["lens"] is None for row in rows)
    assert any(row["count"] for row in rows)


def test_rows_add_up(scanned):
    for row in scanned.latents():
        assert sum(row["histogram"]) == row["count"]
        assert (
            row["density"] * scanned.card.tokens == row["count"]
            or abs(row["density"] * scanned.card.tokens - row["count"]) < 1e-6
        )
        assert row["quantiles"] == sorted(row["quantiles"])
        assert all(0 < pair["share"] <= 1 for pair in row["cofiring"])
