"""The ledger, the truth of a search: what the sampler was asked and told, in order.

Events are written and synced before anything is done about them. A line holds those that belong
together, a round's proposals or its outcomes, and is there as a whole or not at all: it is a CRC-32
and a JSON list. A torn end, as a killed process or a full disk leaves it, is cut off and kept
in a file beside it.
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
    """A trial ended: its objectives, the first objective of each run made, and what went wrong."""

    trial: int
    state: TrialState
    values: tuple[float, ...] = ()
    parts: tuple[float, ...] = ()
    message: str = ""


LedgerEvent = Asked | Told
KINDS: Mapping[type, str] = {Asked: "ask", Told: "tell"}


class Ledger:
    """The ledger of one search; only the holder of the study's lock may open it.

    ``num_lost`` says how many lines of a torn end were cut off.

    Raises ValueError for a line that is damaged although good ones follow it.
    """

    def __init__(self, search_dir: Path) -> None:
        self.path = search_dir / LEDGER_NAME
        data = self.path.read_bytes() if self.path.exists() else b""
        self.events, good, self.num_lost = _read(data, self.path)
        if good < len(data):
            write_atomic(self.path.with_name(f"{LEDGER_NAME}{DAMAGED_SUFFIX}"), data)
            os.truncate(self.path, good)

    def append(self, events: Iterable[LedgerEvent]) -> None:
        """Write events that belong together, and wait until they are on the disk."""
        new = list(events)
        if not new:
            return
        with self.path.open("ab") as file:
            file.write(_line(new))
            file.flush()
            os.fsync(file.fileno())
        self.events += new


def read_events(search_dir: Path) -> list[LedgerEvent]:
    """The events of a search that others may be working on."""
    path = search_dir / LEDGER_NAME
    return _read(path.read_bytes(), path)[0] if path.exists() else []


def asked_trials(events: Iterable[LedgerEvent]) -> dict[int, Asked]:
    """The proposals, by number of the trial."""
    return {event.trial: event for event in events if isinstance(event, Asked)}


def told_trials(events: Iterable[LedgerEvent]) -> dict[int, Told]:
    """The outcomes, by number of the trial."""
    return {event.trial: event for event in events if isinstance(event, Told)}


def best_trial(outcomes: Iterable[Told]) -> Told | None:
    """The complete trial with the best first objective, the earliest of equals."""
    complete = [told for told in outcomes if told.state == "complete"]
    return max(complete, key=lambda told: (told.values[0], -told.trial), default=None)


def _line(events: Sequence[LedgerEvent]) -> bytes:
    rows = [{"event": KINDS[type(event)], **asdict(event)} for event in events]
    text = json.dumps(rows, allow_nan=False, separators=(",", ":")).encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


def _read(data: bytes, path: Path) -> tuple[list[LedgerEvent], int, int]:
    """Events, the length of what is good, and the number of lines of the torn end."""
    lines = data.splitlines(keepends=True)
    parsed = [_parse(line) for line in lines]
    good = parsed.index(None) if None in parsed else len(parsed)
    if any(parsed[good:]):
        raise ValueError(
            f"{path}:{good + 1}: the line is damaged and good ones follow: restore the file, or "
            "search under another name"
        )
    events = [event for line in parsed[:good] if line for event in line]
    return events, sum(map(len, lines[:good])), len(lines) - good


def _parse(line: bytes) -> list[LedgerEvent] | None:
    """The events of a line, None for a torn or changed one."""
    crc, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or crc != b"%08x" % zlib.crc32(text):
        return None
    return [_event(raw) for raw in json.loads(text)]


def _event(raw: dict[str, Any]) -> LedgerEvent:
    kind = raw.pop("event")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
    return Asked(**values) if kind == KINDS[Asked] else Told(**values)
