"""Claims of cells by the drivers that share a study folder.

The n-th claim of a cell is a file created exclusively, which names its driver. Where that driver is
gone, another one claims the cell by creating file n + 1: of several that try, one succeeds. A
driver that has finished a run must obtain the next claim as well before it commits. So a driver
that slept, and whose run another one has taken over meanwhile, cannot commit it.

Each claim has a run folder of its own. The run folder of the study appears by renaming it, whole,
which succeeds only where no other driver has done so: whatever happens, a run is written once. A
cell is settled where its last two claims, to run it and to commit it, are of one driver and the run
folder has left its place, even if the new record has the bytes of an old one.

::

    STUDY/.share/claims/KEY.N    claim N of a cell, or of the mirror
    STUDY/.share/runs/KEY.N/     the run folder of a claim while the run is in progress
    STUDY/.share/old/KEY.N/      a run folder that is being replaced
    STUDY/.share-ID/             all of this while the last driver removes it
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from core.store.names import RECORD_NAME, RERUN_SUFFIX, SHARE_FOLDER
from core.store.record import has_record
from experiments.study.members import Watch, create, listed, read

CLAIMS, RUNS, OLD = "claims", "runs", "old"
MIRROR = "mirror"


class Claims:
    """The claims of a study, as the driver ``member_id`` sees and makes them."""

    def __init__(self, study_dir: Path, member_id: str, watch: Watch) -> None:
        self.home = study_dir / SHARE_FOLDER
        self.member_id = member_id
        self.watch = watch
        self.latest: dict[str, int] = {}
        self.owners: dict[tuple[str, int], str] = {}
        self.confirmed: dict[str, int] = {}

    def look(self) -> None:
        """Read which claims there are and which drivers live. A list of files may be older than
        what this driver knows already.
        """
        for key, number in _numbered(self.home / CLAIMS):
            self.latest[key] = max(number, self.latest.get(key, 0))
        owners = {self.owner(key, number) for key, number in self.latest.items()}
        self.watch.look(frozenset(owners - {self.member_id}))

    def owner(self, key: str, number: int) -> str:
        """The driver of a claim; where the file does not say, a name that no driver has."""
        if (key, number) not in self.owners:
            text = read(self._file(key, number))
            if not text:
                return f"{key}.{number}"
            self.owners[key, number] = text
        return self.owners[key, number]

    def is_free(self, key: str) -> bool:
        """Whether no other driver who lives works on a cell."""
        if not (number := self.latest.get(key, 0)):
            return True
        owner = self.owner(key, number)
        left = owner == self.member_id or self.watch.is_gone(owner)
        return left or self.is_settled(key, number)

    def is_settled(self, key: str, number: int) -> bool:
        """Whether the owner of a claim of a cell has committed it, if that was the last claim."""
        if number < 2 or self.owner(key, number) != self.owner(key, number - 1):
            return False
        return not any(self.run_dir(key, n).exists() for n in (number - 1, number))

    def take(self, key: str) -> int | None:
        """Claim what is free; returns the number of the claim, None where another was faster."""
        number = self.latest.get(key, 0) + 1
        self.home.mkdir(exist_ok=True)
        try:
            (self.home / CLAIMS).mkdir(exist_ok=True)
            taken = create(self._file(key, number), self.member_id)
        except FileNotFoundError:  # all is done, and the folder was removed
            return None
        self.latest[key] = number
        self.confirmed.pop(key, None)
        return number if taken else None

    def holds(self, key: str, number: int) -> bool:
        """Whether a claim of this driver is there, and was the last one when it last looked."""
        last = self.confirmed.get(key, number)
        return self.latest.get(key, 0) <= last and read(self._file(key, last)) == self.member_id

    def give_up(self, key: str, number: int) -> bool:
        """Drop a claim and its run folder. False where its file is gone, and was not taken over:
        then what was known of the cell is forgotten.
        """
        found = read(self._file(key, number))
        if found in ("", self.member_id):
            shutil.rmtree(self.run_dir(key, number), ignore_errors=True)
        if found == self.member_id:
            return True
        numbers = [number for name, number in _numbered(self.home / CLAIMS) if name == key]
        self.latest[key] = max(numbers, default=0)
        self.confirmed.pop(key, None)
        self.owners = {claim: owner for claim, owner in self.owners.items() if claim[0] != key}
        return False

    def confirm(self, key: str, number: int) -> bool:
        """Obtain the right to commit; False where another driver has claimed the cell meanwhile, or
        the claim was removed.
        """
        if read(self._file(key, number)) != self.member_id:
            return False
        if key not in self.confirmed:
            try:
                if not create(self._file(key, number + 1), self.member_id):
                    return False
            except FileNotFoundError:  # all is done, and the folder has been removed
                return False
            self.confirmed[key] = self.latest[key] = number + 1
        return not self._file(key, self.confirmed[key] + 1).exists()

    def num_lost(self, key: str) -> int:
        """How many drivers were lost that had claimed a cell."""
        owners = {self.owner(key, n) for n in range(1, self.latest.get(key, 0) + 1)}
        return sum(self.watch.is_gone(o) and o not in self.watch.ended for o in owners)

    def run_dir(self, key: str, number: int) -> Path:
        """The run folder of a claim."""
        return self.home / RUNS / f"{key}.{number}"

    def run_dirs(self, key: str) -> list[Path]:
        """The run folders of all claims of a cell, the newest first."""
        numbers = [number for name, number in _numbered(self.home / RUNS) if name == key]
        return [self.run_dir(key, number) for number in sorted(numbers, reverse=True)]

    def publish(self, key: str, number: int, target: Path, before: bytes | None) -> bool:
        """Let the run folder of a claim become that of the study. False where another driver's has.

        ``before`` is the record that it replaces, None where there was none. A folder that is in
        the way is moved aside, looked at, and moved back where it has another record.
        """
        private, aside = self.run_dir(key, number), self.home / OLD / f"{key}.{number}"
        own = record_bytes(private)
        while not _renamed(private, target):
            if (found := record_bytes(target)) != before:
                return found == own
            aside.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
            with contextlib.suppress(FileNotFoundError):
                os.rename(target, aside)
            if aside.is_dir() and record_bytes(aside) != before:
                _renamed(aside, target)
                return False
        shutil.rmtree(aside, ignore_errors=True)
        for earlier in range(1, number):
            shutil.rmtree(self.run_dir(key, earlier), ignore_errors=True)
        return True

    def remove(self) -> None:
        """Remove the folder of the drivers: all runs are done, and nobody else works here. It goes
        at once, so that one who comes at this moment does not find half of it.
        """
        if not listed(self.watch.folder) <= self.watch.listed:
            return  # who has come meanwhile will do it
        with contextlib.suppress(OSError):
            os.rename(self.home, self.home.with_name(f"{SHARE_FOLDER}-{self.member_id}"))
        _remove_aside(self.home.parent)

    def _file(self, key: str, number: int) -> Path:
        return self.home / CLAIMS / f"{key}.{number}"


def record_bytes(run_dir: Path) -> bytes | None:
    """The record of a run folder as it is, None where there is none."""
    try:
        return (run_dir / RECORD_NAME).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def copy_progress(source: Path, run_dir: Path) -> None:
    """Copy what a run has written, so that it goes on in another folder while the process that was
    thought lost may still write into the old one. Its files are whole; those in the making are not.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for file in source.iterdir():
            if not file.name.startswith((".", RECORD_NAME)):
                with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                    shutil.copyfile(file, run_dir / file.name)


