"""Devices as they are named, the workers that follow, and who may use a device when."""

import os

import pytest
import torch
from typer.testing import CliRunner

from experiments.cli.app import app
from experiments.run.devices import VISIBLE_VARIABLE, devices_of, one_device, visible_gpus
from experiments.run.runtime import Runtime
from experiments.workers.placement import MAX_LOSSES, Seats, place, place_one
from refinelab import open_study


@pytest.fixture
def gpus(monkeypatch):
    """A machine with as many GPUs as asked for, and what its user shows of them."""
    monkeypatch.delenv(VISIBLE_VARIABLE, raising=False)

    def have(number, visible=None):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
        if visible is not None:
            monkeypatch.setenv(VISIBLE_VARIABLE, visible)

    have(4)
    return have


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ("cpu", ("cpu",)),
        (" CPU ", ("cpu",)),
        ("cuda", ("cuda",)),
        ("cuda:2", ("cuda:2",)),
        ("cuda:02", ("cuda:2",)),
        ("cuda:0,cuda:3", ("cuda:0", "cuda:3")),
        ("cuda:3, 0", ("cuda:3", "cuda:0")),
        ("Cuda : 1 , cuda:2,3", ("cuda:1", "cuda:2", "cuda:3")),
    ],
)
def test_devices_are_named_in_several_ways(gpus, text, devices):
    assert devices_of(text) == devices


NO_DEVICES = """
gpu 0 0,cuda:1 cuda: cuda:-1 cuda:x cuda:² cuda:0, ,cuda:0 cpu,cuda:0 cuda:0,cpu cuda,cuda:1 cuda,1
cuda:1.0 cuda0 mps cpu:0 cuda:0;1
"""


@pytest.mark.parametrize("text", ["", "cuda:0 3", *NO_DEVICES.split()])
def test_other_names_are_refused(gpus, text):
    with pytest.raises(ValueError, match=r"device must be cpu, cuda or cuda:N, got .*; several"):
        devices_of(text)


@pytest.mark.parametrize(
    ("count", "visible", "text", "reason"),
    [
        (2, None, "cuda:3", "there are 2 GPUs, cuda:0 to cuda:1, and cuda:3 is none of them"),
        (2, None, "cuda:0,3", "and cuda:3 is none of them"),
        (1, None, "cuda:1", "there is 1 GPU, and cuda:1 is not it"),
        (1, "7", "cuda:7", r"and cuda:7 is not it \(CUDA_VISIBLE_DEVICES is '7'\)"),
        (0, None, "cuda", r"this torch has no CUDA \(.*\); install a build"),
        (2, None, "cuda:1,01", "names cuda:1 twice; .* --jobs-per-gpu"),
    ],
)
def test_a_gpu_that_is_not_there_is_named(gpus, count, visible, text, reason):
    gpus(count, visible)
    with pytest.raises(ValueError, match=reason) as refused:
        devices_of(text)
    assert "\n" not in str(refused.value)


