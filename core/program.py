"""How the program was started, for messages that suggest a command to run."""

import shlex
import sys
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


def _word(word: object) -> str:
    """A word of a command; a path that begins with a hyphen must not be read as an option."""
    text = str(word)
    return f"./{text}" if isinstance(word, Path) and text.startswith("-") else text


def same_command() -> str:
    """The command that started this process, to be run again."""
    return command_line(*sys.argv[1:])
