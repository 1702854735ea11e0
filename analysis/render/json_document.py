"""The report as one JSON document and its JSON schema, both from the sections.

Numbers are fractions, not percent; null stands for a number that does not exist. Nothing in it
depends on times, paths or versions of packages, and on devices only where several made the runs, so
that equal scores give equal bytes.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from analysis.sections.section import Chapter, Header, Section, Topic, cited, numbered
from analysis.text import Show, record_schema, records

DESCRIPTION = "Numbers are fractions, not percent; null stands for a number that does not exist."


PLAIN = frozenset({str, int, float, bool, type(None)})
ROWS_AT_ONCE = 1000


def json_text(value: Any) -> str:
    """A JSON value with an indent of one, in lines.

    It is what ``json.dumps`` writes, in a fraction of the time where there are long tables: the
    encoder in C knows no indent, but rows of plain values have the same one throughout.
    """
    return "".join((*_pieces(value, "\n"), "\n"))


def _pieces(value: Any, line: str) -> Iterator[str]:
    """The text of a value, whose lines begin with ``line``."""
    inner = f"{line} "
    if isinstance(value, dict) and value and set(map(type, value)) == {str}:
        between = "{"
        for key, item in value.items():
            yield f"{between}{inner}{json.dumps(key, ensure_ascii=False)}: "
            yield from _pieces(item, inner)
            between = ","
        yield f"{line}}}"
    elif isinstance(value, list) and value and all(map(_is_plain, value)):
        between = "["
        for start in range(0, len(value), ROWS_AT_ONCE):
            yield f"{between}{inner}"
            yield _rows_text(value[start : start + ROWS_AT_ONCE], inner)
            between = ","
        yield f"{line}]"
    else:
        yield json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).replace("\n", line)


def _is_plain(row: Any) -> bool:
    """Whether it is a row of words and numbers."""
    if type(row) is not dict or not row:
        return False
    return PLAIN.issuperset(map(type, row.values())) and set(map(type, row)) == {str}


def _rows_text(rows: Sequence[Mapping[str, Any]], line: str) -> str:
    """Rows of plain values, separated by commas. No string of JSON has a line break, so that a
    brace before one ends a row.
    """
    inner = f"{line} "
    text = json.dumps(rows, ensure_ascii=False, allow_nan=False, separators=(f",{inner}", ": "))
    joined = text[2:-2].replace(f"}},{inner}{{", f"{line}}},{line}{{{inner}")
    return f"{{{inner}{joined}{line}}}"


def document(header: Header, chapters: Sequence[Chapter[Any]]) -> dict[str, Any]:
    """Everything the report says, as JSON values, by the key of the section."""
    topics = {topic.key: topic for topic in _topics(chapters)}
    sections = [s for chapter in chapters for s in chapter.sections if s.key in topics]
    works = cited(chapters)
    found: dict[str, Any] = {}
    for key, topic in topics.items():
        own = [section for section in sections if section.key == key]
        found[key] = {
            "reason": "; ".join(dict.fromkeys(s.reason for s in own if s.reason)),
            "sentences": [
                {"kind": sentence.kind, "text": numbered(sentence, works)}
                for section in own
                for sentence in section.sentences
            ],
            "tables": {name: _rows(own, name) for name in topic.files},
            "figures": {
                figure.name: figure.values for section in own for figure in section.figures
            },
        }
    return {**header.identity, "sections": found}


def _topics(chapters: Iterable[Chapter[Any]]) -> list[Topic[Any]]:
    """The topics that files hold."""
    return [t for chapter in chapters for t in chapter.topics if Show.FILES in t.show]


def _rows(sections: Iterable[Section], key: str) -> list[dict[str, Any]]:
    """The records of all tables of this key."""
    return [
        row
        for section in sections
        for table in section.tables
        if table.key == key
        for row in records(table)
    ]


def schema(chapters: Sequence[Chapter[Any]], identity: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON schema of the document; ``identity`` has the schemas of what it begins with."""
    sections = {topic.key: _section_schema(topic) for topic in _topics(chapters)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "RefineLab report",
        "description": DESCRIPTION,
        **_object({**identity, "sections": _object(sections)}),
    }


def _section_schema(topic: Topic[Any]) -> dict[str, Any]:
    sentence = _object({"kind": {"type": "string"}, "text": {"type": "string"}})
    tables = {
        key: {"type": "array", "items": record_schema(columns)}
        for key, columns in topic.files.items()
    }
    return _object(
        {
            "reason": {
                "type": "string",
                "description": "why the section does not apply; blank where it does",
            },
            "sentences": {"type": "array", "items": sentence},
            "tables": _object(tables),
            "figures": {
                "type": "object",
                "description": "what every figure shows, by the name of its files",
            },
        }
    )


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }
