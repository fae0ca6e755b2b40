"""Behaviours from a file that anyone writes: YAML that describes them, JSONL beside it that holds their items.

    behaviours:
      - name: capitals
        kind: capability
        statement: the right capital is the likeliest
        items: capitals.jsonl
        scorer: {type: choice, normalise: byte}

A row of JSONL is one item; what it holds depends on the scorer, and docs/howto/behaviours.md lists it. Whatever is
unknown, missing, empty or doubled is refused, by the file's name and the line.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import yaml

from interp.auditing.behaviours import Behaviour
from interp.auditing.scoring._behaviour_schema import SCORERS, Described, Scorer
from interp.core.config import Config, compose_yaml, construct_yaml
from interp.core.errors import InterpError, nearest
from interp.core.jsonl import numbered_lines, parse_object


def read_behaviours(path: str | Path, items: int | None = None, seed: int = 0) -> list[Behaviour]:
    """The behaviours of a YAML file, in its order. Raises for the first thing that is wrong, by file and line.

    With `items`, no more than that of each, drawn by a seed, in the order of their file.
    """
    file = Path(path)
    behaviours: list[Behaviour] = []
    lines: dict[str, int] = {}
    for line, values in _described(file):
        where = f"{file}, line {line}"
        described = Described.parse(values, f"{where}, behaviour {values.get('name')!r}")
        if described.name in lines:
            raise InterpError(
                f"{where}: behaviour {described.name!r} is there already, on line {lines[described.name]}; give it "
                "another name"
            )
        lines[described.name] = line
        behaviours.append(_built(described, where, file.parent / described.items, items, seed))
    return behaviours


def _built(described: Described, where: str, items: Path, at_most: int | None, seed: int) -> Behaviour:
    where = f"{where}, behaviour {described.name!r}"
    kind = described.scorer.get("type")
    if not isinstance(kind, str) or kind not in SCORERS:
        raise InterpError(f"{where}: unknown type of scorer {kind!r}; {nearest(str(kind), SCORERS)}")
    scorer = SCORERS[kind].parse(described.scorer, f"{where}, scorer {kind}")
    rows = _rows(items, scorer, described.name)
    if at_most is not None and at_most < len(rows):
        rows = [rows[number] for number in sorted(Random(seed).sample(range(len(rows)), at_most))]
    groups = [row.group for row in rows]
    if any(groups) and not all(groups):
        raise InterpError(f"{items}: {groups.count(None)} of {len(groups)} items have no group; give all one, or none")
    fields: dict[str, Any] = {"language": described.language, "scenario": described.scenario}
    fields |= {"groups": tuple(groups)} if all(groups) else {}
    fields |= {} if described.secret is None else {"secret": described.secret}
    try:
        return scorer.behaviour(described.name, described.kind, described.statement, rows, **fields)
    except InterpError as problem:
        raise InterpError(f"{where}: {problem}") from None


def _rows(file: Path, scorer: Scorer, name: str) -> list[Any]:
    """Items as the scorer takes them. Items that ask the same are refused."""
    rows: list[Config] = []
    seen: dict[str, str] = {}
    for place, line in numbered_lines(file, f"items of {name!r} in JSONL"):
        where = f"{place}, item of {name!r}"
        values = parse_object(line, where, unique=True)
        _require_text(values, where)
        row = scorer.row.parse(values, where)
        asks = json.dumps(row.model_dump(include={"prompt", "before", "first", "second", "text"}), sort_keys=True)
        if seen.setdefault(asks, place) != place:
            raise InterpError(f"{where}: it asks what {seen[asks].rpartition(', ')[2]} asks; leave one out")
        rows.append(row)
    if not rows:
        raise InterpError(f"{file}: {name!r} has no items; expected at least one line")
    return rows


def _require_text(values: Any, where: str) -> None:
    """Half of a surrogate pair is no text: no tokenizer takes it, nor does any digest."""
    try:
        json.dumps(values, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        pass
    else:
        return
    raise InterpError(f"{where}: it holds half of a surrogate pair, which is no text; write the whole character")


def _described(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each entry with its line."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as problem:
        raise InterpError(f"{file}: cannot be read ({problem.strerror}); give the path of a YAML file") from None
    except UnicodeDecodeError as problem:
        raise InterpError(f"{file}: not valid YAML: {problem}") from None
    node = compose_yaml(text, str(file))
    entries = node.value if isinstance(node, yaml.MappingNode) else []
    for key, _ in entries:
        if key.value != "behaviours":
            line = key.start_mark.line + 1
            raise InterpError(f"{file}, line {line}: unknown key {key.value!r}; the only one is behaviours")
    listed = entries[0][1] if len(entries) == 1 else None
    if not isinstance(listed, yaml.SequenceNode) or not listed.value:
        raise InterpError(f"{file}: expected a list under behaviours, of at least one")
    for one in listed.value:
        line = one.start_mark.line + 1
        if not isinstance(one, yaml.MappingNode):
            raise InterpError(f"{file}, line {line}: a behaviour is a mapping of keys; got {one.value!r}")
        values = construct_yaml(one, f"{file}, line {line}")
        _require_text(values, f"{file}, line {line}")
        yield line, values