def test_a_torch_with_cuda_on_a_machine_without_a_gpu(gpus, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    gpus(0, "")
    with pytest.raises(ValueError, match=r"torch sees no GPU \(CUDA_VISIBLE_DEVICES is ''\)"):
        devices_of("cuda:0")


@pytest.mark.parametrize(
    ("visible", "count", "names"),
    [
        (None, 3, ("0", "1", "2")),
        ("2,0", 2, ("2", "0")),
        (" 3 , 1,-1,0", 2, ("3", "1")),  # CUDA ends at the first one that it does not know
        ("GPU-8932f937,GPU-77", 2, ("GPU-8932f937", "GPU-77")),
        ("MIG-c6d4, MIG-77ab", 1, ("MIG-c6d4", "MIG-77ab")),  # a process sees the first alone
        ("MIG-c6d4", 0, ()),
        ("", 0, ()),
        ("-1", 0, ()),
    ],
)
def test_a_worker_is_given_the_name_that_the_user_has_for_its_gpu(visible, count, names):
    environment = {} if visible is None else {VISIBLE_VARIABLE: visible}
    assert visible_gpus(environment, count) == names


@pytest.mark.parametrize(
    ("device", "options", "workers", "seen", "note"),
    [
        ("cpu", {"jobs": 3}, 3, (), ""),
        ("cpu", {"jobs": 0}, 0, (), ""),
        ("cuda", {"jobs": -1}, 4, ("a", "b", "c", "d"), ""),
        ("cuda:0,3", {"jobs": -1}, 2, ("a", "d"), ""),
        ("cuda:3,cuda:0", {"jobs": -1, "jobs_per_gpu": 2}, 4, ("d", "a"), ""),
        ("cuda:1", {"jobs": 3, "jobs_per_gpu": 3}, 3, ("b",), ""),
        ("cuda:1", {"jobs": 3}, 1, ("b",), "--jobs-per-gpu wins: 1 GPU x 1 = 1 worker"),
        ("cuda", {"jobs": 2, "jobs_per_gpu": 2}, 8, ("a", "b", "c", "d"), "4 GPUs x 2 = 8 workers"),
        ("cuda:1,2", {"jobs": 0}, 0, (), "in this process, on cuda:1 alone"),
        ("cuda", {"jobs": 0}, 0, (), "in this process, on cuda:0 alone"),
        ("cuda:2", {"jobs": 0}, 0, (), ""),
    ],
)
def test_workers_follow_from_the_options(gpus, device, options, workers, seen, note):
    gpus(4, "a,b,c,d")
    made = place(device, **options)
    assert (made.workers, made.gpus) == (workers, seen)
    assert made.note.endswith(note) and bool(made.note) == bool(note)
    # A worker sees its GPU alone, whatever number it has elsewhere.
    in_process = "cuda:1" if device == "cuda:1,2" else device
    assert made.device == ("cuda" if seen else in_process)
    Runtime(cache_dir="cache", device=made.device)


def test_on_the_cpu_there_is_a_worker_for_every_core(monkeypatch):
    monkeypatch.setattr("experiments.workers.placement.available_cores", lambda: 7)
    assert place("cpu", jobs=-1).workers == 7


@pytest.mark.parametrize(
    ("device", "jobs", "each", "reason"),
    [
        ("cpu", -1, 2, "counts the workers of a GPU, and the device is cpu: use --jobs"),
        ("cuda", 0, 2, "with --jobs 0 there are none"),
        ("cuda", -1, 0, "must be at least 1, got 0"),
        ("cpu", 2, 0, "must be at least 1, got 0"),
    ],
)
def test_numbers_without_a_meaning_are_refused(gpus, device, jobs, each, reason):
    with pytest.raises(ValueError, match=reason):
        place(device, jobs=jobs, jobs_per_gpu=each)


def test_a_single_run_computes_on_one_device(gpus):
    gpus(4, "a,b,c,d")
    assert place_one("cpu", apart=False).workers == 0
    alone = place_one("cuda:2", apart=True)
    assert (alone.device, alone.workers, alone.gpus) == ("cuda", 1, ("c",))
    assert place_one("cuda", apart=True).gpus == ("a",)
    assert place_one("cuda:2", apart=False).device == "cuda:2"
    with pytest.raises(ValueError, match="names 2 GPUs, and this command computes on one"):
        place_one("cuda:0,1", apart=False)
    gpus(1, "MIG-a,MIG-b")
    with pytest.raises(ValueError, match="cuda:1 is not it"):
        one_device("cuda:1")  # a process sees the first instance only


@pytest.mark.parametrize("command", ["train", "grid", "search", "rerun", "evaluate"])
def test_every_command_refuses_a_device_before_any_work(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = {"rerun": ["study", "0"], "evaluate": ["run"]}
    result = CliRunner().invoke(app, [command, *words.get(command, ["demo"]), "--device", "cuda:1"])
    assert isinstance(result.exception, ValueError)
    assert "device cuda:1 is not available: this torch has no CUDA" in str(result.exception)
    assert os.listdir(tmp_path) == []


def test_the_losing_option_is_told_in_one_line(gpus, tmp_path):
    words = ["grid", "demo", "--dry-run", "--runs", str(tmp_path), "--device", "cuda:0,cuda:3"]
    done = CliRunner().invoke(app, [*words, "--jobs", "3", "--jobs-per-gpu", "2"])
    assert done.exit_code == 0, done.output
    (line,) = [line for line in done.output.splitlines() if "--jobs 3" in line]
    assert line == (
        "--jobs 3 counts workers on the CPU; on GPUs --jobs-per-gpu wins: 2 GPUs x 2 = 4 workers"
    )


def offers(seats, free, busy, whole=(), wanted=True):
    return [seats.offer(worker, busy=busy, whole=whole, wanted=wanted) for worker in free]


def test_workers_sit_on_the_gpus_in_turn():
    seats = Seats(5, ["a", "b"])
    assert seats.devices == ["a", "b", "a", "b", "a"]
    assert seats.beside(2) == [0, 4]
    assert seats.most_on_a_device == 3
    assert Seats(3).devices == ["", "", ""]  # all on the machine


def test_one_device_at_a_time_is_emptied_for_a_job_that_needs_it_whole():
    seats = Seats(4, ["a", "b"])  # a: 0, 2; b: 1, 3
    assert offers(seats, [0], busy=[1, 2, 3]) == ["nothing"]  # a is being emptied
    assert offers(seats, [1], busy=[2, 3]) == ["shared"]
    assert offers(seats, [0, 2], busy=[1, 3]) == ["whole", "whole"]
    assert offers(seats, [2], busy=[0, 1], whole=[0], wanted=False) == ["nothing"]
    assert offers(seats, [3], busy=[0, 1], whole=[0], wanted=False) == ["shared"]
    assert offers(seats, [2], busy=[], wanted=False) == ["shared"]


def test_a_device_that_is_idle_is_taken_although_another_is_being_emptied():
    seats = Seats(4, ["a", "b"])
    assert offers(seats, [0], busy=[1, 2, 3]) == ["nothing"]
    assert offers(seats, [1], busy=[2]) == ["whole"]
    assert offers(seats, [0], busy=[2, 1], whole=[1], wanted=False) == ["shared"]


def test_a_gpu_that_is_lost_again_and_again_is_used_no_more():
    seats = Seats(4, ["a", "b"])
    for _ in range(MAX_LOSSES):
        assert not seats.lost(0)
        seats.worked(2)  # it was not the GPU
    assert [seats.lost(0) for _ in range(MAX_LOSSES)] == [False] * (MAX_LOSSES - 1) + [True]
    assert offers(seats, [0, 1, 2, 3], busy=[], wanted=False) == ["nothing", "shared"] * 2
    assert not seats.none_left
    for _ in range(MAX_LOSSES):
        seats.lost(3)
    assert seats.none_left


class Asked(Exception):
    """Carries what an executor was asked for with."""


@pytest.mark.parametrize(
    ("device", "options", "workers", "seen"),
    [
        ("cuda:0,3", {"jobs_per_gpu": 2}, 4, ("a", "d")),
        ("cuda", {"jobs": 3}, 4, ("a", "b", "c", "d")),
        ("cuda:1,2", {}, 0, ()),
        ("cpu", {"jobs": 3}, 3, ()),
    ],
)
def test_studies_in_python_use_the_same_workers(
    gpus, small_mosaic, tmp_path, monkeypatch, device, options, workers, seen
):
    def asked(workers, folder, *, gpus):
        raise Asked(workers, gpus)

    gpus(4, "a,b,c,d")
    monkeypatch.setattr("refinelab.studies.make_executor", asked)
    (tmp_path / "cache").symlink_to(small_mosaic)
    small_mosaic.mkdir(exist_ok=True)
    overrides = ["grid.datasets=('mosaic/vehicles',)", "grid.seeds=(1,)"]
    study = open_study("demo", overrides, runs=tmp_path, device=device)
    with pytest.raises(Asked) as stopped:
        study.run(**options)
    assert stopped.value.args == (workers, seen)
