"""The bench command: every figure is there and is a speed."""

import math

from experiments.run.runtime import Runtime
from experiments.run.speed import PRESETS, measure


def test_every_group_is_measured_against_its_first_line(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.run.speed.PRESETS", ("coop", "ivlp"))
    monkeypatch.setattr("experiments.run.speed.PHOTOGRAPH", (48, 64))
    monkeypatch.setattr("experiments.run.speed.available_cores", lambda: 2)
    place = Runtime(cache_dir=tmp_path)
    found = list(measure(place, repetitions=1, images=8))
    groups = {}
    for speed in found:
        assert math.isfinite(speed.per_second) and speed.per_second > 0
        first = groups.setdefault(speed.group, speed)
        assert math.isclose(speed.ratio, speed.per_second / first.per_second)
    assert {s.name for s in found} >= {
        "test view, threads: 1",
        "augmented view, threads: 2",
        "with a shared context",
        "coop",
        "ivlp",
    }
    assert len(groups) == 4 and "sep_released" in PRESETS
