"""A book against plain loops and pages made one by one; killed scans; bad input."""

import errno
import os
import random
import signal
from functools import partial
from itertools import count, pairwise

import pyarrow.parquet as pq
import pytest
import torch
import worked
from sae_samples import draw
from tiny_models import one_site
from torch.nn.functional import cosine_similarity, normalize

import interp
from interp import InterpError, SparseAutoencoder, harvest
from interp.activations import pack_rows
from interp.features import ScanOptions, measure_ablation_effects, scan
from interp.features.scanning import scanner
from interp.models.architectures.unembedding import logit_effect
from interp.sae import TopK, feature_page

OPTIONS = ScanOptions(context=32, chunk=200, top=3, sampled=8, before=4, after=2, ablate=5)
FILES = ("latents.parquet", "examples.parquet", "background.parquet")


@pytest.fixture
def organism_sae():
    reference = interp.load("organism").reference
    rows, place = normalize(draw(24, 192), dim=1), one_site(192, "resid_post.3", reference)
    return SparseAutoencoder(rows, torch.zeros(24), rows, torch.zeros(192), TopK(k=4), **place)


def test_a_book_says_what_pages_made_one_by_one_say(tiny, corpus, saes, scanned):
    model = tiny("llama")
    for name, sae in saes.items():
        for latent in range(0, sae.d_sae, 5):
            page, row = scanned.feature(latent, name), feature_page(sae, model, corpus, latent, 3, context=32)
            assert page.density == pytest.approx(row.density)
            assert sum(page.counts) == sum(row.counts)
            assert page.edges[-1] == pytest.approx(row.edges[-1], rel=1e-5)
            assert [x.document for x in page.snippets] == [x.document for x in row.snippets]
            assert [word for word, _ in page.promoted] == [word for word, _ in row.promoted]
            assert [word for word, _ in page.suppressed] == [word for word, _ in row.suppressed]
            assert [near for near, _ in page.nearest] == [near for near, _ in row.nearest]
            for mine, other in zip(page.snippets, row.snippets, strict=True):
                assert mine.tokens == other.tokens[max(0, other.peak - 4) : other.peak + 3]
                assert mine.tokens[mine.peak] == other.tokens[other.peak]
                assert max(mine.activations) == pytest.approx(max(other.activations), rel=1e-5)


def test_a_store_gives_the_book_that_its_model_gives(tiny, saes, store, scanned, tmp_path):
    book = scan(saes, store, tmp_path / "book", OPTIONS, model=tiny("llama"))
    assert book.card.tokens == scanned.card.tokens
    for mine, other in zip(book.latents(), scanned.latents(), strict=True):
        assert mine["count"] == other["count"]
        assert mine["histogram"] == other["histogram"]
        assert [x["token"] for x in mine["promoted"]] == [x["token"] for x in other["promoted"]]
    silent = scan(saes, store, tmp_path / "silent", OPTIONS.model_copy(update={"ablate": 0}))
    assert silent.latents()[0]["promoted"] == []
    assert silent.examples(3, "top")[0]["tokens"][0].isdigit(), "without a tokenizer, ids"


def test_the_lens_compares_the_tokens_that_follow_with_those_that_count(tiny, corpus, saes, scanned):
    model = tiny("llama")
    packed = pack_rows(model, corpus, 32)
    ids = packed.ids[packed.inner]
    for latent in (2, 9):
        effect = logit_effect(model, saes["top"].W_dec[latent][None])[0]
        follows = []
        for example in scanned.examples(latent, "top"):
            if example["kind"] != "top" and example["peak"] + 1 < len(example["ids"]):
                follows.append(example["ids"][example["peak"] + 1])
        all_effects = effect[ids]
        expected = (effect[follows].mean() - all_effects.mean()) / all_effects.std(correction=0)
        assert scanned.latents("sae = 'top' AND latent = ?", [latent])[0]["lens"] == pytest.approx(
            float(expected), rel=1e-3
        )


