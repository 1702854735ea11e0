"""What reaches a terminal: standard output and error that never end the program, and text that
cannot steer the terminal.

Names of datasets, classes and variants, messages and whole records may come from somebody else.
Whatever the program prints passes through here, where control characters become visible escapes. A
reader that has gone (``| head``), a closed descriptor or a terminal without Unicode ends nothing.
"""

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

LONGEST_MESSAGE = 2000

# All controls but tab and newline, the characters that reorder text or break lines, and surrogates,
# which no encoding accepts: Python reads the byte NN of a file name that is not UTF-8 as U+DCNN.
STEERING = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
UNDECODED = 0xDC00
READER_GONE = (errno.EPIPE, errno.EIO, errno.EBADF)


def printable(text: str) -> str:
    """The text with control characters as ``\\u001b`` and the like; valid JSON stays valid. Bytes
    of a file name that are not UTF-8 become ``\\xNN``.
    """
    return STEERING.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - UNDECODED:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def one_line(text: object, longest: int = LONGEST_MESSAGE) -> str:
    """A message as one line of at most ``longest`` characters; what is cut is counted."""
    line = " ".join(str(text).split("\n")).strip()
    if len(line) <= longest:
        return line
    return f"{line[:longest]}... ({len(line) - longest} more characters)"


class GuardedStream:
    """A text stream whose readers may go and whose text cannot steer a terminal.

    ``essential``: output that is lost for another reason than a reader that has gone, such as a
    full disk, is an error. The library ``rich`` writes control sequences of its own, to the stream
    that it finds as ``rich_proxied_file``; who prints with it makes names printable.
    """

    def __init__(self, stream: TextIO, *, essential: bool, filtered: bool = True) -> None:
        self.stream = stream
        self.essential = essential
        self.filtered = filtered

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    @property
    def rich_proxied_file(self) -> "GuardedStream":
        """The same stream, unfiltered."""
        return GuardedStream(self.stream, essential=self.essential, filtered=False)

    def write(self, text: str) -> int:
        """Write text; all of it counts as written even where nobody reads it."""
        try:
            self.stream.write(printable(text) if self.filtered else text)
        except (OSError, ValueError) as error:
            self._lost(error)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush what is buffered."""
        try:
            self.stream.flush()
        except (OSError, ValueError) as error:
            self._lost(error)

    def _lost(self, error: Exception) -> None:
        """Go on without a reader; Python would complain about its buffer once more at exit."""
        gone = isinstance(error, ValueError) or getattr(error, "errno", None) in READER_GONE
        if self.essential and not gone:
            raise error
        self.stream = _nowhere()


@contextmanager
def guarded_streams() -> Iterator[None]:
    """A context in which standard output and error are guarded; flushes them at its end.

    Descriptors that the caller closed are opened on nothing, so that no file of ours takes their
    numbers and receives what is printed.
    """
    _open_standard_descriptors()
    before = sys.stdout, sys.stderr
    sys.stdout = _guarded(before[0], essential=True)
    sys.stderr = _guarded(before[1], essential=False)
    try:
        yield
        sys.stdout.flush()
    finally:
        for stream in (sys.stderr, sys.stdout):
            try:
                stream.flush()
            except OSError:
                stream.stream = _nowhere()
        _silence_lost(before)
        sys.stdout, sys.stderr = before


def _guarded(stream: TextIO | None, *, essential: bool) -> Any:
    if stream is None:
        return GuardedStream(_nowhere(), essential=essential)
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
    return GuardedStream(stream, essential=essential)


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")


def _open_standard_descriptors() -> None:
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one


def _silence_lost(streams: tuple[TextIO | None, ...]) -> None:
    """Point the descriptor of a stream without reader to nothing: its buffer cannot be flushed."""
    for original, guarded in zip(streams, (sys.stdout, sys.stderr), strict=True):
        lost = isinstance(guarded, GuardedStream) and guarded.stream is not original
        if lost and original is not None and not original.closed:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, original.fileno())
            os.close(nothing)
