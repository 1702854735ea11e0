"""What a cell of a CSV file says: a score, a whole number, or nothing."""

import re

MISSING = frozenset((
    "", "-", "--", "---", "–", "—", "na", "n/a", "n.a.", "#n/a", "nan", "<na>", "null", "none",
    "nil", "missing", "?",
))  # fmt: skip
"""How people write that there is no number, in lower case."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+", re.ASCII)
WHOLE = re.compile(r"(?:seed[ _-]?)?([+-]?\d+)(?:\.0*|,00?)?", re.ASCII | re.IGNORECASE)
SPREAD = re.compile(r"^[\d.,]+ ?%? ?(±|\+-|\+/-|\(|\\pm)", re.ASCII)
MIN_SEED = -(2**63)


def is_missing(cell: str) -> bool:
    """Whether a cell says that there is no number."""
    return cell.lower() in MISSING


def is_number(cell: str) -> bool:
    """Whether a cell is a number as people write one."""
    return number_of(cell) is not None


def is_percent(cell: str) -> bool:
    """Whether a cell is a number with a percent sign."""
    return cell.endswith("%") and is_number(cell)


def number_of(cell: str) -> float | None:
    """The number in a cell, without a percent sign; None where it is not a number."""
    text = cell.removesuffix("%").rstrip().replace("\N{MINUS SIGN}", "-")
    if DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    return float(text) if NUMBER.fullmatch(text) else None


def has_spread(cell: str) -> bool:
    """Whether a cell is a mean with its spread, such as 70.1 ± 0.3."""
    return bool(SPREAD.match(cell))


def whole_number(cell: str) -> int | None:
    """The whole number in a cell, read exactly; None where it is not one."""
    match = WHOLE.fullmatch(cell)
    return int(match[1]) if match else None
