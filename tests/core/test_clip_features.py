"""The cache of frozen image features: keys, shards, damage, bounded memory."""

import hashlib
import json
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from core.clip import features as module
from core.clip.backbone import load_clip
from core.clip.features import FeatureStore
from core.data import locked as locked_module
from core.data import tensor_shards
from core.data.dataset import Item
from core.data.transforms import TrainTransform
from tests.helpers.image_features import (
    ALL_FIELDS,
    POOLED_FIELDS,
    SPEC,
    FakeCLIP,
    encoded_directly,
    noise_dataset,
    shard_files,
)


class DoubleCLIP(FakeCLIP):
    def __init__(self):
        super().__init__()
        self.weight.data = self.weight.data.double()


def test_values_order_and_duplicates(tmp_path):
    clip, dataset = FakeCLIP(), noise_dataset()
    store = FeatureStore(tmp_path, clip)
    items = [dataset.train[n] for n in (7, 2, 2, 9, 0)]
    got = store.get(dataset, items, fields=ALL_FIELDS, batch_size=2)
    assert [count for count, _ in clip.calls] == [2, 2]  # the duplicate is encoded once
    torch.testing.assert_close(got.pooled, encoded_directly(clip, dataset, items))
    assert torch.equal(got.pooled[1], got.pooled[2])
    assert got.local.shape == (5, 5, 12) and got.attention.shape == (5, 4)
    torch.testing.assert_close(got.local[:, 2], got.pooled * 3)
    torch.testing.assert_close(got.attention, got.pooled[:, :4].softmax(1))


def test_only_what_is_missing_is_computed_and_stored(tmp_path):
    clip, dataset = FakeCLIP(), noise_dataset()
    store = FeatureStore(tmp_path, clip)
    store.get(dataset, dataset.train[:4])
    assert clip.calls == [(4, POOLED_FIELDS)] and len(shard_files(tmp_path)) == 1
    store.get(dataset, dataset.train[:4])
    assert len(clip.calls) == 1
    store.get(dataset, dataset.train[2:6])
    assert clip.calls[1:] == [(2, POOLED_FIELDS)]
    store.get(dataset, dataset.train[:6], fields=frozenset({"local"}))
    assert clip.calls[2:] == [(6, frozenset({"local"}))]  # pooled is there already
    assert len(shard_files(tmp_path, "pooled")) == 2 and len(shard_files(tmp_path, "local")) == 1
    store.get(dataset, dataset.train[5:7], fields=ALL_FIELDS)
    assert clip.calls[3:] == [(2, ALL_FIELDS)]
    fresh = FakeCLIP()
    again = FeatureStore(tmp_path, fresh).get(dataset, dataset.train[:6], fields={"local"})
    assert fresh.calls == [] and torch.equal(
        again.pooled, store.get(dataset, dataset.train[:6]).pooled
    )


def test_everything_that_decides_the_numbers_is_in_the_key(tmp_path):
    clip, dataset = FakeCLIP(), noise_dataset()
    items = dataset.train
    FeatureStore(tmp_path, clip).get(dataset, items)
    other = replace(SPEC, fingerprint="two")
    cases = [
        (FakeCLIP(other), dataset, {}, None),
        (FakeCLIP(replace(SPEC, image_mean=(0.5, 0.4, 0.31))), dataset, {}, None),
        (FakeCLIP(replace(SPEC, quick_gelu=True)), dataset, {}, None),
        (FakeCLIP(), noise_dataset(content="d"), {}, None),
        (FakeCLIP(), noise_dataset(name="t/other"), {}, None),
        (FakeCLIP(), dataset, {"dtype": torch.float16}, None),
        (DoubleCLIP(), dataset, {"precision": torch.float64}, None),
        (FakeCLIP(), dataset, {"product": "oneDNN"}, None),
        (FakeCLIP(), dataset, {"mixed": True}, None),
        (FakeCLIP(), dataset, {}, 0),
        (FakeCLIP(), dataset, {}, 1),
        (FakeCLIP(), dataset, {"augmentation": TrainTransform(SPEC, scale=(0.5, 1.0))}, 0),
    ]
    for model, data, options, view in cases:
        FeatureStore(tmp_path, model, **options).get(data, items, view=view)
        assert model.num_images == 10
    keys = [json.loads(file.read_text()) for file in tmp_path.glob("*/key.json")]
    assert len(keys) == 1 + len(cases) and {key["weights"] for key in keys} == {"one", "two"}
    relabeled = replace(dataset, class_names=("b",), train=tuple(Item(i.path, 0) for i in items))
    same = FakeCLIP()
    FeatureStore(tmp_path, same).get(relabeled, relabeled.train)
    assert same.num_images == 0  # labels and halves do not matter to pictures


