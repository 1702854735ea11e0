"""Two runs side by side: their scores and costs, and the images on which only one is correct."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from analysis.sections.image_runs import reader
from analysis.sections.images import ImagePair, pair_on_target
from analysis.text import NO_VALUE, p_text
from core.store.record import RunRecord, read_record
from core.store.run_facts import devices_of

DEVICE = "device"
FACTS = {
    **{"driver": "driver", "cuda": "CUDA", "cudnn": "cuDNN", "tf32": "TF32"},
    **{"deterministic": "deterministic", "torch": "torch", "threads": "threads"},
    "matrix_product": "matrix product",
}
NOT_RECORDED = "-"

PairRow = tuple[str, str, str, str]
"""What, the first run, the second run, and the second minus the first or a remark."""


def score_rows(first_dir: Path, second_dir: Path) -> list[PairRow]:
    """Scores and costs of two runs, and the exact p of McNemar's test by target.

    Raises ValueError where a folder has no record.
    """
    records = [_record(folder) for folder in (first_dir, second_dir)]
    first, second = records
    rows = [("status", first.status, second.status, "")]
    targets = dict.fromkeys(e.target for record in records for e in record.evaluations)
    for target in targets:
        values = [record.accuracy(target) for record in records]
        rows.append((f"accuracy on {target}, %", *_texts([v and 100 * v for v in values], 2)))
    rows += _image_rows(first_dir, second_dir)
    for name, digits in (("train_seconds", 2), ("images_per_second", 0), ("peak_memory_mb", 0)):
        costs = [getattr(r.cost, name) if r.cost else None for r in records]
        rows.append((name.replace("_", " "), *_texts(costs, digits)))
    return rows


def machine_rows(first_dir: Path, second_dir: Path) -> list[tuple[str, str, str]]:
    """What two runs were made by and with, as far as it decides their last digits or seconds and
    differs: what, the first run, the second run. Raises ValueError as ``score_rows`` does.
    """
    facts = [dict(_machine(_record(folder))) for folder in (first_dir, second_dir)]
    names = dict.fromkeys(name for known in facts for name in known)
    rows = [(name, *(known.get(name, NOT_RECORDED) for known in facts)) for name in names]
    return [(name, one, two) for name, one, two in rows if one != two]


def machine_note(rows: Sequence[tuple[str, str, str]]) -> str:
    """What follows for scores and seconds; "" where nothing differs."""
    if not rows:
        return ""
    names = [name for name, _, _ in rows]
    seconds = "their seconds and memory do not compare, and " if DEVICE in names else ""
    return f"the runs differ in {', '.join(names)}: {seconds}a few images may be due to it"


def _machine(record: RunRecord) -> Iterator[tuple[str, str]]:
    """What decides the last digits of a run; of TF32 and order only on a GPU."""
    environment = record.environment
    yield DEVICE, ", then ".join(devices_of(record)) or NOT_RECORDED
    gpu = environment.get("gpu")
    known = dict(gpu) if isinstance(gpu, Mapping) else {}
    if known:
        known |= {name: environment.get(name) for name in ("tf32", "deterministic")}
    packages = environment.get("packages")
    known["torch"] = packages.get("torch") if isinstance(packages, Mapping) else None
    known |= {name: environment.get(name) for name in ("threads", "matrix_product")}
    for name, word in FACTS.items():
        if known.get(name) is not None:
            yield word, str(known[name])


def _record(run_dir: Path) -> RunRecord:
    record = read_record(run_dir)
    if record is None:
        raise ValueError(f"{run_dir} has no record: give the folder of a run that has ended")
    return record


def _texts(values: Sequence[float | None], digits: int) -> tuple[str, str, str]:
    one, two = values
    shown = [NO_VALUE if v is None else f"{v:.{digits}f}" for v in values]
    gap = "" if one is None or two is None else f"{two - one:+.{digits}f}"
    return shown[0], shown[1], gap


def _image_rows(first_dir: Path, second_dir: Path) -> list[PairRow]:
    """On how many images only one of two runs is correct, by target."""
    what = "images that only this run classifies correctly"
    one, two = (reader(folder.parent)(folder.name) for folder in (first_dir, second_dir))
    if isinstance(one, str) or isinstance(two, str):
        folder, why = (first_dir, one) if isinstance(one, str) else (second_dir, two)
        return [(what, NO_VALUE, NO_VALUE, f"n/a, {folder.name}: {why}")]
    rows = []
    for target in dict.fromkeys((*one, *two)):
        blank = ImagePair(variant="", dataset="", target=target, seed=None)
        pair = pair_on_target(blank, one, two)
        p = f"n/a: {pair.reason}" if pair.p is None else f"McNemar's exact p {p_text(pair.p)}"
        counts = (pair.only_variant, pair.only_baseline)
        first, second = (NO_VALUE if count is None else str(count) for count in counts)
        rows.append((f"{target}: {what}", first, second, p))
    return rows
