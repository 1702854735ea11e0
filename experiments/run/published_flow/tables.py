"""The comparison as tables: the same cells on a terminal and in Markdown."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from experiments.run.published_flow.cases import VIEWS, Views
from experiments.run.published_flow.compare import (
    EvaluationComparison,
    FlowSetting,
    StepComparison,
)
from experiments.run.published_flow.rates import MatrixRates


@dataclass(frozen=True, slots=True, kw_only=True)
class CellTable:
    """Rows of texts under columns; all columns but the first hold numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """The table in Markdown, under its title."""
        rule = "| --- |" + " ---: |" * (len(self.columns) - 1)
        lines = (self.columns, *self.rows)
        head, *body = ("| " + " | ".join(line) + " |" for line in lines)
        return "\n".join([f"*{self.title}*", "", head, rule, *body])


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowReport:
    """Everything that one comparison found."""

    setting: FlowSetting
    device: str
    product: str
    rates: MatrixRates
    steps: Sequence[StepComparison] = ()
    evaluations: Sequence[EvaluationComparison] = ()

    def tables(self) -> Iterator[CellTable]:
        """The tables of what was measured."""
        if self.steps:
            yield _times(self.steps)
            yield _floors(self.steps, self.rates)
        if any(step.memory for step in self.steps):
            yield _memory(self.steps)
        if self.evaluations:
            yield _evaluations(self.evaluations)

    def about(self) -> str:
        """One sentence on machine, sizes and rates."""
        setting, rates = self.setting, self.rates
        taught = setting.teacher or setting.backbone
        return (
            f"{self.device}, threads: {setting.threads}, float32, {setting.backbone} with random "
            f"weights (PromptKD's teacher: {taught}), {setting.classes} classes, medians of "
            f"{setting.rounds} interleaved rounds; our frozen products: {self.product}; matrix "
            f"rate of F.linear {rates.linear:.0f} GFLOP/s, best ({rates.best_way}) {rates.best:.0f}"
        )

    def equality(self) -> str:
        """One sentence on how equal the two sides are."""
        found = [(step, d) for step in self.steps for d in step.differences.values()]
        if not found:
            return ""
        loss = max(d.loss for _, d in found)
        step, worst = max(found, key=lambda pair: pair[1].gradient)
        return (
            f"same images and parameters, largest relative difference: {loss:.0e} of a loss, "
            f"{worst.gradient:.0e} of a gradient ({step.title}, {worst.parameter})"
        )

    def as_json(self) -> dict[str, Any]:
        """All figures, with the ratios."""
        steps = [{**asdict(step), "ratios": _ratios(step)} for step in self.steps]
        evaluations = [{**asdict(e), "ratio": e.ratio} for e in self.evaluations]
        return {**asdict(self), "steps": steps, "evaluations": evaluations}


def _ratios(step: StepComparison) -> dict[str, dict[Views, float]]:
    return {
        "released_over_ours": {views: step.ratio(views) for views in VIEWS},
        "ours_over_floor": {views: step.above_floor(views) for views in VIEWS},
    }


def _times(steps: Sequence[StepComparison]) -> CellTable:
    return CellTable(
        title="Seconds a training step: forward, backward, update; decoding left out",
        columns=("method", "batch", "released", "fixed views", "ratio", "fresh views", "ratio"),
        rows=tuple(
            (
                step.title,
                str(step.batch_size),
                seconds(step.released_seconds),
                seconds(step.seconds["fixed"]),
                f"{step.ratio('fixed'):.2f}x",
                seconds(step.seconds["fresh"]),
                f"{step.ratio('fresh'):.2f}x",
            )
            for step in steps
        ),
    )


def _floors(steps: Sequence[StepComparison], rates: MatrixRates) -> CellTable:
    def row(step: StepComparison) -> tuple[str, ...]:
        counted = step.arithmetic
        return (
            step.title,
            f"{counted.released:.0f}",
            f"{counted.fixed:.0f}",
            f"{step.above_floor('fixed'):.2f}",
            f"{counted.fresh:.0f}",
            f"{step.above_floor('fresh'):.2f}",
        )

    return CellTable(
        title=f"GFLOP a step, and our step over the floor at {rates.best:.0f} GFLOP/s",
        columns=("method", "released", "fixed", "step / floor", "fresh", "step / floor"),
        rows=tuple(map(row, steps)),
    )


def _memory(steps: Sequence[StepComparison]) -> CellTable:
    def row(step: StepComparison) -> tuple[str, ...]:
        assert step.memory is not None
        peaks = (step.released_memory, step.memory["fixed"], step.memory["fresh"])
        return (step.title, *(f"{peak:.0f}" for peak in peaks))

    return CellTable(
        title="Peak memory of a step above the resident weights, MiB",
        columns=("method", "released", "fixed views", "fresh views"),
        rows=tuple(row(step) for step in steps if step.memory),
    )


def _evaluations(evaluations: Sequence[EvaluationComparison]) -> CellTable:
    return CellTable(
        title=f"Evaluation of {evaluations[0].classes} classes, images per second, image tower "
        "included",
        columns=("method", "test batch", "released", "ours", "ratio"),
        rows=tuple(
            (e.title, str(e.batch_size), f"{e.released:.3g}", f"{e.ours:.3g}", f"{e.ratio:.2f}x")
            for e in evaluations
        ),
    )


def seconds(value: float) -> str:
    """Seconds with three digits."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"
