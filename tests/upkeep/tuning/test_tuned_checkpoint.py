"""Tuned checkpoint: base plus adapter, as PEFT merges it; its certificate; and changes that verification finds."""

import json
import shutil
from copy import deepcopy

import peft
import pytest
import torch

import interp
from interp import InterpError
from interp.upkeep import TuningRecord, tune, verify_tuned

ROWS = [{"prompt": f"w{n} w5", "completion": f" w{n + 1} w9"} for n in range(10, 14)]


@pytest.fixture(scope="module")
def tuned(tiny, tmp_path_factory):
    """A folder for each architecture: weights as nn.Linear and as Conv1D hold them."""
    made = {}
    for name in ("llama", "gpt2"):
        made[name] = tmp_path_factory.mktemp("tuned") / name
        tune(tiny(name), "sft", ROWS, made[name], steps=3, lr=1e-2, rank=4, alpha=12.0)
    return made


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_merged_weights_are_base_and_adapter(architecture, tuned, tiny):
    base, folder = tiny(architecture), tuned[architecture]
    adapted = peft.PeftModel.from_pretrained(deepcopy(base.hf), folder / "interp_adapter")
    ids = torch.tensor([[5, 9, 30, 7]])
    logits = adapted(ids).logits
    merged, written = adapted.merge_and_unload().state_dict(), interp.load(folder).hf.state_dict()
    changed = {name for name, x in base.hf.state_dict().items() if not torch.equal(x, written[name])}
    assert changed, "control: training changed something"
    assert all(name.endswith(".weight") and "norm" not in name and "embed" not in name for name in changed)
    assert all(torch.allclose(x, written[name], atol=1e-6) for name, x in merged.items())
    assert torch.allclose(interp.load(folder).hf(ids).logits, logits, atol=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_it_is_certified_and_verified(architecture, tuned, tiny):
    certificate = verify_tuned(tuned[architecture], tiny(architecture))
    assert certificate.faithful
    assert certificate.effect_kl > 1e-3, "control: the adapter does something"
    assert certificate.status == "exact"


def test_the_record_is_read_back(tuned, tiny):
    record = TuningRecord.read(tuned["llama"])
    assert (record.method, record.rows, len(record.losses), record.block) == ("sft", 4, 3, "")
    assert record.base.digest == tiny("llama").digest
    assert "3" in repr(record)
    assert "is merged into the weights" in (tuned["llama"] / "README.md").read_text()
    with pytest.raises(InterpError, match="is no folder of a tuned model"):
        TuningRecord.read("no/such")


def damaged(folder, name, change):
    (folder / name).write_bytes(change((folder / name).read_bytes()))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "more.txt").write_text("a"), "more.txt: not in the record"),
        (lambda folder: (folder / "config.json").unlink(), "config.json: missing"),
        (lambda folder: damaged(folder, "model.safetensors", lambda x: x[:-1] + bytes([x[-1] ^ 1])), "changed since"),
        (lambda folder: damaged(folder, "interp_tuning.json", lambda x: b"{}"), "is damaged"),
    ],
)
def test_changes_are_found(damage, words, tuned, tiny, tmp_path):
    shutil.copytree(tuned["llama"], tmp_path / "copy")
    damage(tmp_path / "copy")
    with pytest.raises(InterpError, match=words):
        verify_tuned(tmp_path / "copy", tiny("llama"))


def test_a_changed_weight_is_found_though_its_digest_fits(tuned, tiny, tmp_path):
    """Whoever changes the record as well is found by merging the adapter again."""
    from interp.core.files import read_tensors, sha256_file, write_tensors

    shutil.copytree(tuned["llama"], tmp_path / "copy")
    weights = read_tensors(tmp_path / "copy" / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"] += 0.01
    write_tensors(tmp_path / "copy" / "model.safetensors", weights, {"format": "pt"})
    record = json.loads((tmp_path / "copy" / "interp_tuning.json").read_text())
    record["files"]["model.safetensors"] = sha256_file(tmp_path / "copy" / "model.safetensors")
    (tmp_path / "copy" / "interp_tuning.json").write_text(json.dumps(record))
    with pytest.raises(InterpError, match="down_proj"):
        verify_tuned(tmp_path / "copy", tiny("llama"))


def test_another_base_is_refused(tuned, tiny):
    with pytest.raises(InterpError, match="the adapter"):
        verify_tuned(tuned["llama"], tiny("llama", 1))
