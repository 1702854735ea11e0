"""A lock on a file between processes, for caches that several of them fill."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system: several processes may then compute the same things
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)


@contextmanager
def locked(file: Path, what: str) -> Iterator[None]:
    """Hold an exclusive lock; the system releases it whenever its holder dies.

    Where there are no locks, or the folder is read-only, it goes on without; ``what`` says in the
    warning what may then be done twice.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = open(file, "ab")  # noqa: SIM115
    except OSError:
        yield
        return
    with handle:
        if fcntl is not None:
            _try_lock(handle.fileno(), file, what)
        yield


def _try_lock(descriptor: int, file: Path, what: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        log.warning("no lock on %s (%s); processes may %s", file, error, what)
