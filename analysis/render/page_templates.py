"""How the pages of reports and searches are made from ``templates``."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analysis.text import counted, interval_text, p_text, points


def page_templates() -> Environment:
    """Templates that escape everything, refuse names that nobody gave, and know the formats of
    numbers.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "points": points,
        "p": p_text,
        "interval": interval_text,
        "counted": counted,
    }
    return environment
