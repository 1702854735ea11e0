"""The ledger, the authoritative record of a search: proposals and outcomes, in order.

Events are written and synced before they are acted on. A line holds events that belong together,
the proposals or the outcomes of a round, and is either complete or absent: it consists of a CRC-32
and a JSON list. A torn end, left by a killed process or a full disk, is cut off and kept in a file
beside the ledger.
"""

import json
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.store.atomic import write_atomic
from core.store.names import DAMAGED_SUFFIX, LEDGER_NAME
from core.store.search import TrialState


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A trial was proposed: its settings as text, and the runs that it will need."""

    trial: int
    params: Mapping[str, str]
    runs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A trial ended: its objectives, the first objective of each of its runs, and any problem."""

    trial: int
    state: TrialState
    values: tuple[float, ...] = ()
    parts: tuple[float, ...] = ()
    message: str = ""


LedgerEvent = Asked | Told
KINDS: Mapping[type, str] = {Asked: "ask", Told: "tell"}


class Ledger:
    """The ledger of one search; only the holder of the study's lock may open it.

    ``num_lost`` is the number of lines cut off from a torn end.

    Raises ValueError for a damaged line that is followed by intact ones.
    """

    def __init__(self, search_dir: Path) -> None:
        self.path = search_dir / LEDGER_NAME
        data = self.path.read_bytes() if self.path.exists() else b""
        self.events, good, self.num_lost = _read(data, self.path)
        if good < len(data):
            write_atomic(self.path.with_name(f"{LEDGER_NAME}{DAMAGED_SUFFIX}"), data)
            os.truncate(self.path, good)

    def append(self, events: Iterable[LedgerEvent]) -> None:
        """Write events that belong together, and wait until they are on disk."""
        new = list(events)
        if not new:
            return
        with self.path.open("ab") as file:
            file.write(_line(new))
            file.flush()
            os.fsync(file.fileno())
        self.events += new


def read_events(search_dir: Path) -> list[LedgerEvent]:
    """The events of a search that another process may be working on."""
    path = search_dir / LEDGER_NAME
    return _read(path.read_bytes(), path)[0] if path.exists() else []


def asked_trials(events: Iterable[LedgerEvent]) -> dict[int, Asked]:
    """The proposals, by number of the trial."""
    return {event.trial: event for event in events if isinstance(event, Asked)}


def told_trials(events: Iterable[LedgerEvent]) -> dict[int, Told]:
    """The outcomes, by number of the trial."""
    return {event.trial: event for event in events if isinstance(event, Told)}


def best_trial(outcomes: Iterable[Told]) -> Told | None:
    """The complete trial with the best first objective; ties go to the earliest."""
    complete = [told for told in outcomes if told.state == "complete"]
    return max(complete, key=lambda told: (told.values[0], -told.trial), default=None)


def _line(events: Sequence[LedgerEvent]) -> bytes:
    rows = [{"event": KINDS[type(event)], **asdict(event)} for event in events]
    text = json.dumps(rows, allow_nan=False, separators=(",", ":")).encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


def _read(data: bytes, path: Path) -> tuple[list[LedgerEvent], int, int]:
    """The events, the length of the intact part, and the number of lines in the torn end."""
    lines = data.splitlines(keepends=True)
    parsed = [_parse(line) for line in lines]
    good = parsed.index(None) if None in parsed else len(parsed)
    if any(parsed[good:]):
        raise ValueError(
            f"{path}:{good + 1}: the line is damaged and intact ones follow: restore the file, or "
            "search under another name"
        )
    events = [event for line in parsed[:good] if line for event in line]
    return events, sum(map(len, lines[:good])), len(lines) - good


def _parse(line: bytes) -> list[LedgerEvent] | None:
    """The events of a line; None for a torn or modified one."""
    crc, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or crc != b"%08x" % zlib.crc32(text):
        return None
    return [_event(raw) for raw in json.loads(text)]


def _event(raw: dict[str, Any]) -> LedgerEvent:
    kind = raw.pop("event")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
    return Asked(**values) if kind == KINDS[Asked] else Told(**values)
