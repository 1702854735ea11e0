"""Cached features that have no room are refused before any work, with the way out."""

import sys
from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch

import main as command_line
from core.clip import features as store_module
from core.clip.features import FeatureStore, bytes_of_features
from core.machine import available_memory
from experiments.cli.train import data_lines
from experiments.configs import config_path, read_config_file
from experiments.run import feature_room
from experiments.run.devices import WorkPlace
from experiments.run.runtime import Runtime
from tests.helpers.image_features import FakeCLIP, noise_dataset, shard_files
from tests.helpers.picture_trees import class_tree

Usage = namedtuple("Usage", "total used free")
SETTINGS = ("experiment.dataset=folder/pets", "experiment.shots=0")
ANY = ("experiment.dataset=any", "experiment.shots=1")
TRAIN = ("train", "text_refiner", "--set", SETTINGS[0], "--set", SETTINGS[1])


def test_local_tokens_of_all_of_imagenet_take_517_gigabytes():
    sizes = bytes_of_features(frozenset({"pooled", "local", "attention"}), 196, 512, "float32")
    assert 1_281_167 * sizes["local"] // 10**9 == 516
    assert sizes["pooled"] == 2048 and sizes["attention"] == 784
    half = bytes_of_features(frozenset(sizes), 196, 512, "float16")
    assert {name: 2 * size for name, size in half.items()} == sizes


@pytest.fixture
def crowded(monkeypatch, tmp_path):
    """A gigabyte is 0.1 MB, and no number of images is a few; runs a command below a tree of 80
    images, with so much free on the disk and in memory.
    """
    class_tree(tmp_path / "data" / "pets", 1, images=20)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REFINELAB_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(feature_room, "FEW_IMAGES", 1)
    monkeypatch.setattr(feature_room, "GIGABYTE", 100_000)

    def run(capsys, *words, disk=10**12, memory=10**12):
        monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(0, 0, disk))
        monkeypatch.setattr(feature_room, "available_memory", lambda: memory)
        monkeypatch.setattr(sys, "argv", ["main.py", *words])
        code = command_line.main()
        return code, capsys.readouterr()

    return run


def test_a_run_whose_features_have_no_room_is_refused_before_any_work(
    crowded, capsys, tmp_path, monkeypatch
):
    code, shown = crowded(capsys, *TRAIN, disk=1000)
    (line,) = shown.err.splitlines()
    assert code and "the features of 20 images of folder/pets with local tokens take" in line
    assert "on disk, and 0.0 MB are free at" in line and "feature_storage = 'float16'" in line
    assert not (tmp_path / "runs" / "train").exists()
    code, shown = crowded(capsys, *TRAIN, memory=1000)
    assert code and "of memory in a run, and 0.0 MB are free" in shown.err
    monkeypatch.setattr(feature_room, "available_memory", lambda: None)
    place = Runtime(cache_dir=tmp_path, data_root=tmp_path / "data")
    for disk, binding in (
        (1000, "experiment.refiner=@NullRefiner"),  # pooled features alone
        (1000, "experiment.shots=1"),
        (220_000, "experiment.feature_storage=float16"),
    ):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=disk: Usage(0, 0, free))
        name = binding.partition("=")[0]
        given = [*(line for line in SETTINGS if not line.startswith(name)), binding]
        lines = data_lines("text_refiner", given, place, as_json=False)
        shared = [line for line in lines if line.startswith("features that runs share: at most")]
        assert len(shared) == binding.endswith("float16")


def test_every_worker_holds_features_of_its_own(monkeypatch, tmp_path):
    """As many of the largest runs as there are workers; no more than there are runs."""
    room = feature_room.FeatureRoom(of_runs=[3_000, 5_000, 1_000], largest=Features())
    here = Runtime(cache_dir=tmp_path)

    def told(free, **place):
        monkeypatch.setattr(feature_room, "available_memory", lambda: free)
        try:
            room.check(here, WorkPlace(**place))
        except ValueError as error:
            return str(error)
        return ""

    monkeypatch.setattr(feature_room, "GIGABYTE", 1_000)
    of_two = "take 5.0 GB of memory in a run, those of 2 workers together 8.0 GB, and 7.9 GB are"
    monkeypatch.setattr(feature_room, "size_on_disk", lambda nbytes: f"{nbytes / 1000:.1f} GB")
    assert told(5_000) == told(5_000, workers=1) == told(8_000, workers=2) == ""
    assert of_two in told(7_900, workers=2)
    assert "are free; use --jobs 1, or fewer shots (experiment.shots)" in told(7_900, workers=2)
    assert "use --jobs 2, or fewer shots" in told(8_500, workers=40)
    assert told(9_000, workers=40) == told(5_000, workers=40, here=False) == ""
    assert "use a lower --jobs-per-gpu, or fewer" in told(7_900, workers=2, gpus=("0",))
    assert "are free; use fewer shots" in told(4_000, workers=8)
    assert "workers together" not in told(4_000, workers=1)
    monkeypatch.setattr(feature_room, "GIGABYTE", 8_001)
    assert told(7_900, workers=2) == ""


