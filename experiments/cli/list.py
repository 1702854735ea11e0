"""``list``: everything a configuration can name, each with a line of help and its source."""

from typing import Annotated, Any

import typer

from core.program import command_line
from experiments.cli.console import console, print_json, table
from experiments.cli.method_table import (
    MATRIX_COLUMNS,
    markdown_table,
    matrix_rows,
    matrix_table,
    methods_markdown,
)
from experiments.cli.options import Json, Plugin

PARTS = (
    *("alignment", "cache", "aggregation", "loss", "teacher"),
    *("optimizer", "schedule", "augmentation"),
)
KINDS = {"methods": ("method",), "refiners": ("refiner",), "parts": PARTS}
TOPICS = (*KINDS, "datasets", "protocols", "configs")
MATRIX = "matrix"
SLOW = ("backbones", MATRIX)  # listed when asked for: they take seconds
DETAILS = ("parameters", "rules", "models")


def list_command(
    topic: Annotated[str, typer.Argument(help=", ".join((*TOPICS, *SLOW)))] = "",
    plugin: Plugin = None,
    as_json: Json = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help=f"A Markdown table, of methods or the {MATRIX}")
    ] = False,
) -> None:
    """List what a configuration can name: methods, refiners, parts, datasets, protocols, ...

    'matrix' builds every method with every refiner and part: what works, and why not.
    """
    if markdown and (as_json or topic not in ("methods", MATRIX)):
        raise ValueError(
            "--markdown writes 'list methods' or 'list matrix' alone, without --json; leave it out"
        )
    if topic == MATRIX:
        _show_matrix(as_json=as_json, markdown=markdown)
        return
    if markdown:
        print(methods_markdown())
        return
    found = {name: listing(name) for name in ([topic] if topic else TOPICS)}
    if as_json:
        print_json(found)
        return
    for name, rows in found.items():
        keys = [key for key in rows[0] if key not in DETAILS]
        console().print(table(name, keys, [[row[key] for key in keys] for row in rows]))
        for row in rows if topic else ():
            for parameter in row.get("parameters", ()):
                key = f"{row['name']}.{parameter['name']}"
                print(f"  {key} = {parameter['default']}  ({parameter['type']})")
            for term, rule in row.get("rules", {}).items():
                print(f"  {row['name']}: {term}: {rule}")
            for model in row.get("models", ()):
                print(f"  {model}: {row['image tower']}, {row['text tower']}")
    if not topic:
        print(f"backbones: {command_line('list', 'backbones')}")


def _show_matrix(*, as_json: bool, markdown: bool) -> None:
    cells = matrix_rows()
    if as_json:
        print_json(cells)
        return
    rows = matrix_table(cells)
    if markdown:
        print(markdown_table(MATRIX_COLUMNS, rows))
    else:
        console().print(table(MATRIX, MATRIX_COLUMNS, rows))


def listing(topic: str) -> list[dict[str, Any]]:
    """The rows of one topic. Raises ValueError for an unknown topic.

    Only methods, refiners and parts import torch: their tables are read from their classes.
    """
    if topic in KINDS:
        return _registered(KINDS[topic])
    if topic == "datasets":
        from core.data.catalog import dataset_names

        return [{"name": name, "summary": text} for name, text in dataset_names()]
    if topic == "protocols":
        from experiments.run.protocols import PROTOCOLS, SEARCH_PROTOCOLS

        return [
            {"name": name, "summary": protocol.summary, "rules": protocol.rules()}
            for name, protocol in {**PROTOCOLS, **SEARCH_PROTOCOLS}.items()
        ]
    if topic == "configs":
        from experiments.configs import config_rows

        return list(config_rows())
    if topic == "backbones":
        return _backbones()
    raise ValueError(f"unknown topic {topic!r}; topics: {', '.join((*TOPICS, *SLOW))}")


def _backbones() -> list[dict[str, Any]]:
    """The kinds of towers, and the methods that each one leaves out with their default settings."""
    import experiments.run.registered  # noqa: F401  (fills the registry)
    from core.clip.catalog import families
    from core.config import registered_classes

    hooked = {}
    for entry in registered_classes("method"):
        defaults = {name: parameter.default for name, parameter in entry.parameters.items()}
        hooked[entry.name] = entry.ask("hooked_towers", defaults)
    return [
        {
            "image tower": support.image,
            "text tower": support.text,
            "example": f"{names[0]} ({len(names)} model{'s' * (len(names) > 1)})",
            "local tokens": "yes" if "local" in support.image_fields else "no",
            "deep prompts": ", ".join(sorted(support.hooked)) or "none",
            "methods that do not run": ", ".join(
                name for name, towers in hooked.items() if towers - support.hooked
            ),
            "models": names,
        }
        for support, names in families()
    ]


def _registered(kinds: tuple[str, ...]) -> list[dict[str, Any]]:
    import experiments.run.registered  # noqa: F401  (fills the registry)
    from core.config import parameter_help, registered_classes

    return [
        {
            "name": entry.name,
            "kind": entry.kind,
            "summary": entry.summary.replace("``", ""),
            "source": entry.reference.replace("``", ""),
            "parameters": [
                {"name": name, "type": kind, "default": default}
                for name, kind, default in parameter_help(entry)
            ],
        }
        for kind in kinds
        for entry in registered_classes(kind)
    ]
