"""How the program was started, for messages that suggest a command to run."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

SCRIPT = "refinelab"
PREFIX = __name__.removesuffix("core.program")
"""What stands before the names of our packages: nothing in a checkout, ``refinelab.`` elsewhere."""


def command_line(*words: object) -> str:
    """A command of this program as shell text, started the way this process was.

    ``refinelab ...`` where the installed script runs, ``python main.py ...`` anywhere else.
    """
    program = (SCRIPT,) if Path(sys.argv[0]).stem == SCRIPT else ("python", "main.py")
    return shlex.join([*program, *map(_word, words)])


_IN_PYTHON: ContextVar[bool] = ContextVar("in_python", default=False)


@contextmanager
def called_from_python() -> Iterator[None]:
    """A context in which the one who reads a message called a function, and gave no command."""
    token = _IN_PYTHON.set(True)
    try:
        yield
    finally:
        _IN_PYTHON.reset(token)


def way_out(command: str, python: str) -> str:
    """What to do, for whoever gave a command or called a function of ``refinelab``."""
    return python if _IN_PYTHON.get() else command


def _word(word: object) -> str:
    """A word of a command; a path that begins with a hyphen must not be read as an option."""
    text = str(word)
    return f"./{text}" if isinstance(word, Path) and text.startswith("-") else text


def same_command() -> str:
    """The command that started this process, to be run again."""
    return command_line(*sys.argv[1:])
