"""Descriptions as records: scores follow from answers, and the last one of each machine counts."""

import json

from interp.features import DescribedLatents, Description
from interp.features.descriptions.description import read_descriptions


def description(latent=3, text="towns", rater="small", right=8, **more):
    answers = [{"place": n, "fires": n % 2 == 0, "said": (n % 2 == 0) == (n < right)} for n in range(8)]
    values = {"sae": "top", "latent": latent, "rater": rater, "text": text, "digest": "", "answers": {}}
    return Description.parse(values | {"answers": {"detection": answers}} | more)


def test_scores_follow_from_the_answers():
    value, low, high = description().scores["detection"]
    assert (value, low < 0.8, high) == (1.0, True, 1.0)
    assert description(answers={"fuzzing": []}).scores == {}
    result = DescribedLatents((description(), description(4, right=4)))
    assert result.accuracy("detection").value == 0.75
    assert result.rows()[0]["shuffled"] is None
    assert "detection 0.75" in repr(result)


def test_the_last_of_each_machine_counts(tmp_path):
    rows = [description(), description(text="rivers"), description(rater="large"), description(sae="jump")]
    file = tmp_path / "descriptions.jsonl"
    assert read_descriptions(file) == []
    file.write_text("".join(json.dumps(row.model_dump()) + "\n" for row in rows))
    assert [(x.sae, x.rater, x.text) for x in read_descriptions(file)] == [
        ("jump", "small", "towns"), ("top", "large", "towns"), ("top", "small", "rivers"),
    ]  # fmt: skip
    assert len(read_descriptions(file, "top")) == 2
