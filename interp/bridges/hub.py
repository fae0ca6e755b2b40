"""The Hugging Face Hub: an export as a model repository, in one commit.

    folder -> its files and certificate are checked -> private repository -> files -> commit

huggingface_hub uploads, with the token that it finds (HF_TOKEN, or `hf auth login`); interp neither reads nor stores
it. A repository changes by its last request alone, so whatever fails before leaves it as it was.

Limitations: manifest and provenance statement name the place of a local base, which `PushedExport.source` shows. A new
repository is private; its page on the Hub makes it public.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from interp.core.display import Displayed
from interp.core.errors import InterpError, first_line
from interp.editing.certificate import Certificate, ExportManifest
from interp.editing.certificate.manifest import CARD, CERTIFICATE, MANIFEST

_REMEDIES = {
    401: "there is no token, or it is not valid; hf auth login",
    403: "the token may not write there; make one that may",
    404: "there is no such place, or the token may not see it; check its name",
    429: "too many requests; try again later",
}


@dataclass(frozen=True)
class PushedExport(Displayed):
    """What was sent, or would be.

    Attributes:
        repo: The repository.
        files: The files, by their paths in it.
        nbytes: Their size.
        source: The place of the base on this machine, which the manifest names; empty where it names none.
        url: The page of the commit; empty in a dry run.

    Example:
        >>> from interp.bridges import PushedExport
        >>> PushedExport(repo="me/edited", files=("README.md",), nbytes=10).url
        ''
    """

    repo: str
    files: tuple[str, ...]
    nbytes: int
    source: str = ""
    url: str = ""


def push_export(folder: str | Path, repo: str, *, overwrite: bool = False, dry_run: bool = False) -> PushedExport:
    """Upload an exported folder to the Hub as one commit. Nothing is sent unless its certificate holds.

    Args:
        folder: A checkpoint or GGUF copy written by `export` or `export_gguf`. Its README.md, made from certificate and
            audit, is the model card.
        repo: The repository, OWNER/NAME. It is made, private, if it does not exist.
        overwrite: Replace an export that the repository holds; its other files go.
        dry_run: Only check the folder and say what would be sent.

    Raises:
        InterpError: The folder was changed, or has no certificate that holds; the repository holds something else; or
            the Hub refuses, or can't be reached.

    Example:
        >>> from interp.bridges import push_export
        >>> recipe = interp.Recipe([("writers", interp.Project(torch.eye(model.d_model)[:1]))])
        >>> certificate = interp.export(recipe, model, tmp / "edited")
        >>> "config.json" in push_export(tmp / "edited", "me/edited", dry_run=True).files
        True
    """
    path = Path(folder)
    manifest = ExportManifest.at(path)
    manifest.check_files(path)
    if not (path / CERTIFICATE).is_file():
        raise InterpError(f"{path}: has no certificate, so it is not sent; export it without streaming")
    if unmet := Certificate.read(path / CERTIFICATE).unmet:
        raise InterpError(f"{path}: its certificate does not hold ({'; '.join(unmet)}), so it is not sent")
    files = {str(file.relative_to(path)): file.stat().st_size for file in path.rglob("*") if file.is_file()}
    source = manifest.source or ""
    place = source if Path(source).is_absolute() else ""
    pushed = PushedExport(repo, tuple(sorted(files)), sum(files.values()), place)
    if dry_run:
        return pushed
    message = f"interp export of recipe {manifest.recipe[:12]}, {manifest.status}"
    return replace(pushed, url=_commit(path, pushed, message, overwrite))


def _commit(path: Path, pushed: PushedExport, message: str, overwrite: bool) -> str:
    """Make the repository if need be, and one commit of the files; returns the commit's page."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    with _refusals(pushed.repo):
        api: Any = HfApi()
        api.create_repo(pushed.repo, private=True, exist_ok=True)
        before = api.model_info(pushed.repo)
        held = {file.rfilename for file in before.siblings} - {".gitattributes"}
        if held - {CARD} and not (overwrite and MANIFEST in held):
            remedy = "overwrite=True replaces it" if MANIFEST in held else "choose another, since no export is in it"
            raise InterpError(f"{pushed.repo}: holds {len(held)} files already; {remedy}")
        # Not upload_folder, which may make several commits. The parent keeps another writer's commit from being lost.
        added = [CommitOperationAdd(name, path / name) for name in pushed.files]
        gone = [CommitOperationDelete(name) for name in sorted(held - {*pushed.files})]
        sent = api.create_commit(pushed.repo, [*added, *gone], commit_message=message, parent_commit=before.sha)
    return str(sent.commit_url)


@contextmanager
def _refusals(repo: str) -> Iterator[None]:
    """The Hub's errors in one line, with what to do."""
    try:
        yield
    except InterpError:
        raise
    except Exception as problem:  # huggingface_hub raises errors of many types, and its HTTP client others
        response = getattr(problem, "response", None)
        status = getattr(response, "status_code", None)
        if status is None:
            reason = f"{type(problem).__name__}: {first_line(problem)}"
            state = "the repository is as it was, or has the whole commit"
            raise InterpError(f"{repo}: the Hub can't be reached ({reason}); {state}: look, and try again") from None
        wait = f" in {response.headers['Retry-After']} s" if response and "Retry-After" in response.headers else ""
        remedy = _REMEDIES.get(status, first_line(problem))
        raise InterpError(f"{repo}: the Hub refused (HTTP {status}): {remedy}{wait}; no file was changed") from None
