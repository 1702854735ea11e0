"""Any text as LaTeX prints it: nothing is a command, and no letter stops the compilation.

What the usual Latin fonts lack, and no symbol stands for, is written as its code point, such as
[U+65E5]; ``unknown_letters`` says which letters are affected.
"""

import functools
import re
import unicodedata
from collections.abc import Iterable

GREEK = "γδεζηθικλμνξπρςστυφχψωΓΔΘΛΞΠΣΥΦΨΩ"
GREEK_NAMES = (
    "gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho varsigma sigma tau "
    "upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega"
)
SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "[": "{[}",  # bare, it would be the option of a \\ or \item before it
    "]": "{]}",
    "*": "{*}",  # bare, it would be the star of a \\ before it
    "±": r"$\pm$",
    "−": r"$-$",
    "≈": r"$\approx$",
    "†": r"\dag{}",
    "→": r"$\rightarrow$",
    "×": r"$\times$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "∞": r"$\infty$",
    "▲": r"$\bigtriangleup$",
    "▼": r"$\bigtriangledown$",
    "■": r"\rule{0.6em}{0.6em}",
    "●": r"$\bullet$",
    "○": r"$\circ$",
    "◆": r"$\diamond$",
    "…": r"\ldots{}",
    "·": r"$\cdot$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "–": "--",
    "—": "---",
    "’": "'",
    "“": "``",
    "”": "''",
    **{c: rf"$\{n}$" for c, n in zip(GREEK, GREEK_NAMES.split(), strict=True)},
}
FIRST_WITHOUT_FONT = 0x180
WITHOUT_FONT = "ĦħĸĿŀŉŦŧſ"
"""Letters below the first that the T1 encoding lacks as well."""

LIGATURE = re.compile(r"([-,'])(?=\1)")


@functools.lru_cache(maxsize=2**14)
def escape(text: str) -> str:
    """Text that LaTeX prints as it is written; a letter that the fonts lack becomes its code point
    in brackets.
    """
    apart = LIGATURE.sub("\\1\x00", unicodedata.normalize("NFC", text))
    return "".join("{}" if c == "\x00" else SPECIAL.get(c) or _plain(c) for c in apart)


def breakable(text: str) -> str:
    """Escaped text of a paragraph, in which a long name may break after _, / and =."""
    return re.sub(r"(\\_|[/=])", r"\1\\allowbreak{}", escape(text))


def unknown_letters(texts: Iterable[str]) -> tuple[str, ...]:
    """The letters of the texts that are written as code points, in the order of the alphabet."""
    letters = {c for text in texts for c in unicodedata.normalize("NFC", text)}
    return tuple(sorted(c for c in letters if c not in SPECIAL and _plain(c).startswith("{[}U+")))


def _plain(letter: str) -> str:
    """The letter where the Latin fonts have it, a space for white space, nothing for a control
    character, otherwise its code point.
    """
    if letter.isspace():
        return " "
    if unicodedata.category(letter).startswith("C"):
        return ""
    if ord(letter) < FIRST_WITHOUT_FONT and letter not in WITHOUT_FONT:
        return letter
    return f"{{[}}U+{ord(letter):04X}{{]}}"
