"""What ``list`` shows: everything that can be named, with one line of help and its source."""

from typing import Any

import experiments.run.registered  # noqa: F401  (fills the registry)
from core.config import parameter_help, registered_classes
from core.data.catalog import dataset_names
from experiments.configs import config_rows
from experiments.run.protocols import PROTOCOLS, SEARCH_PROTOCOLS

PARTS = ("alignment", "cache", "aggregation", "loss", "teacher", "optimizer", "schedule")
TOPICS = ("methods", "refiners", "parts", "datasets", "protocols", "configs")


def listing(topic: str) -> list[dict[str, Any]]:
    """Rows of one topic. Raises ValueError for an unknown topic."""
    if topic == "datasets":
        return [{"name": name, "summary": text} for name, text in dataset_names()]
    if topic == "configs":
        return list(config_rows())
    if topic == "protocols":
        return [
            {"name": name, "summary": protocol.summary, "rules": protocol.rules()}
            for name, protocol in {**PROTOCOLS, **SEARCH_PROTOCOLS}.items()
        ]
    kinds = {"methods": ("method",), "refiners": ("refiner",), "parts": PARTS}
    if topic not in kinds:
        raise ValueError(f"nothing to list under {topic!r}; topics: {', '.join(TOPICS)}")
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
        for kind in kinds[topic]
        for entry in registered_classes(kind)
    ]
