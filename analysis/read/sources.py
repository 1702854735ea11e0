"""Several sources in one report: a study beside the numbers of others.

The first source keeps its names, its datasets and its seeds. Of every further one, the variants get
the name of the source where names would clash, and the datasets and metrics that the first one has
are used. One number of two sources is not one draw of the data: runs are paired across sources only
where both record the same fingerprints of the data, or where a person says so.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from analysis.read.csv_columns import canonical
from analysis.read.csv_text import tidy
from analysis.read.results import (
    Origin,
    Problem,
    Results,
    Setting,
    metric_order,
    seed_array,
)
from analysis.read.shot_curves import curve_of

SCORED = "scored"
"""The status of a row of a table, whose run is not known."""
FOLDER = "folder/"
"""What the names of datasets that are trees on disk begin with."""
SAME_METRIC = {"acc": "accuracy", "top1": "accuracy", "top1_acc": "accuracy"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """Results with the name that a person gives their source, "" for none, and where they are."""

    results: Results
    name: str = ""
    path: str = ""

    @property
    def label(self) -> str:
        """The name of the source, else that of its results."""
        return self.name or tidy(self.results.name)


def combined(first: Named, others: Sequence[Named], *, paired: bool = False) -> Results:
    """One table of all sources, with the variants of the first one first.

    Raises ValueError where a further source shares no dataset or no metric with the first, or two
    sources have one name.
    """
    labels = [source.label for source in (first, *others)]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise ValueError(f"two sources are called {twice[0]!r}; tell them apart with --as")
    merged = replace(
        first.results,
        origins=(
            Origin(
                name=first.label,
                path=first.path,
                variants=first.results.variants,
                seeds=first.results.planned_seeds,
                paired=True,
            ),
        ),
    )
    for source in others:
        merged = _joined(merged, source, paired=paired)
    return merged


def _joined(base: Results, source: Named, *, paired: bool) -> Results:
    """The table with the variants of a further source."""
    added, notes = _renamed(base, source)
    added, more = _matched(base, added, source)
    matched = paired or _same_data(base, added)
    added, said = _with_own_seeds(base, added, source, matched=matched)
    metrics = tuple(m for m in base.metrics if m in added.metrics)
    dropped = [m for m in (*base.metrics, *added.metrics) if m not in metrics]
    gone = [f"metrics that not all sources have are left out: {', '.join(dict.fromkeys(dropped))}"]
    seeds = tuple(sorted({*base.planned_seeds, *added.planned_seeds}))
    origin = Origin(
        name=source.label,
        path=source.path,
        variants=added.variants,
        seeds=added.planned_seeds,
        paired=matched,
    )
    return replace(
        base,
        frame=_stacked_scores(base.frame, added.frame, metrics),
        provenance=_stacked_provenance(base, added),
        variants=(*base.variants, *added.variants),
        metrics=metrics,
        planned_seeds=seeds,
        origins=(*base.origins, origin),
        primary=base.primary if base.primary in metrics else "",
        problems=(*base.problems, *added.problems),
        notes=(*base.notes, *notes, *more, *said, *(gone if dropped else ())),
        curve=base.curve if len(metrics) == len(base.metrics) else curve_of(metrics),
        lower_is_better=base.lower_is_better & {*metrics},
        costs=pd.concat([base.costs, added.costs], ignore_index=True),
        runs=_runs(base, added, source),
        **_merged_facts(base, added),
    )


def _merged_facts(base: Results, added: Results) -> dict[str, Any]:
    """What either source says about its variants."""
    return {
        "inert": {**base.inert, **added.inert},
        "aliases": {**base.aliases, **added.aliases},
        "settings": {**base.settings, **added.settings},
        "factors": {**base.factors, **added.factors},
        "levels": {
            **base.levels,
            **{k: v for k, v in added.levels.items() if k not in base.levels},
        },
        "shots": tuple(sorted({*base.shots, *added.shots})),
        "batch_coupled": (*base.batch_coupled, *added.batch_coupled),
        "trained_on_test": {**base.trained_on_test, **added.trained_on_test},
        "shared_seeds": base.shared_seeds or added.shared_seeds,
        "source_accuracy": {**base.source_accuracy, **added.source_accuracy},
    }


def _renamed(base: Results, source: Named) -> tuple[Results, list[str]]:
    """The results with the name of their source before the names of their variants, where that is
    given or needed.
    """
    found = source.results
    clash = sorted(set(found.variants) & set(base.variants))
    if not source.name and not clash:
        return _with_settings(base, found, source), []
    name = {v: f"{source.label}/{v}" for v in found.variants}
    if taken := [new for new in name.values() if new in base.variants]:
        raise ValueError(
            f"two variants would be called {taken[0]!r}; choose another name with --as"
        )
    renamed = replace(
        found,
        frame=_with_names(found.frame, name),
        runs=_with_names(found.runs, name),
        costs=_with_names(found.costs, name),
        variants=tuple(name[v] for v in found.variants),
        baseline=name[found.baseline],
        references=tuple(name[v] for v in found.references),
        batch_coupled=tuple(name[v] for v in found.batch_coupled),
        trained_on_test=_by_name(found.trained_on_test, name),
        problems=tuple(replace(p, variant=name[p.variant]) for p in found.problems),
        aliases={name[v]: name[o] for v, o in found.aliases.items()},
        inert=_by_name(found.inert, name),
        settings=_by_name(found.settings, name),
        factors=_by_name(found.factors, name),
        source_accuracy=_by_name(found.source_accuracy, name),
    )
    why = [] if source.name else [f"both sources have {', '.join(clash)}: see {source.label}/..."]
    return _with_settings(base, renamed, source), why


def _by_name(values: Mapping[str, Any], name: Mapping[str, str]) -> dict[str, Any]:
    return {name[v]: value for v, value in values.items()}


def _with_names(frame: pd.DataFrame, name: Mapping[str, str]) -> pd.DataFrame:
    return frame if frame.empty else frame.assign(variant=frame["variant"].map(name))


def _with_settings(base: Results, found: Results, source: Named) -> Results:
    """A source that states no protocol, regime or selection is taken to have the baseline's."""
    silent = [v for v in found.variants if found.settings.get(v, Setting()) == Setting()]
    taken = base.settings.get(base.baseline, Setting())
    if not silent or taken == Setting():
        return found
    said = "; ".join(filter(None, (taken.protocol, taken.regime, taken.selection)))
    note = f"{source.label} states no setting: taken to be that of {base.baseline} ({said})"
    return replace(
        found,
        settings={**found.settings, **dict.fromkeys(silent, taken)},
        notes=(*found.notes, note),
    )


