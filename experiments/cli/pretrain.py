"""The ``pretrain`` command: the embedded model from scratch, with a progress bar."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.clip.backbone import build_open_clip
from core.mosaic import pretrain
from experiments.cli.console import Bar


def run_pretraining(
    out: Path, *, steps: int | None, seed: int, processes: int, bar: Bar
) -> dict[str, Any]:
    """Draw the pictures and train; the same call continues an interrupted one."""

    def show(step: int, steps: int, values: Mapping[str, float]) -> None:
        if "pictures" in values:
            bar.show(values["pictures"], 1.0, "drawing pictures")
        else:
            bar.show(step, steps, f"step {step} of {steps}, loss {values['loss']:.3f}")

    more: dict[str, Any] = {} if steps is None else {"steps": steps}
    return pretrain(out, build_open_clip, seed=seed, processes=processes, progress=show, **more)
