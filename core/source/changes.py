"""Definitions that have changed, and whether the change of their file is committed."""

import functools
import subprocess
from collections.abc import Sequence
from pathlib import Path

from core.store.code import names_of

SECONDS = 10


def described(changes: Sequence[tuple[str, str]], home: Path) -> str:
    """``methods/coop.py: CoOp (commit 1a2b3c4)``, by file, for paths below ``home``."""
    return names_of(changes, lambda path: _committed(home / path))


@functools.lru_cache(maxsize=256)
def _committed(path: Path) -> str:
    """The last commit of a file, or that its change is not committed; "" without git."""
    if git(path.parent, "status", "--porcelain", "--", path.name):
        return " (not committed)"
    commit = git(path.parent, "log", "-1", "--format=%h", "--", path.name)
    return f" (commit {commit})" if commit else ""


def git(folder: Path, *arguments: str) -> str:
    """Output of a git command in a folder, or "" where that is not in a repository."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
