"""The settings in which the variants differ."""

from collections.abc import Sequence
from functools import partial

from analysis.read.settings import differing_settings
from analysis.sections.analysis import Analysis
from analysis.sections.section import Section, Topic
from analysis.text import Column, Kind, Show, counted, table

SettingRow = tuple[str, tuple[str, ...]]


def _value(index: int, row: SettingRow) -> str:
    return row[1][index]


def _sections(analysis: Analysis) -> Sequence[Section]:
    found = differing_settings(analysis.results, analysis.folder)
    if not found.rows:
        return [Section(key="settings", reason="the source does not record settings")]
    columns: list[Column[SettingRow]] = [
        Column("setting", "Setting", Kind.CODE, lambda row: row[0], Show.PAGE),
        *(
            Column(variant, variant, Kind.CODE, partial(_value, index), Show.PAGE)
            for index, variant in enumerate(found.variants)
        ),
    ]
    made = table(
        "settings",
        "Settings that differ",
        tuple(columns),
        found.rows,
        notes=[f"From {found.source}. A dash means that a setting is not set."],
        folded=True,
        summary=f"{counted(len(found.rows), 'setting')} in which the variants differ",
    )
    return [Section(key="settings", tables=(made,))]


TOPIC = Topic(key="settings", build=_sections, show=Show.PAGE)
