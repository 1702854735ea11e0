"""Two commits of this project, step for step: the same cases in two processes that take turns.

The other commit is checked out into a temporary folder, which is removed afterwards. Each side is
one long-lived process, so that imports and set-up are no part of a time, and rounds alternate: A B
A B. The ratio is the median over rounds; a difference counts where it is larger than half of what
lies between the extreme rounds.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
CHILD = Path(__file__).resolve().with_name("revision_child.py")
SECONDS = 1.0  # short steps are repeated in a round for about so long
LOSSES_AGREE = 1e-4

Note = Callable[[str], None]
CaseKey = tuple[str, str]
"""The name of a case and its kind of views."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionSetting:
    """What both commits are asked for."""

    backbone: str
    classes: int
    rounds: int
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionRow:
    """One case in both commits: seconds a step in every round, the losses of the first steps, and
    why a side could not run it.
    """

    case: str
    views: str
    before: Sequence[float] = ()
    now: Sequence[float] = ()
    losses: tuple[float, float] | None = None
    problem: str = ""

    @property
    def ratios(self) -> list[float]:
        """How many times as fast the case is now, in each round; above 1 is faster."""
        return [before / now for before, now in zip(self.before, self.now, strict=True)]

    @property
    def ratio(self) -> float:
        """The median over rounds."""
        return statistics.median(self.ratios)

    @property
    def noise(self) -> float:
        """Half of what lies between the extreme rounds, relative to the median."""
        return (max(self.ratios) - min(self.ratios)) / 2 / self.ratio

    @property
    def verdict(self) -> str:
        """Whether the difference is larger than the noise."""
        if self.problem:
            return self.problem
        if len(self.before) < 2:
            return "one round: no spread"
        if abs(self.ratio - 1) <= self.noise:
            return "within the noise"
        return "faster" if self.ratio > 1 else "slower"

    @property
    def same_loss(self) -> bool:
        """Whether the first steps of both commits gave the same loss, but for rounding."""
        if self.losses is None:
            return True
        before, now = self.losses
        return abs(before - now) <= LOSSES_AGREE * abs(before)


def compare_revisions(
    reference: str, keys: Sequence[CaseKey], setting: RevisionSetting, note: Note
) -> Iterator[RevisionRow]:
    """Every case as soon as it is measured. Raises ValueError for what is not a commit."""
    with checked_out(reference) as tree, _Side(tree, setting) as old, _Side(ROOT, setting) as new:
        for case, views in keys:
            yield _measured(case, views, old, new, setting.rounds, note)


def _measured(
    case: str, views: str, old: "_Side", new: "_Side", rounds: int, note: Note
) -> RevisionRow:
    """A case in both processes: a first step each, then rounds that alternate."""
    note(f"{case}, {views} views")
    firsts = [side.asked(case, views, at_least=0.0) for side in (old, new)]
    for name, first in zip(("the other commit", "this one"), firsts, strict=True):
        if "error" in first:
            problem = f"{name} cannot run it: {first['error']}"
            return RevisionRow(case=case, views=views, problem=problem)
    before: list[float] = []
    now: list[float] = []
    for _ in range(rounds):
        before.append(old.seconds(case, views))
        now.append(new.seconds(case, views))
    losses = (firsts[0]["loss"], firsts[1]["loss"])
    return RevisionRow(case=case, views=views, before=before, now=now, losses=losses)


class _Side:
    """The child process of one commit."""

    def __init__(self, tree: Path, setting: RevisionSetting) -> None:
        given = (tree, setting.backbone, setting.classes, setting.threads)
        self.process = subprocess.Popen(
            [sys.executable, "-P", CHILD, *map(str, given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=tree,
            start_new_session=True,  # Ctrl-C reaches the parent, which ends it
            env={**os.environ, "OMP_NUM_THREADS": str(setting.threads)},
        )

    def __enter__(self) -> "_Side":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self.process.stdin is not None
        if kind is None:
            self.process.stdin.close()
        else:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait()

    def asked(self, case: str, views: str, *, at_least: float) -> dict[str, Any]:
        """The answer of the child; it may be an error."""
        process = self.process
        assert process.stdin is not None and process.stdout is not None
        request = {"case": case, "views": views, "at_least": at_least}
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            return {"error": "its process ended"}
        line = process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "its process ended"}
        return answer

    def seconds(self, case: str, views: str) -> float:
        """The seconds of a step. Raises RuntimeError where an earlier one ran and this does not."""
        answer = self.asked(case, views, at_least=SECONDS)
        if "error" in answer:
            raise RuntimeError(f"{case} on {views} views: {answer['error']}")
        return float(answer["seconds"])


@contextmanager
def checked_out(reference: str) -> Iterator[Path]:
    """A context in which a commit of this project lies in a temporary folder.

    Raises ValueError for a reference that is no commit, and outside a git repository.
    """
    commit = commit_of(reference)
    try:
        with tempfile.TemporaryDirectory(prefix="bench-compare-") as folder:
            tree = Path(folder) / "tree"
            _git("worktree", "add", "--quiet", "--detach", str(tree), commit)
            yield tree
    finally:
        _git("worktree", "prune")


def commit_of(reference: str) -> str:
    """The full hash of a commit. Raises ValueError."""
    if not reference.strip():
        raise ValueError("--against names no commit; give one: make bench-compare REF=<commit>")
    try:
        return _git(
            "rev-parse", "--verify", "--quiet", "--end-of-options", f"{reference}^{{commit}}"
        )
    except (OSError, subprocess.CalledProcessError):
        raise ValueError(
            f"--against must be 'published' or a commit of the git repository {ROOT}, got "
            f"{reference!r}; 'git log --oneline' lists them"
        ) from None


def _git(*words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