def test_how_a_gpu_rounds_is_in_the_key_of_its_features_alone(tmp_path, monkeypatch):
    """The GPU's model, torch, and how many images are encoded at once; a CPU's key is as it was."""
    dataset = noise_dataset()

    def key(device, name="H100", version="2.9", total=2**20, **options):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, total))
        monkeypatch.setattr(torch, "__version__", version)
        store = FeatureStore(tmp_path, FakeCLIP(), device=torch.device(device), **options)
        return store._request(dataset, None).about

    others = [{}, {"name": "A100"}, {"version": "2.13"}, {"total": 2**30}]
    others += [{"mixed": True}, {"mixed": True, "name": "A100"}, {"tf32": True}]
    assert len({key("cuda", **facts)["computed"] for facts in others}) == len(others)
    assert key("cuda", total=2**30) == key("cuda", total=2**30 + 5)
    assert key("cuda")["computed"] == (
        "cuda torch.float32 on H100 by torch 2.9, 2 images at once, without autocast"
    )
    assert {key("cpu", **facts)["computed"] for facts in others[:4]} == {
        "cpu torch.float32 without autocast"
    }
    assert key("cpu", mixed=True)["computed"] == "cpu torch.float32 with autocast to torch.bfloat16"


@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_autocast_of_a_caller_has_no_part_in_features(dtype, stored, tmp_path):
    dataset = noise_dataset()
    found = {}
    for name in ("plain", "mixed"):
        store = FeatureStore(tmp_path / name, FakeCLIP(), dtype=stored)
        with torch.autocast("cpu", dtype=dtype, enabled=name == "mixed"):
            some = store.get(dataset, dataset.train[:3])
            found[name] = store.get(dataset, dataset.train, batch_size=3)
        assert torch.equal(found[name].pooled[:3], some.pooled)
    assert torch.equal(found["mixed"].pooled, found["plain"].pooled)
    assert found["mixed"].pooled.dtype == stored


def test_mixed_features_come_from_autocast_whoever_asks(tmp_path):
    """Rounded once, by the tower: kept in float32, and close to those in full precision."""
    clip = load_clip("mosaic")
    dataset = noise_dataset()
    found = {}
    for name, mixed in (("full", False), ("mixed", True)):
        store = FeatureStore(tmp_path, clip, mixed=mixed)
        found[name] = store.get(dataset, dataset.train, fields=ALL_FIELDS)
    for field in ALL_FIELDS:
        full, mixed = getattr(found["full"], field), getattr(found["mixed"], field)
        assert mixed.dtype == torch.float32
        assert 1e-4 < (mixed - full).norm() / full.norm() < 0.02
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = FeatureStore(tmp_path / "again", clip, mixed=True).get(dataset, dataset.train)
    assert torch.equal(again.pooled, found["mixed"].pooled)


def test_features_that_an_earlier_version_may_have_rounded_are_not_used(tmp_path):
    clip, dataset = FakeCLIP(), noise_dataset()
    FeatureStore(tmp_path, clip).get(dataset, dataset.train)
    (key,) = tmp_path.glob("*/key.json")
    about = json.loads(key.read_text())
    assert about["computed"] == "cpu torch.float32 without autocast"
    about["computed"] = "cpu torch.float32"
    earlier = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:24]
    key.parent.rename(tmp_path / earlier)
    FeatureStore(tmp_path, clip).get(dataset, dataset.train)
    assert clip.num_images == 20


def test_the_tower_always_works_the_same_way(tmp_path):
    """Batches of one size, and never the short cut for pooled alone: the company is irrelevant."""
    clip, dataset = FakeCLIP(), noise_dataset(11)
    store = FeatureStore(tmp_path, clip)
    for items in (dataset.train[:1], dataset.train[:4], dataset.train):
        store.get(dataset, items, batch_size=4)
    store.get(dataset, dataset.train[:3], fields=frozenset({"attention"}), batch_size=4)
    assert clip.sizes == {4} and [count for count, _ in clip.calls] == [1, 3, 4, 3, 3]
    assert [need for _, need in clip.calls] == [POOLED_FIELDS] * 4 + [frozenset({"attention"})]


