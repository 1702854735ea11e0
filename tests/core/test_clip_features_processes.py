"""The cache of image features shared by processes of their own, and after sudden death."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import torch

from core.clip.features import FeatureStore
from tests.helpers.image_features import (
    ALL_FIELDS,
    FakeCLIP,
    encoded_directly,
    noise_dataset,
    shard_files,
)


def ask(root: str, notes: str, start: int, stop: int, delay: float, out: str) -> None:
    """A process of its own: ask for some items, save what came."""
    torch.set_num_threads(1)
    dataset = noise_dataset(40)
    store = FeatureStore(Path(root), FakeCLIP(notes=Path(notes), delay=delay), num_threads=1)
    got = store.get(dataset, dataset.train[start:stop], fields=ALL_FIELDS, view=1, batch_size=4)
    torch.save((got.pooled, got.local, got.attention), out)


def spawn(*arguments) -> multiprocessing.Process:
    process = multiprocessing.get_context("spawn").Process(target=ask, args=arguments)
    process.start()
    return process


def test_three_processes_compute_everything_once(tmp_path):
    notes, root = str(tmp_path / "notes"), str(tmp_path / "cache")
    wanted = [(0, 30), (10, 40), (0, 40)]
    outs = [str(tmp_path / f"out{n}") for n in range(3)]
    processes = [
        spawn(root, notes, start, stop, 0.02, out)
        for (start, stop), out in zip(wanted, outs, strict=True)
    ]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    computed = sum(int(line) for line in Path(notes).read_text().split())
    assert computed == 40
    dataset = noise_dataset(40)
    everything = encoded_directly(FakeCLIP(), dataset, dataset.train, view=1)
    for (start, stop), out in zip(wanted, outs, strict=True):
        torch.testing.assert_close(torch.load(out)[0], everything[start:stop])


def test_killed_while_computing_and_while_writing(tmp_path):
    notes, root = tmp_path / "notes", tmp_path / "cache"
    process = spawn(str(root), str(notes), 0, 40, 0.5, str(tmp_path / "out"))
    while not notes.exists():
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)  # it holds the lock and has encoded one batch
    process.join(60)
    assert process.exitcode == -signal.SIGKILL and shard_files(root) == []
    key = next(root.iterdir())
    (key / "pooled").mkdir(exist_ok=True)
    (key / "pooled" / ".0123.safetensors.tmp").write_bytes(b"died in the middle of a write")
    clip, dataset = FakeCLIP(), noise_dataset(40)
    got = FeatureStore(root, clip).get(dataset, dataset.train, fields=ALL_FIELDS, view=1)
    assert clip.num_images == 40 and len(shard_files(root)) == 3
    torch.testing.assert_close(got.pooled, encoded_directly(clip, dataset, dataset.train, view=1))
