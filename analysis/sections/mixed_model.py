"""A mixed model of all scores: the effect of each variant, and where the variance lies."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis import stats
from analysis.read.results import Results
from analysis.sections.analysis import Analysis, once
from analysis.sections.section import Section, Topic, running_text
from analysis.sections.selection import grouped
from analysis.sections.shared_tests import as_sentence, scored
from analysis.stats import MixedEffect, MixedModel
from analysis.text import Column, Columns, Kind, Show, counted, points, share_text, table


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyModel:
    """The mixed model against the baseline. ``num_missing`` of ``num_planned`` scores are
    missing; ``unseeded`` variants stand as one column. ``shared_seeds``: one trained model per seed
    was scored on every dataset, which the model does not know.
    """

    model: MixedModel
    num_planned: int
    num_missing: int
    num_datasets: int
    unseeded: tuple[str, ...] = ()
    shared_seeds: bool = False


def study_model(results: Results, compared: Sequence[str], metric: str) -> StudyModel:
    """The model of the scores of these variants on one metric."""
    tables = [results.scores(v, metric) for v in compared]
    if results.baseline not in compared:
        model = MixedModel(reason=f"the baseline {results.baseline} has no score to compare with")
    else:
        scores_VDS = results.cube(compared, metric, repeat_unseeded=False)
        index = compared.index(results.baseline)
        model = stats.mixed_model(scores_VDS, compared, baseline=index)
    has_score = [np.isfinite(table).any(axis=1) for table in tables]
    return StudyModel(
        model=model,
        num_planned=sum(table.size for table in tables),
        num_missing=sum(int(np.isnan(table).sum()) for table in tables),
        num_datasets=int(np.any(has_score, axis=0).sum()) if has_score else 0,
        unseeded=tuple(v for v in compared if results.planned_seeds and not results.seeded(v)),
        shared_seeds=results.shared_seeds,
    )


@once
def modeled(analysis: Analysis) -> StudyModel:
    """The mixed model of this report."""
    return study_model(analysis.results, scored(analysis), analysis.metric)


COLUMNS: Columns[MixedEffect] = (
    Column("variant", "Variant", Kind.NAME, lambda e: e.variant),
    Column("difference", "Difference", Kind.DIFFERENCE, lambda e: e.difference),
    Column("standard_error", "Error", Kind.POINTS, lambda e: e.standard_error, Show.FILES),
    Column("interval", "95 % interval", Kind.INTERVAL, lambda e: e.interval),
    Column("p", "p", Kind.P, lambda e: e.p),
    Column("holm_p", "p Holm", Kind.P, lambda e: e.holm_p),
)
FIT_COLUMNS: Columns[StudyModel] = (
    Column("planned", "Planned", Kind.COUNT, lambda s: s.num_planned, Show.FILES),
    Column("missing", "Missing", Kind.COUNT, lambda s: s.num_missing, Show.FILES),
    Column(
        "variance_dataset", "Datasets", Kind.VARIANCE, lambda s: s.model.var_dataset, Show.FILES
    ),
    Column(
        "variance_interaction",
        "Datasets × variants",
        Kind.VARIANCE,
        lambda s: s.model.var_interaction,
        Show.FILES,
    ),
    Column("variance_seed", "Seeds", Kind.VARIANCE, lambda s: s.model.var_seed, Show.FILES),
)


def _sentences(found: StudyModel, baseline: str) -> list[str]:
    """What was fitted, to what, and what a reader must know about it."""
    model = found.model
    said = [
        "The model score ~ variant + (1 | dataset) + (1 | dataset × variant) is fitted by REML to "
        f"{counted(model.num_scores, 'score')}. Differences are from {baseline}; t has (datasets − "
        "1)(variants − 1) degrees of freedom."
    ]
    if found.num_missing:
        said.append(
            f"{found.num_missing} of {counted(found.num_planned, 'planned score')} "
            f"{'is' if found.num_missing == 1 else 'are'} missing; the model uses every score "
            "that exists, and takes no account of the pairing of runs."
        )
    said.append(_variances(model))
    if found.unseeded:
        names = ", ".join(found.unseeded)
        said.append(
            f"Variants without seeds enter with one score per dataset, never as copies: {names}."
        )
    if found.shared_seeds:
        said.append(
            "One trained model per seed is scored on every dataset; the effect of a seed on all of "
            "them together is not part of this model."
        )
    return [*said, *as_sentence(model.reason)]


def _variances(model: MixedModel) -> str:
    """Variances in squared points, with their roots in points."""
    interaction = "datasets × variants" + (" with seeds" if model.var_seed is None else "")
    parts = {
        "datasets": model.var_dataset,
        interaction: model.var_interaction,
        "seeds": model.var_seed,
    }
    shown = ", ".join(
        f"{name} {share_text(10_000 * value)} ({points(value**0.5)})"
        for name, value in parts.items()
        if value is not None
    )
    return f"Variances in squared points (standard deviations in points): {shown}."


def _sections(analysis: Analysis) -> Sequence[Section]:
    found, title = modeled(analysis), "Mixed model"
    fit = table("fit", "What was fitted", FIT_COLUMNS, [found])
    if not found.model.effects:
        return [Section(key="mixed_model", title=title, tables=(fit,), reason=found.model.reason)]
    effects = table("effects", title, COLUMNS, found.model.effects)
    shown = grouped(analysis, effects, [e.variant for e in found.model.effects])
    sentences = running_text(_sentences(found, analysis.results.baseline))
    return [Section(key="mixed_model", title=title, sentences=sentences, tables=(*shown, fit))]


TOPIC = Topic(key="mixed_model", build=_sections, files={"effects": COLUMNS, "fit": FIT_COLUMNS})
