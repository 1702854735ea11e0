"""What reaches a device: what stays there, what is sent in a step, and from which memory."""

from dataclasses import replace

import pytest
import torch

from core.clip.features import encoded_at_once
from core.data.dataset import Dataset, Item
from core.devices import KEPT_PART, free_memory, sent, stays_on
from core.machine import DEVICE_WORKERS_VARIABLE, WORKERS_VARIABLE
from core.seeding import Seeds
from core.train.batches import FeatureBatches
from core.train.feeding import FeatureRows, LastScored, stacked
from core.types import ImageFeatures
from tests.helpers.image_features import SPEC
from tests.helpers.paths import ROOT
from tests.helpers.pretended_cuda import FREE_BYTES, PretendedCuda

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
NEED = frozenset({"pooled", "local"})


def views(number=3, images=10, dtype=torch.float32):
    drawn = torch.Generator().manual_seed(0)
    return [
        ImageFeatures(
            pooled=torch.randn(images, 4, generator=drawn).to(dtype),
            local=torch.randn(images, 3, 4, generator=drawn).to(dtype),
        )
        for _ in range(number)
    ]


def batches(device, dtype=torch.float32, stored=torch.float32):
    labels = torch.arange(10) % 2
    return FeatureBatches(
        stacked(views(dtype=stored), 3), labels, 4, device, NEED,
        num_views=3, views_per_image=2, dtype=dtype,
    )  # fmt: skip


def copied_back(batch):
    shown = (batch.index, batch.labels, batch.features.pooled, batch.features.local)
    return [batch.positions, *(tensor.cpu() for tensor in shown)]


@pytest.mark.parametrize(("free", "copies"), [(FREE_BYTES, 1), (1000, 1 + 2 * 2 * 2)])
def test_an_epoch_is_the_same_wherever_the_features_are(free, copies):
    """On the device nothing is sent in a step; from the host, the rows of two fields and two views
    in each of the two steps. Nothing makes the host wait.
    """
    expected = [(copied_back(b), copied_back(b.views[0])) for b in batches(CPU).epoch(1, Seeds(1))]
    with PretendedCuda(ROOT) as gpu:
        gpu.free_bytes = free
        made = batches(CUDA)
        for counted in (gpu.waits, gpu.copies, gpu.pageable):
            counted.clear()
        epoch = list(made.epoch(1, Seeds(1)))
        assert all(b.features.local.device.type == b.labels.device.type == "cuda" for b in epoch)
        assert sum(gpu.copies.values()) == copies and not gpu.pageable and not gpu.waits
        seen = [(copied_back(b), copied_back(b.views[0])) for b in epoch]
    for one, other in zip(seen, expected, strict=True):
        for ours, theirs in zip(one, other, strict=True):
            assert ours[0] == theirs[0]
            assert all(torch.equal(a, b) for a, b in zip(ours[1:], theirs[1:], strict=True))


def test_what_is_stored_in_half_precision_stays_so_and_is_computed_with_in_full():
    made = batches(CPU, stored=torch.float16)
    assert made.features.features.local.dtype == torch.float16
    (batch, _) = made.epoch(1, Seeds(1))
    assert batch.features.local.dtype == torch.float32
    full = next(batches(CPU).epoch(1, Seeds(1)))
    assert torch.equal(batch.features.local, full.features.local.half().float())


def test_workers_of_a_device_share_what_is_free(monkeypatch):
    with PretendedCuda(ROOT) as gpu:
        gpu.free_bytes = 1200
        shares = {}
        for workers, of_device in (("", ""), ("4", ""), ("4", "2"), ("x", "-1"), ("0", "0")):
            monkeypatch.setenv(WORKERS_VARIABLE, workers)
            monkeypatch.setenv(DEVICE_WORKERS_VARIABLE, of_device)
            shares[workers, of_device] = free_memory(CUDA)
        assert list(shares.values()) == [1200, 300, 600, 1200, 1200]
        assert stays_on(CUDA, int(1200 * KEPT_PART)) and not stays_on(CUDA, 1200)
        assert FeatureRows(views()[0], CUDA, torch.float32).on_device == (10 * 16 * 4 <= 600)
    assert free_memory(CPU) is None and stays_on(CPU, 10**15)


def test_a_large_tensor_is_copied_beside_the_steps_and_converted_there(monkeypatch):
    monkeypatch.setattr("core.devices.LARGE_BYTES", 64)
    for size in (4, 400):
        tensor = torch.arange(float(size))
        with PretendedCuda(ROOT) as gpu:
            moved = sent(tensor, CUDA, torch.float64)
            assert moved.device.type == "cuda" and not gpu.waits and not gpu.pageable
            waited = torch.cuda.current_stream().wait_stream.call_count
            assert moved.dtype == torch.float64 and torch.equal(moved.cpu(), tensor.double())
        assert waited == (size == 400)
    assert sent(tensor, CPU) is tensor


def test_views_are_joined_one_after_the_other():
    given = views()
    joined = stacked(iter(given), 3)
    assert torch.equal(joined.local, torch.cat([view.local for view in given]))
    assert joined.attention is None and stacked(iter(given[:1]), 1) is given[0]


def test_as_many_images_are_encoded_at_once_as_suit_the_card(monkeypatch):
    """ViT-B/16 takes 13 MB an image; the number depends neither on the workers of a card nor on
    what is free: others round differently.
    """
    spec = replace(
        SPEC, vision_width=768, image_size=(224, 224), grid=(14, 14), fingerprint="a ViT-B/16"
    )
    assert encoded_at_once(spec, CPU) == 64
    for gib, expected in ((80, 128), (40, 64), (24, 32), (1, 2), (0, 1)):
        for workers in (1, 4, 64):
            monkeypatch.setenv(DEVICE_WORKERS_VARIABLE, str(workers))
            for free in (gib * 2**30, gib * 2**20, 0):
                known = (free, gib * 2**30)
                monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, known=known: known)
                assert encoded_at_once(spec, CUDA) == expected


def test_images_that_are_scored_again_stay_on_the_device_if_they_fit():
    """Others take their place; without room, and on a CPU, features are asked for anew."""
    dataset = Dataset(
        name="ten", class_names=("a", "b"), template="{}", reader=None, train=(), val=(),
        test=tuple(Item(path=str(n), label=n % 2) for n in range(10)),
    )  # fmt: skip
    asked = []

    def find():
        asked.append(1)
        return views()[0]

    for device, free, times in ((CUDA, FREE_BYTES, 1), (CUDA, 1000, 2), (CPU, FREE_BYTES, 2)):
        with PretendedCuda(ROOT) as gpu:
            gpu.free_bytes = free
            scored = LastScored(device, torch.float32)
            asked.clear()
            for _ in range(2):
                labels_N, rows = scored.of(dataset, list(dataset.test), find)
                assert labels_N.device.type == device.type and len(rows.features) == 10
                assert labels_N.tolist() == [0, 1] * 5
            assert len(asked) == times
            scored.of(dataset, dataset.test[:4], find)
            assert scored.of(dataset, dataset.test[:4], None).rows is None
            scored.of(replace(dataset, content="other"), dataset.test[:4], find)
            assert len(asked) == times + 2
