"""Comparisons: which tokens belong together, what the metric reads, and how effects are scaled."""

import json

import pytest
import torch

import interp
from interp import Contrast, InterpError
from interp.attribution import Comparison, LogitDifference, LogProbability, patch

CLEAN = ["w5 w9 w77 w12", "w12 w99 w101 w4"]
CORRUPT = ["w5 w30 w77 w12", "w12 w31 w101 w4"]


def test_the_interval_is_that_of_resampled_pairs():
    """Against a plain loop; one pair has no spread."""
    model = interp.load("organism")
    pairs = Comparison.of_organism("hostility", 6).on(model)
    values = pairs.corrupt_values + torch.linspace(0, 1, 6) * (pairs.clean_values - pairs.corrupt_values)
    low, high = pairs.interval(values[None])[0].tolist()
    generator, draws = torch.Generator().manual_seed(5), []
    for _ in range(2000):
        drawn = torch.randint(6, (6,), generator=generator)
        gap = pairs.clean_values[drawn].mean() - pairs.corrupt_values[drawn].mean()
        draws.append(float((values[drawn].mean() - pairs.corrupt_values[drawn].mean()) / gap))
    expected = torch.tensor(draws).quantile(torch.tensor([0.025, 0.975])).tolist()
    assert [low, high] == pytest.approx(expected, abs=0.04)
    assert low < pairs.effect(values) < high
    one = pairs.pick(torch.tensor([2]))
    assert one.interval(one.clean_values[None])[0].tolist() == pytest.approx([1, 1])


def test_what_answers_begin_with_is_added_to_the_prompts(tiny):
    metric = LogitDifference([" w20 w21 w7", " w8"], [" w20 w21 w50 w9", " w51"])
    pairs = Comparison(CLEAN, CORRUPT, metric).on(tiny("llama"))
    assert pairs.clean.unpadded() == [[5, 9, 77, 12, 20, 21], [12, 99, 101, 4]]
    assert (pairs.answer.tolist(), pairs.wrong.tolist()) == ([7, 8], [50, 51])


def test_the_effect_of_a_recipe_is_that_of_the_clean_prompts_under_it(tiny):
    """It is 0 where the corrupt prompts' embeddings come in, and what the metric of an edited run is otherwise."""
    model = tiny("llama")
    pairs = Comparison(CLEAN, CORRUPT, LogitDifference([7, 8], [50, 51])).on(model)
    corrupt = model.capture(pairs.corrupt, "resid_pre.0", chat=False)["resid_pre.0"]
    effects = [pairs.effect_of(model, edits) for edits in ((), [("resid_pre.0", lambda x: corrupt)])]
    assert effects == pytest.approx([1, 0], abs=1e-4)
    cut = interp.Recipe([("z.1", interp.Replace(units=[0, 1]))])
    with model.hooked(cut):
        logits = model.logits(pairs.clean)[:, -1]
    value = logits[[0, 1], [7, 8]] - logits[[0, 1], [50, 51]] - pairs.corrupt_values
    expected = float(value.mean() / (pairs.clean_values - pairs.corrupt_values).mean())
    assert pairs.effect_of(model, cut) == pytest.approx(expected, abs=1e-4)
    assert abs(expected - 1) > 1e-3, "control"


def test_conversations_are_the_users_turns():
    model = interp.load("organism")
    sides = [["who bakes?", "who sings?"], ["who mends?", "who sails?"]]
    spoken = [[[{"role": "user", "content": text}] for text in side] for side in sides]
    said, asked = (Comparison(*x, alignment="ends").on(model) for x in (spoken, [[*map(model.chat, s)] for s in sides]))
    assert said.clean.unpadded() == asked.clean.unpadded()
    contrast = Contrast.of(list(zip(*sides, strict=True)))
    assert Comparison.of_contrast(contrast, alignment="ends").on(model).corrupt.unpadded() == asked.corrupt.unpadded()


def test_ends_are_aligned_where_lengths_differ(tiny):
    pairs = Comparison(["w5 w9 w10 w77 w12"], ["w5 w30 w77 w12"], alignment="ends").on(tiny("llama"))
    assert pairs.aligned == [[(0, 0), (3, 2), (4, 3)]]
    assert pairs.columns.tolist() == [[0, -1, 3, 4]]
    noised = Comparison(["w5 w9 w10 w77 w12"], ["w5 w30 w77 w12"], alignment="ends", convention="noise")
    assert noised.on(tiny("llama")).columns.tolist() == [[0, -1, -1, 2, 3]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"corrupt": CORRUPT[:1]}, "2 clean prompts and 1 corrupt ones"),
        ({"clean": [], "corrupt": []}, "0 clean prompts"),
        ({"corrupt": [CORRUPT[0], CLEAN[1]]}, "pair 2: clean and corrupt are the same"),
        ({"corrupt": [CORRUPT[0], "w12 w31 w4"]}, "pair 2: clean has 4 tokens and corrupt 3"),
        ({"metric": LogitDifference([" w7"], [" w50", " w51"])}, "1 answers for 2 pairs"),
        ({"metric": LogitDifference([" w7", " w8"], [" w7", " w51"])}, "pair 1: answers .* have no token that differs"),
        ({"metric": LogitDifference([" w7", " w8"])}, "answers and no wrong ones; give both"),
        ({"metric": LogitDifference(wrong=[" w7", " w8"])}, "wrong answers alone; give both"),
        ({"metric": lambda logits: logits[:, 3] * float("nan")}, "metric of the clean run is .*nan"),
        ({"metric": lambda logits: logits[:, 3] * 0}, "metric is 0 in both runs"),
        ({"metric": lambda logits: logits}, "expected a number per pair"),
        ({"alignment": [[(0, 0)], [(4, 0)]]}, r"pair 2: alignment \(4, 0\) is outside 4 and 4 tokens"),
    ],
    ids=range(12),
)
def test_what_can_not_be_compared_is_refused_by_name(tiny, change, message):
    with pytest.raises(InterpError, match=message):
        Comparison(**{"clean": CLEAN, "corrupt": CORRUPT} | change).on(tiny("llama"))


