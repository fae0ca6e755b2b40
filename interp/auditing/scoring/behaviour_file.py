"""Behaviour files: YAML that describes behaviours, and JSONL next to it that holds their items.

    behaviours:
      - name: capitals
        kind: capability
        statement: the right capital is the likeliest
        items: capitals.jsonl
        scorer: {type: choice, normalise: acc_norm}

A row of JSONL is one item; its keys depend on the scorer, and docs/howto/own_harm.md lists them. Unknown keys,
missing ones, empty texts and duplicates are refused, by file and line.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import yaml

from interp.auditing.behaviours import Behaviour
from interp.auditing.scoring._behaviour_schema import SCORERS, DescribedBehaviour, ItemRow, Judged, Scorer
from interp.core.config import compose_yaml, construct_yaml
from interp.core.display import displayed
from interp.core.errors import InterpError, located, nearest
from interp.core.inputs import bounded_text, numbered_lines, parse_object


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
        name = described.name
        if name in lines:
            raise InterpError(f"{place}: behaviour {name!r} is already on line {lines[name]}; give it another name")
        lines[name] = line
        place = f"{place}, behaviour {name!r}"
        scorer = _scorer(described, place, keys)
        hosts |= {scorer.host} if isinstance(scorer, Judged) else set()
        behaviours.append(_behaviour(described, scorer, place, file.parent / described.items, items, seed))
    if unused := keys.keys() - hosts:
        known = ", ".join(sorted(hosts)) or "no host"
        raise InterpError(f"{file} has judges at {known}, but a key is given for {min(unused)}; correct the host")
    return displayed(behaviours)


def _scorer(described: DescribedBehaviour, place: str, keys: Mapping[str, str]) -> Scorer:
    kind = described.scorer.get("type")
    if not isinstance(kind, str) or kind not in SCORERS:
        raise InterpError(f"{place}: unknown type of scorer {kind!r}; {nearest(str(kind), SCORERS)}")
    scorer = SCORERS[kind].parse(described.scorer, f"{place}, scorer {kind}")
    with located(place):
        return scorer.with_key(keys) if isinstance(scorer, Judged) else scorer


def _behaviour(
    described: DescribedBehaviour, scorer: Scorer, place: str, items: Path, at_most: int | None, seed: int
) -> Behaviour:
    rows = _rows(items, scorer, described.name)
    if at_most is not None and at_most < len(rows):
        rows = [rows[number] for number in sorted(Random(seed).sample(range(len(rows)), at_most))]
    groups = [row.group for row in rows]
    if any(groups) and not all(groups):
        raise InterpError(f"{items}: {groups.count(None)} of {len(groups)} items have no group; give all one, or none")
    fields = described.model_dump(exclude={"items", "scorer"}, exclude_none=True)
    fields |= {"groups": tuple(groups)} if all(groups) else {}
    with located(place):
        return scorer.behaviour(rows, **fields)


def _rows(file: Path, scorer: Scorer, name: str) -> list[Any]:
    """The items, as rows of the scorer. Raises for two items that ask the same."""
    rows: list[ItemRow] = []
    seen: dict[str, str] = {}
    for place, line in numbered_lines(file, f"items of {name!r} in JSONL"):
        where = f"{place}, item of {name!r}"
        values = parse_object(line, where)
        _require_text(values, where)
        row = scorer.row_class.parse(values, where)
        question = json.dumps(row.model_dump(include={"prompt", "before", "first", "second", "text"}), sort_keys=True)
        if seen.setdefault(question, place) != place:
            raise InterpError(f"{where}: the same as {seen[question].rpartition(', ')[2]}; remove one of them")
        rows.append(row)
    if not rows:
        raise InterpError(f"{file}: {name!r} has no items; expected at least one line")
    return rows


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
