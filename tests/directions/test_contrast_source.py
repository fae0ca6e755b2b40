"""Pairs by name: a file as a whole or a sample of it, or as many as are asked for of the organism."""

import json

import pytest

from interp import Contrast, InterpError
from interp.directions import read_contrast


def test_a_file_is_sampled_and_the_organism_draws(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(json.dumps({"rude": f"a{n}", "kind": f"b{n}"}) for n in range(20)))
    columns = {"positive": "rude", "negative": "kind"}
    whole = read_contrast(file, columns=columns)
    assert whole == Contrast.read(file, columns)
    assert read_contrast(file, 30, columns=columns) == whole
    few, again, other = (read_contrast(file, 5, seed, columns) for seed in (0, 0, 1))
    assert few == again != other
    assert len(few) == 5
    assert set(few.pairs) < set(whole.pairs)
    assert len(read_contrast("organism.refusal", pairs=7)) == 7
    with pytest.raises(InterpError, match="leave columns and skip_bad out"):
        read_contrast("organism.refusal", columns=columns)
