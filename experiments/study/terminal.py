"""Consoles of the ``rich`` library for names and messages that may come from somebody else."""

import sys
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from core.streams import printable

PLAIN_WIDTH = 160
MIN_WIDTH = 20


class PrintableConsole(Console):
    """A console on a stream, whose text cannot steer the terminal.

    It is wide where the stream is not a terminal, and on a terminal never narrower than
    ``MIN_WIDTH``, because the library prints nothing at all on the narrowest.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        stream = stream or sys.stdout
        super().__init__(file=stream, highlight=False, emoji=False)
        if not stream.isatty():
            self.width = PLAIN_WIDTH
        elif self.width < MIN_WIDTH:
            self.width = MIN_WIDTH

    def render_str(self, text: str, **options: Any) -> Text:
        """Text for a console, with visible escapes in place of control characters."""
        return super().render_str(printable(text), **options)