def _matched(base: Results, found: Results, source: Named) -> tuple[Results, list[str]]:
    """The results on the datasets and metrics of the first source, under its names."""
    datasets = _same_datasets(base, found)
    others = _other_images(base, found, datasets)
    if others and len(others) == len(datasets):
        raise ValueError(
            f"{source.path}: no dataset has the same images as in the first source: "
            f"{'; '.join(others.values())}; make both on one state of the data"
        )
    datasets = {old: new for old, new in datasets.items() if old not in others}
    metrics = _same_names(found.metrics, base.metrics)
    _check_overlap(base, found, source, datasets, metrics)
    notes = [
        f"{source.label}: {old!r} is taken to be {new!r}"
        for old, new in {**datasets, **metrics}.items()
        if old != new
    ]
    notes += [f"{source.label}: set aside, {reason}" for reason in others.values()]
    if extra := [d for d in found.datasets if d not in datasets and d not in others]:
        notes.append(
            f"{source.label}: datasets that {base.name} lacks are left out: {', '.join(extra)}"
        )
    kept = found.frame["dataset"].isin(list(datasets)).to_numpy()
    frame = found.frame[kept].rename(columns=metrics).reset_index(drop=True)
    provenance = found.provenance[kept] if len(found.provenance) else found.provenance
    return replace(
        found,
        frame=frame.assign(dataset=frame["dataset"].map(datasets)),
        provenance=provenance.reset_index(drop=True),
        datasets=base.datasets,
        metrics=metric_order(frame),
        problems=tuple(_problems(found.problems, datasets)),
    ), [*(f"{source.label}: {note}" for note in found.notes), *notes]


