"""A ledger: an append-only file of dated audits of a series of checkpoints, one line of JSON each.

A line has its number, the time (UTC, by the clock of the machine that wrote it), the audit, the digest of the line
before, and its own digest. So a line that was changed, removed or put in between is found. The first line also decides
for the whole series: shape and tokenizer of the models, the suite with its items, and the margin of the alarm.

Two processes may append at the same time: each measures by itself, and takes a lock to read the file again and to write
its line, which is flushed to the disk. A process that is killed while it writes leaves a line without an end. It does
not count, and the next append removes it.

Limitations: whoever can write the file can replace all of it. Keep a copy of its last digest where others can't write.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from errno import ENOSPC
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from interp.auditing.auditor import Audit, audit, suite_digest
from interp.auditing.behaviours import Behaviour
from interp.auditing.conditions import ScoreCache
from interp.core.display import Card, Displayed
from interp.core.errors import InterpError, first_line, note
from interp.core.files import fsync, sha256_json
from interp.core.inputs import parse_object, require_regular
from interp.models.hooked import HookedModel
from interp.models.identity import tokenizer_digest
from interp.upkeep.drift.drift_alarm import SeriesTrend, assess_series


def now() -> str:
    """The time in UTC by the clock of this machine, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class LedgerEntry(Displayed):
    """A line of a ledger.

    Attributes:
        number: From 0, the reference.
        time: When it was written, in UTC.
        series: What all models of the series share: architecture, width, layers, tokenizer, suite, seed and margin.
        audit: The audit of one model, without an edit.
        previous: SHA-256 of the entry before; empty for the first.
    """

    number: int
    time: str
    series: dict[str, Any]
    audit: Audit
    previous: str

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the digest of the content."""
        values = {"number": self.number, "time": self.time, "series": self.series, "previous": self.previous}
        values |= {"audit": {name: x for name, x in self.audit.to_json().items() if name != "format"}}
        return values | {"sha256": sha256_json(values)}

    def _card(self) -> Card:
        means = [(row.name, str(row.before)) for row in self.audit.rows]
        return f"{self.number}: {self.audit.before.name}", [("time", self.time), *means]


_ENTRY = TypeAdapter(LedgerEntry)


@dataclass(frozen=True)
class AuditLedger(Displayed):
    """An append-only ledger of audits of a series of checkpoints.

    Args:
        file: The file, which the first `append` makes.

    Example:
        >>> from interp.auditing import text_loss
        >>> from interp.upkeep import AuditLedger
        >>> loss = text_loss("loss", ["The mill is by the river.", "Rain fell all day."])
        >>> ledger = AuditLedger(tmp / "ledger.jsonl")
        >>> ledger.append(model, [loss]).number, len(ledger.entries()), ledger.trends()[0].alarm
        (0, 1, None)
    """

    file: Path | str

    def entries(self) -> list[LedgerEntry]:
        """The entries; a line that a kill left without an end does not count.

        Raises:
            InterpError: There is no such file, or a line was changed, removed or put in between.
        """
        require_regular(self.file)
        try:
            return self._parsed(Path(self.file).read_bytes())
        except OSError as problem:
            raise self._error(problem) from None

    def trends(self) -> tuple[SeriesTrend, ...]:
        """Each behaviour over the series, and which audit raised an alarm. Raises as `entries`, and without entries."""
        if not (entries := self.entries()):
            raise InterpError(f"{self.file} has no entries; append the audit of a model (interp watch)")
        return assess_series([entry.audit for entry in entries], entries[0].series["margin"])

    def append(
        self,
        model: HookedModel,
        behaviours: Sequence[Behaviour],
        margin: float = 0.05,
        seed: int = 0,
        cache: ScoreCache | str | Path | None = None,
    ) -> LedgerEntry:
        """Audit a model, and add the audit at the end; a model that the last entry is of already is not added again.

        Args:
            model: The next checkpoint.
            behaviours: The suite, the same for the whole series.
            margin: Change of a behaviour that raises no alarm, the same for the whole series.
            seed: Seed of the intervals.
            cache: A folder (or `ScoreCache`) of earlier scores, which are reused.

        Raises:
            InterpError: The file is a damaged ledger, or one of another series; the clock is before the last entry.
        """
        reference = model.identity
        series = {
            "architecture": reference.model_type, "width": reference.d_model, "layers": reference.n_layers,
            "tokenizer": tokenizer_digest(model.tokenizer), "suite": suite_digest(behaviours), "seed": seed,
            "margin": margin,
        }  # fmt: skip
        if Path(self.file).exists():
            self._require_series(self.entries(), series)  # before the work
        record = audit(model, None, behaviours, 0, seed, baselines=[], cache=cache)
        with self._locked() as descriptor:
            text = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
            entries = self._parsed(text)
            self._require_series(entries, series)
            last = entries[-1] if entries else None
            if last and last.audit.before == record.before:
                note(f"{self.file}: its last entry is of {record.before.name} already; nothing is added")
                return last
            if last and now() < last.time:
                raise InterpError(f"{self.file}: its last entry is of {last.time}, after now ({now()}); set the clock")
            previous = last.to_json()["sha256"] if last else ""
            entry = LedgerEntry(len(entries), now(), series, record, previous)
            self._write(descriptor, text.rfind(b"\n") + 1, json.dumps(entry.to_json(), sort_keys=True).encode() + b"\n")
        return entry

    def _write(self, descriptor: int, end: int, line: bytes) -> None:
        """Put a line where the last whole one ends, on the disk; nothing of it is left where that fails."""
        os.ftruncate(descriptor, end)
        try:
            if os.write(descriptor, line) < len(line):
                raise OSError(ENOSPC, os.strerror(ENOSPC))
            os.fsync(descriptor)
            fsync(Path(self.file).absolute().parent)  # the name of a new file
        except OSError as problem:
            os.ftruncate(descriptor, end)
            raise self._error(problem) from None

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The file, made where it is missing, under a lock that the system releases however the process ends."""
        require_regular(self.file)
        try:
            descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as problem:
            raise self._error(problem) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    def _parsed(self, text: bytes) -> list[LedgerEntry]:
        entries, previous = list[LedgerEntry](), ""
        for number, line in enumerate(text.split(b"\n")[:-1]):
            place = f"{self.file}, line {number + 1}"
            values = parse_object(line.decode(errors="replace"), place)
            stated = values.pop("sha256", None)
            try:
                if stated != sha256_json(values) or (values["number"], values["previous"]) != (number, previous):
                    raise InterpError("it, or the line before, was changed or removed since it was written")
                entries.append(_ENTRY.validate_json(json.dumps(values)))
            except (LookupError, ValidationError, InterpError) as problem:
                raise InterpError(
                    f"{place}: not an entry ({first_line(problem)}); restore the file from a copy"
                ) from None
            previous = stated
        return entries

    def _require_series(self, entries: Sequence[LedgerEntry], series: dict[str, Any]) -> None:
        """Raise for a model, a suite or a margin that is not of the series."""
        for name, value in series.items() if entries else ():
            if (known := entries[0].series.get(name)) != value:
                begun = f"{self.file} is of another series: its {name} is {known}, here it is {value}"
                raise InterpError(
                    f"{begun}; use the same model family, suite, items, seed and margin, or another ledger"
                )

    def _error(self, problem: OSError) -> InterpError:
        return InterpError(f"{self.file}: cannot be used ({problem.strerror}); expected a ledger, or a name for one")
