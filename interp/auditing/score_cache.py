"""Cache: scores that were measured once, kept in a folder by what they depend on.

A file holds the scores of one behaviour under one condition. Its name is the SHA-256 of the weights' digest and type,
the settings' digest (config, tokenizer, chat template), the recipe's digest, the instruction, the behaviour's digest,
and interp's version. Files appear whole or not at all, so an audit that was killed goes on with the next behaviour, and
the unedited model is measured once for all its edits.

What it does not know: whether another device or version of torch would round otherwise; use another folder there.
Replies of secret behaviours are not kept.
"""

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from interp.auditing.behaviours import Behaviour, Scores
from interp.auditing.conditions import ModelCondition
from interp.core.errors import InterpError
from interp.core.files import read_json, sha256_json, write_json

FORMAT = 1


class ScoreCache:
    """Scores in a folder, or in memory where there is none."""

    def __init__(self, folder: str | Path | None = None):
        self.folder = None if folder is None else Path(folder)
        self._kept: dict[str, Scores] = {}

    def get(self, condition: ModelCondition, behaviour: Behaviour) -> Scores | None:
        """What was measured, or None. Raises for a file that is not what was written."""
        key = self._key(condition, behaviour)
        name = sha256_json(key)
        if name not in self._kept and self.folder is not None and (self.folder / f"{name}.json").is_file():
            self._kept[name] = _read(self.folder / f"{name}.json", key, len(behaviour))
        return self._kept.get(name)

    def put(self, condition: ModelCondition, behaviour: Behaviour, scores: Scores) -> Scores:
        """Keep what was measured; gives what is kept of it. Where scores are missing the folder gets none."""
        key = self._key(condition, behaviour)
        kept = replace(scores, replies=()) if behaviour.secret else scores
        # A judge that failed may be up when the audit is run again: only then is an item measured anew.
        if self.folder is not None and not scores.missing:
            _write(self.folder, sha256_json(key), key, kept)
        self._kept[sha256_json(key)] = kept
        return kept

    def scores(self, condition: ModelCondition, behaviour: Behaviour) -> Scores:
        """What is kept, or measured now."""
        found = self.get(condition, behaviour)
        return self.put(condition, behaviour, condition.scores(behaviour)) if found is None else found

    def _key(self, condition: ModelCondition, behaviour: Behaviour) -> dict[str, str]:
        return condition.key | {"behaviour": behaviour.digest, "interp": version("interp")}


def _write(folder: Path, name: str, key: dict[str, str], scores: Scores) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InterpError(f"{folder}: cannot be written ({problem.strerror}); choose another cache") from None
    content = {"format": FORMAT, "key": key, "values": list(scores.values), "replies": list(scores.replies)}
    write_json(folder / f"{name}.json", content | {"sha256": sha256_json(content)})


def _read(file: Path, key: dict[str, str], items: int) -> Scores:
    content = read_json(file)
    stated = content.pop("sha256", None) if isinstance(content, dict) else None
    if stated is None or stated != sha256_json(content) or content["key"] != key or len(content["values"]) != items:
        raise InterpError(f"{file}: not the scores that were kept there; remove it, and they are measured again")
    return Scores(tuple(map(float, content["values"])), tuple(content["replies"]))