def _check_overlap(
    base: Results,
    found: Results,
    source: Named,
    datasets: Mapping[str, str],
    metrics: Mapping[str, str],
) -> None:
    """Raise ValueError where two sources share nothing, or disagree about a direction."""
    for what, here, there, both in (
        ("dataset", found.datasets, base.datasets, datasets),
        ("metric", found.metrics, base.metrics, metrics),
    ):
        if not both:
            raise ValueError(
                f"{source.path}: shares no {what} with the first source, which has "
                f"{', '.join(there)}; this one has {', '.join(here)}"
            )
    for old, new in metrics.items():
        if found.direction(old) != base.direction(new):
            raise ValueError(
                f"{source.path}: lower is better for {new} in one source and higher in another; "
                "say which with --lower or --higher"
            )


def _problems(problems: Iterable[Problem], datasets: Mapping[str, str]) -> Iterable[Problem]:
    for problem in problems:
        if problem.dataset in datasets:
            yield replace(problem, dataset=datasets[problem.dataset])


def _same_names(names: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """Names that mean a known one: equal, or equal but for letter case and how words are joined.

    Two folders of images are the same dataset only where their names, which are paths, are equal.
    """
    forms = {
        canonical(k): k for k in known if sum(canonical(k) == canonical(o) for o in known) == 1
    }
    found: dict[str, str] = {}
    for name in names:
        form = canonical(name)
        match = name if name in known else forms.get(form) or forms.get(SAME_METRIC.get(form, ""))
        paths = match is not None and name.startswith(FOLDER) and match.startswith(FOLDER)
        if match is None or match in found.values() or (paths and match != name):
            continue
        found[name] = match
    return found


def _same_datasets(base: Results, found: Results) -> dict[str, str]:
    """The datasets that are one of the first source: by name, or by the fingerprint of their data
    where a name is in only one source and the fingerprint is that of one dataset in both.
    """
    same = _same_names(found.datasets, base.datasets)
    one, two = _fingerprints(base), _fingerprints(found)
    for name in (name for name in found.datasets if name not in same and name in two):
        known = {*two[name].values()}
        here = [d for d in one if not known.isdisjoint(one[d].values())]
        there = [d for d in two if not known.isdisjoint(two[d].values())]
        if len(here) == len(there) == 1 and here[0] not in same.values():
            same[name] = here[0]
    return same


def _other_images(base: Results, found: Results, datasets: Mapping[str, str]) -> dict[str, str]:
    """Why a dataset of one name is not one dataset in both sources: no fingerprint is in both.

    Splits that are drawn for every seed are compared only where both sources have a seed.
    """
    one, two = _fingerprints(base), _fingerprints(found)
    reasons = {}
    for old, new in datasets.items():
        here, there = one.get(new, {}), two.get(old, {})
        a, b = {*here.values()}, {*there.values()}
        decided = len(a) == len(b) == 1 or not here.keys().isdisjoint(there)
        if a and b and a.isdisjoint(b) and decided:
            reasons[old] = (
                f"{old!r} has other images or another split: fingerprint {min(b)}, not {min(a)}"
            )
    return reasons


def _fingerprints(results: Results) -> dict[str, dict[int | None, str]]:
    """The fingerprints of the data of every dataset, by seed, where they are known.

    Where one model is scored on several datasets, its fingerprint is that of the images that it was
    trained on, which says nothing of them.
    """
    if "data" not in results.provenance.columns or results.shared_seeds:
        return {}
    found: dict[str, dict[int | None, str]] = {}
    columns = (results.frame["dataset"], results.frame["seed"], results.provenance["data"])
    for dataset, seed, data in zip(*columns, strict=True):
        if not pd.isna(data) and str(data):
            found.setdefault(dataset, {})[None if pd.isna(seed) else int(seed)] = str(data)
    return found


def _data(results: Results) -> dict[tuple[str, int], str]:
    """The fingerprint of the data of every (dataset, seed), "" where none or several are known."""
    if "data" not in results.provenance.columns:
        return {}
    seen: dict[tuple[str, int], set[str]] = {}
    rows = zip(
        results.frame["dataset"],
        results.frame["seed"],
        results.provenance["data"].fillna(""),
        strict=True,
    )
    for dataset, seed, data in rows:
        if not pd.isna(seed):
            seen.setdefault((dataset, int(seed)), set()).add(str(data))
    return {key: next(iter(v)) if len(v) == 1 else "" for key, v in seen.items()}


def _same_data(base: Results, found: Results) -> bool:
    """Whether both record the same data for every dataset and seed that both have."""
    one, two = _data(base), _data(found)
    both = one.keys() & two.keys()
    return bool(both) and all(one[key] and one[key] == two[key] for key in both)


def _with_own_seeds(
    base: Results, found: Results, source: Named, *, matched: bool
) -> tuple[Results, list[str]]:
    """The results with seeds that no other source has, unless the same number is the same draw."""
    if matched or not found.planned_seeds:
        return found, []
    both = sorted({*base.planned_seeds} & {*found.planned_seeds})
    why = (
        f"the runs of {source.label} are not paired with those of other sources, whose images may "
        "be others (--paired says that equal seeds are the same images)"
    )
    if not both:
        return found, [why]
    step = 10 ** len(str(max(*base.planned_seeds, *found.planned_seeds, 99)))
    own = {seed: seed + step for seed in found.planned_seeds}
    if min(found.planned_seeds) < 0 or max(own.values()) >= 2**63:
        free = (n for n in range(1, 10**9) if n not in base.planned_seeds)
        own = dict(zip(found.planned_seeds, free, strict=False))
    first = found.planned_seeds[0]
    seeds = [None if pd.isna(s) else own[int(s)] for s in found.frame["seed"]]
    return replace(
        found,
        frame=found.frame.assign(seed=seed_array(seeds)),
        planned_seeds=tuple(own.values()),
        problems=tuple(
            replace(p, seed=None if p.seed is None else own.get(p.seed, p.seed))
            for p in found.problems
        ),
    ), [f"{why}: its seed {first} is shown as {own[first]}"]


def _stacked_scores(one: pd.DataFrame, two: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """The rows of both with these metrics; seeds stay exact."""
    seeds = [None if pd.isna(s) else int(s) for s in [*one["seed"], *two["seed"]]]
    columns = ["variant", "dataset", *metrics]
    both = pd.concat([one[columns], two[columns]], ignore_index=True)
    return both.assign(seed=seed_array(seeds))[["variant", "dataset", "seed", *metrics]]


def _stacked_provenance(base: Results, found: Results) -> pd.DataFrame:
    """Where every row of both comes from; what one of them does not record is blank."""
    frames = [
        r.provenance if len(r.provenance) else pd.DataFrame(index=range(len(r.frame)))
        for r in (base, found)
    ]
    return pd.concat(frames, ignore_index=True).astype(object).fillna("")


def _runs(base: Results, found: Results, source: Named) -> pd.DataFrame:
    """The planned runs of the study among the sources, and the rows of the others."""
    if base.runs.empty and found.runs.empty:
        return base.runs
    rows = found.frame[["variant", "dataset", "seed"]].assign(
        shots=pd.array([None] * len(found.frame), dtype="Int64"),
        identity="",
        status=SCORED,
        note=f"from {source.label}",
    )
    seeds = [None if pd.isna(s) else int(s) for s in [*base.runs["seed"], *rows["seed"]]]
    both = pd.concat([base.runs.drop(columns="seed"), rows.drop(columns="seed")], ignore_index=True)
    return both.assign(seed=seed_array(seeds))[list(base.runs.columns)]
