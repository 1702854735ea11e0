"""The study of all methods: each tuned under one budget, then compared on fresh seeds.

``make methods-all`` writes one search a variant (``searches``), runs them, writes the grids with
the winning settings (``grids``), and runs these. Searches see no test image and no new class; what
is searched, and how long, is the same rule for every method: the rate of its optimizer, at most one
strength of its own, and that of the refiner's regularization.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import experiments.run.registered  # noqa: F401  (fills the registry)
from core.config import Config, Reference, format_value, lookup, registered_classes
from core.store.names import BEST_NAME
from experiments.configs import SHIPPED, read_config_file

GRIDS = Path("experiments/configs/grids")
TRIALS = 8
TUNED_ON = ("mosaic/critters", "mosaic/land", "mosaic/textures")
DATASETS = (
    *("mosaic/shapes", "mosaic/critters", "mosaic/vehicles"),
    *("mosaic/land", "mosaic/actions", "mosaic/textures"),
)
SEEDS = (1, 2, 3, 4, 5)
SEARCH_SEEDS, UNUSED_SEEDS = (11,), (12,)
OPEN, CLOSED = "methods_all", "methods_all_few_shot"
REFERENCES = ("ZeroShot", "CoOp")
"""Methods that score any class and stand in both grids."""

RATES = {
    "SGD": {"low": 0.002, "high": 0.2, "log": True},
    "Adam": {"low": 0.0002, "high": 0.02, "log": True},
    "AdamW": {"low": 0.0002, "high": 0.02, "log": True},
}
STRENGTHS: Mapping[str, Mapping[str, Any]] = {
    "KgCoOp": {"weight": {"low": 0.5, "high": 32.0, "log": True}},
    "ProGrad": {"strength": {"low": 0.1, "high": 1.0}},
    "TCP": {"consistency_weight": {"low": 0.5, "high": 32.0, "log": True}},
    "PromptSRC": {"text_weight": {"low": 1.0, "high": 100.0, "log": True}},
    "PromptKD": {"kd_weight": {"low": 10.0, "high": 3000.0, "log": True}},
    "SEP": {"text_weight": {"low": 0.5, "high": 20.0, "log": True}},
}
REFINER = {"L1Regularization.weight": {"low": 1.0, "high": 50.0, "log": True}}
BUDGET = {
    "experiment.backbone": "mosaic",
    "experiment.epochs": 15,
    "experiment.batch_size": 32,
    "experiment.num_views": 0,
}
PARTICULAR: Mapping[str, Mapping[str, Any]] = {"PromptSRC": {"PromptSRC.average_mean": 11.0}}


@dataclass(frozen=True)
class Row:
    """A variant: a method alone, or with a refiner on top."""

    method: str
    refiner: str = ""

    @property
    def name(self) -> str:
        """The variant's name."""
        return f"{self.method}+{self.refiner}" if self.refiner else self.method

    @property
    def study(self) -> str:
        """The name of its search."""
        return "tune_" + re.sub(r"\W", "_", self.name).lower()

    @property
    def includes(self) -> list[str]:
        """The presets it starts from."""
        files = SHIPPED.files()
        preset = next(n for n in files if n.replace("_", "") == self.method.lower())
        together = f"text_refiner_on_{preset}"
        if self.refiner == "TextRefiner":
            return [together] if together in files else [preset, "text_refiner_parts"]
        return [preset, *([self.refiner.lower()] if self.refiner else [])]

    @cached_property
    def config(self) -> Config:
        """Its settings before anything is tuned: the presets and the budget of all."""
        folder = Path("runs/tuning")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.study}_base.gin"
        path.write_text("".join(f"include '{name}.gin'\n" for name in self.includes))
        views = max(BUDGET["experiment.num_views"], int(self.cls.views_per_image > 1))
        bound = {**BUDGET, "experiment.num_views": views, **PARTICULAR.get(self.method, {})}
        return read_config_file(path).with_bindings(
            {**bound, "experiment.dataset": TUNED_ON[0]}, "the budget"
        )

    @property
    def cls(self) -> Any:
        """The method's class."""
        return lookup(self.method).cls

    @property
    def closed(self) -> bool:
        """Whether it scores only the classes that it was trained on."""
        values = self.config.operative("experiment")
        own = {name: values[f"{self.method}.{name}"] for name in lookup(self.method).parameters}
        return bool(self.cls.closed_set(own))

    @property
    def space(self) -> dict[str, Any]:
        """What is searched."""
        found: dict[str, Any] = {}
        optimizer = self.config.bindings.get("experiment.optimizer")
        by_gradient = self.cls.trains and self.cls.trains_by_gradient
        if (by_gradient or self.refiner) and isinstance(optimizer, Reference):
            found[f"{optimizer.name}.lr"] = RATES[optimizer.name]
        strengths = STRENGTHS.get(self.method, {})
        found |= {f"{self.method}.{name}": levels for name, levels in strengths.items()}
        return found | (REFINER if self.refiner == "TextRefiner" else {})


