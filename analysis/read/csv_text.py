"""The text of a CSV file: encoding, delimiter, quotes and line breaks, cell by cell.

Cells are names and numbers as somebody typed them. All white space in a cell, line breaks among it,
is one blank, so that a name fits on a line. A name that a spreadsheet would take for a formula has
an apostrophe in front of it in the files of this program, which is not part of the name.
"""

import csv
import io
import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.read.csv_cells import is_missing, is_number

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
SIGNATURES = {
    b"PK\x03\x04": "an Excel workbook or another archive; save the table as CSV",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save the table as CSV",
    b"PAR1": "a Parquet file; export the table as .csv",
    b"\x1f\x8b": "compressed; unpack it first",
    b"%PDF": "a PDF document; save the table as CSV",
}
UTF16 = (b"\xff\xfe", b"\xfe\xff")
INVISIBLE = dict.fromkeys(map(ord, "\ufeff\u200b\u2060\u00ad"))
FORMULA = re.compile(r"'*[=+\-@\t\r]")
MAX_FIELD = 1_000_000
MIN_COLUMNS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class RawTable:
    """The cells of a file below its header, all rows as long as the header.

    ``lines`` has the line of the file at which every row begins.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]
    notes: tuple[str, ...] = ()


def read_table(path: Path) -> RawTable:
    """The table in a file of comma, semicolon, tab or bar separated values.

    Raises ValueError, with the line, for a file that is not such a table: another format, an
    encoding other than UTF-8 or UTF-16, a row that is longer or shorter than the header.
    """
    text = _decoded(path)
    records = _records(path, text)
    if not records:
        raise ValueError(f"{path}: not a readable CSV file: it is empty")
    (_, header), *body = records
    header[0] = header[0].lstrip("# ")  # some programs mark their header as a comment
    header, body = _aligned(path, header, body)
    columns = tuple(header)
    kept = [(line, row) for line, row in body if tuple(row) != columns]
    notes = ["the header stands again among the rows, and is ignored there"] * (
        len(kept) < len(body)
    )
    if not kept:
        raise ValueError(f"{path}: needs at least one row below its header, found none")
    return RawTable(
        columns=columns,
        rows=tuple(tuple(row) for _, row in kept),
        lines=tuple(line for line, _ in kept),
        notes=tuple(notes),
    )


def tidy(text: str) -> str:
    """A name on one line, in one Unicode form, without invisible letters."""
    return " ".join(unicodedata.normalize("NFC", text).translate(INVISIBLE).split())


def spreadsheet_text(cell: str) -> str:
    """A cell for a file that a spreadsheet may open: text and never a formula. Numbers stay."""
    plain = is_missing(cell) or is_number(cell)
    return f"'{cell}" if FORMULA.match(cell) and not plain else cell


def typed_text(cell: str) -> str:
    """What was typed into a cell: the inverse of ``spreadsheet_text``."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def _decoded(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(
            f"{path}: no such file or folder; give a study folder or a CSV file with a row per run"
        ) from None
    for signature, what in SIGNATURES.items():
        if raw.startswith(signature):
            raise ValueError(f"{path}: not a readable CSV file: it is {what}")
    try:
        text = raw.decode("utf-16" if raw.startswith(UTF16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}, line {line}: not UTF-8 text; save the table as 'CSV UTF-8'"
        ) from None
    if "\0" in text:
        raise ValueError(f"{path}: not a readable CSV file: it holds binary data")
    return text


def _records(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """Every record that is not blank, with its line; what precedes the header is left out."""
    start, delimiter = 1, ""
    lines = text.splitlines(keepends=True)
    if lines and (declared := lines[0].strip().lower()).startswith("sep=") and len(declared) == 5:
        start, delimiter = 2, declared[-1]
    while len(lines) >= start and lines[start - 1].lstrip().startswith("#"):
        if len(_first_record(lines[start - 1], _delimiter(lines[start - 1]))) > MIN_COLUMNS:
            break
        start += 1
    rest = "".join(lines[start - 1 :])
    delimiter = delimiter or _delimiter(rest)
    try:
        return list(_parsed(rest, delimiter, start))
    except csv.Error as error:
        raise ValueError(f"{path}: not a readable CSV file ({error}); check its quotes") from None


def _delimiter(text: str) -> str:
    """The delimiter that cuts the header into most columns; a comma where several do."""
    return max(DELIMITERS, key=lambda mark: len(_first_record(text, mark)))


def _reader(text: str, delimiter: str) -> Any:
    csv.field_size_limit(MAX_FIELD)
    source = io.StringIO(text, newline="")
    return csv.reader(source, delimiter=delimiter, skipinitialspace=True, strict=True)


def _first_record(text: str, delimiter: str) -> list[str]:
    try:
        return next((row for row in _reader(text, delimiter) if any(map(str.strip, row))), [])
    except csv.Error:
        return []


def _parsed(text: str, delimiter: str, start: int) -> Iterator[tuple[int, list[str]]]:
    reader = _reader(text, delimiter)
    end = 0
    for row in reader:
        line, end = start + end, reader.line_num
        cells = [typed_text(tidy(cell)) for cell in row]
        if any(cells):
            yield line, cells


def _aligned(
    path: Path, header: Sequence[str], body: Sequence[tuple[int, list[str]]]
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Header and rows of one length: columns at the end without any content are dropped."""
    for line, row in body:
        if _filled(row) <= len(header) and len(row) >= _filled(header):
            continue
        if len(row) < len(header):
            hint = "keep the delimiters of a blank cell"
        elif any(a.isdigit() and b.isdigit() for a, b in itertools.pairwise(row)):
            hint = "a decimal comma needs quotes, or semicolons between the columns"
        else:
            hint = "remove what is too much, or name every column"
        raise ValueError(
            f"{path}, line {line}: {len(row)} fields, but the header has {len(header)}; {hint}"
        )
    width = max(_filled(row) for row in (header, *(row for _, row in body)))
    return _padded(header, width), [(line, _padded(row, width)) for line, row in body]


def _padded(row: Sequence[str], width: int) -> list[str]:
    return [*row, *[""] * width][:width]


def _filled(row: Sequence[str]) -> int:
    """The number of fields up to the last one that is not blank."""
    return max((i for i, cell in enumerate(row, start=1) if cell), default=0)