def test_views_are_fixed_by_path_and_number(tmp_path):
    clip, dataset = FakeCLIP(), noise_dataset()
    store = FeatureStore(tmp_path, clip)
    torch.manual_seed(1)
    first = store.get(dataset, dataset.train[:5], view=3).pooled
    torch.testing.assert_close(first, encoded_directly(clip, dataset, dataset.train[:5], view=3))
    torch.manual_seed(2)
    turned = FeatureStore(tmp_path / "b", clip).get(dataset, dataset.train[4::-1], view=3).pooled
    torch.testing.assert_close(first.flip(0), turned)
    assert not torch.allclose(first, store.get(dataset, dataset.train[:5], view=4).pooled)


def test_tensors_are_normal_and_not_shared(tmp_path):
    store, dataset = FeatureStore(tmp_path, FakeCLIP()), noise_dataset()
    got = store.get(dataset, dataset.train).pooled
    assert not got.is_inference() and not got.requires_grad and got.device.type == "cpu"
    weight = torch.ones(12, requires_grad=True)
    (got @ weight).sum().backward()
    torch.testing.assert_close(weight.grad, got.sum(0))
    kept = got.clone()
    got.zero_()
    assert torch.equal(store.get(dataset, dataset.train).pooled, kept)


def test_half_precision_is_the_same_cold_and_warm(tmp_path):
    dataset = noise_dataset()
    for dtype in (torch.float16, torch.bfloat16):
        cold = FeatureStore(tmp_path, FakeCLIP(), dtype=dtype).get(dataset, dataset.train).pooled
        warm = FeatureStore(tmp_path, FakeCLIP(), dtype=dtype).get(dataset, dataset.train).pooled
        assert cold.dtype == warm.dtype == dtype and torch.equal(cold, warm)


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-5] ^= 16
    file.write_bytes(data)


DAMAGE = {
    "flipped": flip,
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-40]),
    "empty": lambda file: file.write_bytes(b""),
    "header": lambda file: file.write_bytes(b"\xff" + file.read_bytes()[1:]),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_is_dropped_and_recomputed(tmp_path, caplog, damage):
    dataset = noise_dataset()
    store = FeatureStore(tmp_path, FakeCLIP())
    first = store.get(dataset, dataset.train[:6]).pooled
    store.get(dataset, dataset.train)
    damaged = next(f for f in shard_files(tmp_path) if f.name in seen_first(tmp_path, first))
    DAMAGE[damage](damaged)
    clip = FakeCLIP()
    with caplog.at_level(logging.WARNING):
        again = FeatureStore(tmp_path, clip).get(dataset, dataset.train).pooled
    assert clip.num_images == 6 and torch.equal(again[:6], first)
    assert [damaged.name in record.getMessage() for record in caplog.records] == [True]
    assert "\n" not in caplog.records[0].getMessage()
    quiet = FakeCLIP()
    FeatureStore(tmp_path, quiet).get(dataset, dataset.train)
    assert quiet.calls == [] and len(shard_files(tmp_path)) == 2


def seen_first(root: Path, rows: torch.Tensor) -> set[str]:
    """Names of the shards with as many rows as ``rows``."""
    return {f.name for f in shard_files(root) if len(load_file(f)["values"]) == len(rows)}


def test_a_shard_in_a_wrong_shape_or_form_is_not_used(tmp_path):
    dataset = noise_dataset(3)
    FeatureStore(tmp_path, FakeCLIP()).get(dataset, dataset.train)
    good = shard_files(tmp_path)[0]
    listing = torch.tensor(list(b'["0"]'), dtype=torch.uint8)
    for tensors in ({"x": torch.ones(1)}, {"values": torch.ones(2, 12), "paths": listing}):
        data = save(tensors)
        (good.parent / f"{hashlib.sha256(data).hexdigest()}.safetensors").write_bytes(data)
    good.unlink()
    clip = FakeCLIP()
    FeatureStore(tmp_path, clip).get(dataset, dataset.train)
    assert clip.num_images == 3 and shard_files(tmp_path) == [good]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_stored_feature_that_is_not_finite_is_dropped_and_recomputed(tmp_path, caplog, value):
    dataset = noise_dataset(3)
    expected = FeatureStore(tmp_path, FakeCLIP()).get(dataset, dataset.train).pooled
    (good,) = shard_files(tmp_path)
    tensors = load_file(good)
    tensors["values"][1, 2] = value
    data = save(tensors)
    bad = good.with_name(f"{hashlib.sha256(data).hexdigest()}.safetensors")
    bad.write_bytes(data)
    good.unlink()
    with caplog.at_level(logging.WARNING):
        again = FeatureStore(tmp_path, FakeCLIP()).get(dataset, dataset.train).pooled
    assert torch.equal(again, expected) and shard_files(tmp_path) == [good]
    assert "holds numbers that are not finite" in caplog.records[0].getMessage()