class Features(SimpleNamespace):
    """The features of the largest run."""

    nbytes = 5_000

    def __str__(self):
        return "its features"


def test_grids_count_their_workers_and_a_single_run_is_alone(crowded, capsys):
    fields = frozenset({"pooled", "local", "attention"})
    one = 20 * sum(bytes_of_features(fields, 36, 128, "float32").values())
    grid = ("grid", "demo", "--dry-run", "--set", "grid.datasets=('folder/pets',)")
    settings = ("--set", "experiment.shots=0", "--set", "experiment.epochs=1")
    for jobs, refused in (("0", False), ("1", False), ("2", True), ("8", True)):
        code, shown = crowded(capsys, *grid, *settings, "--jobs", jobs, memory=int(1.5 * one))
        assert bool(code) == refused and ("use --jobs 1, or fewer" in shown.err) == refused


def test_what_several_runs_read_alike_counts_once(monkeypatch):
    """Seeds that draw other images add to each other; a refiner adds fields, a storage all."""
    monkeypatch.setattr(feature_room, "FEW_IMAGES", 1)

    def counted(*runs):
        room = feature_room.FeatureRoom()
        for dataset, *bindings in runs:
            read = read_config_file(config_path("text_refiner"), [*ANY, *bindings])
            room.add(read, SimpleNamespace(dataset=dataset))
        return room.nbytes

    whole = noise_dataset(class_names=("a", "b", "c", "d"))
    one, two = (whole.with_splits(train=whole.train[n : n + 4], val=()) for n in (0, 2))
    all_classes = "experiment.protocol=few_shot"
    image = sum(
        bytes_of_features(frozenset({"pooled", "local", "attention"}), 36, 128, "float32").values()
    )
    assert counted((one, all_classes)) == 4 * image
    assert counted((one, all_classes), (one, all_classes, "experiment.seed=2")) == 4 * image
    assert counted((one, all_classes), (two, all_classes)) == 6 * image
    pooled = (one, all_classes, "experiment.refiner=@NullRefiner")
    assert counted(pooled) == 4 * 128 * 4 and counted(pooled, (one, all_classes)) == 4 * image
    half = (one, all_classes, "experiment.feature_storage=float16")
    assert counted(half) == 2 * image and counted(half, (one, all_classes)) == 6 * image
    assert counted((one, all_classes, "experiment.num_views=3")) == 12 * image
    fresh = ("experiment.num_views=1", "experiment.fresh_views=True")
    assert counted((one, all_classes, *fresh)) == 0
    assert counted((one, "experiment.method=@IVLP", all_classes)) == 0


def test_what_missing_features_take_is_compared_with_what_is_free_when_they_are_made(
    tmp_path, monkeypatch
):
    dataset, row = noise_dataset(), (5 + 1) * 12 * 4
    monkeypatch.setattr(store_module, "MUCH_BYTES", 5 * row)
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(0, 0, 4 * row))
    store = FeatureStore(tmp_path, FakeCLIP())
    with pytest.raises(ValueError, match=r"features of t/noise .* 2\.0 GB, and 0\.8 GB are free"):
        store.get(dataset, dataset.train, fields={"local"})
    assert shard_files(tmp_path) == []
    store.get(dataset, dataset.train[:4], fields={"local"})  # a little is tried
    store.get(dataset, dataset.train[:8], fields={"local"})  # and half of this is there
    half = FeatureStore(tmp_path, FakeCLIP(), dtype=torch.float16)
    half.get(dataset, dataset.train[:8], fields={"local"})


def test_memory_that_is_free_is_the_least_that_anything_allows(tmp_path):
    own, groups, system = tmp_path / "own", tmp_path / "fs", tmp_path / "meminfo"
    given = (groups, own, system)
    assert available_memory(*given) is None
    system.write_text("MemTotal: 900 kB\nMemAvailable: 600 kB\n")
    own.write_text("0::/job/step\n")
    step = groups / "job" / "step"
    step.mkdir(parents=True)
    (step / "memory.max").write_text("max\n")
    assert available_memory(*given) == 600 * 1024
    (groups / "job" / "memory.max").write_text("500000\n")
    (groups / "job" / "memory.current").write_text("300000\n")
    (groups / "job" / "memory.stat").write_text("anon 1\ninactive_file 50000\nactive_file 1000\n")
    assert available_memory(*given) == 251_000
    own.write_text("4:cpu,memory:/one\n")
    one = groups / "memory" / "one"
    one.mkdir(parents=True)
    (one / "memory.limit_in_bytes").write_text("4000\n")
    (one / "memory.usage_in_bytes").write_text("5000\n")
    (one / "memory.stat").write_text("total_inactive_file 500\ninactive_file 100\n")
    assert available_memory(*given) == 0
