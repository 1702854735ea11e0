"""The record of a run that failed."""

from collections.abc import Mapping

from core.config import config_from_text
from core.device_faults import Fault
from core.store.record import RunRecord
from core.store.run_facts import FAULT
from core.store.secrets import without_secrets
from experiments.study.planner import ROOT, Cell


def failed_record(
    cell: Cell, message: str, *, code: Mapping[str, str], fault: Fault = ""
) -> RunRecord:
    """A record that states why a cell has no scores: the message, the code that failed, and what
    its error said of the device.
    """
    values = config_from_text(cell.config_text, cell.label).operative(ROOT)
    shots = values.get(f"{ROOT}.shots")
    return RunRecord(
        identity=cell.identity,
        variant=cell.variant,
        factors=cell.factors,
        dataset=cell.dataset,
        protocol=str(values.get(f"{ROOT}.protocol", "")),
        regime="",
        selection=str(values.get(f"{ROOT}.selection", "")),
        seed=cell.seed,
        shots=shots if isinstance(shots, int) else 0,
        status="failed",
        environment={FAULT: fault} if fault else {},
        message=without_secrets(message),
        code=code,
    )
