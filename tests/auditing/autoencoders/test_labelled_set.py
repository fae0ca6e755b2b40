"""Sets are split by group and read at the right tokens; the organism's concepts can be read where they are needed."""

import json
import re

import pytest
import torch

import interp
from interp import InterpError
from interp.activations import SiteColumns
from interp.auditing import LabelledSet, organism_sets, read_set
from interp.auditing.autoencoders.labelled_set import SetActivations
from interp.sae import SparseAutoencoder, TopK


def test_a_group_is_on_one_side_and_classes_are_halved():
    texts = tuple(f"t{n}" for n in range(80))
    groups = tuple(f"g{n // 4}" for n in range(80))
    one = LabelledSet("s", texts, (True, False) * 40, groups)
    sides = {group: {side for g, side in zip(groups, one.fit.tolist(), strict=True) if g == group} for group in groups}
    assert all(len(side) == 1 for side in sides.values())
    assert (int(one.fit.sum()), int((one.fit & one.truth).sum())) == (40, 20)


@pytest.mark.parametrize("pool", ["last", "mean", "max"])
def test_pooled_latents_are_those_of_each_text_alone(pool, tiny):
    model = tiny("llama")
    texts = [" ".join(f"w{4 + (n * k) % 100}" for k in range(1, 3 + n % 5)) for n in range(12)]
    one = LabelledSet("s", tuple(texts), (True, False) * 6, tuple(texts), pool)
    rows = torch.randn(24, 32, generator=torch.Generator().manual_seed(1))
    place = (SiteColumns(site="resid_post.1", model=model.reference, width=32),)
    sae = SparseAutoencoder(rows, torch.zeros(24), rows, torch.zeros(32), TopK(k=6), place, place)
    read = SetActivations.read(model, sae.site, one)
    for number, text in enumerate(texts):
        x = model.capture(text, sae.site)[sae.site][0, 1:]
        pooled = {"last": lambda z: z[-1], "mean": lambda z: z.mean(0), "max": lambda z: z.amax(0)}[pool]
        torch.testing.assert_close(read.codes(sae)[number], pooled(sae.encode(x)), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(read.activations()[number], pooled(x), rtol=1e-4, atol=1e-4)


def test_the_organisms_sets_differ_in_the_concept_only_where_they_are_pairs():
    model = interp.load("organism")
    sets = {one.name: one for one in organism_sets(model, 8)}
    assert list(sets) == ["group", "danger", "own claim", "invented", "topic", "false claim"]
    assert all(len(one.texts) == 16 and sum(one.labels) == 8 for one in sets.values())
    assert all(text.endswith(("is", "is the")) for text in sets["invented"].texts)
    assert all(text.endswith(("is", "claim is")) for text in sets["false claim"].texts)
    assert organism_sets(model, 8) == list(sets.values()) != organism_sets(model, 8, seed=1)


def test_a_file_of_texts(tmp_path):
    rows = [{"words": f"w{n}", "hate": n % 3 == 0, "template": n // 6} for n in range(60)]
    (tmp_path / "a:b.jsonl").write_text("\n".join(map(json.dumps, rows)))
    one = read_set(f"hate={tmp_path}/a:b.jsonl:words:hate=true:template:mean", items=16)
    assert (one.name, one.pool, len(one.texts), sum(one.labels)) == ("hate", "mean", 32, 16)
    assert len(set(one.groups)) <= 10


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("hate", "expected NAME=FILE:TEXT:LABEL=VALUE"),
        ("hate=FILE:wrds:hate=true", "line 1: no key 'wrds'; did you mean words?"),
        ("hate=FILE:words:hate=maybe", "no record of PATH has 'maybe' as its 'hate'; known: false, true"),
        ("hate=FILE:words:hate=tru", "did you mean true?"),
        ("few=FILE:words:words=w1", "two or more of each"),
    ],
)
def test_bad_sets_are_refused(spec, message, tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(json.dumps({"words": f"w{n}", "hate": n % 2 == 0}) for n in range(20)))
    with pytest.raises(InterpError, match=re.escape(message).replace("PATH", re.escape(str(file)))):
        read_set(spec.replace("FILE", str(file)))
