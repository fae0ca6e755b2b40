"""Description scores in the bench, by servers that play a machine: word latents beside controls and shuffled ones."""

import random

import numpy as np
import pytest
import torch
from chat_server import serving
from describers import constant, honest
from tiny_models import one_site
from torch.nn.functional import normalize

from interp import InterpError, SparseAutoencoder
from interp.auditing import BenchOptions, bench_autoencoder
from interp.auditing.autoencoders.bench import compare_measures, independent_difference
from interp.auditing.autoencoders.controls import TRAINED
from interp.auditing.autoencoders.description_scores import description_scores
from interp.auditing.statistics.comparison import mean_interval
from interp.data import ChatEndpoint
from interp.features import Book
from interp.sae import SaeConfig, TopK

LATENTS = 12
OPTIONS = BenchOptions(parts=("descriptions",), tokens=800, described=5, seeds=1, control_tokens=256)


def machine(server, **options):
    return ChatEndpoint(server.url, "small", **{"pause": 0.0, "timeout": 5.0} | options)


@pytest.fixture(scope="module")
def words(tiny):
    """An autoencoder at the embedding whose latent i fires on w(10 + i), its model, and a text of many words."""
    model, rng = tiny("llama"), random.Random(0)
    rows = model.hf.get_input_embeddings().weight.detach()[10 : 10 + LATENTS].float()
    unit = normalize(rows - rows.mean(0), dim=1)
    config = SaeConfig(kind="batchtopk", d_sae=LATENTS, k=1, batch_size=64, tokens=512)
    site = one_site(32, "embed", model.reference)
    sae = SparseAutoencoder(unit, torch.full((LATENTS,), -0.2), unit, torch.zeros(32), TopK(k=1), config=config, **site)
    return sae, model, [" ".join(f"w{rng.randint(4, 60)}" for _ in range(rng.randint(12, 30))) for _ in range(700)]


@pytest.fixture(scope="module")
def bench(words, tmp_path_factory):
    """The bench by an honest machine, and all requests that it took."""
    folder = tmp_path_factory.mktemp("bench") / "bench"
    with serving() as server:
        server.says = [honest]
        record = bench_autoencoder(*words, folder, OPTIONS, machine=machine(server))
        yield folder, record, server


def test_latents_of_words_are_above_shuffled_descriptions_and_all_controls_have_scores(bench):
    folder, record, _ = bench
    assert [row.name for row in record.measures] == ["detection", "fuzzing"]
    for row in record.measures:
        assert row.value.estimate > 0.9
        assert row.value.n == OPTIONS.described
        assert row.gaps["shuffled descriptions"].low > 0, row
        assert {"random decoder", "residual basis", "PCA"} < {*row.controls}
        assert all(0 <= x.low <= x.estimate <= x.high <= 1 for x in (row.value, *row.controls.values()))
    assert record.notes[-1].startswith("described and tested by small")
    assert "shuffled descriptions" in (folder / "bench.md").read_text()
    assert "autoencoder" in Book.open(folder / "book").card.autoencoders, "the book can be browsed"


def test_a_stopped_bench_asks_nothing_twice_and_another_machine_is_asked_anew(words, bench, chat_server):
    folder, record, server = bench
    asked = [body["messages"][0]["content"] for _, _, body in server.seen]
    assert len(asked) == len({*asked})
    for file in (*folder.glob("descriptions-*.json"), folder / "bench.json"):
        file.unlink()
    assert bench_autoencoder(*words, folder, OPTIONS, machine=machine(server)) == record
    assert len(server.seen) == len(asked)
    chat_server.says = [constant]
    other = bench_autoencoder(*words, folder, OPTIONS, machine=machine(chat_server))
    assert len(chat_server.seen) > 20
    for row in other.measures:
        assert "shuffled descriptions" in row.not_above, "control: who says the same of everything is at chance"
        assert row.value.low < 0.5 < row.value.high
    assert bench_autoencoder(*words, folder, OPTIONS, machine=machine(server)) == record


def test_what_is_lacking_is_said_before_anything_is_made(words, chat_server, tmp_path):
    with pytest.raises(InterpError, match=r"descriptions needs a machine \(machine=, or --describer"):
        bench_autoencoder(*words, tmp_path / "out", OPTIONS)
    assert not (tmp_path / "out").exists()
    sae, model, _ = words
    few = [f"w{4 + n} w{40 + n} w5" for n in range(40)]
    with pytest.raises(InterpError, match="no latent of the autoencoder has more than 10 examples"):
        description_scores({TRAINED: sae}, model, few, tmp_path / "few", machine(chat_server), OPTIONS, 64)
    assert chat_server.seen == []


def test_an_endpoint_that_fails_ends_the_part_in_one_line_and_it_continues(words, tmp_path, chat_server):
    said, answered, (sae, model, texts) = [40], set(), words
    part = ({TRAINED: sae}, model, texts[:150], tmp_path / "book")

    def dying(handler):
        said[0] -= 1
        if said[0] < 0:
            return handler.say(500)
        answered.add(handler.body["messages"][0]["content"])
        return honest(handler)

    chat_server.says = [dying]
    with pytest.raises(InterpError, match=r"no reply from small .*\(HTTP 500\).*the same command continues") as raised:
        description_scores(*part, machine(chat_server, retries=0), OPTIONS, 64)
    assert "\n" not in str(raised.value)
    said[0], before, seen = 10_000, {*answered}, len(chat_server.seen)
    scores = description_scores(*part, machine(chat_server), OPTIONS, 64)
    assert len(before) > 30
    again = {body["messages"][0]["content"] for _, _, body in chat_server.seen[seen:]}
    assert again
    assert not before & again, "what was answered is not asked again"
    assert {len(x["detection"]) for x in scores.values()} == {OPTIONS.described}


def test_an_interval_of_means_over_different_items_covers_their_difference():
    """Simulated; the control pairs by place what has nothing in common, and then has no items for a longer list."""
    draw, covered = np.random.default_rng(0), 0
    for _ in range(300):
        first, second = draw.beta(2, 2, 15).tolist(), draw.beta(8, 2, 40).tolist()
        gap = independent_difference(*(mean_interval(x, unit="rate") for x in (first, second)))
        covered += gap.low <= 0.3 <= gap.high
        assert gap.low <= gap.estimate <= gap.high
        back = independent_difference(*(mean_interval(x, unit="rate") for x in (first, second)), -1)
        assert (back.low, back.estimate, back.high) == pytest.approx((-gap.high, -gap.estimate, -gap.low))
    assert covered >= 279, "93 %"
    scores = {"autoencoder": {"x": first}, "c, seed 0": {"x": second}, "c, seed 1": {"x": []}, "none": {"x": []}}
    (row,) = compare_measures("descriptions", scores, paired=False)
    assert (row.value.n, row.controls["c"].n, [*row.gaps]) == (15, 40, ["c"])
