"""The study of all methods: each tuned under one budget, then compared on fresh seeds.

``make methods-all`` writes one search a variant (``searches``), runs them, writes the grids with
the winning settings (``grids``), and runs these. Searches see no test image and no new class; what
is searched, and how long, is the same rule for every method: the rate of its optimizer, at most one
strength of its own, and that of the refiner's regularization.
"""

import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import experiments.cli.registered  # noqa: F401  (fills the registry)
from core.config import Config, Reference, format_value, lookup, registered_classes
from core.store.names import BEST_NAME
from experiments.configs import SHIPPED, read_config_file

GRIDS = Path("experiments/configs/grids")
TRIALS = 6
TUNED_ON = ("mosaic/land", "mosaic/textures")
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
    "ClipAdapter": {"ratio": {"low": 0.05, "high": 0.95}},
    "CoPrompt": {"weight": {"low": 0.5, "high": 32.0, "log": True}},
    "KgCoOp": {"weight": {"low": 0.5, "high": 32.0, "log": True}},
    "ProGrad": {"strength": {"low": 0.1, "high": 1.0}},
    "PromptKD": {"kd_weight": {"low": 10.0, "high": 3000.0, "log": True}},
    "PromptSRC": {"text_weight": {"low": 1.0, "high": 100.0, "log": True}},
    "SEP": {"text_weight": {"low": 0.5, "high": 20.0, "log": True}},
    "TCP": {"weight": {"low": 0.5, "high": 32.0, "log": True}},
    "TDA": {"positive_alpha": {"low": 0.2, "high": 5.0, "log": True}},
    "TPT": {"lr": {"low": 0.0005, "high": 0.05, "log": True}},
    "TaskRes": {"alpha": {"low": 0.1, "high": 2.0, "log": True}},
    "TipAdapter": {
        "alpha": {"low": 0.2, "high": 5.0, "log": True},
        "beta": {"low": 1.0, "high": 10.0, "log": True},
    },
    "TipAdapterF": {"alpha": {"low": 0.2, "high": 5.0, "log": True}},
}
REFINERS = {
    "TextRefiner": {"L1Regularization.weight": {"low": 1.0, "high": 50.0, "log": True}},
    "DePT": {"DePT.weight": {"low": 0.1, "high": 0.9}},
}
BUDGET = {
    "experiment.backbone": "mosaic",
    "experiment.epochs": 10,
    "experiment.batch_size": 32,
    "experiment.num_views": 0,
}
PARTICULAR: Mapping[str, Mapping[str, Any]] = {
    "PromptSRC": {"PromptSRC.average_mean": 7.5},
    "ProGrad": {"ProGrad.num_ctx": 4},
    "TPT": {"TPT.test_views": 5, "TPT.selection": 0.5},
    "DePT": {"CoOp.ctx_init": "a photo of a", "CoOp.num_ctx": 4},
}
"""The average of PromptSRC around three quarters of the epochs, as published; contexts of 16
vectors do not fit the embedded model's 32 tokens; TPT sees 5 crops of a test image, which are its
cost.
"""
PRESETS = {"TPT": "tpt_mosaic"}
"""Presets that are not named after their method."""

FURTHER = {"ZeroShot, 80 templates": "zero_shot_ensemble", "CLAP": "clap"}
"""Presets that stand beside that of their method."""


