"""Verifying a folder: what was changed is named, and what was measured is measured again."""

import json
import shutil

import pytest
from folding import ablation
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import interp
from interp import InterpError
from interp.cli.app import app
from interp.core.files import read_json, sha256_file, write_json
from interp.editing.certificate.manifest import MANIFEST


def test_verify_measures_again_and_names_what_was_changed(saved, tmp_path, monkeypatch):
    source, out = saved("llama"), tmp_path / "out"
    certificate = interp.export(ablation(), source, out, prompts=["w5 w6 w7", "w8"])
    monkeypatch.chdir(tmp_path / "..")  # the base is found from anywhere
    for again in (interp.verify(out), interp.verify(out, base=source)):
        assert again.faithful
        assert (again.tokens, again.dtype) == (certificate.tokens, certificate.dtype)
        assert again.effect_kl == pytest.approx(certificate.effect_kl)
    copies = {}
    for case in ("flip", "extra", "missing", "config"):
        copies[case] = tmp_path / case
        shutil.copytree(out, copies[case])
    weights = load_file(copies["flip"] / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, copies["flip"] / "model.safetensors")
    (copies["extra"] / "more.py").write_text("")
    (copies["missing"] / "tokenizer.json").unlink()
    (copies["config"] / "config.json").write_text((out / "config.json").read_text().replace("silu", "gelu"))
    for case, name in [
        ("flip", "model.safetensors"),
        ("extra", "more.py"),
        ("missing", "tokenizer.json"),
        ("config", "config.json"),
    ]:
        with pytest.raises(InterpError, match=name):
            interp.verify(copies[case])
    with pytest.raises(InterpError, match=r"no interp_manifest\.json"):
        interp.verify(source)
    (out / "interp_manifest.json").write_text("{}")
    with pytest.raises(InterpError, match="files is missing; expected"):
        interp.verify(out)
    interp.export(ablation(), interp.load(interp.load(source).hf), tmp_path / "from-memory")
    with pytest.raises(InterpError, match="from a model in memory"):
        interp.verify(tmp_path / "from-memory")


@pytest.fixture
def exported(tiny, tmp_path):
    tiny("llama").hf.save_pretrained(tmp_path / "source")
    tiny("llama").tokenizer.save_pretrained(tmp_path / "source")
    interp.export(ablation(), tmp_path / "source", tmp_path / "out")
    return tmp_path / "out"


def rewrite(folder, name, change):
    """Change a JSON file of an export, and make the manifest agree."""
    values = read_json(folder / name)
    change(values)
    write_json(folder / name, values)
    if name != MANIFEST:
        manifest = read_json(folder / MANIFEST)
        manifest["files"][name] = sha256_file(folder / name)
        write_json(folder / MANIFEST, manifest)


def release(values):
    about = {"base": values["base"]["digest"], "recipe": values["recipe"]}
    digests = {"policy_sha256": "0", "audit_sha256": "0", "settings": values["base"].get("settings", "")}
    values["release"] = {"outcome": "allow", "policy": "x", **digests, **about}


@pytest.mark.parametrize(("name", "change"), [
    ("tokenizer.json", lambda x: x["model"]["vocab"].update(w4=5, w5=4)),
    ("config.json", lambda x: x.update(eos_token_id=77)),
    ("interp_certificate.json", lambda x: x.update(effect_kl=99.0)),
    ("interp_certificate.json", lambda x: x["fold"].update(kl=0.3)),
    ("interp_certificate.json", lambda x: x.update(tied={"kl": 0.0, "loss": None, "untied_loss": None})),
    (MANIFEST, release),
])  # fmt: skip
def test_files_beside_the_weights_are_made_again(exported, name, change):
    assert interp.verify(exported).faithful, "control"
    rewrite(exported, name, change)
    with pytest.raises(InterpError, match="tell different things" if name == MANIFEST else name):
        interp.verify(exported)


def test_a_link_to_a_folder_is_an_added_file(exported, tmp_path):
    (exported / "more").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(InterpError, match="more: not in the manifest"):
        interp.verify(exported)


def test_prompts_of_ones_own_are_measured_on_as_well(exported, tmp_path):
    (tmp_path / "prompts").write_text("w5 w6 w7\n\nw8\n")
    ran = CliRunner().invoke(app, ["verify", str(exported), "--prompts", str(tmp_path / "prompts"), "--json"])
    assert ran.exit_code == 0, ran.output
    told = json.loads(ran.stdout)
    assert told["tokens"] == 8 * 32 + 4
    assert told["made again"]["tensors"] == told["made again"]["identical"] > 20