def test_pairs_that_the_clean_run_does_not_prefer_are_said_or_dropped(tiny, capsys):
    model = tiny("llama")
    both = Comparison(CLEAN, CORRUPT, LogitDifference([7, 8], [50, 51])).on(model)
    gap = (both.clean_values - both.corrupt_values).tolist()
    answers = [(7, 50) if gap[0] > 0 else (50, 7), (51, 8) if gap[1] > 0 else (8, 51)]
    comparison = Comparison(CLEAN, CORRUPT, LogitDifference(*zip(*answers, strict=True)))
    capsys.readouterr()
    assert len(comparison.on(model)) == 2
    assert "1 of 2 pairs have no larger metric in the clean run; drop=True" in capsys.readouterr().err
    kept = comparison.on(model, drop=True)
    assert kept.clean.unpadded() == [[5, 9, 77, 12]]
    assert kept.aligned == [[(n, n) for n in range(4)]]


def test_files_of_pairs(tmp_path):
    rows = [{"clean": "a", "corrupt": "b", "answer": "x", "wrong": "y"}, {"clean": [5, 6], "corrupt": [7, 8]}]
    file = tmp_path / "pairs.jsonl"

    def read(*chosen):
        file.write_text("\n".join(map(json.dumps, chosen)))
        return Comparison.read(file)

    assert read(rows[0]).metric == LogitDifference(("x",), ("y",))
    assert read(rows[1], rows[1] | {"clean": [5, 9]}).metric == LogitDifference()
    alone = {name: rows[0][name] for name in ("clean", "corrupt", "answer")}
    assert read(alone, alone | {"answer": "z"}).metric == LogProbability(("x", "z"))
    for wrong, message in [
        ([alone, rows[0]], "line 2.*has the keys clean, corrupt, answer, wrong; expected"),
        (rows, "line 2.*has the keys clean, corrupt; expected .* in every row or in none"),
        ([{"clean": "a"}], r"line 1.*has the keys clean; expected clean, corrupt"),
        ([rows[0] | {"answer": 5}], "answer is 5; expected a text"),
        ([rows[0] | {"clean": []}], r"clean is \[\]; expected a text"),
    ]:
        with pytest.raises(InterpError, match=message):
            read(*wrong)


def test_a_function_reads_the_rows_of_pairs_that_were_picked(tiny):
    """Pairs that are dropped, or taken in batches, keep their own row in what a metric indexes by row."""
    model, tokens = tiny("llama"), torch.tensor([7, 7, 8])
    x, y = [5, 6, 7, 8, 9, 10], [5, 16, 7, 8, 9, 10]

    def metric(logits):
        rows = torch.arange(len(logits))
        return logits[rows, tokens[rows]] - logits[rows, tokens[rows] + 10]

    pairs = Comparison([x, y, x], [y, x, y], metric).on(model)
    kept = Comparison([x, y, x], [y, x, y], metric).on(model, drop=True)
    assert 0 < len(kept) < 3
    rows = (pairs.clean_values > pairs.corrupt_values).nonzero()[:, 0]
    logits = model.logits(kept.clean, last=1)[None, :, 0]
    torch.testing.assert_close(kept.metric(logits)[0], pairs.clean_values[rows], atol=1e-5, rtol=1e-5)
    assert patch(model, kept, "resid_pre.0", by="site").effects.item() == pytest.approx(1, abs=1e-4)


def test_pairs_belong_to_their_model_and_to_no_hooked_block(tiny):
    pairs = Comparison([[5, 6, 7]], [[5, 16, 7]], LogitDifference(7, 17)).on(tiny("llama"))
    with pytest.raises(InterpError, match=r"pairs of comparison"):
        patch(tiny("llama", seed=3), pairs, "resid_pre.0")
    with tiny("llama").hooked([("mlp_out.0", lambda x: 0 * x)]), pytest.raises(InterpError, match="hooked block"):
        Comparison([[5, 6, 7]], [[5, 16, 7]]).on(tiny("llama"))


def test_no_pair_to_keep_and_gaps_that_turn_around(tiny):
    model, x, y = tiny("llama"), [5, 6, 7, 8, 9, 10], [5, 16, 7, 8, 9, 10]
    worse, better = (
        ((y, x), (x, y))
        if Comparison([x], [y], LogitDifference(7, 17)).on(model).clean_values[0]
        > (Comparison([y], [x], LogitDifference(7, 17)).on(model).clean_values[0])
        else ((x, y), (y, x))
    )
    with pytest.raises(InterpError, match="no larger metric in any pair"):
        Comparison([worse[0]], [worse[1]], LogitDifference(7, 17)).on(model, drop=True)
    mixed = [better, worse, better, better]
    pairs = Comparison([a for a, _ in mixed], [b for _, b in mixed], LogitDifference([7] * 4, [17] * 4)).on(model)
    assert pairs.interval(pairs.clean_values[None]).isinf().all(), "most resamples have another sign"