@pytest.mark.parametrize("context", [(0, 0), (4, 0), (0, 2)])
def test_the_lens_does_not_depend_on_the_context_that_is_kept(tiny, corpus, saes, scanned, tmp_path, context):
    options = OPTIONS.model_copy(update={"before": context[0], "after": context[1], "ablate": 0})
    book = scan(saes, tiny("llama"), tmp_path / "book", options, texts=corpus)
    assert [row["lens"] for row in book.latents()] == [row["lens"] for row in scanned.latents()]
    longest = max(book.query("SELECT * FROM examples"), key=lambda row: len(row["tokens"]))
    assert len(longest["tokens"]) == len(longest["values"]) == 1 + sum(context), "no more is shown than was asked for"


def test_encoder_neighbours_and_which_latents_are_ablated(saes, scanned):
    sae, rows = saes["top"], scanned.latents("sae = 'top'")
    for latent in (0, 11):
        cosine = cosine_similarity(sae.W_enc, sae.W_enc[latent][None])
        cosine[latent] = -1
        assert [x["latent"] for x in rows[latent]["nearest_encoder"]] == cosine.topk(5).indices.tolist()
    active = sorted(rows, key=lambda row: -(row["mean"] or 0) * row["count"])[:5]
    assert {row["latent"] for row in rows if row["ablation"] is not None} == {row["latent"] for row in active}


def test_examples_are_in_quarters_by_value(scanned):
    for row in scanned.latents("sae = 'top' AND count >= 8"):
        sampled = [x for x in scanned.examples(row["latent"], "top") if x["kind"] != "top"]
        assert [x["kind"] for x in sampled] == [f"quarter{n}" for n in (1, 1, 2, 2, 3, 3, 4, 4)]
        ends = [[x["value"] for x in sampled if x["kind"] == f"quarter{n}"] for n in (1, 2, 3, 4)]
        assert all(max(low) <= min(high) for low, high in pairwise(ends))


