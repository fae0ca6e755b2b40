"""Files and folders that are written completely or not at all, digests of files, and locks of folders.

A folder is built next to its final place, flushed to disk and renamed, so that a reader sees the finished folder or
none. An exception inside the block removes what was half written, and so does Ctrl-C, unless the same call can continue
from it.
"""

import ctypes
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from interp.core.errors import DISK_REMEDY, InterpError, first_line, printable
from interp.core.inputs import bounded_text, parse_json, require_regular

KEY = "unfinished.key"
_NOT_KEPT = f"nothing of it was kept: {DISK_REMEDY}"
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_LONGEST_NAME, _LONGEST_PATH = 200, 3600  # bytes; the system's limits, less what temporary names and files inside take


@contextmanager
def lock_folder(folder: Path, busy: str) -> Iterator[None]:
    """Hold a folder's lock for the duration of a block; the system releases it however the process ends.

    Args:
        folder: An existing folder, not a link to one. No file is written to it.
        busy: The error message if another process holds the lock.

    Raises:
        InterpError: Another process, or another block of this one, holds the lock.

    Example:
        >>> from interp.core.files import lock_folder
        >>> with lock_folder(tmp, "being written"):
        ...     with lock_folder(tmp, f"{tmp.name} is being written"):
        ...         pass
        Traceback (most recent call last):
        interp.core.errors.InterpError: ... is being written
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unmoved = os.path.samestat(os.fstat(descriptor), os.lstat(folder))  # since it was opened
        except (BlockingIOError, FileNotFoundError):
            unmoved = False
        if not unmoved:
            raise InterpError(busy)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def new_folder(
    out: str | Path,
    resume_key: str | None = None,
    mark: str | None = None,
    overwrite: bool = False,
    keep: str | None = None,
) -> Iterator[Path]:
    """Yield a temporary folder that becomes `out` on success.

    Args:
        out: The final folder. It must not exist, unless it is overwritten.
        resume_key: Identifies the work. A folder that a killed or interrupted process left under the same key is
            yielded again as it was; the caller has to check which of its files are complete. None starts with an empty
            folder.
        mark: The file by which a folder of the same kind is known, in case such folders can be overwritten.
        overwrite: Replace a folder that has the mark, in one step at the end.
        keep: The file from which the work goes on under its key. Where writing or memory fails, it stays, without the
            others.

    Raises:
        InterpError: `out` exists or cannot be written, or another process is writing it.
    """
    target = Path(out)
    require_free(target, mark, overwrite)
    missing = [parent for parent in target.parents if not parent.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = unfinished_path(target)
        require_unlinked(staging)
        staging.mkdir(exist_ok=True)
    except OSError as problem:
        raise InterpError(f"{target}: cannot be written ({problem.strerror}); choose another folder") from None
    with lock_folder(staging, f"{target} is being written by another process; wait for it, or choose another"):
        moved = kept = False
        try:
            _keep_if(staging, resume_key)
            yield staging
            (staging / KEY).unlink(missing_ok=True)
            for path in [*staging.rglob("*"), staging]:
                share(path)
                fsync(path)
            require_free(target, mark, overwrite)
            if target.exists():
                with lock_folder(target, f"{target} is in use by another process; wait for it, or choose another"):
                    _exchange(staging, target)
                    shutil.rmtree(staging, ignore_errors=True)
            else:
                os.rename(staging, target)
            moved = True  # another process may be writing a folder of the temporary name by now
            fsync(target.parent)
        except BaseException as problem:
            kept = not moved and resume_key is not None and _keep_begun(staging, keep, problem)
            if isinstance(problem, OSError | SafetensorError):
                remedy = "run again to continue" if kept else _NOT_KEPT
                remedy = "it is whole, but may not be on the disk: mend that, and write it again" if moved else remedy
                raise InterpError(f"{target}: writing failed ({problem}); {remedy}") from problem
            raise
        finally:
            if not (moved or kept):
                shutil.rmtree(staging, ignore_errors=True)
            with suppress(OSError):
                # Remove parents that were made for this folder; the first that holds something ends the walk.
                for parent in missing if not target.exists() else ():
                    parent.rmdir()


def _keep_begun(staging: Path, keep: str | None, problem: BaseException) -> bool:
    """Whether the same call can go on from what an interrupt, or a failure that is not of its input, left."""
    if isinstance(problem, KeyboardInterrupt | SystemExit):
        return any(path.name != KEY for path in staging.iterdir())
    of_input = isinstance(problem, InterpError) and not isinstance(problem.__cause__, OSError | SafetensorError)
    if keep is None or of_input or not (staging / keep).is_file():
        return False
    for path in staging.iterdir():
        if path.name not in (KEY, keep):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return True


def _exchange(new: Path, old: Path) -> None:
    """Swap two folders: at once where the system can, else with a moment in which the old one has a hidden name."""
    library = ctypes.CDLL(None)
    # renameat2(AT_FDCWD, …, RENAME_EXCHANGE) of Linux
    if hasattr(library, "renameat2") and not library.renameat2(-100, os.fsencode(new), -100, os.fsencode(old), 2):
        return
    aside = old.with_name(f".{old.name}.{os.getpid()}")
    os.rename(old, aside)
    os.rename(new, old)
    os.rename(aside, new)


def unfinished_path(out: Path) -> Path:
    """Where a folder is until it is complete."""
    return out.with_name(f".{out.name}.unfinished")


def _keep_if(staging: Path, key: str | None) -> None:
    """Empty a folder that was started with another key, or without one."""
    if key is not None and (staging / KEY).is_file() and (staging / KEY).read_text(encoding="utf-8") == key:
        remove_strays(staging)
        return
    for path in staging.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if key is not None:
        write_text(staging / KEY, key)


def remove_strays(folder: Path) -> None:
    """Remove temporary files, of this module and of safetensors, that killed processes left below a folder.

    The caller holds the folder's lock, so that nobody writes there.
    """
    for path in folder.rglob(".*"):
        if re.fullmatch(r"\.tmp\w{6}|\..+\.\d+", path.name) and path.is_file():
            path.unlink()


@contextmanager
def new_file(out: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path that becomes the file `out` on success. Raises as `new_folder` does."""
    target = Path(out)
    if not (overwrite and target.is_file() and not target.is_symlink()):
        require_free(target)
    with _replacing(target) as sibling:
        yield sibling


