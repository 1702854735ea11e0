"""Suggestions for misspelled names. Needs the standard library only."""

import difflib
from collections.abc import Iterable


def closest(name: str, choices: Iterable[str]) -> str | None:
    """The choice that is nearest to a name, ignoring case; None if none is near."""
    by_lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return by_lower[near[0]] if near else None


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """``; did you mean 'X'?`` for the choice that is nearest to a name, "" if none is near."""
    near = closest(name, choices)
    return f"; did you mean {near!r}?" if near else ""