def rows() -> Iterator[Row]:
    """Every registered method alone, and with TextRefiner where that can be built."""
    for entry in registered_classes("method"):
        yield Row(entry.name)
        yield Row(entry.name, "TextRefiner")
    for entry in registered_classes("refiner"):
        if entry.name not in ("TextRefiner", "NullRefiner"):
            yield Row("CoOp", entry.name)


def search_text(row: Row) -> str:
    """The search of a variant."""
    bindings = {
        "search.study": row.study,
        "search.objectives": ("val",) if row.closed else ("hm",),
        "search.datasets": TUNED_ON,
        "search.seeds": SEARCH_SEEDS,
        "search.final_seeds": UNUSED_SEEDS,
        "search.sampler": Reference("Random"),
        "search.pruner": Reference("NoPruning"),
        "search.trials": TRIALS,
        "search.round_size": TRIALS,
    }
    lines = [f"{key} = {format_value(value)}\n" for key, value in bindings.items()]
    space = f"search.space = {format_value(row.space)}\n"
    head = f"# {row.name}, tuned under the budget of all methods.\n"
    base = row.config.without(["experiment.dataset"]).text()
    return head + base + "".join(lines) + space


def write_searches(folder: Path) -> None:
    """One file a search, those with nothing to search left out."""
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows():
        if row.space:
            (folder / f"{row.study}.gin").write_text(search_text(row))


def tuned(row: Row, runs: Path) -> dict[str, Any]:
    """The winning settings of a variant, to three digits."""
    if not row.space:
        return {}
    best = read_config_file(runs / row.study / BEST_NAME).bindings
    return {key: _rounded(best[key]) for key in row.space}


def _rounded(value: Any) -> Any:
    return float(f"{value:.3g}") if isinstance(value, float) else value


def write_grids(runs: Path) -> None:
    """The grid of the methods that score any class, and the few-shot grid of all others."""
    found = list(rows())
    open_rows = [row for row in found if not row.closed]
    closed = [row for row in found if row.closed or row.method in REFERENCES]
    for study, chosen, protocol in (
        (OPEN, open_rows, "base_to_new"),
        (CLOSED, closed, "few_shot"),
    ):
        (GRIDS / f"{study}.gin").write_text(grid_text(study, chosen, protocol, runs))


def grid_text(study: str, chosen: list[Row], protocol: str, runs: Path) -> str:
    """A grid of variants with their tuned settings."""
    names = dict.fromkeys(name for row in chosen for name in row.includes)
    ordered = [name for name in names if name != "text_refiner_parts"]
    lines = [
        f"# Every method, alone and with TextRefiner, at settings tuned under one budget: {TRIALS} "
        f"random trials each on\n# validation images of {', '.join(TUNED_ON)}. Written by make "
        "methods-all from the searches.\n"
    ]
    lines += [f"include '{name}.gin'\n" for name in [*ordered, "text_refiner_parts"]]
    common = {
        **BUDGET,
        "experiment.protocol": protocol,
        "grid.study": study,
        "grid.datasets": DATASETS,
        "grid.seeds": SEEDS,
        "grid.baseline": "CoOp",
        "grid.references": tuple(r.name for r in chosen if not r.refiner and r.method != "CoOp"),
    }
    lines += [f"{key} = {format_value(value)}\n" for key, value in common.items()]
    variants = [f"    {row.name!r}: {format_value(_variant(row, runs))},\n" for row in chosen]
    return "".join([*lines, "grid.variants = {\n", *variants, "}\n"])


def _variant(row: Row, runs: Path) -> dict[str, Any]:
    """What sets a variant apart from the common settings of its grid."""
    refiner = row.config.bindings["experiment.refiner"]
    values = row.config.operative("experiment")
    own = {
        key: value
        for key, value in row.config.bindings.items()
        if key in values and key not in BUDGET and key != "experiment.dataset"
    }
    return {**own, "experiment.refiner": refiner, **tuned(row, runs)}


if __name__ == "__main__":
    what, given = sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else "runs")
    if what == "searches":
        write_searches(given / "tuning")
    else:
        write_grids(given)
