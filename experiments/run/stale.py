"""Which runs are stale: made by code that has changed since, and where it did.

A record has the hash of every class that its run plugged in, and of the code that every run passes
through (``experiments.run.code``). They are compared with the files on disk; nothing is imported.
Records of versions that recorded no code are never stale: they are not checked.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from core.source.changes import described
from core.store.code import EVERY_RUN, RunCode, class_names, differences, read_code
from core.store.names import STALE_SUFFIX
from core.store.record import RunRecord, count_set_aside
from experiments.run.code import HOME, PACKAGES, add_plugin, called_by, is_own, source_tree
from experiments.run.known_hashes import KnownHashes, hashes_file, read_all

GONE = ""


class CodeCheck:
    """Compares records with the source code on disk, each file as it is when it is first read.

    Runs with the same recorded code are compared once.
    """

    def __init__(self) -> None:
        self._tree = source_tree()
        self._known = KnownHashes(hashes_file(), read_all(self._tree, PACKAGES))
        self._now: dict[str, str | None] = {}
        self._found: dict[frozenset[tuple[str, str]], str] = {}

    def changes(self, record: RunRecord, run_dir: Path) -> str:
        """The definitions that changed since the run, by file; "" where none did, or where that
        cannot be checked.
        """
        recorded = frozenset(record.code.items())
        if recorded not in self._found:
            self._found[recorded] = self._compared(record, run_dir) if recorded else ""
        return self._found[recorded]

    def stale(self, study_dir: Path, records: Mapping[str, RunRecord]) -> dict[str, str]:
        """The stale ones among the records of a study, and what has changed since each."""
        found = {key: self.changes(r, study_dir / key) for key, r in records.items()}
        return {key: change for key, change in found.items() if change}

    def _compared(self, record: RunRecord, run_dir: Path) -> str:
        code = None
        with suppress(ValueError):  # a damaged file explains nothing, the record decides
            code = read_code(run_dir)
        now = {key: self._hash(key, code) for key in record.code}
        self._known.save()
        changed = [key for key, was in record.code.items() if now[key] not in (None, was)]
        if not changed:
            return ""
        if gone := [key.partition(":")[2] for key in changed if now[key] == GONE]:
            return f"there is no {' and no '.join(gone)} any more"
        before = code.files if code is not None and code.classes == record.code else {}
        after = called_by(self._tree, record.code).listing() if before else {}
        where = described(differences(before, after), HOME)
        if where:
            return where
        return f"the code of {class_names(changed)}"

    def _hash(self, key: str, code: RunCode | None) -> str | None:
        """The hash of a class now, ``GONE``, or None where its plug-in cannot be found."""
        if key not in self._now:
            self._now[key] = self._read(key, code)
        return self._now[key]

    def _read(self, key: str, code: RunCode | None) -> str | None:
        module = key.partition(":")[0]
        own = key == EVERY_RUN or is_own(module)
        if not own and not add_plugin(self._tree, module, code.plugins if code else {}):
            return None
        kept = None if self._tree.places else self._known.get(key)
        return self._computed(key) if kept is None else kept

    def _computed(self, key: str) -> str:
        found = called_by(self._tree, [key])
        value = found.hash if found.hashes else GONE
        if not self._tree.places:  # a plug-in that was added could be read by the project's code
            self._known.add(key, value)
        return value


def counted(changes: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Each change, and how many runs it makes stale."""
    for change, number in Counter(changes).items():
        yield number, change


def stale_line(number: int, change: str, *, planned: bool = True) -> str:
    """What has changed since some runs. The next call makes those of a plan again; without a plan
    nobody knows whether the cells are still those of the grid, whose defaults may have changed too.
    """
    reason = f"because the code changed: {change}"
    if planned:
        return f"{runs_of(number)} stale, to be made again, {reason}"
    return f"{runs_of(number)} stale, {reason}; grid makes them again, unless settings changed too"


def runs_of(number: int) -> str:
    """``1 run`` or ``2 runs``."""
    return "1 run" if number == 1 else f"{number} runs"


def num_set_aside(study_dir: Path) -> int:
    """How many records of stale runs are kept beside those that replaced them."""
    return count_set_aside(study_dir, STALE_SUFFIX)