@pytest.mark.parametrize("calls", [1, 4, 9])
@pytest.mark.parametrize("stored", [True, False])
def test_a_killed_scan_continues_to_the_same_book(
    tiny, corpus, saes, store, tmp_path, monkeypatch, capsys, calls, stored
):
    source, more = (store, {}) if stored else (tiny("llama"), {"texts": corpus})
    options = OPTIONS.model_copy(update={"ablate": 0})
    whole = scan(saes, source, tmp_path / "whole", options, **more)
    monkeypatch.setattr(scanner, "SAVE_SECONDS", 0.0)
    if not (child := os.fork()):
        left, add = [calls], scanner.LatentStatistics.add

        def deadly(self, code, chunk):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            add(self, code, chunk)

        monkeypatch.setattr(scanner.LatentStatistics, "add", deadly)
        try:
            scan(saes, source, tmp_path / "cut", options, **more)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (tmp_path / "cut").exists()
    capsys.readouterr()
    book = scan(saes, source, tmp_path / "cut", options, **more)
    assert ("continuing a scan" in capsys.readouterr().err) == (calls > 1), "two autoencoders: one call is half a chunk"
    for name in FILES:
        assert (book.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert {file.name for file in book.folder.iterdir()} == {*FILES, "book.json"}


@pytest.mark.parametrize(("place", "kept"), [("between two chunks", True), ("within a chunk", False)])
def test_a_scan_continues_after_ctrl_c_as_after_a_kill(tiny, corpus, saes, tmp_path, monkeypatch, capsys, place, kept):
    options, model = OPTIONS.model_copy(update={"ablate": 0}), tiny("llama")
    whole, calls = scan(saes, model, tmp_path / "whole", options, texts=corpus), count(1)

    def interrupted(usual, at):
        def call(*given):
            if next(calls) == at:
                raise KeyboardInterrupt
            return usual(*given)

        return call

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        if kept:
            patched.setattr(scanner, "_codes", interrupted(scanner._codes, 4))
        else:  # of two autoencoders: the first has counted the third chunk, and the second has not
            patched.setattr(scanner.LatentStatistics, "add", interrupted(scanner.LatentStatistics.add, 6))
        scan(saes, model, tmp_path / "cut", options, texts=corpus)
    assert f"the same call continues the scan for {tmp_path / 'cut'}" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == [".cut.unfinished"] * kept + ["whole"]
    book = scan(saes, model, tmp_path / "cut", options, texts=corpus)
    assert ("continuing a scan" in capsys.readouterr().err) == kept
    for name in FILES:
        assert (book.folder / name).read_bytes() == (whole.folder / name).read_bytes()


@pytest.mark.parametrize("problem", [OSError(errno.ENOSPC, "No space left on device"), MemoryError()])
def test_a_full_disk_or_memory_at_the_end_keeps_what_was_counted(tiny, corpus, saes, tmp_path, monkeypatch, problem):
    options, model = OPTIONS.model_copy(update={"ablate": 0}), tiny("llama")
    whole = scan(saes, model, tmp_path / "whole", options, texts=corpus)

    def fail(*_):
        raise problem

    for saved in (30.0, 0.0):
        monkeypatch.setattr(scanner, "SAVE_SECONDS", saved)
        with monkeypatch.context() as patched, pytest.raises((InterpError, MemoryError)) as caught:
            patched.setattr(scanner, "write_json", fail)
            scan(saes, model, tmp_path / "cut", options, texts=corpus)
        kept = {path.name for path in tmp_path.glob(".cut.unfinished/*")}
        assert kept == ({"unfinished.key", "state.safetensors"} if not saved else set()), "control: nothing was saved"
        remedy = "nothing of it was kept" if saved else "run again to continue"
        assert isinstance(problem, MemoryError) or remedy in str(caught.value)
    with monkeypatch.context() as patched:
        patched.setattr(scanner, "_codes", fail)
        book = scan(saes, model, tmp_path / "cut", options, texts=corpus)  # counts nothing again
    for name in FILES:
        assert (book.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_several_processes_give_the_same_book_and_one_that_is_killed_is_made_up_for(
    corpus, saes, store, tiny, tmp_path, monkeypatch, capfd
):
    options = OPTIONS.model_copy(update={"ablate": 0})
    whole = scan(saes, store, tmp_path / "whole", options)
    several = scan(saes, store, tmp_path / "several", options, workers=2)
    monkeypatch.setattr(scanner, "_codes", partial(worked.codes_of_a_process_that_dies_once, tmp_path / "died"))
    killed = scan(saes, store, tmp_path / "killed", options, workers=2)
    assert (tmp_path / "died").exists(), "control: a process was killed"
    assert "a process ended; what it did is done again" in capfd.readouterr().err
    for name in FILES:
        for book in (several, killed):
            assert (book.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    with pytest.raises(InterpError, match="a worker loads the model from its files: ") as caught:
        scan(saes, tiny("llama"), tmp_path / "no", options, texts=corpus, workers=2)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "no").exists()
    assert not list(tmp_path.glob(".no*"))


def test_several_processes_load_the_model_and_give_the_same_book(organism_sae, tmp_path):
    texts, organism = [f"The baker of number {n} sold bread ." for n in range(40)], interp.load("organism")
    options = ScanOptions(chunk=128, context=64, top=2, sampled=4, ablate=2)
    one, two = (
        scan(organism_sae, organism, tmp_path / f"{workers}", options, texts=texts, workers=workers)
        for workers in (1, 2)
    )
    for name in FILES:
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes()


def test_ablations_are_measured_on_all_of_the_text(tiny, saes, tmp_path):
    sae, texts = saes["top"], [" ".join(f"w{5 + (n * k) % 7}" for n in range(20)) for k in range(60)]
    texts += [" ".join(f"w{40 + (n * k) % 7}" for n in range(20)) for k in range(12)]
    options = OPTIONS.model_copy(update={"ablate": sae.d_sae, "ablation_rows": 1000})
    book = scan(sae, tiny("llama"), tmp_path / "book", options, texts=texts)
    first = scan(sae, tiny("llama"), tmp_path / "first", options.model_copy(update={"tokens": 600}), texts=texts)
    later = {row["latent"] for row in book.latents("count > 0")} - {row["latent"] for row in first.latents("count > 0")}
    assert later, "control: some latents fire in later chunks alone"
    rows = {row["latent"]: row for row in book.latents()}
    assert all(rows[latent]["ablation"] is not None for latent in later)
    packed = pack_rows(tiny("llama"), texts, 32)
    whole = measure_ablation_effects(sae, tiny("llama"), packed, sorted(later), rows=1000)
    assert [rows[latent]["ablation"] for latent in sorted(later)] == pytest.approx(whole, rel=1e-3, abs=1e-5)


def test_another_text_is_not_continued(tiny, corpus, saes, tmp_path, monkeypatch):
    monkeypatch.setattr(scanner, "SAVE_SECONDS", 0.0)
    options = OPTIONS.model_copy(update={"ablate": 0})
    if not (child := os.fork()):
        monkeypatch.setattr(scanner._Scan, "write", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        scan(saes, tiny("llama"), tmp_path / "book", options, texts=corpus)
    os.waitpid(child, 0)
    other = random.Random(1).sample(corpus, len(corpus))
    with pytest.raises(InterpError, match="of another text; run it again"):
        scan(saes, tiny("llama"), tmp_path / "book", options, texts=other)
    assert scan(saes, tiny("llama"), tmp_path / "book", options, texts=other).card.tokens


def test_bad_input(tiny, corpus, saes, store, tmp_path):
    model, out = tiny("llama"), tmp_path / "book"
    other = harvest(tiny("llama", seed=1), corpus[:5], ["resid_post.1"], tmp_path / "other", context=32)
    elsewhere = harvest(model, corpus[:5], ["resid_post.0"], tmp_path / "elsewhere", context=32)
    inner = harvest(model, corpus[:5], ["resid_post.1"], tmp_path / "inner", context=32, keep="inner")
    cases = [
        ("autoencoder top was made for", lambda: scan(saes, other, out)),
        ("site 'resid_post.1' is not in store", lambda: scan(saes, elsewhere, out)),
        ("autoencoder top was made for", lambda: scan(saes, tiny("llama", seed=1), out, texts=corpus)),
        ("give texts= with a model", lambda: scan(saes, model, out)),
        ("give texts= with a model", lambda: scan(saes, store, out, texts=corpus)),
        ("no autoencoder given", lambda: scan({}, store, out)),
        ("ablate needs the model", lambda: scan(saes, store, out, ScanOptions(ablate=3))),
        ("ablate needs whole texts", lambda: scan(saes, inner, out, ScanOptions(ablate=3), model=model)),
        ("no tokens that count", lambda: scan(saes, model, out, ScanOptions(context=32), texts=[""] * 3)),
    ]
    for message, call in cases:
        with pytest.raises(InterpError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
        assert not out.exists()
        assert not list(tmp_path.glob(".book*"))
    out.mkdir()
    with pytest.raises(InterpError, match="exists already"):
        scan(saes, store, out)


def test_an_activation_that_is_not_finite_is_named(tiny, corpus, saes, store, tmp_path, monkeypatch):
    read = type(store).read
    monkeypatch.setattr(type(store), "read", lambda *a: read(*a).index_fill(0, torch.tensor([7]), torch.nan))
    with pytest.raises(InterpError, match=r"resid_post.1: token 7 has NaN or infinite"):
        scan(saes, store, tmp_path / "book", OPTIONS.model_copy(update={"ablate": 0}))


def test_the_files_are_parquet(scanned, saes):
    assert pq.read_table(scanned.folder / FILES[0]).num_rows == sum(sae.d_sae for sae in saes.values())
