"""The ledger, the authoritative record of a search: proposals and outcomes, in order.

Events are written and synced before they are acted on. A line holds events that belong together,
the proposals or the outcomes of a round, and is either complete or absent: it consists of a CRC-32
and a JSON list. A torn end, left by a killed process or a full disk, is part of one line; it is cut
off and kept in a file beside the ledger. Any other damage is refused, because later trials depend
on what is lost, and so is any loss once the winner was evaluated on test images.
"""

import errno
import json
import os
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.store.atomic import keep_copy
from core.store.names import LEDGER_NAME
from core.store.search import TrialState, has_result, read_trials


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
LINE_START = re.compile(rb"[0-9a-f]{0,8}\0*$|[0-9a-f]{8} \[?\0*$")
KINDS: Mapping[type, str] = {Asked: "ask", Told: "tell"}


class Ledger:
    """The ledger of one search; only the holder of the study's lock may open it.

    ``num_lost`` is the number of lines cut off from a torn end, 0 or 1, and ``kept`` their copy.

    Raises ValueError for a damaged line, and for a loss in a search whose winner was evaluated.
    """

    def __init__(self, search_dir: Path) -> None:
        self.path = search_dir / LEDGER_NAME
        data = self.path.read_bytes() if self.path.exists() else b""
        self.events, good, self.num_lost = _read(data, self.path)
        _refuse_loss(self.events, self.num_lost, search_dir)
        self.kept: Path | None = None
        if good < len(data):
            self.kept = keep_copy(self.path)
            os.truncate(self.path, good)

    def append(self, events: Iterable[LedgerEvent]) -> None:
        """Write events that belong together, and wait until they are on disk.

        Raises OSError where that fails; what was written of them is cut off again.
        """
        new = list(events)
        if not new:
            return
        before = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("ab", buffering=0) as file:
                line = _line(new)
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
                os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                os.truncate(self.path, before)
            raise
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
    """The events, the length of the intact part, and the number of lines in the torn end.

    A torn end is the last line without its line break. Raises ValueError for any other damage.
    """
    lines = data.splitlines(keepends=True)
    parsed = [_parse(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]
    good = parsed.index(None) if None in parsed else len(parsed)
    if good < len(lines) - 1 or (good == len(lines) - 1 and not _is_torn(lines[good])):
        raise ValueError(
            f"{path}:{good + 1}: the line is damaged: restore the file, or search under another "
            "name"
        )
    events = [event for line in parsed[:good] if line for event in line]
    return events, sum(map(len, lines[:good])), len(lines) - good


def _is_torn(line: bytes) -> bool:
    """Whether a line can be the first part of one: it begins as one does, and does not end.

    A file system may also have left zeros where it had no time to write.
    """
    start = line.rstrip(b"\0")
    return not line.endswith(b"\n") and LINE_START.match(start[:10].ljust(10, b"\0")) is not None


def _parse(line: bytes, where: str) -> list[LedgerEvent] | None:
    """The events of a line; None for a torn or modified one."""
    crc, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or crc != b"%08x" % zlib.crc32(text):
        return None
    try:
        return [_event(raw) for raw in json.loads(text)]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{where}: the line is intact, but this version cannot read it ({error}); use the "
            "version of RefineLab that wrote it"
        ) from None


def _event(raw: dict[str, Any]) -> LedgerEvent:
    kind = raw.pop("event")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
    classes = {name: cls for cls, name in KINDS.items()}
    event: LedgerEvent = classes[kind](**values)
    return event


def _refuse_loss(events: Sequence[LedgerEvent], num_lost: int, search_dir: Path) -> None:
    """Raise ValueError where trials of a search are lost whose winner was chosen for good: those
    that the table of trials, written after the ledger, has beyond it.
    """
    if not has_result(search_dir):
        return  # the trials are asked for again, and their runs are there
    try:
        shown = [trial.number for trial in read_trials(search_dir)]
    except ValueError:
        shown = []
    missing = sorted(set(shown) - told_trials(events).keys())
    if missing or num_lost or not events:
        raise ValueError(
            f"{search_dir / LEDGER_NAME} is damaged: it has lost what the winner was chosen from "
            f"({_counted(missing, num_lost)}); restore the file, or search under another name; "
            "nothing was changed"
        )


def _counted(missing: Sequence[int], num_lost: int) -> str:
    if missing:
        return f"the outcome of trial {missing[0]}" + (
            f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        )
    return f"{num_lost} line at its end" if num_lost else "all lines"
