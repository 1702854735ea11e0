"""How a dataset was read: what is shown of it before anything runs."""

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from core.streams import printable

# What the tokenizer's cleaning makes one: curled and straight quotes, ligatures, wide letters.
_QUOTES = str.maketrans("\u2018\u2019\u201a\u201b\u02bc\u201c\u201d\u201e\u201f", "'''''" + '"' * 4)
_COMPATIBLE = re.compile(r"[\ufb00-\ufb06\uff01-\uffef\u3000]+")
_BREAKS = frozenset("\t\n")

SPLIT_SETTINGS = frozenset({"split_seed", "split_fractions"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DataReading:
    """``layout`` says how the data were recognized, ``ignored`` what was left out and why, and
    ``notes`` what may surprise; one line each. ``split_settings`` are the settings of a split that
    have an effect on this dataset.
    """

    layout: str
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    split_settings: frozenset[str] = frozenset()


def name_notes(class_names: tuple[str, ...]) -> list[str]:
    """One line for each group of names that are one prompt to CLIP, and one for names that say
    nothing.
    """
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(class_names):
        groups.setdefault(prompt_key(name), []).append(name)
    found = [
        f"the classes {_listed(names)} {_difference(names)}: as prompts they are one class"
        for names in groups.values()
        if len(names) > 1
    ]
    if class_names and all(map(_says_nothing, class_names)):
        found.append(
            f"the class names are numbers or identifiers ({_listed(list(class_names[:2]))}), which "
            "say nothing as prompts; name the classes in classnames.txt"
        )
    return found


def prompt_key(name: str) -> str:
    """The same text for names that are one prompt: they differ only in case, underscores, hyphens
    and blanks, or in what the tokenizer cleans (Unicode form, curled quotes, HTML entities,
    ligatures, wide letters).
    """
    text = html.unescape(html.unescape(name)).translate(_QUOTES)
    text = _COMPATIBLE.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    return " ".join(text.replace("_", " ").replace("-", " ").split())


def name_problem(name: str) -> str:
    """Why no prompt can be made of a class name: "is not UTF-8", ...; "" for a good name."""
    if any("\ud800" <= c <= "\udfff" for c in name):
        return "is not UTF-8"
    if not _BREAKS.isdisjoint(name) or name != printable(name):
        return "holds a control character"
    return ""


def counted(number: int, what: str) -> str:
    """A number and what it counts, a plural where it is one."""
    if number == 1:
        return f"1 {what}"
    return f"{number} {what}es" if what.endswith("s") else f"{number} {what}s"


def by_suffix(counts: Mapping[str, int]) -> str:
    """Numbers of files by suffix, the most frequent first."""
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in ranked)


def repeated(values: Counter[str]) -> list[str]:
    """What was counted more than once, in the order of its first appearance."""
    return [value for value, count in values.items() if count > 1]


def _difference(names: list[str]) -> str:
    """What one prompt was made of, with escapes where the names may look the same."""
    plain = {" ".join(re.sub("[_-]", " ", name.lower()).split()) for name in names}
    if len(plain) == 1:
        return f"{_listed(names)} differ only in case, underscores, hyphens or blanks"
    shown = " and ".join(ascii(name) for name in names)
    return f"{shown} differ only in the spelling of their characters"


def _listed(names: list[str]) -> str:
    return " and ".join(repr(name) for name in names)


def _says_nothing(name: str) -> bool:
    """Whether a name is a number or a WordNet identifier."""
    return name.isdecimal() or (name[:1] == "n" and len(name) == 9 and name[1:].isdecimal())