@contextmanager
def reserved(out: str | Path) -> Iterator[None]:
    """Hold the name of a new file or folder while it is made, against another process that would write it too.

    Raises InterpError where `out` exists, cannot be written, or is held.
    """
    target = Path(out)
    require_free(target)
    held = target.with_name(f".{target.name}.lock")
    held.mkdir(parents=True, exist_ok=True)
    with lock_folder(held, f"{target} is being written by another process; wait for it, or choose another"):
        try:
            require_free(target)  # the other may have ended just now
            yield
        finally:
            held.rmdir()


@contextmanager
def _replacing(path: Path, hint: str = _NOT_KEPT, flush: bool = True) -> Iterator[Path]:
    """Yield a temporary sibling, which is flushed to disk and renamed over the path on success; makes its folder.

    It is locked meanwhile. Siblings that nobody holds (safetensors puts one in its place) and whose process is gone are
    removed.
    """
    sibling, held = path.with_name(f".{path.name}.{os.getpid()}"), -1
    require_unlinked(sibling)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for stray in path.parent.glob(f".{escape(path.name)}.*[0-9]"):
            _remove_unheld(stray)
        held = os.open(sibling, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield sibling
        share(sibling)
        if flush:
            fsync(sibling)
        os.replace(sibling, path)
        if flush:
            fsync(path.parent)
    except (OSError, SafetensorError) as problem:
        raise InterpError(f"{path}: writing failed ({problem}); {hint}") from problem
    finally:
        with suppress(OSError):
            sibling.unlink(missing_ok=True)
        if held >= 0:
            os.close(held)


def _remove_unheld(stray: Path) -> None:
    with suppress(OSError, ValueError):
        descriptor = os.open(stray, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            process = int(stray.suffix[1:])  # an earlier one may have had this one's number
            gone = process == os.getpid() or not Path(f"/proc/{process}").exists()
            if gone and stat.S_ISREG(os.fstat(descriptor).st_mode):
                stray.unlink()
        finally:
            os.close(descriptor)


def require_free(out: str | Path, mark: str | None = None, overwrite: bool = False) -> None:
    """Raise if an output exists or its folder cannot be written, before any work is done for it.

    Args:
        out: The file or folder.
        mark: The file by which a folder that may be overwritten is known; None if none may be.
        overwrite: Whether a folder with the mark may be there.
    """
    target = Path(out)
    if re.match(r"[A-Za-z][\w+.-]+:/", str(out)):  # a Path has lost one of the URL's slashes
        raise InterpError(f"{out} is a URL; write to a local folder and copy that there")
    _require_name(target)
    if target.exists() or target.is_symlink():
        if not (mark and overwrite):
            remedy = ", or pass overwrite=True to replace it" if mark else " or remove it first"
            raise InterpError(f"{target} exists already; choose another name{remedy}")
        if target.is_symlink() or not (target / mark).is_file():
            raise InterpError(f"{target} is no folder with a {mark}, so it is not overwritten; choose another name")
    place = next(parent for parent in target.absolute().parents if parent.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise InterpError(f"{target}: cannot be written ({place} is not a writable folder); choose another place")


def _require_name(target: Path) -> None:
    """Raise for a name that is too long for the file system, or that a terminal would not show as it is."""
    if printable(str(target)) != str(target) or "\n" in str(target):
        raise InterpError(f"{str(target)!r:.300} has control characters; choose another name")
    name, path = len(os.fsencode(target.name)), len(os.fsencode(target.absolute()))
    if name > _LONGEST_NAME or path > _LONGEST_PATH:
        raise InterpError(
            f"{str(target)[:100]}…: a name of {name:,} bytes, and {path:,} with its folders; expected at most "
            f"{_LONGEST_NAME} and {_LONGEST_PATH:,}; choose a shorter one"
        )


def require_unlinked(path: Path) -> None:
    """Raise for a path that is a link or a folder with one: writing there would change files elsewhere."""
    for part in [path, *path.rglob("*")]:
        if part.is_symlink():
            raise InterpError(f"{part} is a link, so nothing is written there; remove it, or choose another place")


def share(path: Path) -> None:
    """Give a file or folder the umask's permissions, which mkdtemp and safetensors narrow to the owner."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


def fsync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write JSON in a stable layout (sorted keys, indented by two), renamed into place. NaN raises."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    write_text(path, _HALF_PAIR.sub(lambda half: f"\\u{ord(half[0]):04x}", text))  # UTF-8 has no half of a pair


def write_text(path: Path, text: str) -> None:
    """Write a text file: a temporary sibling is renamed over it."""
    with _replacing(path, f"{_NOT_KEPT}, or choose another place", flush=False) as sibling:
        sibling.write_text(text, encoding="utf-8")


def write_tensors(
    path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None, hint: str = ""
) -> None:
    """Write a safetensors file that is whole or not there: it is flushed to disk and renamed into place.

    Args:
        path: The file; one that is there is replaced.
        tensors: Contiguous tensors by name, on any device.
        metadata: Texts for the file's header.
        hint: What to do if writing fails, the end of the error message.

    Raises:
        InterpError: The file cannot be written; nothing of it is kept.

    Example:
        >>> from interp.core.files import write_tensors
        >>> write_tensors(tmp / "x.safetensors", {"x": torch.ones(2)})
        >>> [path.name for path in tmp.iterdir()]
        ['x.safetensors']
    """
    from safetensors.torch import save_file

    with _replacing(path, hint or _NOT_KEPT) as sibling:
        save_file(dict(tensors), sibling, None if metadata is None else dict(metadata))


def read_tensors(path: str | Path) -> dict[str, Any]:
    """The tensors of a safetensors file, by name. Raises, with its name, if it is missing or damaged."""
    from safetensors.torch import load_file

    require_regular(path)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as problem:
        raise InterpError(f"{path}: cannot be read ({problem}); restore it, or make it again") from None


def read_pickle(path: str | Path) -> Any:
    """What `torch.save` wrote, on the CPU, by torch's loader that runs no code.

    Raises, with its name, if it is missing or damaged, or holds more than tensors and plain values.
    """
    import torch

    require_regular(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:  # a pickle of other things raises exceptions of any type
        reason = first_line(problem)
        raise InterpError(f"{path} holds more than tensors, or is damaged ({reason}); it is not read") from None


def read_json(path: str | Path, constants: bool = False) -> Any:
    """Read a JSON file, within the bounds of `inputs`. Raises, with its name, if it is missing, broken or too long.

    Args:
        path: The file.
        constants: Accept NaN and Infinity, which are not JSON, as other programs write them.
    """
    return parse_json(bounded_text(Path(path), "JSON"), path, constants=constants)


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    require_regular(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Hex SHA-256 of a JSON value in canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
