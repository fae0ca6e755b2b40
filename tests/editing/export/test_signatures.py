"""Signatures: they hold for the key and the files that were signed, and for no others."""

import json
import shutil

import pytest
import torch

import interp
from interp import InterpError, Project, Recipe
from interp.editing.certificate.manifest import ExportManifest
from interp.editing.certificate.verifier import verify
from interp.editing.export.exporter import export_streamed
from interp.editing.export.signatures import SIGNATURE, read_signature

RECIPE = Recipe([("writers", Project(torch.randn(1, 32, generator=torch.Generator().manual_seed(0))))])


@pytest.fixture
def keys(tmp_path):
    """Files of two private keys and their public ones."""
    pytest.importorskip("model_signing", reason="pip install 'interp[sign]'")
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    def pair(name, curve):
        key = ec.generate_private_key(curve)
        private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
        public = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / f"{name}.key").write_bytes(private)
        (tmp_path / f"{name}.pub").write_bytes(public)
        return tmp_path / f"{name}.key", tmp_path / f"{name}.pub"

    return pair("own", ec.SECP256R1()), pair("other", ec.SECP384R1()), pair("unusable", ec.SECP256K1())


@pytest.fixture
def source(tiny, tmp_path):
    tiny("llama").hf.save_pretrained(tmp_path / "source")
    return tmp_path / "source"


@pytest.mark.parametrize("streamed", [True, False])
def test_what_was_signed_is_checked_to_the_last_file(source, keys, tmp_path, streamed):
    (private, public), (_, other), _ = keys
    out = tmp_path / "out"
    (export_streamed if streamed else interp.export)(RECIPE, source, out, sign=private)
    assert SIGNATURE not in ExportManifest.at(out).files
    assert read_signature(out, public) == "checked"
    assert read_signature(out) == "not checked"
    assert verify(out).faithful
    with pytest.raises(InterpError, match=r"does not hold for the key .*other\.pub \(Key mismatch"):
        read_signature(out, other)
    for name in ("model.safetensors", "interp_manifest.json", ".gitattributes"):
        changed = tmp_path / f"changed {name}"
        shutil.copytree(out, changed)
        with (changed / name).open("ab") as file:
            file.write(b" ")
        with pytest.raises(InterpError, match=rf"does not hold.*{name}"):
            read_signature(changed, public)
    (changed / ".gitattributes").unlink()
    assert read_signature(changed, public) == "checked", "control: a copy under another name"


def test_another_signature_is_none(source, keys, tmp_path):
    """A file signed with the right key, of another folder; and one that was signed by nobody."""
    (private, public), *_ = keys
    export_streamed(RECIPE, source, tmp_path / "out", sign=private)
    export_streamed(RECIPE, source, tmp_path / "half", dtype="bfloat16", sign=private)
    shutil.copyfile(tmp_path / "half" / SIGNATURE, tmp_path / "out" / SIGNATURE)
    with pytest.raises(InterpError, match=r"does not hold.*model\.safetensors"):
        read_signature(tmp_path / "out", public)
    (tmp_path / "out" / SIGNATURE).write_text("{}")
    with pytest.raises(InterpError, match="does not hold"):
        read_signature(tmp_path / "out", public)
    (tmp_path / "out" / SIGNATURE).unlink()
    with pytest.raises(InterpError, match=r"not signed \(no model\.sig"):
        read_signature(tmp_path / "out", public)
    assert read_signature(tmp_path / "out") == "none"


def test_keys_that_are_none_are_refused_before_anything_is_written(source, keys, tmp_path):
    (private, public), _, (unusable, _) = keys
    for key, words in (
        (public, "not a key to sign with"),
        (unusable, "curve"),
        (tmp_path / "absent", "cannot be read"),
    ):
        with pytest.raises(InterpError, match=words):
            export_streamed(RECIPE, source, tmp_path / "out", sign=key)
        assert not (tmp_path / "out").exists()
    export_streamed(RECIPE, source, tmp_path / "out", sign=private)
    with pytest.raises(InterpError, match="not a public key"):
        read_signature(tmp_path / "out", private)


def test_the_tool_of_the_package_reads_it(source, keys, tmp_path):
    (private, public), *_ = keys
    export_streamed(RECIPE, source, tmp_path / "out", sign=private)
    from model_signing import verifying

    checker = verifying.Config().use_elliptic_key_verifier(public_key=public)
    checker.verify(tmp_path / "out", tmp_path / "out" / SIGNATURE)
    bundle = json.loads((tmp_path / "out" / SIGNATURE).read_text())
    assert bundle["mediaType"].startswith("application/vnd.dev.sigstore.bundle")


def test_without_the_package_it_says_what_to_install(source, tmp_path, monkeypatch):
    monkeypatch.setattr("interp.editing.export.signatures.find_spec", lambda name: None)
    with pytest.raises(InterpError, match=r"pip install 'interp\[sign\]'"):
        export_streamed(RECIPE, source, tmp_path / "out", sign=tmp_path / "key")
