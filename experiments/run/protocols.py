"""The four protocols of the field: what is trained on, what selection may see, what is scored.

Two more are for searches: their runs are given a dataset without test images and new classes.

Every rule is defined here once, as a value that ``run.py`` applies and that ``list protocols`` and
``train`` print. Evaluation never trains: everything is scored with the weights that training
produced.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from core.data.dataset import ClassSubset, Dataset

ProtocolName = Literal[
    "base_to_new",
    "cross_dataset",
    "domain_generalization",
    "few_shot",
    "validation",
    "pseudo_new",
]
Selection = Literal["last", "val", "oracle-test"]

FEW_SHOTS = (1, 2, 4, 8, 16)
LABELED = "inductive"
OWN_TEMPLATE = (
    "each dataset's own where a method uses hand-made texts, unless experiment.template is set; "
    "learned contexts take none"
)


class UnscorableError(ValueError):
    """A class list that a run would score cannot be bound by its method."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """The rules of one protocol.

    ``labeled`` names the classes whose labels training and selection may use, ``scored`` the
    class subsets of the run's own test images that are scored, each among its own classes.
    ``targets`` says whether other datasets are scored, and whether their class names must be
    among those of the source. ``regimes`` says for every admitted regime what training sees,
    ``selections`` what each rule for choosing the epoch sees. ``judged_by`` "validation" takes all
    test images and new classes away (``core/data/validation_only.py``) before anything is built.
    """

    name: ProtocolName
    summary: str
    labeled: ClassSubset
    scored: tuple[ClassSubset, ...]
    scores: str
    targets: Literal["none", "any", "among source classes"]
    shots: str
    regimes: Mapping[str, str]
    selections: Mapping[str, str]
    source: str
    templates: str = OWN_TEMPLATE
    judged_by: Literal["test", "validation"] = "test"

    def rules(self) -> dict[str, str]:
        """Everything a reader should know, term by term."""
        return {
            "scored": self.scores,
            "shots": self.shots,
            **{f"training sees, {regime}": text for regime, text in self.regimes.items()},
            **{f"selection {rule!r} sees": text for rule, text in self.selections.items()},
            "templates": self.templates,
            "source": self.source,
        }

    @property
    def scores_others(self) -> bool:
        """Whether classes are scored that training did not see, given labeled images."""
        return any(subset != self.labeled for subset in self.scored) or self.targets == "any"

    def check_closed_set(self, method: str, reason: str) -> None:
        """Raise UnscorableError for a method that, for this reason, scores only the classes that it
        was trained on.
        """
        if reason and self.scores_others:
            known = {**PROTOCOLS, **SEARCH_PROTOCOLS}.values()
            fitting = [repr(protocol.name) for protocol in known if not protocol.scores_others]
            raise UnscorableError(
                f"{method} scores only classes that it was trained on ({reason}), and the protocol "
                f"{self.name!r} scores others as well; protocols of a closed set are "
                f"{', '.join(fitting)}"
            )

    def check(self, *, regime: str, shots: int, dataset: str, targets: Sequence[str]) -> None:
        """Raise ValueError, saying rule, value and way out, for a run that breaks the protocol."""
        if regime not in self.regimes:
            raise ValueError(
                f"the protocol {self.name!r} allows the regimes {', '.join(self.regimes)}, "
                f"but the method has {regime!r}; use another protocol or another regime"
            )
        if regime == "transductive" and shots:
            raise ValueError(
                f"the regime 'transductive' trains on all unlabeled images, got experiment.shots = "
                f"{shots}; use 0, or the regime 'limited'"
            )
        self._check_targets(regime, dataset, targets)

    def _check_targets(self, regime: str, dataset: str, targets: Sequence[str]) -> None:
        if self.targets == "none" or regime != LABELED:
            if targets:
                reason = (
                    "scores only the dataset it trains on"
                    if self.targets == "none"
                    else f"in the regime {regime!r} trains one student per target, which is "
                    "experiment.dataset"
                )
                raise ValueError(
                    f"the protocol {self.name!r} {reason}, got experiment.targets = "
                    f"{tuple(targets)}; leave them empty"
                )
            return
        if not targets:
            raise ValueError(
                f"the protocol {self.name!r} scores other datasets as well: name them in "
                "experiment.targets"
            )
        twice = [name for name, count in Counter(targets).items() if count > 1]
        if twice:
            raise ValueError(f"experiment.targets must not repeat a dataset, {twice[0]!r} does")
        if dataset in targets:
            raise ValueError(
                f"experiment.targets must not hold the source {dataset!r}: its own test images are "
                "always scored; take it out"
            )

    def check_classes(self, source: Dataset, targets: Sequence[Dataset]) -> None:
        """Raise ValueError for a shifted dataset with classes that the source does not have.

        Names are counted, because ImageNet has two that stand for two classes each.
        """
        if self.targets != "among source classes":
            return
        known = Counter(source.class_names)
        for target in targets:
            strangers = sorted((Counter(target.class_names) - known).elements())
            if strangers:
                shown = ", ".join(map(repr, strangers[:5])) + (", ..." if strangers[5:] else "")
                raise ValueError(
                    f"domain generalization scores classes of the source: {len(strangers)} of the "
                    f"{len(target.class_names)} classes of {target.name} are not in {source.name}: "
                    f"{shown}; use the protocol 'cross_dataset', or the class names of the source"
                )


def _selections(classes: str) -> Mapping[str, str]:
    return MappingProxyType(
        {
            "last": "nothing: the last epoch is reported",
            "val": f"few-shot validation images (at most 4 per class) of {classes}",
            "oracle-test": f"test images of {classes}; not an honest score",
        }
    )


_ONE_STUDENT = (
    "of one target, which is experiment.dataset, without labels; the source is the teacher's"
)
_TRANSFER = MappingProxyType(
    {
        "inductive": "the few-shot images of all classes of the source, with labels; no target",
        "limited": f"the few-shot images {_ONE_STUDENT}",
        "transductive": f"all training images {_ONE_STUDENT} (experiment.shots = 0; shifted "
        "ImageNets have no training images but their test images)",
    }
)

PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        protocol.name: protocol
        for protocol in (
            Protocol(
                name="base_to_new",
                summary="train on the first half of the classes, score the halves separately",
                labeled="base",
                scored=("base", "new"),
                scores="test images of the base classes (the first ceil(n / 2) labels) and of the "
                "new ones, each among its own classes; HM is the harmonic mean of the two",
                targets="none",
                shots="16 as published, drawn over all classes before the halves are taken; "
                "0 takes all images",
                regimes=MappingProxyType(
                    {
                        "inductive": "the few-shot images of the base classes, with labels",
                        "limited": "the few-shot images of all classes, without labels",
                        "transductive": "all training images of all classes, without labels "
                        "(experiment.shots = 0)",
                    }
                ),
                selections=_selections("the base classes"),
                source="Zhou et al., CVPR 2022, arXiv 2203.05557",
            ),
            Protocol(
                name="cross_dataset",
                summary="train on one dataset, score it and others with their own classes",
                labeled="all",
                scored=("all",),
                scores="all test images of the source and of every target in experiment.targets, "
                "each among its own classes; the average is over the targets",
                targets="any",
                shots="16 of the source as published; targets are only tested",
                regimes=_TRANSFER,
                selections=_selections("the dataset trained on, never of another target"),
                source="Zhou et al., CVPR 2022, arXiv 2203.05557",
            ),
            Protocol(
                name="domain_generalization",
                summary="train on one dataset, score it and shifted versions of its classes",
                labeled="all",
                scored=("all",),
                scores="all test images of the source and of every target in experiment.targets, "
                "each among its own classes, which must be classes of the source (ImageNet-A and "
                "-R: 200 of its 1000); the average is over the targets",
                targets="among source classes",
                shots="16 of the source as published; targets are only tested",
                regimes=_TRANSFER,
                selections=_selections("the dataset trained on, never of another target"),
                source="Zhou et al., IJCV 2022, arXiv 2109.01134",
            ),
            Protocol(
                name="few_shot",
                summary="train on a few images of all classes, score all",
                labeled="all",
                scored=("all",),
                scores="all test images, among all classes",
                targets="none",
                shots=f"a curve over {', '.join(map(str, FEW_SHOTS))} (grid.shots), each number "
                "with its own draw; 0 takes all images",
                regimes=MappingProxyType(
                    {
                        "inductive": "the few-shot images of all classes, with labels",
                        "limited": "the few-shot images of all classes, without labels",
                    }
                ),
                selections=_selections("all classes"),
                source="Zhou et al., IJCV 2022, arXiv 2109.01134",
            ),
        )
    }
)


def protocol_of(name: str) -> Protocol:
    """The protocol of a name, the field's or a search's."""
    return {**PROTOCOLS, **SEARCH_PROTOCOLS}[name]


_NO_SELECTION = MappingProxyType({"last": "nothing: the last epoch is reported"})
_WITHHELD = "; test images and new classes are withheld"

SEARCH_PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        protocol.name: protocol
        for protocol in (
            Protocol(
                name="validation",
                summary="for searches: train on base classes, score their validation images",
                labeled="all",
                scored=("all",),
                scores="few-shot validation images (at most 4 per class) of base classes"
                f"{_WITHHELD}",
                targets="none",
                shots="as in 'base_to_new', the same images",
                regimes=MappingProxyType(
                    {
                        "inductive": "the few-shot images of the base classes, with labels",
                        "limited": "the few-shot images of the base classes, without labels",
                        "transductive": "all training images of the base classes, without labels "
                        "(experiment.shots = 0)",
                    }
                ),
                selections=_NO_SELECTION,
                source="RefineLab",
                judged_by="validation",
            ),
            Protocol(
                name="pseudo_new",
                summary="for searches: split the base classes again, train on their first half, "
                "score both",
                labeled="base",
                scored=("base", "new"),
                scores="few-shot validation images (at most 4 per class) of the first half of the "
                f"base classes and of the second, each among its own classes{_WITHHELD}",
                targets="none",
                shots="as in 'base_to_new', the same images",
                regimes=MappingProxyType(
                    {
                        "inductive": "the few-shot images of pseudo-base classes, with labels",
                        "limited": "the few-shot images of the base classes, without labels",
                        "transductive": "all training images of the base classes, without labels "
                        "(experiment.shots = 0)",
                    }
                ),
                selections=_NO_SELECTION,
                source="RefineLab",
                judged_by="validation",
            ),
        )
    }
)
