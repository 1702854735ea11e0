"""Which cells ran where, in a study that several devices computed.

An identity does not name the device: a study may begin on a CPU and go on elsewhere. Devices round
differently, so that a reader should know which scores stand side by side.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from analysis.read.results import RunKey
from analysis.sections.analysis import Analysis
from analysis.sections.section import Section, Topic, running_text
from analysis.text import Column, Columns, Kind, Show, table

ADVICE = (
    "Several devices computed the runs of this study, and devices round differently: a difference "
    "of a few images between variants that ran on different ones may be due to them."
)


UNKNOWN = "not recorded"
ADVICE_UNKNOWN = (
    "The records of some runs do not say which device computed them, and devices round differently."
)
ADVICE_MOVED = (
    "After an interruption some trainings went on on another device, driver or version of CUDA: "
    "their last digits are those of neither."
)


class DeviceShare(NamedTuple):
    """What one device computed of a variant, or several one after the other."""

    device: str
    variant: str
    runs: int
    cells: tuple[str, ...]


COLUMNS: Columns[DeviceShare] = (
    Column("device", "Device", Kind.NAME, lambda s: s.device),
    Column("variant", "Variant", Kind.TEXT, lambda s: s.variant),
    Column("runs", "Runs", Kind.COUNT, lambda s: s.runs),
    Column("cells", "Datasets", Kind.LIST, lambda s: s.cells),
)


def shares(analysis: Analysis) -> Iterator[DeviceShare]:
    """The runs of every device, variant by variant."""
    results = analysis.results
    for devices, runs in results.devices.items():
        device = words(devices)
        for variant in results.variants:
            if own := [run for run in runs if run[0] == variant]:
                cells = tuple(_cells(own, len(results.planned_seeds)))
                yield DeviceShare(device, variant, len(own), cells)


def words(devices: Sequence[str]) -> str:
    """The devices that made a run."""
    return ", then ".join(devices) or UNKNOWN


def _cells(runs: Sequence[RunKey], num_seeds: int) -> Iterator[str]:
    """Each dataset, with the seeds where these are not all."""
    for dataset in dict.fromkeys(dataset for _, dataset, _ in runs):
        seeds = sorted({seed for _, name, seed in runs if name == dataset and seed is not None})
        some = bool(seeds) and len(seeds) < num_seeds
        yield f"{dataset}, seed {', '.join(map(str, seeds))}" if some else dataset


def _sections(analysis: Analysis) -> Sequence[Section]:
    known = analysis.results.devices
    moved = any(len(devices) > 1 for devices in known)
    if len(known) < 2 and not moved:
        return []
    advice = [ADVICE] if len({name for devices in known for name in devices}) > 1 else []
    advice += [ADVICE_MOVED] * moved + [ADVICE_UNKNOWN] * (() in known)
    found = table("devices", "Which cells ran where", COLUMNS, shares(analysis), folded=True)
    return [
        Section(key="devices", title="Devices", sentences=running_text(advice), tables=(found,))
    ]


TOPIC = Topic(
    key="devices", build=_sections, files={"devices": COLUMNS}, show=Show.ALL ^ Show.PAPER
)