def in_progress(study_dir: Path) -> set[str]:
    """The cells that have a run folder among those of shared runs."""
    return {key for key, _ in _numbered(study_dir / SHARE_FOLDER / RUNS)}


def take_back(study_dir: Path) -> None:
    """Bring what drivers of a shared study have left to where a lone driver looks for it, which
    holds the lock: runs in progress go on from there.
    """
    runs = study_dir / SHARE_FOLDER / RUNS
    for key, number in sorted(_numbered(runs)):  # a later claim takes the place of an earlier one
        target = study_dir / f"{key}{RERUN_SUFFIX if has_record(study_dir, key) else ''}"
        shutil.rmtree(target, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.rename(runs / f"{key}.{number}", target)
            (target / RECORD_NAME).unlink(missing_ok=True)
    shutil.rmtree(study_dir / SHARE_FOLDER, ignore_errors=True)
    _remove_aside(study_dir)


def _remove_aside(study_dir: Path) -> None:
    """Remove what drivers have moved aside in order to remove it."""
    for folder in study_dir.glob(f"{SHARE_FOLDER}-*"):
        shutil.rmtree(folder, ignore_errors=True)


def _renamed(source: Path, target: Path) -> bool:
    """Rename a folder unless there is something at the target already. A source that is not there
    has been renamed, although the answer of a server was lost, or removed by a faster driver.
    """
    try:
        os.rename(source, target)
        return True
    except OSError as error:
        taken = error.errno in (errno.ENOTEMPTY, errno.EEXIST)
        if not taken and not (error.errno == errno.ENOENT and target.is_dir()):
            raise
        return False


def _numbered(folder: Path) -> Iterator[tuple[str, int]]:
    """The names KEY.N in a folder."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        key, _, number = name.rpartition(".")
        if key and number.isdecimal():
            yield key, int(number)
