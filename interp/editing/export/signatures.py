"""Signatures: a private key signs an export as a whole, with the package model-signing (OpenSSF).

`model.sig` is a sigstore bundle: an in-toto statement with the SHA-256 of every other file, signed by ECDSA. The tool
`model_signing verify key` reads it as well. The export's manifest does not list it, since the signature covers the
manifest. The statement has the temporary name under which the folder was written; nothing compares it.

Limitations: a signature shows that the holder of the key wrote these bytes, not what they do or who holds the key. No
certificates and no transparency log are involved.
"""

import hashlib
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from interp.core.errors import InterpError, first_line
from interp.core.files import KEY

SIGNATURE = "model.sig"
_IGNORED = (SIGNATURE,)


def signer(key: str | Path) -> Callable[[Path], None]:
    """A function that signs a folder. Raises unless the key is a private one in PEM, not encrypted."""
    _require_package()
    from model_signing import signing

    try:
        config = signing.Config().use_elliptic_key_signer(private_key=Path(key))
    except OSError as problem:
        raise InterpError(f"{key}: cannot be read ({problem.strerror})") from None
    except Exception as problem:  # many types, for a key that is broken, encrypted, or of another kind
        raise InterpError(
            f"{key}: not a key to sign with ({_reason(problem)}); expected a private key in PEM, not encrypted, on the "
            "curve P-256, P-384 or P-521 (openssl ecparam -name prime256v1 -genkey -noout)"
        ) from None

    def sign(folder: Path) -> None:
        (folder / KEY).unlink(missing_ok=True)  # marks an unfinished folder, and is removed before the rename
        config.set_hashing_config(_hashing()).sign(folder, folder / SIGNATURE)

    return sign


def read_signature(folder: str | Path, key: str | Path | None = None) -> str:
    """The state of a folder's signature: "none", "not checked" (no public key is given) or "checked".

    Raises InterpError where a key (PEM) is given and the folder is not signed, signed with another, or was changed.
    """
    path = Path(folder)
    signed = (path / SIGNATURE).is_file()
    if key is None:
        return "not checked" if signed else "none"
    if not signed:
        raise InterpError(f"{path}: not signed (no {SIGNATURE} in it); export with a key (sign), or give no key here")
    _require_package()
    from model_signing import verifying

    try:
        checker = verifying.Config().use_elliptic_key_verifier(public_key=Path(key)).set_hashing_config(_hashing())
    except OSError as problem:
        raise InterpError(f"{key}: cannot be read ({problem.strerror})") from None
    except Exception as problem:
        raise InterpError(f"{key}: not a public key in PEM ({_reason(problem)})") from None
    try:
        checker.verify(path, path / SIGNATURE)
    except Exception as problem:  # for malformed files the package raises many types
        why = f"does not hold for the key {key} ({_reason(problem)})"
        raise InterpError(f"{path}: its signature {why}; it was changed, or re-signed") from None
    return "checked"


def key_digest(key: str | Path) -> str:
    """SHA-256 of a public key (PEM), however its file is written. Raises unless it is one."""
    _require_package()
    from cryptography.hazmat.primitives import serialization as form

    try:
        public = form.load_pem_public_key(Path(key).read_bytes())
    except OSError as problem:
        raise InterpError(f"{key}: cannot be read ({problem.strerror})") from None
    except Exception as problem:  # many types, for a key that is broken or private
        raise InterpError(f"{key}: not a public key in PEM ({_reason(problem)})") from None
    written = public.public_bytes(form.Encoding.DER, form.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(written).hexdigest()


def _require_package() -> None:
    if find_spec("model_signing") is None or find_spec("OpenSSL") is None:
        raise InterpError("signatures need the package model-signing; pip install 'interp[sign]'")


def _hashing() -> Any:
    from model_signing import hashing

    # Every file except the signature; git's files too, which the package ignores by default.
    return hashing.Config().set_ignored_paths(paths=_IGNORED, ignore_git_paths=False)


def _reason(problem: Exception) -> str:
    # Keep the names of changed files, without their digests.
    return re.sub(r": Expected .*?(?=.{1,4}Hash mismatch|$)", "", first_line(problem)) or type(problem).__name__
