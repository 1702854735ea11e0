"""The table of methods and the matrix of methods and refiners, as ``list`` prints them."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

ARXIV = re.compile(r"(?P<before>.*?),?\s*arXiv (?P<number>\d{4}\.\d{4,5})")
ALL = "all"
NONE = "-"


def method_rows() -> list[dict[str, Any]]:
    """One row a method, of plain values; ``cost`` is None for one that makes no steps or was not
    measured.
    """
    from experiments.run.method_facts import method_facts
    from experiments.run.step_costs import read_step_costs
    from experiments.verify.verify import CASES

    costs = read_step_costs().ratios
    return [
        {**asdict(facts), "cost": costs.get(facts.name), "vectors": facts.name.lower() in CASES}
        for facts in method_facts()
    ]


def methods_markdown() -> str:
    """The README's table of methods."""
    from experiments.run.protocols import PROTOCOLS
    from experiments.run.step_costs import read_step_costs

    costs = read_step_costs()
    columns = (
        *("method", "paper", "presets", "regime", "learns", "protocols", "parameters"),
        *("step", "vectors"),
    )
    rows = [
        (
            f"[`{row['name']}`]({row['file']})",
            paper(row["source"]),
            ", ".join(f"`{name}`" for name in row["presets"]) or NONE,
            row["regime"],
            row["learns"],
            ALL if len(row["protocols"]) == len(PROTOCOLS) else _names(row["protocols"]),
            f"{row['parameters']:,}",
            _step(row["cost"], makes_steps=row["makes_steps"]),
            "yes" if row["vectors"] else "no",
        )
        for row in method_rows()
    ]
    note = (
        "Parameters: trained ones at the sizes of ViT-B/16 with 100 classes, all settings at their "
        f"defaults. Step: a training step on 32 images relative to CoOp ({costs.device}, "
        f"{costs.date}). Vectors: compared with reference vectors of the published code."
    )
    return f"{markdown_table(columns, rows)}\n\n{note}"


def matrix_rows() -> list[dict[str, Any]]:
    """One row for each method with each refiner and each part alone."""
    from experiments.run.compatibility import compatibility

    return [{**asdict(found), "works": not found.reason} for found in compatibility()]


MATRIX_COLUMNS = ("method", "refiner", "as shipped", "parts that work", "parts that do not")


def matrix_table(cells: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The matrix with a row for each pair of method and refiner; parts of one reason together."""
    pairs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for cell in cells:
        pairs.setdefault((cell["method"], cell["refiner"]), []).append(cell)
    return [_pair(*pair, found) for pair, found in pairs.items()]


def _pair(method: str, refiner: str, cells: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    whole = next(cell for cell in cells if not cell["slot"])
    parts = [cell for cell in cells if cell["slot"]]
    works = list(dict.fromkeys(cell["part"] for cell in parts if cell["works"]))
    reasons: dict[str, list[str]] = {}
    for cell in parts:
        if not cell["works"]:
            reasons.setdefault(cell["reason"], []).append(f"{cell['slot']} {cell['part']}")
    not_working = "; ".join(f"{', '.join(names)}: {why}" for why, names in reasons.items())
    every = ALL if parts and not reasons else ", ".join(works)
    return method, refiner, "yes" if whole["works"] else whole["reason"], every, not_working


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; bars in cells are escaped."""
    lines = [columns, ["---"] * len(columns), *rows]
    cells = [[str(cell).replace("|", r"\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def paper(source: str) -> str:
    """The works of a reference with links to arXiv, without titles and what follows them."""
    works = [_work(work) for work in source.split("; ") if ARXIV.search(work)]
    return "; ".join(works) or source.partition(". ")[0].rstrip(".") or NONE


def _work(text: str) -> str:
    found = ARXIV.search(text)
    assert found is not None
    authors, _, rest = found["before"].partition(", ")
    venue = "after" if authors.lower() == "ours" else rest.rpartition(", ")[2]
    link = f"[arXiv {found['number']}](https://arxiv.org/abs/{found['number']})"
    return f"{authors}, {venue} {link}" if venue == "after" else f"{authors}, {venue}, {link}"


def _step(cost: float | None, *, makes_steps: bool) -> str:
    if not makes_steps:
        return NONE
    return "not measured" if cost is None else f"{cost:.1f}x"


def _names(protocols: Sequence[str]) -> str:
    return ", ".join(name.replace("_", " ") for name in protocols) or NONE