def test_memory_is_bounded_and_disk_is_found_again(tmp_path):
    dataset, clip = noise_dataset(), FakeCLIP()
    store = FeatureStore(tmp_path, clip, memory_bytes=10 * 12 * 4)
    for view in (None, 0, 1, None, 0, 1):
        store.get(dataset, dataset.train, view=view)
        assert sum(table.nbytes for table in store._tables.values()) <= 10 * 12 * 4
    assert clip.num_images == 30
    FeatureStore(tmp_path, clip, memory_bytes=1).get(dataset, dataset.train, fields=ALL_FIELDS)
    assert clip.num_images == 40


def test_long_computations_are_saved_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHARD_BYTES", 4 * 12 * 4)
    dataset, seen = noise_dataset(), []
    expected = FeatureStore(tmp_path / "a", FakeCLIP()).get(dataset, dataset.train, batch_size=2)

    class Dying(FakeCLIP):
        def encode_image(self, pixels, need):
            if self.num_images >= 8:
                raise KeyboardInterrupt
            return super().encode_image(pixels, need)

    store = FeatureStore(tmp_path / "b", Dying())
    with pytest.raises(KeyboardInterrupt):
        store.get(dataset, dataset.train, batch_size=2)
    clip = FakeCLIP()
    store = FeatureStore(tmp_path / "b", clip)
    got = store.get(
        dataset,
        dataset.train,
        batch_size=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert clip.num_images == 2 and seen == [(2, 2)]
    torch.testing.assert_close(got.pooled, expected.pooled)


def test_errors(tmp_path):
    dataset = noise_dataset(2)
    store = FeatureStore(tmp_path, FakeCLIP())
    with pytest.raises(ValueError, match="no items to encode"):
        store.get(dataset, [])
    with pytest.raises(ValueError, match="unknown feature field 'lokal'; known"):
        store.get(dataset, dataset.train, fields=frozenset({"lokal"}))
    with pytest.raises(ValueError, match=r"view must be None .* got -1"):
        store.get(dataset, dataset.train, view=-1)
    with pytest.raises(ValueError, match=r"floating point numbers, got torch\.int64"):
        FeatureStore(tmp_path, FakeCLIP(), dtype=torch.int64)
    sick = FakeCLIP()
    sick.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="pooled image features are not finite"):
        FeatureStore(tmp_path, sick).get(dataset, dataset.train)
    assert shard_files(tmp_path) == []


@pytest.fixture
def bytes_read(monkeypatch):
    """How many bytes of shards are read, each time."""
    sizes, read = [], tensor_shards._read_at
    counted = lambda *given: sizes.append(given[2]) or read(*given)  # noqa: E731
    monkeypatch.setattr(tensor_shards, "_read_at", counted)
    return sizes


def test_a_seed_reads_the_rows_of_its_own_images_alone(tmp_path, bytes_read):
    """Several seeds share a folder, and sometimes a shard: lists are read, and rows asked for."""
    dataset, row = noise_dataset(40), 5 * 12 * 4
    for start in (0, 20):
        FeatureStore(tmp_path, FakeCLIP()).get(
            dataset, dataset.train[start : start + 20], fields={"local"}
        )
    expected = FeatureStore(tmp_path, FakeCLIP()).get(dataset, dataset.train, fields={"local"})
    wanted = [22, 23, 24, 3, 38]  # two runs of one shard, one row of the other
    bytes_read.clear()
    store, clip = FeatureStore(tmp_path, FakeCLIP()), FakeCLIP()
    got = store.get(dataset, [dataset.train[n] for n in wanted], fields={"local"}).local
    assert torch.equal(got, expected.local[wanted]) and clip.calls == []
    assert sorted(n for n in bytes_read if n % row == 0) == [row, row, 3 * row]
    whole = sum(file.stat().st_size for file in shard_files(tmp_path, "local"))
    assert sum(bytes_read) < whole / 3
    bytes_read.clear()
    store.get(dataset, [dataset.train[n] for n in (23, 3)], fields={"local"})
    assert bytes_read == []  # they are in memory


