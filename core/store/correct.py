"""``correct.json``: which test images a run predicted correctly, one bit per image.

It is stored beside the record, not in it: few readers need it, and many records are read at once.
"""

import base64
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from core.store.documents import sealed_document, write_document
from core.store.names import CORRECT_NAME
from core.store.own_files import require_own
from core.store.record import read_record

CORRECT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectImages:
    """Which test images of one evaluation were predicted correctly, in the order of the test list.

    ``bits`` has one bit per image, the first one the highest of the first byte, zeros at the end
    (``numpy.packbits``). ``test_list`` is a fingerprint of the test list: equal ones mean the same
    images in the same order, scored among the same classes.
    """

    target: str
    test_list: str
    num_images: int
    bits: bytes

    @property
    def num_correct(self) -> int:
        return int.from_bytes(self.bits).bit_count()


def write_correct_images(run_dir: Path, images: Sequence[CorrectImages]) -> None:
    """Write which images were predicted correctly, atomically, before the record that makes the
    run finished.
    """
    targets = [{**asdict(i), "bits": base64.b64encode(i.bits).decode()} for i in images]
    write_document(run_dir / CORRECT_NAME, CORRECT_VERSION, {"targets": targets}, sort_keys=True)


def read_correct_images(run_dir: Path) -> dict[str, CorrectImages]:
    """Which images a run predicted correctly, by target; empty for a run that did not write it.

    Raises ValueError for a broken file, and for one that is not the run's own.
    """
    path, record = run_dir / CORRECT_NAME, read_record(run_dir)
    if record is None or not record.evaluations or not path.is_file():
        return {}
    try:
        raw = sealed_document(path.read_text(encoding="utf-8"), CORRECT_VERSION)
        found = [
            CorrectImages(**{**target, "bits": base64.b64decode(target["bits"], validate=True)})
            for target in raw["targets"]
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} cannot be read: {error}; rerun the run") from error
    counts = {e.target: (sum(e.correct), sum(e.total)) for e in record.evaluations}
    if {f.target: (f.num_correct, f.num_images) for f in found} != counts or any(
        len(f.bits) != -(-f.num_images // 8) for f in found
    ):
        raise ValueError(f"{path} contradicts the record beside it; rerun the run")
    require_own(path, record)
    return {f.target: f for f in found}