@dataclass(frozen=True)
class Row:
    """A variant: the preset of a method, alone or with a refiner on top."""

    title: str
    preset: str
    refiner: str = ""

    @property
    def name(self) -> str:
        """The variant's name."""
        return f"{self.title}+{self.refiner}" if self.refiner else self.title

    @property
    def study(self) -> str:
        """The name of its search."""
        return "tune_" + re.sub(r"\W+", "_", self.name).lower()

    @property
    def includes(self) -> list[str]:
        """The configurations it starts from."""
        together = f"text_refiner_on_{self.preset}"
        if self.refiner == "TextRefiner":
            known = together in SHIPPED.files()
            return [together] if known else [self.preset, "text_refiner_parts"]
        return [self.preset, *([self.refiner.lower()] if self.refiner else [])]

    @cached_property
    def config(self) -> Config:
        """Its settings before anything is tuned: the presets and the budget of all."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "row.gin"
            path.write_text("".join(f"include '{name}.gin'\n" for name in self.includes))
            given = read_config_file(path)
        method = str(given.bindings["experiment.method"]).removeprefix("@")
        own = {**PARTICULAR.get(method, {}), **PARTICULAR.get(self.refiner, {})}
        if lookup(method).cls.views_per_image > 1:
            own["experiment.num_views"] = 1
        bound = {**BUDGET, **own, "experiment.dataset": TUNED_ON[0]}
        return given.without(["experiment.protocol"]).with_bindings(bound, "the budget of all")

    @property
    def method(self) -> str:
        """The name of the method's class."""
        return str(self.config.bindings["experiment.method"]).removeprefix("@")

    @property
    def closed(self) -> bool:
        """Whether it scores only the classes that it was trained on."""
        values = self.config.operative("experiment")
        own = {name: values[f"{self.method}.{name}"] for name in lookup(self.method).parameters}
        return bool(lookup(self.method).ask("closed_set", own))

    @property
    def space(self) -> dict[str, Any]:
        """What is searched."""
        found: dict[str, Any] = {}
        cls: Any = lookup(self.method).cls
        optimizer = self.config.bindings["experiment.optimizer"]
        if (cls.trains and cls.trains_by_gradient) or self.refiner:
            name = str(optimizer).removeprefix("@")
            found[f"{name}.lr"] = RATES[name]
        strengths = STRENGTHS.get(self.method, {})
        if self.title not in FURTHER:
            found |= {f"{self.method}.{name}": levels for name, levels in strengths.items()}
        return found | REFINERS.get(self.refiner, {})


def rows() -> Iterator[Row]:
    """Every registered method alone and with TextRefiner; CoOp with the other refiners."""
    presets = {name.replace("_", ""): name for name in SHIPPED.files()}
    found = {
        entry.name: PRESETS.get(entry.name) or presets[entry.name.lower()]
        for entry in registered_classes("method")
    }
    for title, preset in {**found, **FURTHER}.items():
        yield Row(title, preset)
        yield Row(title, preset, "TextRefiner")
    for entry in registered_classes("refiner"):
        if entry.name not in ("TextRefiner", "NullRefiner"):
            yield Row("CoOp", found["CoOp"], entry.name)


def search_text(row: Row) -> str:
    """The search of a variant."""
    bindings: dict[str, Any] = {
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
    if row.closed:
        bindings["experiment.protocol"] = "few_shot"  # the winner's, if it were judged here
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
    closed = [row for row in found if row.closed or row.title in REFERENCES]
    for study, chosen, protocol in (
        (OPEN, open_rows, "base_to_new"),
        (CLOSED, closed, "few_shot"),
    ):
        (GRIDS / f"{study}.gin").write_text(grid_text(study, chosen, protocol, runs))


def grid_text(study: str, chosen: list[Row], protocol: str, runs: Path) -> str:
    """A grid of variants, each with the settings in which it differs from the common ones."""
    names = [name for row in chosen for name in row.includes if name != "text_refiner_parts"]
    lines = [
        f"# Every method, alone and with TextRefiner, each tuned under one budget: {TRIALS} random "
        "trials on the validation\n# images of two sets. Written by 'make methods-all' from its "
        "searches.\n"
    ]
    lines += [f"include '{name}.gin'\n" for name in (*dict.fromkeys(names), "text_refiner_parts")]
    common = {
        **BUDGET,
        "experiment.protocol": protocol,
        "grid.study": study,
        "grid.datasets": DATASETS,
        "grid.seeds": SEEDS,
        "grid.baseline": "CoOp",
        "grid.references": tuple(r.name for r in chosen if not r.refiner and r.title != "CoOp"),
    }
    lines += [f"{key} = {format_value(value)}\n" for key, value in common.items()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "common.gin"
        path.write_text("".join(lines) + "grid.variants = {}\n")
        shared = read_config_file(path).bindings
    lines += ["grid.variants = {\n"]
    for row in chosen:
        settings = format_value(_variant(row, shared, tuned(row, runs)))
        lines += [f"    {format_value(row.name)}: {settings},\n"]
    return "".join([*lines, "}\n"])


def _variant(row: Row, shared: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """What sets a variant apart, the settings that were found for it among it."""
    wanted = row.config.with_bindings(found, "tuned").operative("experiment")
    skipped = ("experiment.dataset", "experiment.protocol")
    return {
        key: value
        for key, value in wanted.items()
        if key not in skipped and value != shared.get(key, _default(key))
    }


def _default(key: str) -> Any:
    name, _, parameter = key.rpartition(".")
    return lookup(name).parameters[parameter].default


if __name__ == "__main__":
    what, given = sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else "runs")
    if what == "searches":
        write_searches(given / "tuning")
    else:
        write_grids(given)
