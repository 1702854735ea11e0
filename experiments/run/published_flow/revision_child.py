"""A child process that makes steps of one commit's code, when it is told to.

It is run as a file, with the tree of the commit as the only place that modules come from, and with
this tree's ``cases.py`` beside it. Requests and answers are lines of JSON: ``{"case": "coop",
"views": "fixed"}`` gives ``{"seconds": ..., "loss": ...}``, or ``{"error": ...}`` where the commit
cannot run it. It ends with its input.
"""

import contextlib
import importlib.util
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def main(tree: str, backbone: str, classes: int, threads: int) -> None:
    """Answer requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what anything else prints is no answer
    sys.path[:] = [tree, *(place for place in sys.path[1:] if place)]
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(BrokenPipeError):
        steps = Steps(backbone, classes, threads, Path(folder))
        for line in sys.stdin:
            try:
                answer = steps.answer(json.loads(line))
            except Exception as error:  # the parent says which case cannot run
                answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


class Steps:
    """The sides of the cases that were asked for, each built once."""

    def __init__(self, backbone: str, classes: int, threads: int, folder: Path) -> None:
        self.backbone, self.classes, self.threads, self.folder = backbone, classes, threads, folder
        self.sides: dict[tuple[str, str], Any] = {}
        self.cases: Any = None
        self.clip: Any = None

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Build what is asked for, or make its steps for about so many seconds."""
        key = (asked["case"], asked["views"])
        if key not in self.sides:
            self.sides[key] = self._built(*key)
        step = self.sides[key].step
        clock = time.process_time if self.threads == 1 else time.perf_counter
        count, started = 0, clock()
        loss = 0.0
        while not count or clock() - started < asked["at_least"]:
            loss = float(step()["loss"])
            count += 1
        return {"seconds": (clock() - started) / count, "loss": loss}

    def _built(self, name: str, views: str) -> Any:
        if self.cases is None:
            self._prepare()
        cases = self.cases
        names = cases.class_names(self.classes)
        return cases.OwnSide(cases.CASES[name], self.clip, names, views, self.folder)

    def _prepare(self) -> None:
        import torch

        torch.set_num_threads(self.threads)
        path = Path(__file__).resolve().with_name("cases.py")
        spec = importlib.util.spec_from_file_location("cases_of_the_comparison", path)
        assert spec is not None and spec.loader is not None
        cases = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = cases
        spec.loader.exec_module(cases)
        self.clip = cases.random_clip(self.backbone)
        cases.measure_products(self.clip, self.folder)
        self.cases = cases


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
