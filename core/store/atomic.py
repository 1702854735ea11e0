"""Writing a file so that a reader, or a killed process, never sees half of it."""

import os
import tempfile
from pathlib import Path

UMASK = os.umask(0o077)  # the umask can only be read by setting it
os.umask(UMASK)


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write a file so that it always has either the old or the new content, even after a kill."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = data.encode() if isinstance(data, str) else data
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        os.fchmod(handle, 0o666 & ~UMASK)
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
