"""The report as one JSON document and its JSON schema, both from the sections.

Numbers are fractions, not percent; null stands for a number that does not exist. Nothing in it
depends on times, paths or versions of packages, so that equal scores give equal bytes.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from analysis.sections.section import Chapter, Header, Section, Topic, cited, numbered
from analysis.text import Show, record_schema, records

DESCRIPTION = "Numbers are fractions, not percent; null stands for a number that does not exist."


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
