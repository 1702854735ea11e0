"""How the compared methods were trained: sentences for a paper, and lines of the design box."""

from collections import Counter
from collections.abc import Mapping, Sequence

from analysis.read.budgets import VariantTraining, read_trainings
from analysis.sections.analysis import Analysis, once
from analysis.sections.section import Citation, Sentence, cite_source, make_sentence

WORDING: Mapping[str, str] = {
    "epochs": "{} epochs",
    "batch size": "batches of {} images",
    "optimizer": "the optimizer {}",
    "learning rate": "a learning rate of {}",
    "schedule": "the schedule {}",
}
FULL_SCHEDULE = "learning rates follow the schedule of the full budget"


@once
def trainings_of(analysis: Analysis) -> dict[str, VariantTraining]:
    """The training of each variant, read once."""
    return read_trainings(analysis.results, analysis.folder)


def training_sentences(trainings: Mapping[str, VariantTraining]) -> list[Sentence]:
    """The compared methods with their sources, the backbone, and the budgets."""
    if not trainings:
        return []
    trained = {v: t for v, t in trainings.items() if t.settings}
    untrained = [v for v, t in trainings.items() if not t.settings]
    sentences = [_compared(trainings), _parts(trainings), _backbone(trainings)]
    sentences += _budgets(trained)
    if untrained:
        sentences.append(_paper(f"{_listed(untrained)} took no training steps."))
    sentences.append(_stopping(trainings))
    if not all(t.complete for t in trainings.values()):
        sentences.append(
            _paper(
                "Settings that are not named are the defaults of the version that made the runs, "
                "which did not record them."
            )
        )
    return [sentence for sentence in sentences if sentence is not None]


def _paper(*pieces: str | Citation) -> Sentence:
    return make_sentence(*pieces, kind="paper")


def _compared(trainings: Mapping[str, VariantTraining]) -> Sentence | None:
    names = dict.fromkeys(name for t in trainings.values() for name in t.methods)
    return _cited("The compared methods are ", list(names), trainings)


def _parts(trainings: Mapping[str, VariantTraining]) -> Sentence | None:
    names = dict.fromkeys(name for t in trainings.values() for name in t.parts)
    sourced = [name for name in names if _works(name, trainings)]
    return _cited("Parts and settings with a published source are ", sourced, trainings)


def _cited(
    start: str, names: Sequence[str], trainings: Mapping[str, VariantTraining]
) -> Sentence | None:
    """A list of classes, each with the works that it cites."""
    if not names:
        return None
    pieces: list[str | Citation] = [start]
    for position, name in enumerate(names):
        before = "" if position == 0 else " and " if position == len(names) - 1 else ", "
        pieces += [f"{before}{name}", *_works(name, trainings)]
    return _paper(*pieces, ".")


def _works(name: str, trainings: Mapping[str, VariantTraining]) -> tuple[Citation, ...]:
    source = next((t.sources[name] for t in trainings.values() if name in t.sources), "")
    return cite_source(name, source)


def _backbone(trainings: Mapping[str, VariantTraining]) -> Sentence:
    names = dict.fromkeys(name for t in trainings.values() for name in t.backbone)
    return _paper(f"The frozen backbone is {' or '.join(names)}.")


def _budgets(trained: Mapping[str, VariantTraining]) -> list[Sentence]:
    """The most common budget, then the variants that differ from it, each with its own."""
    if not trained:
        return []
    kinds = Counter(tuple(t.settings.items()) for t in trained.values())
    common = dict(kinds.most_common(1)[0][0])
    sentences = [_paper(f"Training takes {_listed([_worded(common, n) for n in common])}.")]
    others = {v: _differences(t, common) for v, t in trained.items()}
    differing = [f"{v}: {text}" for v, text in others.items() if text]
    if differing:
        sentences.append(_paper(f"Variants with a budget of their own: {'; '.join(differing)}."))
    return sentences


def _differences(training: VariantTraining, common: Mapping[str, Sequence[str]]) -> str:
    own = training.settings
    names = [name for name in own if own[name] != common.get(name)]
    return ", ".join(_worded(own, name) for name in names)


def _worded(settings: Mapping[str, Sequence[str]], name: str) -> str:
    """One part of a budget, with all its values."""
    return WORDING[name].format(" or ".join(settings[name]))


def _stopping(trainings: Mapping[str, VariantTraining]) -> Sentence | None:
    text = _patience(trainings)
    if not text:
        return None
    return _paper(
        "Training stopped early when the accuracy on few-shot validation images had not improved "
        f"for some epochs ({text}); {FULL_SCHEDULE}."
    )


def _patience(trainings: Mapping[str, VariantTraining]) -> str:
    """The patience of each variant that has one, and how many of its runs were ended by it."""
    return "; ".join(
        f"{variant}: patience {' or '.join(t.patience)}, {t.stopped} runs stopped"
        for variant, t in trainings.items()
        if t.patience
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def training_terms(trainings: Mapping[str, VariantTraining]) -> list[tuple[str, str]]:
    """Lines of the design box: what a ranking depends on beside the protocol."""
    text = _patience(trainings)
    return [("Early stopping", f"{text}; {FULL_SCHEDULE}")] if text else []
