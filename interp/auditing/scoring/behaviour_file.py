"""Behaviour files: YAML that describes behaviours, and JSONL next to it that holds their items.

    behaviours:
      - name: capitals
        kind: capability
        statement: the right capital is the likeliest
        items: capitals.jsonl
        scorer: {type: choice, normalise: acc_norm}

A row of JSONL is one item; its keys depend on the scorer, and docs/howto/own_harm.md lists them. `items` may be a list
of rows in place of a file. Unknown keys, missing ones, empty texts and duplicates are refused, by file and line.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Annotated, Any

import yaml
from pydantic import Field, model_validator

from interp.auditing.behaviours import Behaviour, Kind
from interp.auditing.scoring._behaviour_schema import SCORERS, ItemRow, Judged, NonemptyText, Scorer
from interp.core.config import Config, compose_yaml, construct_yaml, inner
from interp.core.display import displayed
from interp.core.errors import InterpError, located, nearest
from interp.core.inputs import bounded_text, numbered_lines, parse_object

_File = Annotated[str, Field(min_length=1)]
_Rows = Annotated[tuple[dict[str, Any], ...], Field(strict=False)]


class DescribedBehaviour(Config):
    """A behaviour as a file describes it."""

    name: NonemptyText = Field(description="name of the behaviour, unique in the file")
    kind: Kind = Field(description="harm, protected or capability")
    statement: str = Field(min_length=1, description="what a higher score means, in one line")
    items: _File | _Rows = Field(description="JSONL of the items, its path relative to this file, or a list of rows")
    scorer: dict[str, Any] = Field(description="type of the scorer, and its settings")
    language: str = Field("en", description="language of the prompts")
    scenario: str = Field("", description="heading under which the behaviour is listed")
    secret: bool | None = Field(None, description="replies may be harmful or offensive: never store nor print them")

    @model_validator(mode="after")
    def _known_keys(self) -> "DescribedBehaviour":
        row_class = self.read_scorer().row_class
        for number, row in enumerate(self.items if isinstance(self.items, tuple) else ()):
            with inner("items", number):
                row_class.parse(row, "")
        return self

    def read_scorer(self) -> Scorer:
        """How it is scored. Raises for an unknown type or setting."""
        with inner("scorer"):
            kind = self.scorer.get("type")
            if not isinstance(kind, str) or kind not in SCORERS:
                raise InterpError(f"unknown type of scorer {kind!r}; {nearest(str(kind), SCORERS)}")
            return SCORERS[kind].parse(self.scorer, "")

    def build(
        self, folder: Path, place: str, items: int | None = None, seed: int = 0, keys: Mapping[str, str] | None = None
    ) -> Behaviour:
        """The behaviour, with at most so many items; errors begin with a place. See `read_behaviours`."""
        with located(place):
            scorer = self.read_scorer()
            scorer = scorer.with_key(keys or {}) if isinstance(scorer, Judged) else scorer
        rows = _parsed(self._rows(folder, place), scorer, f"item of {self.name!r}")
        if not rows:
            raise InterpError(f"{place}: {self.name!r} has no items; expected at least one")
        if items is not None and items < len(rows):
            rows = [rows[number] for number in sorted(Random(seed).sample(range(len(rows)), items))]
        languages = dict.fromkeys(language for row in rows for language in row.translations)
        stated = {x: [row.translated(x) for row in rows if x in row.translations] for x in languages}
        behaviour = self._scored(scorer, rows, place)
        translated = {x: replace(self._scored(scorer, stated[x], place), language=x) for x in languages}
        return replace(behaviour, translated=translated)

    def _scored(self, scorer: Scorer, rows: Sequence[Any], place: str) -> Behaviour:
        groups = [row.group for row in rows]
        if any(groups) and not all(groups):
            none = f"{groups.count(None)} of {len(groups)} items have no group"
            raise InterpError(f"{place}: {none}; give all one, or none")
        fields = self.model_dump(exclude={"items", "scorer"}, exclude_none=True)
        fields |= {"groups": tuple(groups)} if all(groups) else {}
        with located(place):
            return scorer.behaviour(rows, **fields)

    def _rows(self, folder: Path, place: str) -> Iterator[tuple[str, Any]]:
        """Each row, or its text, and where it is."""
        if isinstance(self.items, str):
            return numbered_lines(folder / self.items, f"items of {self.name!r} in JSONL")
        return ((f"{place}, row {number}", row) for number, row in enumerate(self.items))


def read_behaviours(
    path: str | Path, items: int | None = None, seed: int = 0, judge_keys: Mapping[str, str] | None = None
) -> list[Behaviour]:
    """The behaviours of a YAML file, in the order of the file.

    Args:
        path: The YAML file; paths of items are relative to it.
        items: Largest number of items per behaviour. More are sampled down, and keep their order. Default: all.
        seed: Seed of the sample.
        judge_keys: For judges that need a key: the environment variable that holds it, by the host (and port) of their
            endpoint. A file names no key.

    Raises:
        InterpError: The first thing that is wrong, with file and line; or a key's host is that of no judge.

    Example:
        >>> from interp.auditing import read_behaviours
        >>> _ = (tmp / "texts.jsonl").write_text('{"text": "The mill is by the river."}')
        >>> entry = "name: loss, kind: capability, statement: s, items: texts.jsonl, scorer: {type: loss}"
        >>> _ = (tmp / "own.yaml").write_text(f"behaviours: [{{{entry}}}]")
        >>> [behaviour.name for behaviour in read_behaviours(tmp / "own.yaml")]
        ['loss']
    """
    file = Path(path)
    behaviours: list[Behaviour] = []
    lines: dict[str, int] = {}
    keys = {host.lower(): variable for host, variable in (judge_keys or {}).items()}
    hosts: set[str] = set()
    for line, values in _entries(file):
        place = f"{file}, line {line}"
        described = DescribedBehaviour.parse(values, f"{place}, behaviour {values.get('name')!r}")
        name, scorer = described.name, described.read_scorer()
        if name in lines:
            raise InterpError(f"{place}: behaviour {name!r} is already on line {lines[name]}; give it another name")
        lines[name] = line
        hosts |= {scorer.host} if isinstance(scorer, Judged) else set()
        behaviours.append(described.build(file.parent, f"{place}, behaviour {name!r}", items, seed, keys))
    if unused := keys.keys() - hosts:
        known = ", ".join(sorted(hosts)) or "no host"
        raise InterpError(f"{file} has judges at {known}, but a key is given for {min(unused)}; correct the host")
    return displayed(behaviours)


def _parsed(rows: Iterable[tuple[str, Any]], scorer: Scorer, noun: str) -> list[Any]:
    """The items, as rows of the scorer. Raises for two items that ask the same."""
    items: list[ItemRow] = []
    seen: dict[str, str] = {}
    for place, given in rows:
        where = f"{place}, {noun}"
        values = parse_object(given, where) if isinstance(given, str) else given
        _require_text(values, where)
        row = scorer.row_class.parse(values, where)
        question = json.dumps(row.model_dump(include={"prompt", "before", "first", "second", "text"}), sort_keys=True)
        if seen.setdefault(question, place) != place:
            raise InterpError(f"{where}: the same as {seen[question].rpartition(', ')[2]}; remove one of them")
        items.append(row)
    return items


def _require_text(values: Any, place: str) -> None:
    """Raise for half of a surrogate pair, which neither tokenizers nor digests accept."""
    try:
        json.dumps(values, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        raise InterpError(f"{place}: it holds half of a surrogate pair; write the whole character") from None


def _entries(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each entry of the file with its line."""
    node = compose_yaml(bounded_text(file, "YAML", "yaml"), str(file))
    keys = node.value if isinstance(node, yaml.MappingNode) else []
    for key, _ in keys:
        if key.value != "behaviours":
            line = key.start_mark.line + 1
            raise InterpError(f"{file}, line {line}: unknown key {key.value!r}; the only key is behaviours")
    entries = keys[0][1] if len(keys) == 1 else None
    if not isinstance(entries, yaml.SequenceNode) or not entries.value:
        raise InterpError(f"{file}: expected a list under behaviours, with at least one entry")
    for entry in entries.value:
        line = entry.start_mark.line + 1
        if not isinstance(entry, yaml.MappingNode):
            raise InterpError(f"{file}, line {line}: a behaviour is a mapping of keys; got {entry.value!r}")
        values = construct_yaml(entry, f"{file}, line {line}")
        _require_text(values, f"{file}, line {line}")
        yield line, values
