"""The versions of the software that made the report and the runs."""

import importlib.metadata
import platform
from collections.abc import Sequence

from analysis.sections.analysis import Analysis
from analysis.sections.section import Section, Topic
from analysis.text import Show, terms

PACKAGES = ("numpy", "scipy", "statsmodels", "pandas", "matplotlib", "seaborn", "jinja2")


def _sections(analysis: Analysis) -> Sequence[Section]:
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    own = ", ".join(
        f"{name} {version}"
        for name, version in {"python": platform.python_version(), **versions}.items()
    )
    runs = [(f"Runs: {k}", " | ".join(v)) for k, v in analysis.results.environment.items()]
    found = terms("versions", "Versions", [("This report", own), *runs])
    return [Section(key="versions", tables=(found,))]


TOPIC = Topic(key="versions", build=_sections, show=Show.PAGE)
