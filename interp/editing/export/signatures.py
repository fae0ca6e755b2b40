"""Signatures: an export signed as a whole with a private key, by the package model-signing (OpenSSF).

`model.sig` is a sigstore bundle: an in-toto statement with the SHA-256 of every other file, signed by ECDSA. The tool
`model_signing verify key` reads it as well. The export's manifest leaves it out, since it covers the manifest. The name
that the statement gives the folder is the temporary one under which it was written; nothing compares it.

What a signature says is that the holder of the key wrote these bytes: not what they do, and not who holds the key. No
certificate and no transparency log are involved.
"""

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from interp.core.errors import InterpError
from interp.core.files import KEY

SIGNATURE = "model.sig"
_IGNORED = (SIGNATURE,)


def signer(key: str | Path) -> Callable[[Path], None]:
    """What signs a folder. Raises where the key (PEM, not encrypted) is of no use."""
    from_key = _config("signing")
    try:
        config = from_key.use_elliptic_key_signer(private_key=Path(key))
    except OSError as problem:
        raise InterpError(f"{key}: cannot be read ({problem.strerror})") from None
    except Exception as problem:  # cryptography's words for what is no key, encrypted, or of another kind
        raise InterpError(
            f"{key}: not a key to sign with ({_said(problem)}); expected a private key in PEM, not encrypted, on the "
            "curve P-256, P-384 or P-521 (openssl ecparam -name prime256v1 -genkey -noout)"
        ) from None

    def sign(folder: Path) -> None:
        (folder / KEY).unlink(missing_ok=True)  # the mark of an unfinished folder, which goes when it is renamed
        config.set_hashing_config(_hashing()).sign(folder, folder / SIGNATURE)

    return sign


def read_signature(folder: str | Path, key: str | Path | None = None) -> str:
    """ "none", "not checked" or "checked": what is known of a folder's signature, given the public key (PEM) or none.

    Raises InterpError where a key is given and the folder is not signed, signed with another, or changed since.
    """
    path = Path(folder)
    signed = (path / SIGNATURE).is_file()
    if key is None:
        return "not checked" if signed else "none"
    if not signed:
        raise InterpError(f"{path}: not signed (no {SIGNATURE} in it); export with a key to sign it, or give none here")
    checker = _config("verifying")
    try:
        checker = checker.use_elliptic_key_verifier(public_key=Path(key)).set_hashing_config(_hashing())
    except OSError as problem:
        raise InterpError(f"{key}: cannot be read ({problem.strerror})") from None
    except Exception as problem:
        raise InterpError(f"{key}: not a public key in PEM ({_said(problem)})") from None
    try:
        checker.verify(path, path / SIGNATURE)
    except Exception as problem:  # what is malformed makes the package raise whatever its parts raise
        raise InterpError(
            f"{path}: its signature does not hold for the key {key} ({_said(problem)}); the folder was changed, or "
            "signed by another"
        ) from None
    return "checked"


def _config(module: str) -> Any:
    if find_spec("model_signing") is None or find_spec("OpenSSL") is None:
        raise InterpError("signatures need the package model-signing; pip install 'interp[sign]'")
    from model_signing import signing, verifying

    return {"signing": signing, "verifying": verifying}[module].Config()


def _hashing() -> Any:
    from model_signing import hashing

    # Every file but the signature: files of git too, which the package leaves out unless told otherwise.
    return hashing.Config().set_ignored_paths(paths=_IGNORED, ignore_git_paths=False)


def _said(problem: Exception) -> str:
    said = str(problem).strip().partition("\n")[0]
    # The names of changed files, without the bytes of their digests.
    return re.sub(r": Expected .*?(?=.{1,4}Hash mismatch|$)", "", said) or type(problem).__name__