@pytest.mark.parametrize("damage", ["rows", "name"])
def test_a_shard_of_an_earlier_version_is_read_and_compared_as_a_whole(tmp_path, caplog, damage):
    dataset = noise_dataset()
    expected = FeatureStore(tmp_path, FakeCLIP()).get(dataset, dataset.train).pooled
    (new,) = shard_files(tmp_path)
    tensors = load_file(new)
    assert tensors.pop("checksums").shape == (11,)
    data = save(tensors)
    old = new.with_name(f"{hashlib.sha256(data).hexdigest()}.safetensors")
    old.write_bytes(data)
    new.unlink()
    clip = FakeCLIP()
    got = FeatureStore(tmp_path, clip).get(dataset, dataset.train[3:5]).pooled
    assert torch.equal(got, expected[3:5]) and clip.calls == []
    if damage == "rows":
        tensors["values"][9, 1] += 1  # of an image that is not asked for
        old.write_bytes(save(tensors))
    else:
        old.rename(old.with_name(f"{'0' * 64}.safetensors"))
    with caplog.at_level(logging.WARNING):
        again = FeatureStore(tmp_path, clip).get(dataset, dataset.train[3:5]).pooled
    assert torch.equal(again, expected[3:5]) and clip.num_images == 2
    assert "does not match its name" in caplog.records[0].getMessage()


def test_what_does_not_fit_into_memory_is_given_away(tmp_path):
    dataset = noise_dataset()
    expected = FeatureStore(tmp_path, FakeCLIP()).get(dataset, dataset.train)
    store = FeatureStore(tmp_path, FakeCLIP(), memory_bytes=0)
    for order in (dataset.train, dataset.train[::-1], dataset.train[:3]):
        got = store.get(dataset, order)
        rows = [int(item.path) for item in order]
        assert torch.equal(got.pooled, expected.pooled[rows]) and not store._tables
    got.pooled.zero_()
    assert torch.equal(store.get(dataset, dataset.train).pooled, expected.pooled)


def test_a_folder_that_cannot_be_written_costs_only_the_cache(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    clip, dataset = FakeCLIP(), noise_dataset(3)
    store = FeatureStore(tmp_path / "file" / "below", clip)
    got = store.get(dataset, dataset.train).pooled
    torch.testing.assert_close(got, encoded_directly(FakeCLIP(), dataset, dataset.train))
    assert "features are not cached" in caplog.text
    store.get(dataset, dataset.train)
    assert clip.num_images == 3


def test_old_leftovers_go_and_young_ones_stay(tmp_path):
    dataset = noise_dataset()
    store = FeatureStore(tmp_path, FakeCLIP())
    store.get(dataset, dataset.train[:1])
    folder = shard_files(tmp_path)[0].parent
    old, young = folder / ".a.safetensors.x1", folder / ".b.safetensors.x2"
    for file in (old, young):
        file.write_bytes(b"half a shard")
    os.utime(old, (1, 1))
    store.get(dataset, dataset.train)
    assert not old.exists() and young.exists()


def test_without_working_locks_results_are_still_right(tmp_path, monkeypatch):
    monkeypatch.setattr(locked_module, "fcntl", None)
    dataset, clips = noise_dataset(), [FakeCLIP(), FakeCLIP()]

    class Racing(FakeCLIP):
        """Another process finishes the same work while this one is at it."""

        def encode_image(self, pixels, need):
            FeatureStore(tmp_path, clips[1]).get(dataset, dataset.train, batch_size=3)
            return super().encode_image(pixels, need)

    got = FeatureStore(tmp_path, Racing()).get(dataset, dataset.train).pooled
    torch.testing.assert_close(got, encoded_directly(clips[0], dataset, dataset.train))
    late = FakeCLIP()
    again = FeatureStore(tmp_path, late).get(dataset, dataset.train).pooled
    torch.testing.assert_close(again, got)
    assert late.calls == []


def test_a_copied_cache_is_used_elsewhere(tmp_path):
    dataset = noise_dataset()
    FeatureStore(tmp_path / "a", FakeCLIP()).get(dataset, dataset.train)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    clip = FakeCLIP()
    FeatureStore(tmp_path / "b", clip).get(dataset, dataset.train)
    assert clip.calls == []
