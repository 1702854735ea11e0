"""The ``pretrain`` command: the embedded model from scratch, with a progress bar."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.progress import Progress

from core.mosaic.pretrain import pretrain


def run_pretraining(
    out: Path, *, steps: int | None, seed: int, processes: int, bar: Progress
) -> dict[str, Any]:
    """Draw the pictures and train; the same call continues an interrupted one."""
    task = bar.add_task("drawing", total=1.0)

    def show(step: int, steps: int, values: Mapping[str, float]) -> None:
        if "pictures" in values:
            bar.update(task, description="drawing pictures", completed=values["pictures"])
        else:
            text = f"step {step} of {steps}, loss {values['loss']:.3f}"
            bar.update(task, description=text, completed=step, total=steps)

    more = {} if steps is None else {"steps": steps}
    return pretrain(out, seed=seed, processes=processes, progress=show, **more)
