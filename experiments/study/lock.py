"""One driver per study: a lock that names its holder and does not outlive it."""

import contextlib
import errno
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from core.store.names import LOCK_NAME
from experiments.study.holder import Holder
from experiments.study.members import registered

NO_FILE_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


class StudyLock:
    """Held while a driver works on a study folder; a context manager.

    The kernel's file lock ends with its process. Where a file system has no locks, or does not
    share them with other hosts, the text inside the file decides: an empty file is free, and so is
    one whose holder is gone. ``steal`` overrides the text, never the kernel. Drivers that share the
    study hold no lock, but are listed (``members.py``); they are in the way as a holder is.

    Raises: ValueError: another process holds it, or drivers share the study.
    """

    def __init__(self, study_dir: Path, *, steal: bool = False) -> None:
        self.path = study_dir / LOCK_NAME
        self.steal = steal
        self.file_lock = FileLock(self.path, timeout=0, fallback_to_soft=False)

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.file_lock.acquire()
        except Timeout:
            raise ValueError(self._refusal(read_holder(self.path.parent))) from None
        except OSError as error:
            if error.errno not in NO_FILE_LOCKS:
                raise
        try:
            holder = living_holder(self.path.parent)
            if holder is not None and not self.steal:
                raise ValueError(self._refusal(holder))
            self._write(json.dumps(asdict(Holder.current())))
            self._refuse_members()
        except BaseException:
            self.file_lock.release()
            raise
        return self

    def _refuse_members(self) -> None:
        """Raise ValueError where drivers share the study. They are listed before they look for a
        holder, and looked for here after this one is written: never do both pass.
        """
        members = registered(self.path.parent)
        here = [member for member in members if member.is_here()]
        if here or (members and not self.steal):
            self._write("")
            rule = in_use(self.path.parent, here or members)
            raise ValueError(f"{rule}; started with --share: 'grid --share' works beside it")

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._write("")
        self.file_lock.release()

    def _write(self, text: str) -> None:
        with self.path.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def _refusal(self, holder: Holder | None) -> str:
        """The message; with a way to override the lock where nobody can say that it is right."""
        if holder is None or not holder.is_here():
            return f"{in_use(self.path.parent, [holder])}, or remove {self.path}"
        return in_use(self.path.parent, [holder])


def in_use(study_dir: Path, holders: Sequence[Holder | None]) -> str:
    """The message for a study on which processes work; with a way out where they may be gone."""
    names = ", ".join(str(holder or "another process") for holder in holders)
    it = "it" if len(holders) == 1 else "them"
    rule = f"study {study_dir.name!r} is in use by {names}: wait for {it} to finish or stop {it}"
    if all(holder is not None and holder.is_here() for holder in holders):
        return rule
    gone = "it no longer exists" if len(holders) == 1 else "they no longer exist"
    return f"{rule}; if {gone}, give --steal-lock"


def refuse_holder(study_dir: Path, *, steal: bool) -> None:
    """Raise ValueError where a driver works on the study alone; ``steal`` as for ``StudyLock``."""
    holder = living_holder(study_dir)
    if holder is not None and (holder.is_here() or not steal):
        raise ValueError(
            f"{in_use(study_dir, [holder])}; it was started without --share and works alone"
        )


def working_on(study_dir: Path) -> list[Holder]:
    """The processes that work on the study now, as far as it can be determined from here."""
    holder = living_holder(study_dir)
    return registered(study_dir) if holder is None else [holder]


def read_holder(study_dir: Path) -> Holder | None:
    """The last process that wrote the lock file and has not released it; None for a free lock."""
    try:
        return Holder(**json.loads((study_dir / LOCK_NAME).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def living_holder(study_dir: Path) -> Holder | None:
    """The process that works on the study now, as far as it can be determined from here.

    One of an earlier boot counts as gone: whoever lost power goes on with the same command. Another
    machine of the same name is kept out by the file lock, which most network file systems share.
    """
    holder = read_holder(study_dir)
    gone = holder is None or holder.is_gone() or holder.is_of_earlier_boot()
    return None if gone else holder
