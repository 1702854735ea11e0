"""How many threads compute, and how they wait."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from core import machine
from core.clip import thread_choice
from core.clip.backbone import load_clip, shared_clip
from core.clip.measured import measured_in
from core.machine import MEASURED_THREADS_VARIABLE, THREAD_VARIABLES, WAITING_VARIABLES


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*THREAD_VARIABLES, *WAITING_VARIABLES, MEASURED_THREADS_VARIABLE):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process whose two threads are ours to set."""
    monkeypatch.setenv(MEASURED_THREADS_VARIABLE, "1")
    monkeypatch.setattr(thread_choice, "most_threads", lambda: 2)
    yield
    torch.set_num_threads(1)


def cgroups(folder: Path, own: str, **files: str) -> list[float]:
    """The quotas of a process whose own groups and whose groups' files say this."""
    (folder / "own").write_text(own)
    for name, text in files.items():
        file = folder / "fs" / name.replace("__", "/").replace("cpu_", "cpu.")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return list(machine._cpu_quotas(folder / "fs", folder / "own"))


def test_a_quota_of_any_group_around_a_process_counts(tmp_path: Path) -> None:
    found = cgroups(
        tmp_path,
        "0::/slice/job\n",
        cpu_max="max 100000\n",
        slice__cpu_max="400000 100000\n",
        slice__job__cpu_max="150000 100000\n",
    )
    assert found == [1.5, 4.0]


def test_quotas_of_version_1_count(tmp_path: Path) -> None:
    found = cgroups(
        tmp_path,
        "5:memory:/job\n1:cpu,cpuacct:/job\n",
        cpu__cpu_cfs_quota_us="-1\n",
        cpu__cpu_cfs_period_us="100000\n",
        cpu__job__cpu_cfs_quota_us="250000\n",
        cpu__job__cpu_cfs_period_us="100000\n",
    )
    assert found == [2.5]


@pytest.mark.parametrize("own", ["", "nothing\n", "0::/gone\n", "5:memory:/job\n"])
def test_without_a_quota_there_is_none(tmp_path: Path, own: str) -> None:
    assert cgroups(tmp_path, own, cpu_max="what is this\n") == []


def test_cores_are_those_of_the_quota_rounded_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for quotas, cores in (([], 8), ([1.5, 4.0], 2), ([0.5], 1), ([64.0], 8)):
        monkeypatch.setattr(machine, "_cpu_quotas", lambda quotas=quotas: iter(quotas))
        assert machine.available_cores() == cores


def test_threads_wait_asleep_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert machine.openmp_variables() == {"OMP_WAIT_POLICY": "PASSIVE"}
    for name in WAITING_VARIABLES:
        monkeypatch.setenv(name, " ")
        assert machine.openmp_variables()
        monkeypatch.setenv(name, "1000")
        assert not machine.openmp_variables()
        monkeypatch.delenv(name)


def test_the_program_sets_them_before_torch_is_loaded() -> None:
    """Of a real process: what a command finds in its environment, and its user's own setting."""
    program = (
        "import os, sys; from experiments.cli import app; from core import machine\n"
        "app._run = lambda _: print('torch' in sys.modules, os.environ['OMP_WAIT_POLICY'], "
        "os.environ[machine.MEASURED_THREADS_VARIABLE]); app.main()"
    )
    environment = {**os.environ, "OMP_WAIT_POLICY": "ACTIVE"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "ACTIVE", "1"]


@pytest.mark.parametrize("name", THREAD_VARIABLES)
def test_a_number_that_the_user_gives_is_not_measured(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setenv(name, "3")
    machine.prepare_openmp()
    assert os.environ[MEASURED_THREADS_VARIABLE] == ""


def test_the_fewest_threads_that_are_almost_as_fast() -> None:
    assert thread_choice.candidates(1) == [1]
    assert thread_choice.candidates(6) == [1, 2, 4, 6]
    assert thread_choice.fewest({1: 1.0, 2: 0.95, 4: 0.93}) == 1
    assert thread_choice.fewest({1: 1.0, 2: 0.55, 4: 0.52}) == 2
    assert thread_choice.fewest({1: 1.0, 2: 0.55, 4: 0.30}) == 4


def test_threads_are_measured_once_and_set_for_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_threads: None
) -> None:
    times = [{1: 1.0, 2: 0.5}]
    monkeypatch.setattr(thread_choice, "measure", lambda *_: times.pop())
    for _ in range(2):
        torch.set_num_threads(1)
        with measured_in(tmp_path):
            shared_clip("mosaic", None, "cpu", torch.float32)
        assert torch.get_num_threads() == 2
    assert not times


def test_threads_are_left_alone_outside_and_where_they_are_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_threads: None
) -> None:
    clip = load_clip("mosaic")
    thread_choice.choose(clip)
    monkeypatch.setenv(MEASURED_THREADS_VARIABLE, "")
    with measured_in(tmp_path):
        thread_choice.choose(clip)
    assert torch.get_num_threads() == 1
    assert not list(tmp_path.iterdir())


def test_a_block_is_timed_with_every_number_of_threads(two_threads: None) -> None:
    block = load_clip("mosaic").text.transformer.resblocks[0]
    with torch.no_grad():
        seconds = thread_choice.measure(block, [1, 2])
    assert sorted(seconds) == [1, 2] and 0 < min(seconds.values()) <= max(seconds.values()) < 60
    assert torch.get_num_threads() == 1
